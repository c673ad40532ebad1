"""What the captures of each point prove: the time that they cover, and whether they missed packets in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tests.reference.clocks import Clocks
from tests.reference.run import Run
from tests.reference.sightings import Key, Trajectory


@dataclass(frozen=True)
class Coverage:
    """What a point's captures cover, in its own clock; no times if that cannot be known.

    ``dropped`` by the capture; ``told`` is whether the capture says how many it dropped.
    ``drop_spans`` are the times in which it dropped all of these, None where nothing says when.
    """

    start_ns: int | None
    end_ns: int | None
    dropped: int
    resolution_ns: int
    told: bool = True
    drop_spans: list[tuple[int, int]] | None = None


class Reach:
    """Coverage on the aligned clocks, with what certain packets prove.

    ``outages`` are the times in which a point missed packets, None where nothing bounds them.
    """

    def __init__(self, run: Run, coverage: dict[str, Coverage], clocks: Clocks, certain: Iterable[Trajectory]) -> None:
        self.run, self.clocks = run, clocks
        self.coverage = coverage
        passages = passages_of(self, certain)
        self.missed: Counter[str] = Counter()
        self.outages: dict[str, list[tuple[int, int]] | None] = {}
        for point, cover in coverage.items():
            of_paths = [passage for passage in passages[point] if passage.missed]
            self.missed[point] = sum(passage.missed for passage in of_paths)
            self.outages[point] = None
            if cover.dropped and cover.dropped >= self.missed[point]:
                bounded = cover.dropped == self.missed[point] or cover.drop_spans is not None
            else:
                at_an_end = any(path.points[-1] == point for path in run.paths)
                bounded = not of_paths or (not at_an_end and all(passage.few for passage in of_paths))
            if bounded:
                ends, offset = self.on_common_clock(point), clocks.offsets[run.point(point).clock]
                near = 1 if cover.dropped and cover.dropped == self.missed[point] else 32
                proven = [outage for passage in of_paths for outage in passage.outages(*ends, near)]
                said = [(begin - offset, end - offset) for begin, end in cover.drop_spans or []]
                self.outages[point] = proven + said
        self.coverage = {
            name: replace(cover, dropped=cover.dropped + self.missed[name]) for name, cover in coverage.items()
        }

    def on_common_clock(self, point: str) -> tuple[int, int]:
        """When the captures of a point start and end, in aligned time."""
        cover, offset = self.coverage[point], self.clocks.offsets[self.run.point(point).clock]
        return (cover.start_ns or 0) - offset, (cover.end_ns or 0) - offset

    def began_by(self, point: str, time: int) -> bool:
        """Whether the captures of a point had begun at an aligned time."""
        return self.coverage[point].start_ns is not None and self.on_common_clock(point)[0] <= time

    def lasted_to(self, point: str, time: int) -> bool:
        """Whether they had not ended before an aligned time."""
        return self.coverage[point].end_ns is not None and time <= self.on_common_clock(point)[1]

    def dropped(self, point: str) -> bool:
        """The capture says that it dropped packets, or provably missed some."""
        return self.coverage[point].dropped > 0

    def may_have_missed(self, point: str) -> bool:
        """It dropped packets, or does not say how many."""
        return self.dropped(point) or not self.coverage[point].told

    def may_have_missed_between(self, point: str, since: int, until: int) -> bool:
        """It missed packets, and may have missed one between two aligned times."""
        outages = self.outages[point]
        if not self.dropped(point):
            return False
        return outages is None or any(begin <= until and end >= since for begin, end in outages)


@dataclass
class Passage:
    """Certain packets that passed one position of a path: (last time before, time there or None, first time behind,
    flow); and how many ended there.
    """

    packets: list[tuple[int, int | None, int, Key]]
    departures: int = 0

    @property
    def missed(self) -> int:
        """How many the point missed."""
        return sum(at is None for _, at, _, _ in self.packets)

    def runs(self) -> list[tuple[int, int]]:
        """Runs of missed packets, in order of their time before and behind: numbers of the first and the last one."""
        order = sorted(self.packets, key=lambda packet: (packet[0], packet[2]))
        found: list[tuple[int, int]] = []
        for number, (_, at, _, _) in enumerate(order):
            if at is None and number and order[number - 1][1] is None:
                found[-1] = (found[-1][0], number)
            elif at is None:
                found.append((number, number))
        return found

    @property
    def few(self) -> bool:
        """The runs are few beside what passed, so nothing else is expected to be missed and lost behind the point."""
        order = sorted(self.packets, key=lambda packet: (packet[0], packet[2]))
        packets, lost = Counter(packet[3] for packet in order), Counter[Key]()
        runs: dict[Key, set[int]] = {}
        for number, (first, last) in enumerate(self.runs()):
            for packet in order[first : last + 1]:
                lost[packet[3]] += 1
                runs.setdefault(packet[3], set()).add(number)
        left_out = any(len(runs[flow]) >= 3 and 5 * lost[flow] >= packets[flow] for flow in runs)
        return (self.departures + 1) * len(self.runs()) * 50 <= len(self.packets) and not left_out

    def outages(self, start: int, end: int, near: int) -> list[tuple[int, int]]:
        """When the point missed these packets: from so many packets captured before to as many behind."""
        order = sorted(self.packets, key=lambda packet: (packet[0], packet[2]))
        found = []
        for first, last in self.runs():
            before = [packet[1] for packet in order[:first] if packet[1] is not None]
            behind = [packet[1] for packet in order[last + 1 :] if packet[1] is not None]
            came = max(packet[2] for packet in order[first : last + 1])
            found.append(
                (
                    start if len(before) < near else min(before[-near], order[first][0]),
                    end if len(behind) < near else max(behind[near - 1], came),
                )
            )
        return found


def passages_of(reach: Reach, certain: Iterable[Trajectory]) -> dict[str, list[Passage]]:
    """What passed each point while it was capturing, path by path.

    A certain packet that was seen before and after a point, which was capturing all the time between and has not seen
    it, was missed there (RFC 5644 6.2.5). Points of the detour were passed only by packets seen in the detour.
    """
    passages: dict[tuple[str, int], Passage] = {}
    found: dict[str, list[Passage]] = {point.name: [] for point in reach.run.points}
    for path in reach.run.paths:
        for position, point in enumerate(path.points):
            passages[path.name, position] = Passage([])
            found[point].append(passages[path.name, position])
    for packet in certain:
        path = packet.path
        for position, point in enumerate(path.points[:-1]):
            if position == 0:
                continue
            passage = passages[path.name, position]
            in_detour = path.enter is not None and path.enter <= position <= (path.leave or 0)
            if position == packet.last:
                passage.departures += 1
            if not packet.first < position < packet.last or (in_detour and not packet.in_detour):
                continue
            left = max(s.time for p, s in packet.seen.items() if p < position)
            came = min(s.time for p, s in packet.seen.items() if p > position)
            if reach.began_by(point, left) and reach.lasted_to(point, came):
                seen = packet.seen.get(position)
                flow = packet.sighting(packet.first).flow
                passage.packets.append((left, None if seen is None else seen.time, came, flow))
    return found
