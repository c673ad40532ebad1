"""Large capture files to measure with: a mix of packets as on a network, made in large pieces with NumPy.

    python tests/bench/traffic.py FILE [--packets 2000000] [--snaplen 128] [--pcap]

TCP, UDP and ICMP of some thousand flows over IPv4 and IPv6, a few frames with a VLAN tag. Payload is random, and so
are TCP and UDP checksums; all other fields are right. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WHOLE = 262144  # a snap length that cuts no frame
FIRST_NS = 1_795_410_000_000_000_000
MEAN_GAP_NS = 1000
FLOWS = 4096
PIECE = 50_000  # packets made at once

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
TIMESTAMPS = bytes.fromhex("0101080a1122334455667788")
SYN_OPTIONS = bytes.fromhex("020405b40402080a112233440000000001030307")


@dataclass(frozen=True)
class Kind:
    """Packets with the same headers: their share of all, and between which frame lengths they lie."""

    share: float
    shortest: int
    longest: int
    version: int
    protocol: int
    options: bytes = b""
    flags: int = 0x10
    vlan: bool = False


KINDS = (
    Kind(0.32, 66, 66, 4, TCP, TIMESTAMPS),
    Kind(0.16, 1514, 1514, 4, TCP, TIMESTAMPS),
    Kind(0.11, 67, 1514, 4, TCP, TIMESTAMPS, flags=0x18),
    Kind(0.05, 60, 60, 4, TCP),  # 54 bytes and padding
    Kind(0.02, 74, 74, 4, TCP, SYN_OPTIONS, flags=0x02),
    Kind(0.03, 70, 1518, 4, TCP, TIMESTAMPS, vlan=True),
    Kind(0.10, 70, 300, 4, UDP),
    Kind(0.06, 80, 1292, 4, UDP),
    Kind(0.02, 98, 98, 4, ICMP),
    Kind(0.06, 86, 86, 6, TCP, TIMESTAMPS),
    Kind(0.03, 1514, 1514, 6, TCP, TIMESTAMPS),
    Kind(0.03, 100, 1294, 6, UDP),
    Kind(0.01, 118, 118, 6, ICMPV6),
)


def headers(kind: Kind, lengths: Array, rng: np.random.Generator) -> Array:
    """Ethernet, IP and transport headers of packets of one kind: shape (packets, header bytes), uint8."""
    link = bytes.fromhex("020000000002020000000001") + (bytes.fromhex("8100002a") if kind.vlan else b"")
    if kind.version == 4:
        link += b"\x08\x00"
        network = struct.pack("!BBHHHBBH8x", 0x45, 0, 0, 0, 0x4000, 64, kind.protocol, 0)
    else:
        link += b"\x86\xdd"
        network = struct.pack("!IHBB32x", 6 << 28, 0, kind.protocol, 64)
    if kind.protocol == TCP:
        offset = (20 + len(kind.options)) // 4 << 4
        transport = struct.pack("!HHIIBBHHH", 0, 0, 0, 0, offset, kind.flags, 502, 0, 0) + kind.options
    elif kind.protocol == UDP:
        transport = bytes(8)
    else:
        transport = struct.pack("!BBHHH", 8 if kind.protocol == ICMP else 128, 0, 0, 0, 0)
    made = np.tile(np.frombuffer(link + network + transport, np.uint8), (len(lengths), 1))
    l3, l4 = len(link), len(link) + len(network)
    flow = rng.integers(0, FLOWS, len(lengths))
    # A frame is at least 60 bytes; the bytes behind a shorter packet are padding.
    packet = np.where(lengths == 60, l4 + len(transport), lengths) - l3
    if kind.version == 4:
        put(made, l3 + 2, packet, 2)
        put(made, l3 + 4, rng.integers(0, 1 << 16, len(lengths)), 2)
        put(made, l3 + 12, 0x0A4D0000 + flow, 4)
        put(made, l3 + 16, 0xC0000200 + flow % 256, 4)
        put(made, l3 + 10, internet_checksum(made[:, l3 : l3 + 20]), 2)
    else:
        put(made, l3 + 4, packet - 40, 2)
        put(made, l3 + 8, np.full(len(lengths), 0x20010DB8), 4)
        put(made, l3 + 22, flow, 2)
        put(made, l3 + 24, np.full(len(lengths), 0x20010DB8), 4)
        put(made, l3 + 38, flow % 256, 2)
    if kind.protocol in (TCP, UDP):
        put(made, l4, 32768 + flow, 2)
        put(made, l4 + 2, np.array([443, 5201, 8443, 9000])[flow % 4], 2)
        put(made, l4 + (16 if kind.protocol == TCP else 6), rng.integers(1, 1 << 16, len(lengths)), 2)
    if kind.protocol == TCP:
        put(made, l4 + 4, rng.integers(0, 1 << 32, len(lengths)), 4)
        if kind.flags & 0x10:
            put(made, l4 + 8, rng.integers(0, 1 << 32, len(lengths)), 4)
    elif kind.protocol == UDP:
        put(made, l4 + 4, packet - len(network), 2)
    else:
        put(made, l4 + 2, rng.integers(0, 1 << 16, len(lengths)), 2)
        put(made, l4 + 4, flow, 2)
        put(made, l4 + 6, rng.integers(0, 1 << 16, len(lengths)), 2)
    return made


def put(rows: Array, at: int, values: Array, size: int) -> None:
    """Write one number per row, most significant byte first."""
    for byte in range(size):
        rows[:, at + byte] = (values >> 8 * (size - 1 - byte)).astype(np.uint8)


def internet_checksum(rows: Array) -> Array:
    """RFC 1071, of each row."""
    total = (rows[:, 0::2].astype(np.int64) << 8).sum(axis=1) + rows[:, 1::2].sum(axis=1, dtype=np.int64)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def pieces(packets: int, snaplen: int, pcap: bool) -> Iterator[bytes]:
    """The file, one piece after the other; little-endian, Ethernet, nanoseconds."""
    if pcap:
        yield struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, 1)
    else:
        yield struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
        if_tsresol = struct.pack("<HHB3xHH", 9, 1, 9, 0, 0)
        yield struct.pack("<IIHHI", 1, 32, 1, 0, snaplen) + if_tsresol + struct.pack("<I", 32)
    rng = np.random.default_rng(1)
    now = FIRST_NS
    for begin in range(0, packets, PIECE):
        count = min(PIECE, packets - begin)
        times = now + np.cumsum(rng.integers(1, 2 * MEAN_GAP_NS, count))
        now = int(times[-1])
        yield piece(times, snaplen, pcap, rng)


def piece(times: Array, snaplen: int, pcap: bool, rng: np.random.Generator) -> bytes:
    """The records of packets with these times."""
    count = len(times)
    of_kind = rng.choice(len(KINDS), count, p=[kind.share for kind in KINDS])
    shortest = np.array([kind.shortest for kind in KINDS])[of_kind]
    longest = np.array([kind.longest for kind in KINDS])[of_kind]
    lengths = rng.integers(shortest, longest + 1)
    captured = np.minimum(lengths, snaplen)
    head, sizes = (16, 16 + captured) if pcap else (28, 32 + (captured + 3) // 4 * 4)
    ends = np.cumsum(sizes)
    starts = ends - sizes
    data = np.frombuffer(bytearray(rng.bytes(int(ends[-1]))), np.uint8)
    for number, kind in enumerate(KINDS):
        chosen = of_kind == number
        if not chosen.any():
            continue
        made = headers(kind, lengths[chosen], rng)[:, :snaplen]
        at_each(data, made.shape[1])[starts[chosen] + head] = made
    if pcap:
        whole, part = np.divmod(times, 1_000_000_000)
        at_each(data, 16)[starts] = as_bytes(whole, part, captured, lengths)
    else:
        for missing in range(1, 4):
            short = -captured % 4 >= missing
            data[starts[short] + head + captured[short] + missing - 1] = 0
        block = as_bytes(np.full(count, 6), sizes, np.zeros(count), times >> 32, times, captured, lengths)
        at_each(data, 28)[starts] = block
        at_each(data, 4)[ends - 4] = as_bytes(sizes)
    return data.tobytes()


def at_each(data: Array, size: int) -> Array:
    """A view whose row `i` is the `size` bytes from `i` on."""
    return np.lib.stride_tricks.sliding_window_view(data, size, writeable=True)


def as_bytes(*columns: Array) -> Array:
    """A row of bytes for each packet: the columns as 32-bit little-endian numbers."""
    return np.stack([(column.astype(np.int64) & 0xFFFFFFFF).astype("<u4") for column in columns], axis=1).view(np.uint8)


def write_traffic(path: Path, packets: int, snaplen: int = WHOLE, pcap: bool = False) -> int:
    """Write a capture file; returns its size in bytes."""
    with open(path, "wb") as file:
        for data in pieces(packets, snaplen, pcap):
            file.write(data)
        return file.tell()


def mean_record(snaplen: int) -> float:
    """Bytes of the file per packet, on average and at most: what a disk needs to have free."""
    total = 0.0
    for kind in KINDS:
        lengths = np.minimum(np.arange(kind.shortest, kind.longest + 1), snaplen)
        total += kind.share * float(np.mean(lengths + 35))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--packets", type=int, default=2_000_000)
    parser.add_argument("--snaplen", type=int, default=WHOLE)
    parser.add_argument("--pcap", action="store_true")
    options = parser.parse_args()
    size = write_traffic(options.file, options.packets, options.snaplen, options.pcap)
    print(f"{options.file}: {options.packets} packets, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
