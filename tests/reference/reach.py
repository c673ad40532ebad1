"""What the captures of each point prove: the time that they cover, and whether they missed packets in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tests.reference.clocks import Clocks
from tests.reference.run import Run
from tests.reference.sightings import Trajectory


@dataclass(frozen=True)
class Coverage:
    """What a point's captures cover, in its own clock; no times if that cannot be known.

    ``dropped`` by the capture; ``told`` is whether the capture says how many it dropped.
    """

    start_ns: int | None
    end_ns: int | None
    dropped: int
    resolution_ns: int
    told: bool = True


class Reach:
    """Coverage on the aligned clocks, with what certain packets prove."""

    def __init__(self, run: Run, coverage: dict[str, Coverage], clocks: Clocks, certain: Iterable[Trajectory]) -> None:
        self.run, self.clocks = run, clocks
        self.coverage = coverage
        self.missed = proven_misses(self, certain)
        self.coverage = {
            name: replace(cover, dropped=cover.dropped + self.missed[name]) for name, cover in coverage.items()
        }

    def began_by(self, point: str, time: int) -> bool:
        """Whether the captures of a point had begun at an aligned time."""
        start = self.coverage[point].start_ns
        return start is not None and start - self.clocks.offsets[self.run.point(point).clock] <= time

    def lasted_to(self, point: str, time: int) -> bool:
        """Whether they had not ended before an aligned time."""
        end = self.coverage[point].end_ns
        return end is not None and time <= end - self.clocks.offsets[self.run.point(point).clock]

    def dropped(self, point: str) -> bool:
        """The capture says that it dropped packets, or provably missed some."""
        return self.coverage[point].dropped > 0

    def may_have_missed(self, point: str) -> bool:
        """It dropped packets, or does not say how many."""
        return self.dropped(point) or not self.coverage[point].told


def proven_misses(reach: Reach, certain: Iterable[Trajectory]) -> Counter[str]:
    """A certain packet that was seen before and after a point, which was capturing all the time between and has not
    seen it, was missed there (RFC 5644 6.2.5). Points of the detour were passed only by packets seen in the detour.
    """
    missed: Counter[str] = Counter()
    for packet in certain:
        path = packet.path
        for position in range(packet.first + 1, packet.last):
            in_detour = path.enter is not None and path.enter <= position <= (path.leave or 0)
            if position in packet.seen or (in_detour and not packet.in_detour):
                continue
            left = max((s for p, s in packet.seen.items() if p < position), key=lambda s: s.time)
            came = min((s for p, s in packet.seen.items() if p > position), key=lambda s: s.time)
            point = path.points[position]
            missed[point] += reach.began_by(point, left.time) and reach.lasted_to(point, came.time)
    return missed
