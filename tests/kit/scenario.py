"""A seeded generator of synthetic multi-point runs with exact truth.

:func:`generate` sends packets of :mod:`tests.kit.topology` through a simulated service chain, writes what
each point's capture would hold as a run folder, and returns the truth: what happened to each packet, which
frames it owns, and what the captures can show of that (:mod:`tests.kit.demanded`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from tests.kit import pcap_files, topology
from tests.kit.demanded import demand
from tests.kit.packets import CLIENT_MAC, MACHINE_MAC, Header, arp_request, frame, transport
from tests.kit.topology import Flow, PathPlan
from tests.kit.truth import BEGIN_NS, MILLISECOND, SECOND, Coverage, Options, PacketTruth, Sighted, Truth


@dataclass
class _Held:
    """A record on its way into a capture file."""

    ts_ns: int
    data: bytes
    owner: tuple[PacketTruth, int] | None
    dropped_before: int = 0


class _Chain:
    """The simulated chain: lets packets pass and notes when they pass where."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.packets: list[PacketTruth] = []
        self.clock_ns = BEGIN_NS + 100 * MILLISECOND

    def gap(self) -> None:
        """Time goes on by an exponential gap."""
        self.clock_ns += 1 + int(self.random.expovariate(1 / self.options.interval_ns))

    def delay(self, path: PathPlan, stage: int) -> int:
        """A stage's delay: the service is slow, everything else fast; reordered packets wait a few gaps."""
        slow = stage < len(path.stages) and path.stages[stage] == "service"
        base = 120_000 if slow else 4_000 + 1_500 * stage
        delay = base + int(min(self.random.expovariate(1 / (base / 4)), 3 * base))
        if self.options.reordered and self.random.random() < self.options.reordered:
            delay += int(self.options.interval_ns * self.random.uniform(2, 5))
        return delay

    def treatment(self, flow: Flow) -> str | None:
        """What the filter really does, faults included; None: it vanishes there although it should not."""
        for fault, probability in self.options.faults.items():
            hit = self.random.random() < probability
            if hit and fault == "false_punt" and flow.expected == "forward":
                return "punt"
            if hit and fault == "false_forward" and flow.expected == "punt":
                return "forward"
            if hit and fault == "missed_drop" and flow.expected == "drop":
                return "forward"
            if hit and fault == "missed_drop_punt" and flow.expected == "drop":
                return "punt"
            if hit and fault == "vanish" and flow.expected in ("punt", "forward"):
                return None
        return flow.expected

    def send(
        self,
        flow: Flow,
        header: Header,
        *,
        fragment: tuple[int, int] | None = None,
        start: int = 0,
        lose: int | None = None,
        delay_more: tuple[int, int] | None = None,
        group: int | None = None,
        faultless: bool = False,
        treated: str | None = None,
    ) -> PacketTruth:
        """One packet from position ``start`` on. ``lose``: certainly at that stage; ``delay_more``: (stage,
        by how much).
        """
        path = flow.path
        treatment = treated or (flow.expected if faultless or start else self.treatment(flow))
        route = path.route("punt" if path.detour is None else treatment or "nowhere")
        absorbed_here = flow.absorbed and self.random.random() < self.options.answered
        packet = PacketTruth(
            len(self.packets),
            path,
            header,
            fragment,
            flow.rule,
            flow.expected,
            flow.absorbed,
            None if start else treatment,
            start > 0,
            None,
            group,
            {},
        )
        times = [self.clock_ns]
        route = [position for position in route if position >= start]
        for before, position in zip([None, *route], route, strict=False):
            if before is not None:
                stage = path.stage(before, position)
                by_number = group is not None and self.options.id_modulus is None
                probability = 0.0 if by_number else self.options.loss.get((path.name, stage), 0.0)
                if lose == stage or self.random.random() < probability:
                    packet.really_lost = stage
                    break
                more = delay_more[1] if delay_more is not None and delay_more[0] == stage else 0
                times = [time + self.delay(path, stage) + more for time in times]
                copies = 0.0 if group is not None else self.options.duplicates.get((path.name, stage), 0.0)
                if self.random.random() < copies:
                    times.append(max(times) + 2_000 + self.random.randrange(20_000))
            packet.passed[position] = sorted(times)
            if absorbed_here and path.detour is not None and position == path.detour[0]:
                break
        self.packets.append(packet)
        return packet

    def payload(self, number: int) -> bytes:
        """The number and some bytes; of a fixed length where IP IDs alone tell packets apart."""
        if self.options.id_modulus is not None:
            return b"the same bytes in every packet"
        return f"PKTR{number:08d}".encode() + bytes(self.random.randrange(0, 60))

    def ordinary(self) -> None:
        """The main traffic: every flow in turn, in random order."""
        flows = [flow for flow in topology.FLOWS if self.options.only_path in (None, flow.path.name)]
        for number in range(self.options.packets):
            if number % len(flows) == 0:
                self.random.shuffle(flows)
            flow = flows[number % len(flows)]
            if self.options.id_modulus is not None:
                # One flow whose only difference is the IP ID, which comes again every id_modulus packets.
                flow = topology.FLOWS_BY_EXPECTED["punt"][3]
                header = flow.packet(number % self.options.id_modulus, self.payload(0))
                repeated = self.options.id_modulus * self.options.interval_ns < 2 * self.options.threshold_ns
                self.send(flow, header, group=number % self.options.id_modulus if repeated else None)
                if not repeated:
                    # Never nearer than the threshold to its namesake, whatever the random gaps were.
                    self.clock_ns += self.options.threshold_ns * 2 // self.options.id_modulus
            else:
                self.send(flow, flow.packet(number, self.payload(number)))
            self.gap()

    def special(self) -> None:
        """Everything that is asked for by number."""
        options, number = self.options, 20_000
        for flow, count, group in (
            (topology.IDENTICAL, options.identical, 1_000_000),
            (topology.IDENTICAL_FORWARD, options.identical_forward, 1_000_001),
        ):
            lost = [stage for (path, stage), n in options.identical_lost.items() if path == "ingress" for _ in range(n)]
            if flow is topology.IDENTICAL_FORWARD:
                lost = [stage for stage in lost if stage in (0, 4)]
            unlucky: dict[int, int] = dict(
                zip(self.random.sample(range(count), min(len(lost), count)), lost, strict=False)
            )
            spared = [i for i in range(count) if i not in unlucky]
            mistreated = set(self.random.sample(spared, min(options.identical_faults, len(spared))))
            other = "forward" if flow.expected == "punt" else "punt"
            for i in range(count):
                header = flow.packet(0, b"all of these are the same")
                treated = other if i in mistreated else flow.expected
                self.send(flow, header, group=group, lose=unlucky.get(i), treated=treated)
                self.clock_ns += options.identical_gap_ns
        for i in range(options.fragmented):
            header = topology.FRAGMENTED.packet(number + i, f"FRAG{i:08d}".encode() * 300)
            length = len(transport(header))
            for first in range(0, length, 1480):
                end = min(first + 1480, length)
                # Only the first fragment has ports: the others hit no rule and are forwarded by default.
                flow = topology.FRAGMENTED if first == 0 else Flow(topology.INGRESS, None, "forward")
                self.send(flow, header, fragment=(first, end), faultless=True)
                self.clock_ns += 1_200
            self.gap()
        for flow, count in ((topology.ABSORBED, options.absorbed), (topology.LOOPED, options.looped)):
            for _ in range(count):
                number += 1
                self.send(flow, flow.packet(number, f"SPEC{number:08d}".encode()))
                self.gap()
        for i in range(options.injected):
            number += 1
            flow = topology.FLOWS_BY_EXPECTED["punt"][3]
            start = 3 + i % 2
            self.send(flow, flow.packet(number, f"INJE{number:08d}".encode()), start=start)
            self.gap()
        for i in range(options.late):
            number += 1
            path, stage = options.late_stage
            flow = next(f for f in topology.FLOWS_BY_EXPECTED["punt"] if f.path.name == path)
            header = flow.packet(number, f"LATE{number:08d}".encode())
            more = options.threshold_ns + options.threshold_ns // 4 + i
            self.send(flow, header, delay_more=(stage, more), faultless=True)
            self.gap()


def _wire_frame(packet: PacketTruth, position: int, changes: bool) -> bytes:
    """The frame as one position sees it; with ``changes`` all that the way may rewrite is rewritten."""
    if not changes:
        return frame(packet.header, fragment=packet.fragment)
    return frame(
        packet.header,
        ttl=64 - position,
        dscp=0 if position < 2 else 46,
        vlans=(77,) if position == 1 else (),
        macs=(CLIENT_MAC, MACHINE_MAC) if position < 3 else (bytes(5) + bytes([position]), MACHINE_MAC),
        partial_checksum=position < 2 and packet.fragment is None,
        fragment=packet.fragment,
    )


def _clock_name(options: Options, point: str) -> str:
    return f"clock-{point}" if point in options.clock_offsets else "host"


def _captured(
    chain: _Chain, begin: int, end: int
) -> tuple[dict[str, list[_Held]], dict[str, tuple[int, int]], dict[str, int]]:
    """What each point's capture holds, between which times it ran (raw), and how many packets it dropped."""
    options, rng = chain.options, random.Random(chain.options.seed + 1)
    held: dict[str, list[_Held]] = {point: [] for point in topology.POINTS}
    spans = {}
    for point in topology.POINTS:
        offset = options.clock_offsets.get(point, 0)
        spans[point] = (
            begin + options.starts_late.get(point, 0) + offset,
            end - options.ends_early.get(point, 0) + offset,
        )
    for packet in chain.packets:
        for position, times in packet.passed.items():
            point = packet.path.points[position]
            data = _wire_frame(packet, position, options.changes)
            for time in times:
                held[point].append(_Held(time + options.clock_offsets.get(point, 0), data, (packet, position)))
    for point in topology.POINTS:
        low, high = spans[point]
        for _ in range(options.noise):
            held[point].append(_Held(rng.randrange(low, high), arp_request(), None))
    dropped = {}
    for point, records in held.items():
        low, high = spans[point]
        kept = [record for record in sorted(records, key=lambda r: r.ts_ns) if low <= record.ts_ns <= high]
        if point in options.silent:
            kept = []
        survivors: list[_Held] = []
        missing = 0
        for record in kept:
            # The first and the last are kept, so that the span of a file without statistics is known.
            edge = record is kept[0] or record is kept[-1]
            if not edge and rng.random() < options.capture_drops.get(point, 0.0):
                missing += 1
                continue
            record.dropped_before = missing - sum(r.dropped_before for r in survivors)
            survivors.append(record)
        dropped[point] = missing
        if options.unsorted:
            for i in range(0, len(survivors) - 1, 3):
                survivors[i], survivors[i + 1] = survivors[i + 1], survivors[i]
        held[point] = survivors
    return held, spans, dropped


def _file_bytes(options: Options, point: str, records: list[_Held], span: tuple[int, int], dropped: int) -> bytes:
    """The capture file of one point."""
    snaplen = options.snaplen.get(point, 0)
    told = options.drops_told_by
    if options.format == "pcap":
        return pcap_files.pcap_bytes(
            [pcap_files.Record(r.ts_ns, r.data) for r in records],
            nanoseconds=options.tsresol == 9,
            order=options.order,
            snaplen=snaplen or 262144,
        )
    interface = pcap_files.Interface(name=point, tsresol=options.tsresol, tsoffset=options.tsoffset, snaplen=snaplen)
    statistics = pcap_files.Statistics(
        ts_ns=span[1],
        start_ns=span[0],
        end_ns=span[1],
        received=len(records) + dropped,
        dropped=0,
        os_dropped=dropped if told == "statistics" else 0,
    )
    return pcap_files.pcapng_bytes(
        pcap_files.Section(
            [interface],
            [
                pcap_files.Record(
                    r.ts_ns,
                    r.data,
                    dropped=r.dropped_before if told == "packets" and r.dropped_before else None,
                )
                for r in records
            ],
            [statistics] if options.statistics else [],
            order=options.order,
            application="tests",
        )
    )


def _stored_time(options: Options, ts_ns: int) -> int:
    """A time after it went through the file's resolution."""
    if options.format == "pcap":
        return ts_ns if options.tsresol == 9 else ts_ns // 1000 * 1000
    interface = pcap_files.Interface(tsresol=options.tsresol, tsoffset=options.tsoffset)
    units = interface.units(ts_ns)
    return units * SECOND // interface.units_per_second + (options.tsoffset or 0) * SECOND


def run_table(options: Options, window: tuple[int, int] | None) -> dict[str, Any]:
    """run.toml of a generated run."""
    suffix = "pcap" if options.format == "pcap" else "pcapng"
    table: dict[str, Any] = {"schema": 1, "name": f"synthetic-{options.seed}"}
    if window is not None:
        table["window"] = {"start_ns": window[0], "end_ns": window[1]}
    table["loss"] = {"threshold": f"{options.threshold_ns}ns"}
    table["point"] = [
        {"name": point, "captures": [f"captures/{point}.{suffix}"], "clock": _clock_name(options, point)}
        for point in topology.POINTS
    ]
    paths: Iterable[PathPlan] = (topology.INGRESS, topology.EGRESS, topology.DIRECT, topology.DIRECT_BACK)
    table["path"] = [path.table() for path in (*paths, *((topology.LOOP,) if options.looped else ()))]
    table["rule"] = [dict(rule) for rule in topology.RULES]
    return table


def _counters(chain: _Chain) -> dict[str, int]:
    """What the data plane's counters say: packets that reached the filter, per rule with a counter."""
    names = {rule["id"]: rule["counter"] for rule in topology.RULES if "counter" in rule}
    counts = dict.fromkeys(names.values(), 0)
    for packet in chain.packets:
        at_filter = packet.path.filter_input
        if at_filter is not None and at_filter in packet.passed and packet.rule in names:
            counts[names[packet.rule]] += len(packet.passed[at_filter])
    return counts


def generate(options: Options, folder: Path) -> Truth:
    """Simulate, write the run folder, and return the truth. The same options give the same bytes."""
    chain = _Chain(options)
    chain.ordinary()
    chain.special()
    last = max((t for p in chain.packets for times in p.passed.values() for t in times), default=chain.clock_ns)
    begin, end = BEGIN_NS, last + options.tail_ns
    held, spans, dropped = _captured(chain, begin, end)

    (folder / "captures").mkdir(parents=True)
    (folder / "context").mkdir()
    suffix = "pcap" if options.format == "pcap" else "pcapng"
    coverage = {}
    window = (begin, end) if options.window else None
    for point, records in held.items():
        capture = f"captures/{point}.{suffix}"
        (folder / capture).write_bytes(_file_bytes(options, point, records, spans[point], dropped[point]))
        if options.drops_told_by == "log" or options.format == "pcap":
            (folder / "captures" / f"{point}.log").write_text(
                f"{len(records)} packets captured\n"
                f"{len(records) + dropped[point]} packets received by filter\n"
                f"{dropped[point]} packets dropped by kernel\n"
            )
        for number, record in enumerate(records, start=1):
            if record.owner is not None:
                packet, position = record.owner
                stored = Sighted(point, capture, number, _stored_time(options, record.ts_ns))
                packet.seen.setdefault(position, []).append(stored)
        coverage[point] = _coverage(options, records, spans[point], window, dropped[point])
    (folder / "run.toml").write_text(tomli_w.dumps(run_table(options, window)))
    for name, values in (("before", dict.fromkeys(_counters(chain), 0)), ("after", _counters(chain))):
        entries = [{"counter": {"name": counter, "packets": n, "bytes": 0}} for counter, n in values.items()]
        (folder / "context" / f"counters-{name}.json").write_text(json.dumps({"nftables": entries}))

    truth = Truth(chain.packets, coverage, dropped, {point: len(records) for point, records in held.items()})
    clocks = {point: options.clock_offsets.get(point, 0) for point in topology.POINTS}
    demand(truth.visible, coverage, clocks, options.threshold_ns)
    return truth


def _coverage(
    options: Options,
    records: list[_Held],
    span: tuple[int, int],
    window: tuple[int, int] | None,
    dropped: int,
) -> Coverage:
    """What a reader can know of the time a capture covered, in the point's own clock."""
    times = [_stored_time(options, record.ts_ns) for record in records]
    start, end = (min(times), max(times)) if times else (None, None)
    if options.format == "pcapng" and options.statistics:
        start, end = _stored_time(options, span[0]), _stored_time(options, span[1])
    if window is not None:
        start = window[0] if start is None else min(start, window[0])
        end = window[1] if end is None else max(end, window[1])
    spans = None
    if dropped and options.drops_told_by == "packets" and options.format == "pcapng":
        # Between the packet before and the one that counts them; the first one is always kept.
        spans = tuple(
            (times[number - 1], times[number]) for number, record in enumerate(records) if record.dropped_before
        )
    return Coverage(start, end, dropped, spans)
