"""What the design demands to be said of each packet, from the true passes and from which of them were
captured.

Written from the truth's side: identity is known here and clocks are exact, only visibility decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.kit.truth import Coverage, PacketTruth


class _Demand:
    def __init__(
        self,
        packets: Sequence[PacketTruth],
        coverage: Mapping[str, Coverage],
        offsets: Mapping[str, int],
        threshold_ns: int,
    ) -> None:
        self.coverage, self.offsets, self.threshold_ns = coverage, offsets, threshold_ns
        self.missed: set[str] = set()
        self.outages: dict[str, list[tuple[int, int]]] = {}
        self.unbounded: dict[str, bool] = {}
        self.prove_misses(packets)
        self.largest: dict[tuple[str, int, int], int] = {}
        for packet in packets:
            for a in packet.seen:
                for b in packet.seen:
                    detour = packet.path.detour
                    around = detour is not None and (a, b) == (detour[0] - 1, detour[1] + 1)
                    inside = detour is not None and any(detour[0] <= p <= detour[1] for p in packet.seen)
                    if a < b and packet.group is None and not (around and inside):
                        name = (packet.path.name, a, b)
                        self.largest[name] = max(self.largest.get(name, 0), self.at(packet, b) - self.at(packet, a))

    def prove_misses(self, packets: Sequence[PacketTruth]) -> None:
        """Points that were capturing and missed a unique packet which was captured before and after them."""
        passed: dict[tuple[str, str], list[tuple[int, int | None, int]]] = {}
        ended: dict[tuple[str, str], int] = {}
        for packet in packets:
            path, seen = packet.path, sorted(packet.seen)
            detour = range(path.detour[0], path.detour[1] + 1) if path.detour else range(0)
            punted = any(position in detour for position in seen)
            if packet.group is None and 0 < seen[-1] < path.last:
                name = (path.points[seen[-1]], path.name)
                ended[name] = ended.get(name, 0) + 1
            for position in range(seen[0] + 1, seen[-1]):
                if packet.group is not None or (position in detour and not punted):
                    continue
                point = path.points[position]
                before = max(self.at(packet, p) for p in seen if p < position)
                after = min(self.at(packet, p) for p in seen if p > position)
                offset = self.offsets[point]
                if self.coverage[point].holds(before + offset, after + offset):
                    at = self.at(packet, position) if position in packet.seen else None
                    passed.setdefault((point, path.name), []).append((before, at, after))
        for point, cover in self.coverage.items():
            mine = {
                name: sorted(times, key=lambda t: (t[0], t[2])) for name, times in passed.items() if name[0] == point
            }
            missed = sum(at is None for times in mine.values() for _, at, _ in times)
            if missed:
                self.missed.add(point)
            self.outages[point] = []
            few = True
            for name, times in mine.items():
                outages = self.outages_of(point, times, 1 if cover.dropped and cover.dropped == missed else 32)
                self.outages[point] += outages
                few &= not outages or (ended.get(name, 0) + 1) * len(outages) * 50 <= len(times)
            bounded = few and not (
                missed and any(path.points[-1] == point for path in {p.path.name: p.path for p in packets}.values())
            )
            if cover.dropped and cover.dropped >= missed:
                bounded = cover.dropped == missed or cover.drop_spans is not None
            self.unbounded[point] = not bounded
            offset = self.offsets[point]
            self.outages[point] += [(begin - offset, end - offset) for begin, end in cover.drop_spans or ()]

    def outages_of(self, point: str, times: Sequence[tuple[int, int | None, int]], near: int) -> list[tuple[int, int]]:
        """Runs of packets that a point missed, from so many packets before them to as many behind."""
        found, cover, offset = [], self.coverage[point], self.offsets[point]
        number = 0
        while number < len(times):
            first = number
            while number < len(times) and times[number][1] is None:
                number += 1
            if number > first:
                before = [at for _, at, _ in times[:first] if at is not None]
                behind = [at for _, at, _ in times[number:] if at is not None]
                came = max(after for _, _, after in times[first:number])
                begin = (cover.start_ns or 0) - offset if len(before) < near else min(before[-near], times[first][0])
                found.append(
                    (begin, (cover.end_ns or 0) - offset if len(behind) < near else max(behind[near - 1], came))
                )
            number += 1
        return found

    def may_have_missed(self, point: str, since: int, until: int) -> bool:
        """Whether that point missed packets, and may have missed one between two times of the true clock."""
        if not self.coverage[point].dropped and point not in self.missed:
            return False
        return self.unbounded[point] or any(begin <= until and end >= since for begin, end in self.outages[point])

    def at(self, packet: PacketTruth, position: int) -> int:
        """When the packet was first captured there, on the true clock."""
        return min(s.ts_ns for s in packet.seen[position]) - self.offsets[packet.path.points[position]]

    def wait(self, packet: PacketTruth, origin: int, target: int) -> int:
        """min(threshold, 10 x largest certain delay), the threshold if no packet was certain."""
        largest = self.largest.get((packet.path.name, origin, target))
        return self.threshold_ns if largest is None else min(self.threshold_ns, 10 * largest)

    def doubt(self, packet: PacketTruth, origin: int, target: int) -> str | None:
        """Why absence at ``target`` shows nothing about a packet last captured at ``origin``."""
        point = packet.path.points[target]
        cover, offset, sent = self.coverage[point], self.offsets[point], self.at(packet, origin)
        wait = self.wait(packet, origin, target)
        if not cover.holds(sent + offset, sent + offset):
            return "outside_window"
        if not cover.holds(sent + offset, sent + wait + offset):
            return "waiting_time"
        return "capture_drops" if self.may_have_missed(point, sent, sent + wait) else None

    def blind(self, packet: PacketTruth, position: int, seen_at: int, until: int | None = None) -> bool:
        """Whether that point may have missed the packet, which was captured at another position (or at two,
        before and after).
        """
        point = packet.path.points[position]
        cover, time = self.coverage[point], self.at(packet, seen_at)
        guard = self.wait(packet, *sorted((position, seen_at)))
        if until is not None and position > seen_at:
            guard = max(0, self.at(packet, until) - self.at(packet, seen_at))
        since, until = (time - guard, time) if position < seen_at else (time, time + guard)
        offset = self.offsets[point]
        missed = cover.dropped > 0 or point in self.missed
        return missed or not cover.holds(since + offset, until + offset)

    def observed(self, packet: PacketTruth) -> str | None:
        """The treatment that the captures show; never another one than the true treatment."""
        path = packet.path
        if path.detour is None or packet.injected:
            return None
        first, last = path.detour
        if any(first <= position <= last for position in packet.seen):
            return "punt"
        after = [position for position in packet.seen if position > last]
        reference = first - 1 if first - 1 in packet.seen else min(after, default=None)
        if not after or reference is None:
            return None
        shown = any(not self.blind(packet, position, reference, min(after)) for position in range(first, last + 1))
        return "forward" if shown else None

    def is_foreign(self, packet: PacketTruth) -> bool:
        """First captured behind the first point, which was capturing and would have seen it."""
        first, point = min(packet.seen), packet.path.points[0]
        if not first or packet.injected:
            return False
        time, offset, cover = self.at(packet, first), self.offsets[point], self.coverage[point]
        earlier = time - sum(self.wait(packet, at, at + 1) for at in range(first))
        return cover.holds(earlier + offset, time + offset) and not self.may_have_missed(point, earlier, time)

    def decide(self, packet: PacketTruth) -> None:
        """Fate, reason, lost stage, observed action and rule verdict of one packet."""
        path, last = packet.path, max(packet.seen)
        packet.observed_action = self.observed(packet)
        packet.fate = "delivered"
        foreign = self.is_foreign(packet)
        at_filter = last == path.filter_input
        if packet.injected:
            shown = not any(self.blind(packet, p, min(packet.seen)) for p in range(min(packet.seen)))
            packet.fate = "injected" if shown else packet.fate
        if last < path.last and packet.fate != "injected":
            targets = [last + 1]
            if at_filter and path.detour is not None:
                targets = [path.detour[0], path.detour[1] + 1]
                if packet.expected_action == "drop":
                    targets = targets[1:]
            doubts = [self.doubt(packet, last, target) for target in targets]
            ranks = ("outside_window", "waiting_time", "capture_drops")
            packet.reason = next((reason for reason in ranks if reason in doubts), None)
            if packet.reason:
                packet.fate = "undetermined"
            elif at_filter and packet.expected_action == "drop":
                packet.fate, packet.observed_action = "dropped", "drop"
            elif packet.absorbed and path.detour is not None and last == path.detour[0]:
                packet.fate = "absorbed"
            else:
                packet.fate = "lost"
            if packet.fate == "lost" and foreign:
                packet.fate, packet.reason = "undetermined", "first_point_missing"
            if packet.fate == "lost":
                forward = at_filter and packet.expected_action == "forward"
                packet.lost_stage = path.last if forward else last
        if packet.fate == "delivered" and foreign:
            packet.fate, packet.reason = "undetermined", "first_point_missing"
        for origin, target in zip(sorted(packet.seen), sorted(packet.seen)[1:], strict=False):
            next_on_route = target == origin + 1 or (origin == path.filter_input and packet.treatment == "forward")
            if next_on_route and self.at(packet, target) - self.at(packet, origin) > self.threshold_ns:
                packet.fate, packet.reason, packet.lost_stage = "lost", "late", path.stage(origin, target)
                break
        packet.rule_verdict = self.verdict(packet, last)

    def verdict(self, packet: PacketTruth, last: int) -> str | None:
        at_filter = packet.path.filter_input
        expected, observed = packet.expected_action, packet.observed_action
        if at_filter is None or last < at_filter or packet.fate == "injected":
            return None
        if expected == "drop" and last > at_filter:
            return "missed_drop"
        if expected == observed:
            return "hit"
        if observed is not None:
            return f"false_{observed}"
        return "unseen" if last == at_filter and packet.fate == "lost" else "undetermined"


def demand(
    packets: Sequence[PacketTruth],
    coverage: Mapping[str, Coverage],
    offsets: Mapping[str, int],
    threshold_ns: int,
) -> None:
    """Fill in what is demanded of every visible packet."""
    demands = _Demand(packets, coverage, offsets, threshold_ns)
    for packet in packets:
        demands.decide(packet)
