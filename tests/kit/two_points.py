"""A small run of two points, with tool logs and counters, in versions that differ in every input."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

START_NS = 1_795_410_000_000_000_000
INPUTS = ("run.toml", "a.pcap", "b.pcap", "a.log", "b.log", "context/counters-after.json")


def capture(packets: int, delay_ns: int = 0, version: int = 0) -> bytes:
    """A pcap file of UDP packets, a millisecond apart; `version` is in the payload and in the source port."""
    records = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101)]
    for number in range(packets):
        payload = struct.pack(">II", version, number) * 4
        udp = struct.pack(">HHHH", 4000 + version, 53, 8 + len(payload), 0) + payload
        total = 20 + len(udp)
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, total, number, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
        seconds, rest = divmod(START_NS + number * 1_000_000 + delay_ns, 10**9)
        records.append(struct.pack("<IIII", seconds, rest, total, total) + header + udp)
    return b"".join(records)


def write(folder: Path, version: int = 0, packets: int = 200) -> dict[str, str]:
    """Write the run; returns the SHA-256 of each of its inputs. The packet in the middle is lost."""
    (folder / "context").mkdir(parents=True, exist_ok=True)
    there = capture(packets, 0, version)
    size = (len(there) - 24) // packets
    begin = 24 + packets // 2 * size
    back = capture(packets, 50_000, version)
    contents = {
        "run.toml": (
            f'schema = 1\nname = "two-points-{version}"\n[[point]]\nname = "a"\ncaptures = ["a.pcap"]\n'
            '[[point]]\nname = "b"\ncaptures = ["b.pcap"]\n[[path]]\nname = "there"\npoints = ["a", "b"]\n'
            '[[rule]]\nid = "dns"\npath = "there"\nprotocol = "udp"\ndport = 53\naction = "forward"\ncounter = "dns"\n'
        ).encode(),
        "a.pcap": there,
        "b.pcap": back[:begin] + back[begin + size :],
        "a.log": _log(packets),
        "b.log": _log(packets - 1),
        "context/counters-after.json": json.dumps({"dns": packets, "version": version}).encode(),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def _log(packets: int) -> bytes:
    """What tcpdump says at its end."""
    return f"{packets} packets captured\n{packets} packets received by filter\n0 packets dropped by kernel\n".encode()
