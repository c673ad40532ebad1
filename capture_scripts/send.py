"""Packets tailored to a rule file: ``send plan RULES.toml -o PLAN.parquet``, ``send run PLAN.parquet --rate PPS``.

The plan (``sender/tailored.py``) is the truth. It holds the expected treatment of each packet, decided before the
packet is sent. ``send run`` builds the frames with dpkt and sends each direction from its own end, the client or the
protected machine, by a process in the namespace of that end. Nobody answers these packets. In the lab, both ends
swallow marked packets behind the last point (``marks.py``). In other namespaces ``send run`` does the same while it
sends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # started as a file: its folder is the package (PEP 366)
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    __package__ = Path(__file__).resolve().parent.name

import dpkt

from .filter_rules import load_rules
from .fixture.plan import ICMP_ID
from .marks import MARK
from .processes import (
    Children,
    Interrupted,
    LabError,
    in_namespace,
    interruptible,
    need_root,
    need_tools,
    python_script,
    run,
    wait_all,
)
from .quiet import wait_until_handled
from .sender.first_match import ICMP, ICMPV6, TCP, UDP
from .sender.near_misses import Addresses
from .sender.tailored import MOST_PACKETS, filling, make_plan, read_plan
from .testbed.topology import DEFAULT_NAME, Lab
from .visible import printing_visibly

TOOLS = {"ip": "iproute2", "nft": "nftables"}
DEFAULT_COUNT = 2000
DEFAULT_RATE_PPS = 1000.0
PATHS = ("ingress", "egress")
_TICK_S = 0.001  # interval between batches: 15 packets each at 15,000 a second
_FULL_RETRIES = 2000
_TIMEOUT_S = 300.0  # guards against hanging, on top of the time at the chosen rate
_NO_MORE_S = 0.2  # outside a lab: the traffic is over after this time without a packet
_ARRIVED = "tailored_arrived"


@dataclass(frozen=True)
class End:
    """The sending end of one side: a device in a namespace (None: the present one)."""

    namespace: str | None
    device: str

    def mac(self) -> bytes:
        """The Ethernet address of the device; LabError when there is no such device."""
        try:
            listed = json.loads(run(in_namespace(self.namespace, ["ip", "-j", "link", "show", "dev", self.device])))
            return bytes.fromhex(str(listed[0]["address"]).replace(":", ""))
        except (LabError, LookupError, ValueError) as error:
            there = f" in namespace {self.namespace}" if self.namespace else ""
            raise LabError(f"no Ethernet device {self.device!r}{there}: is the lab up?") from error


def frame(row: Mapping[str, Any], plan_id: str, source_mac: bytes, destination_mac: bytes) -> bytes:
    """The complete Ethernet frame of one row of a plan, checksums included."""
    version, protocol = row["ip_version"], row["protocol"]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    source, destination = (socket.inet_pton(family, row[name]) for name in ("source", "destination"))
    transport_bytes = 20 if protocol == TCP else 8
    payload = filling(plan_id, row["marker"], row["length"] - 14 - (20 if version == 4 else 40) - transport_bytes)
    transport: dpkt.Packet | bytes
    if protocol == UDP:
        transport = dpkt.udp.UDP(sport=row["sport"], dport=row["dport"], ulen=8 + len(payload), data=payload)
    elif protocol == TCP:
        transport = dpkt.tcp.TCP(
            sport=row["sport"], dport=row["dport"], seq=row["tcp_seq"], ack=1, win=512,
            flags=dpkt.tcp.TH_PUSH | dpkt.tcp.TH_ACK, data=payload,
        )  # fmt: skip
    elif row["icmp_type"] is not None:
        # Identifier and sequence of the echo message; other types carry the same four bytes there.
        echo = struct.pack(">HH", ICMP_ID, row["sequence"]) + payload
        layer = dpkt.icmp.ICMP if protocol == ICMP else dpkt.icmp6.ICMP6
        transport = layer(type=row["icmp_type"], code=0, data=echo)
    else:
        transport = struct.pack(">II", row["lead"], 0) + payload
    if version == 4:
        network = dpkt.ip.IP(src=source, dst=destination, p=protocol, id=row["ip_id"], ttl=64, data=transport)
        network.len = len(network)
    else:
        network = dpkt.ip6.IP6(src=source, dst=destination, nxt=protocol, hlim=64, plen=len(transport))
        network.extension_hdrs = {}
        network.p = protocol if protocol in (TCP, UDP, ICMPV6) and not isinstance(transport, bytes) else 0
        network.data = transport
    kind = 0x0800 if version == 4 else 0x86DD
    return destination_mac + source_mac + kind.to_bytes(2, "big") + bytes(network)


@dataclass
class Prepared:
    """Frames ready to send, in a file per path. ``close`` removes the files."""

    folder: tempfile.TemporaryDirectory[str]
    ends: Mapping[str, End]
    counts: Mapping[str, int]

    def file(self, path: str) -> Path:
        return Path(self.folder.name) / path

    def close(self) -> None:
        self.folder.cleanup()


def prepare(plan: Path, client: End, target: End) -> Prepared:
    """Build all frames of a plan before the first one is sent, so that the sender only sends."""
    rows, about = read_plan(plan)
    macs = {"ingress": (client.mac(), target.mac()), "egress": (target.mac(), client.mac())}
    folder = tempfile.TemporaryDirectory(prefix="tailored-")
    prepared = Prepared(folder, {"ingress": client, "egress": target}, Counter(row["path"] for row in rows))
    for path in PATHS:
        with prepared.file(path).open("wb") as out:
            for row in rows:
                if row["path"] == path:
                    data = frame(row, about["plan"], *macs[path])
                    out.write(struct.pack("<I", len(data)) + data)
    return prepared


def send_prepared(prepared: Prepared, rate_pps: float) -> dict[str, dict[str, Any]]:
    """Send both directions at once, each at ``rate_pps``; returns the report of the sender of each path."""
    longest = max(prepared.counts.values(), default=0) / rate_pps
    with Children() as children:
        senders = {
            path: children.start(
                in_namespace(
                    end.namespace,
                    python_script("send.py", "frames", str(prepared.file(path)), end.device, str(rate_pps)),
                ),
                stdout=subprocess.PIPE,
            )
            for path, end in prepared.ends.items()
            if prepared.counts.get(path)
        }
        wait_all(list(senders.values()), 3 * longest + _TIMEOUT_S, "send")
        told = {}
        for path, sender in senders.items():
            assert sender.stdout is not None
            with sender.stdout as words:
                told[path] = json.loads(words.read())
    short = [f"{path}: {said['sent']} of {prepared.counts[path]}" for path, said in told.items()
             if said["sent"] != prepared.counts[path]]  # fmt: skip
    if short:
        raise LabError(f"not all packets were sent: {'; '.join(short)}")
    return told


def send_frames(frames: Sequence[bytes], device: str, rate_pps: float) -> dict[str, Any]:
    """Send frames out of ``device`` at a steady rate; catches up after a delay. Returns the number sent, and times.

    ``starved_seconds`` is the time in which the sender had frames to send and no processor.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
        out.bind((device, 0))
        sent = full = behind = 0
        first_ns = time.time_ns()
        start, starved = time.monotonic(), _starved_s()
        while sent < len(frames):
            due = min(len(frames), int((time.monotonic() - start) * rate_pps) + 1)
            behind = max(behind, due - sent)
            while sent < due:
                try:
                    out.send(frames[sent])
                except OSError as error:
                    full += 1
                    if full > _FULL_RETRIES:
                        raise LabError(f"{device}: cannot send: {error.strerror}") from error
                    time.sleep(_TICK_S)
                    continue
                sent += 1
            wait = start + sent / rate_pps - time.monotonic()
            if wait > 0 and sent < len(frames):
                time.sleep(max(wait, _TICK_S))
        seconds, starved = time.monotonic() - start, _starved_s() - starved
    return {
        "sent": sent,
        "first_ns": first_ns,
        "seconds": round(seconds, 6),
        "packets_per_second": round(sent / seconds) if seconds else None,
        "starved_seconds": round(starved, 6),
        "most_at_once": behind,
        "retries": full,
    }


def _starved_s() -> float:
    """Seconds that this thread has waited for a processor; 0 on a kernel that does not count them."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def read_frames(file: Path) -> list[bytes]:
    """The frames that ``prepare`` wrote."""
    data = file.read_bytes()
    frames = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        frames.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return frames


@contextlib.contextmanager
def swallowed(ends: Sequence[End]) -> Iterator[None]:
    """Drop marked packets at the ends inside the ``with`` block, so that no kernel answers them."""
    word = MARK.hex()
    done: list[End] = []
    try:
        for end in ends:
            script = (
                f"table netdev tailored_sink {{\n    counter {_ARRIVED} {{\n    }}\n    chain arrivals {{\n"
                f'        type filter hook ingress device "{end.device}" priority -20; policy accept;\n'
                f"        meta l4proto {{ tcp, udp }} @ih,8,32 0x{word} counter name {_ARRIVED} drop;\n"
                f"        meta l4proto != {{ tcp, udp }} @th,72,32 0x{word} counter name {_ARRIVED} drop;\n    }}\n}}\n"
            )
            run(in_namespace(end.namespace, ["nft", "-f", "-"]), stdin=script)
            done.append(end)
        yield
        _let_arrive(ends)
    finally:
        for end in done:
            run(in_namespace(end.namespace, ["nft", "delete", "table", "netdev", "tailored_sink"]), check=False)


def _let_arrive(ends: Sequence[End]) -> None:
    """Return when no more packets arrive at the ends. Unknown devices between the ends may delay packets."""
    before = None
    while (arrived := [_arrived(end) for end in ends]) != before:
        before = arrived
        wait_until_handled()
        time.sleep(_NO_MORE_S)


def _arrived(end: End) -> int:
    listed = run(in_namespace(end.namespace, ["nft", "-j", "list", "counter", "netdev", "tailored_sink", _ARRIVED]))
    return sum(int(item["counter"]["packets"]) for item in json.loads(listed)["nftables"] if "counter" in item)


@printing_visibly
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``capture_scripts/send``; exit 0 done, 1 could not, 2 usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--plan"]:  # `send --plan PLAN ...` is short for `send run PLAN ...`
        given[0] = "run"
    options = _parser().parse_args(given)
    try:
        if options.part == "frames":
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            print(json.dumps(send_frames(read_frames(options.file), options.device, options.rate)))
            return 0
        with interruptible():
            return _plan(options) if options.part == "plan" else _run(options)
    except LabError as error:
        print(f"send: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"send: {error.strerror or error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        left = "nothing was written" if options.part == "plan" else "some packets may have been sent"
        print(f"send: interrupted ({error}); {left}", file=sys.stderr)
        return 130


def _plan(options: argparse.Namespace) -> int:
    names = ("client4", "client6", "target4", "target6")
    given = {name: getattr(options, name) for name in names if getattr(options, name)}
    plan = make_plan(
        load_rules(options.rules),
        options.count,
        seed=options.seed,
        addresses=Addresses(**given),
        lost_percent=options.lost,
    )
    plan.write(options.out)
    hits = Counter((packet.case.path, packet.rule) for packet in plan.packets)
    for path in PATHS:
        print(f"{path}: {sum(number for (way, _), number in hits.items() if way == path)} packets", file=sys.stderr)
    for table in plan.made_from["rules"]:
        number = hits[table["path"], table["id"]]
        note = "" if number else " (earlier rules take all its packets, or no packet with these addresses fits it)"
        print(f"  {table['path']} {table['id']}: {number} hit it{note}", file=sys.stderr)
    for entry in plan.left_out:
        print(
            f"left out: {entry.rule}, IPv{entry.version}, {entry.field} {entry.what}: {entry.reason}", file=sys.stderr
        )
    print(options.out)
    return 0


def _run(options: argparse.Namespace) -> int:
    need_root("sending raw packets")
    need_tools(TOOLS)
    lab = Lab(options.name)
    client, target = options.netns or (lab.namespace(role) for role in ("client", "pvm1"))
    ends = (End(client, options.devices[0]), End(target, options.devices[1]))
    prepared = prepare(options.plan, *ends)
    try:
        with swallowed(ends) if options.netns else contextlib.nullcontext():
            told = send_prepared(prepared, options.rate)
        if not options.netns:
            lab.wait_until_quiet()
    finally:
        prepared.close()
    print(json.dumps(told, indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="send",
        description="Make a plan of packets that hit and just miss each rule of a file, and send the packets.",
        epilog="example: send plan rules/service-chain.toml -o plan.parquet, then send run plan.parquet --rate 2000",
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="plan | run")
    plan = parts.add_parser("plan", help="make a plan; its Parquet table is the truth about the packets")
    plan.add_argument("rules", type=Path, help="rules file (TOML, [[rule]])")
    plan.add_argument("-o", "--out", type=Path, required=True, help="Parquet file to write")
    plan.add_argument("--count", type=int, default=DEFAULT_COUNT, help=f"packets, up to {MOST_PACKETS} (%(default)s)")
    plan.add_argument("--seed", type=int, default=1, help="another seed, another plan (%(default)s)")
    plan.add_argument("--lost", type=_percent, default=0.0, metavar="PERCENT", help="share with a drop code of the lab")
    for name, text in (("client", "the client's side"), ("target", "the protected machine")):
        for version in (4, 6):
            plan.add_argument(f"--{name}{version}", default="", metavar="ADDRESS", help=f"IPv{version} of {text}")
    go = parts.add_parser("run", help="send a plan, both directions at once")
    go.add_argument("plan", type=Path, help="plan file from 'send plan'")
    go.add_argument("--rate", type=_rate, default=DEFAULT_RATE_PPS, help="packets/s in each direction (%(default)g)")
    where = go.add_mutually_exclusive_group()
    where.add_argument("--name", default=DEFAULT_NAME, help="send in the lab of this name (default: %(default)s)")
    where.add_argument("--netns", nargs=2, metavar=("CLIENT", "TARGET"), help="or from these two namespaces")
    go.add_argument("--devices", nargs=2, metavar=("CLIENT", "TARGET"), default=("eth0", "eth0"),
                    help="their devices (default: eth0 eth0)")  # fmt: skip
    frames = parts.add_parser("frames")  # the part that runs inside one namespace, started by 'run'
    frames.add_argument("file", type=Path)
    frames.add_argument("device")
    frames.add_argument("rate", type=_rate)
    return parser


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate <= 1e6:
        raise argparse.ArgumentTypeError("more than 0 and up to 1000000 packets per second")
    return rate


def _percent(text: str) -> float:
    percent = float(text)
    if not 0 <= percent <= 100:
        raise argparse.ArgumentTypeError("0 to 100")
    return percent


if __name__ == "__main__":
    sys.exit(main())
