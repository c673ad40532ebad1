"""Does a recording show what the plan and the counters say? ``check_run.py RUN`` compares packet by packet.

A reader and a judge of its own, slow and plain, for the runs that ``make_fixture.py`` makes. It looks at the
sealed captures only, and at no result of any analysis.
"""

from __future__ import annotations

import argparse
import ipaddress
import itertools
import json
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started as a file: its folder is the package (PEP 366)
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    __package__ = Path(__file__).resolve().parent.name

import dpkt

from .known_loss import (
    IDENTICAL,
    IDENTICAL_COUNTER,
    IDENTICAL_SENT,
    KERNEL_TCP_COUNTERS,
    KERNEL_TCP_PORT,
    MARK,
)
from .nft_rules import Network, Range, Rule, default_counter, load_rules
from .plan import DEFAULT_SEED, MARKER_BYTES, MarkedPacket, make_plan
from .processes import LabError
from .sealing import ENHANCED_PACKET
from .service_chain import DEVICES, PATH_BY_NAME, PATHS
from .topology import AGENT1, DEFAULT_RULES
from .truth import read_counters
from .visible import printing_visibly


@dataclass(frozen=True)
class Seen:
    """What the comparison needs of one captured packet. ``key`` is all of it that a hop does not change."""

    source: str
    destination: str
    protocol: int
    sport: int | None
    dport: int | None
    icmp_type: int | None
    marker: str
    key: bytes

    @property
    def path(self) -> str:
        for path in PATHS:
            fields = {"source": self.source, "destination": self.destination}
            if all(fields[key] in values for key, values in path.match.items()):
                return path.name
        return ""


def packets(file: Path) -> Iterator[bytes]:
    """The packets of a file that this folder has sealed (little-endian, one interface), in file order."""
    data = file.read_bytes()
    at = 0
    while at < len(data):
        kind, total = struct.unpack_from("<II", data, at)
        if kind == ENHANCED_PACKET:
            (captured,) = struct.unpack_from("<I", data, at + 20)
            yield data[at + 28 : at + 28 + captured]
        at += total


def decode(data: bytes) -> Seen | None:
    """None for what is not IP. Addresses and ports come from dpkt, the key from the bytes themselves."""
    network = dpkt.ethernet.Ethernet(data).data
    if not isinstance(network, dpkt.ip.IP | dpkt.ip6.IP6):
        return None
    six = isinstance(network, dpkt.ip6.IP6)
    transport = network.data
    ports = isinstance(transport, dpkt.tcp.TCP | dpkt.udp.UDP)
    start = data[34:] if not six else data[54:]
    payload = start[8:] if not isinstance(transport, dpkt.tcp.TCP) else start[transport.off * 4 :]
    marker = payload[:MARKER_BYTES]
    return Seen(
        source=dpkt.utils.inet_to_str(network.src),
        destination=dpkt.utils.inet_to_str(network.dst),
        protocol=network.nxt if six else network.p,
        sport=transport.sport if ports else None,
        dport=transport.dport if ports else None,
        icmp_type=None if ports else data[54 if six else 34],
        marker=marker.decode("latin-1") if marker[1:5] == MARK else "",
        key=data[14:],
    )


def expected_points(packet: MarkedPacket) -> tuple[str, ...]:
    """The points at which the plan says the packet is seen, in path order."""
    path = PATH_BY_NAME[packet.kind.path]
    crossed = [point for point in path.points if packet.kind.action == "punt" or point not in path.detour]
    if packet.fate == "delivered":
        return tuple(crossed)
    if packet.lost_stage is None or packet.lost_stage == len(path.stages):  # dropped by its rule, or in the bypass
        last = _filter_input(path.name)
    else:
        last = path.points[packet.lost_stage]
    return tuple(crossed[: crossed.index(last) + 1])


def _filter_input(path: str) -> str:
    points = PATH_BY_NAME[path].points
    return points[points.index(PATH_BY_NAME[path].detour[0]) - 1]


def matches(rule: Rule, seen: Seen) -> bool:
    """Does the rule fit this packet? Written from the meaning of a rule, not from its nft form."""

    def inside(value: int | None, ranges: Sequence[Range]) -> bool:
        return not ranges or (value is not None and any(low <= value <= high for low, high in ranges))

    def within(address: str, networks: Sequence[Network]) -> bool:
        return not networks or any(ipaddress.ip_address(address) in network for network in networks)

    return (
        (not rule.protocols or seen.protocol in rule.protocols)
        and within(seen.source, rule.sources)
        and within(seen.destination, rule.destinations)
        and inside(seen.sport, rule.sports)
        and inside(seen.dport, rule.dports)
        and inside(seen.icmp_type, rule.icmp_types)
    )


def check(run: Path, plan: Sequence[MarkedPacket], rules: Sequence[Rule]) -> tuple[dict[str, object], list[str]]:
    """Figures of the comparison, and a sentence for each thing that does not agree."""
    seen = {
        point: [found for data in packets(run / "captures" / f"{point}.pcapng") if (found := decode(data))]
        for point in DEVICES
    }
    counted = read_counters(run / "context")
    faults = _check_marked(plan, seen)
    figures: dict[str, object] = {
        "packets": {point: len(there) for point, there in seen.items()},
        "marked": len(plan),
        "identical": {point: sum(s.marker.startswith(IDENTICAL) for s in there) for point, there in seen.items()},
        "kernel_tcp_lost": _check_kernel_tcp(seen, counted, faults),
        "rules": _check_rules(seen, rules, counted, faults),
    }
    _check_identical(seen, counted, faults)
    _check_the_rest(seen, faults)
    return figures, faults


def _check_marked(plan: Sequence[MarkedPacket], seen: Mapping[str, Sequence[Seen]]) -> list[str]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for point, there in seen.items():
        for packet in there:
            if packet.marker and not packet.marker.startswith(IDENTICAL):
                found[packet.marker][point] += 1
    faults = [
        f"{packet.marker} ({packet.kind.rule}): planned at {expected_points(packet)}, "
        f"seen at {dict(found[packet.marker])}"
        for packet in plan
        if found[packet.marker] != Counter(expected_points(packet))
    ]
    planned = {packet.marker for packet in plan}
    return faults + [f"{marker}: seen, and in no plan" for marker in found if marker not in planned]


def _kernel_tcp(there: Sequence[Seen], path: str) -> Counter[bytes]:
    return Counter(s.key for s in there if KERNEL_TCP_PORT in (s.sport, s.dport) and not s.marker and s.path == path)


def _check_kernel_tcp(
    seen: Mapping[str, Sequence[Seen]], counted: Mapping[str, int], faults: list[str]
) -> dict[str, int]:
    lost = {}
    for path, counter in KERNEL_TCP_COUNTERS.items():
        points = PATH_BY_NAME[path].points
        for before, after in itertools.pairwise(points):
            gone = _kernel_tcp(seen[before], path) - _kernel_tcp(seen[after], path)
            come = _kernel_tcp(seen[after], path) - _kernel_tcp(seen[before], path)
            expected = counted[f"svm:{counter}"] if before == "punt" else 0
            if gone.total() != expected or come:
                faults.append(
                    f"kernel TCP, {path}: {gone.total()} lost between {before} and {after}, "
                    f"the counter says {expected}; {come.total()} came from nowhere"
                )
            if before == "punt":
                lost[path] = gone.total()
    return lost


def _check_rules(
    seen: Mapping[str, Sequence[Seen]], rules: Sequence[Rule], counted: Mapping[str, int], faults: list[str]
) -> dict[str, int]:
    matched: Counter[str] = Counter()
    for path in ("ingress", "egress"):
        mine = [rule for rule in rules if rule.path == path]
        for packet in seen[_filter_input(path)]:
            if packet.path == path:
                hit = next((rule.counter for rule in mine if matches(rule, packet)), default_counter(AGENT1, path))
                matched[hit] += 1
    names = [rule.counter for rule in rules] + [default_counter(AGENT1, path) for path in ("ingress", "egress")]
    for name in names:
        if matched[name] != counted[f"host:{name}"]:
            faults.append(f"rule counter {name}: {counted[f'host:{name}']} counted, {matched[name]} in the captures")
    return {name: matched[name] for name in names}


def _check_identical(seen: Mapping[str, Sequence[Seen]], counted: Mapping[str, int], faults: list[str]) -> None:
    lost = counted[f"svm:{IDENTICAL_COUNTER}"]
    for point in PATH_BY_NAME["ingress"].points:
        number = sum(packet.marker.startswith(IDENTICAL) for packet in seen[point])
        expected = IDENTICAL_SENT - (lost if point in ("return", "vnic") else 0)
        if number != expected:
            faults.append(f"identical datagrams: {number} at {point}, {expected} expected")


def _check_the_rest(seen: Mapping[str, Sequence[Seen]], faults: list[str]) -> None:
    """What is neither marked nor kernel TCP under loss is at both ends of its path."""
    for path in PATHS:
        first, last = (
            Counter(
                s.key
                for s in seen[point]
                if s.path == path.name and not s.marker and KERNEL_TCP_PORT not in (s.sport, s.dport)
            )
            for point in (path.points[0], path.points[-1])
        )
        if first != last:
            faults.append(f"{path.name}: {(first - last).total()} other packets lost, {(last - first).total()} added")
    strangers = sum(not packet.path for there in seen.values() for packet in there)
    if strangers:
        faults.append(f"{strangers} packets that belong to no path")


@printing_visibly
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``check_run.py``; exit 0 everything agrees, 1 something does not, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="check_run.py",
        description="Compare a recorded fixture with its plan and its counters.",
        epilog="example: check_run.py fixtures/service-chain",
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of its plan (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        figures, faults = check(options.run, make_plan(options.seed), load_rules(DEFAULT_RULES))
    except (LabError, OSError) as error:
        print(f"check_run: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=1))
    for fault in faults:
        print(f"check_run: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
