"""The rung order: packets with equal keys, told apart by order and delay within the loss threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.reference.clocks import middle
from tests.reference.open_findings import open_finding
from tests.reference.reach import Reach
from tests.reference.run import Path_, Run
from tests.reference.sightings import EARLY_NS, Key, Sighting, Trajectory


class Delays:
    """What certain packets tell of the delays between positions of a path, on aligned clocks.

    Over the bypass only packets count that were not seen in the detour; between points of one clock what came the
    other way tells nothing, unless there is nothing else.
    """

    def __init__(self, run: Run, certain: Sequence[Trajectory]) -> None:
        self.run = run
        self.known: dict[tuple[str, int, int], list[int]] = {}
        for packet in certain:
            path = packet.path
            for a in packet.seen:
                for b in packet.seen:
                    over_bypass = (a, b) == (path.filter_input, path.after_detour)
                    if a < b and not (over_bypass and packet.in_detour):
                        delay = packet.seen[b].time - packet.seen[a].time
                        self.known.setdefault((path.name, a, b), []).append(delay)
        for (name, a, b), delays in self.known.items():
            points = next(path.points for path in run.paths if path.name == name)
            forward = [delay for delay in delays if delay >= -EARLY_NS]
            if forward and run.point(points[a]).clock == run.point(points[b]).clock:
                self.known[name, a, b] = forward

    def typical(self, path: Path_, a: int, b: int) -> int:
        """The median, 0 without any certain packet: then the nearest sighting after a packet is taken."""
        known = self.known.get((path.name, a, b))
        return middle(known) if known else 0

    def early(self, path: Path_, a: int, b: int) -> int:
        """How far before its cause a sighting may lie: 1 ms on one clock, the loss threshold on two."""
        same = self.run.point(path.points[a]).clock == self.run.point(path.points[b]).clock
        return EARLY_NS if same else self.run.threshold_ns

    def plausible(self, path: Path_, position: int) -> int:
        """10 x the largest delay from the position before, at most the loss threshold; beyond it, another packet is
        the better explanation.
        """
        known = self.known.get((path.name, position - 1, position))
        return min(self.run.threshold_ns, 10 * max(known)) if known and max(known) > 0 else self.run.threshold_ns


@dataclass(eq=False)
class Equal:
    """A packet among equal ones, as far as it was followed."""

    packet: Trajectory
    began: int
    at: int  # the last position where it was seen
    sent: int  # when
    bytes_key: Key  # as what


def assign(n: int, m: int, cost: Callable[[int, int], int | None]) -> list[tuple[int, int]]:
    """Order-preserving assignment of n sources to m targets: as many pairs as possible, then the least sum of
    costs; of equal ones the one that pairs the last.

    ``cost(i, j)`` is None if source i and target j cannot be the same packet. Plain dynamic programming:
    ``best[i][j]`` is what the first i sources and first j targets can give, as (pairs, minus costs).
    """
    best = [[(0, 0)] * (m + 1) for _ in range(n + 1)]
    choice = [[""] * (m + 1) for _ in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            options = []
            price = cost(i - 1, j - 1)
            if price is not None:
                pairs, minus = best[i - 1][j - 1]
                options.append(((pairs + 1, minus - price), "pair"))
            options += [(best[i - 1][j], "source"), (best[i][j - 1], "target")]
            best[i][j], choice[i][j] = max(options, key=lambda option: option[0])
    found = []
    i, j = n, m
    while i and j:
        if choice[i][j] == "pair":
            found.append((i - 1, j - 1))
            i, j = i - 1, j - 1
        elif choice[i][j] == "source":
            i -= 1
        else:
            j -= 1
    return found[::-1]


class Cluster:
    """Packets whose keys are equal, or one packet with duplicates, position by position along the path.

    At each position sightings are given to the packets seen before: those whose bytes only one of them had, then in
    order. What is left over is a copy of a packet, or begins one.
    """

    def __init__(self, run: Run, path: Path_, members: Sequence[Sighting], delays: Delays, reach: Reach) -> None:
        self.run, self.path, self.members, self.delays, self.reach = run, path, members, delays, reach
        self.equal: list[Equal] = []
        self.placed: set[Sighting] = set()

    def follow(self) -> list[Trajectory]:
        for position, point in enumerate(self.path.points):
            here = [s for s in self.members if s.point == point and s not in self.placed]
            given = self.by_bytes(here)
            given |= self.in_order(position, here, given)
            copies = self.copies(position, here, given)
            self.place(position, here, given, copies)
        packets = [equal.packet for equal in self.equal]
        begins = [min(s.time for s in packet.seen.values()) for packet in packets]
        for packet, begin in zip(packets, begins, strict=True):
            packet.candidates = sum(abs(other - begin) <= self.run.threshold_ns for other in begins)
        return packets

    @property
    def bound(self) -> int | None:
        """A single packet with copies of it is no matter of order: it may be as late as it likes."""
        return self.run.threshold_ns if len(self.equal) > 1 else None

    def by_bytes(self, here: Sequence[Sighting]) -> dict[Sighting, Equal]:
        """Rewritten packets have equal keys, and bytes that still tell many of them apart: a sighting whose bytes just
        one packet had where it was seen last, and that come once here, is that packet.
        """
        if len({s.bytes_key for s in self.members}) == 1:
            return {}
        given = {}
        for sighting in here:
            alike = [s for s in here if s.bytes_key == sighting.bytes_key]
            packets = [e for e in self.equal if e.bytes_key == sighting.bytes_key]
            if len(alike) == len(packets) == 1 and sighting.time - packets[0].sent <= self.run.threshold_ns:
                given[sighting] = packets[0]
        return given

    def in_order(self, position: int, here: Sequence[Sighting], given: dict[Sighting, Equal]) -> dict[Sighting, Equal]:
        """The other sightings and the other packets that can have come here, in the order in which they are due.

        A packet that was not seen at the position before may have skipped it; a sighting goes to it only if it is not
        plausible for those that were seen there.
        """
        path, delays = self.path, self.delays
        targets = [s for s in here if s not in given]
        due = {e: e.sent + delays.typical(path, e.at, position) for e in self.equal}
        taken = set(given.values())
        sources = [e for e in self.equal if e not in taken and self.can_come(e, position, due[e])]
        sources.sort(key=lambda e: due[e])

        def cost(i: int, j: int) -> int | None:
            source, target = sources[i], targets[j]
            delay = target.time - source.sent
            if delay < -delays.early(path, source.at, position) or (self.bound is not None and delay > self.bound):
                return None
            skipped = 0 if source.at == position - 1 else delays.plausible(path, position)
            return abs(target.time - due[source]) + skipped

        return {targets[j]: sources[i] for i, j in assign(len(sources), len(targets), cost)}

    def can_come(self, equal: Equal, position: int, due: int) -> bool:
        """A packet has passed a point unseen only over the bypass, or where that point's capture may have missed it:
        because it may have missed packets, or did not cover the time from when it was last seen to when it is due.
        """
        path = self.path
        for between in range(equal.at + 1, position):
            if path.enter is not None and path.leave is not None:
                skips_detour = equal.at < path.enter and position > path.leave
                if open_finding("bypass-unseen") and position == path.after_detour:
                    skips_detour = equal.at == path.filter_input
                if skips_detour and path.enter <= between <= path.leave:
                    continue
            point = path.points[between]
            covered = self.reach.began_by(point, equal.sent) and self.reach.lasted_to(point, due)
            if covered and not self.reach.may_have_missed(point):
                return False
        return True

    def may_begin(self, position: int, time: int) -> bool:
        """Every point before dropped packets or was not capturing: what is seen here need not be a copy."""
        return all(
            self.reach.dropped(point) or not (self.reach.began_by(point, time) and self.reach.lasted_to(point, time))
            for point in self.path.points[:position]
        )

    def comes_again(self, position: int) -> bool:
        """Whether the path comes by this point once more: what is left over may be the second visit."""
        return self.path.points[position] in self.path.points[position + 1 :]

    def copies(self, position: int, here: Sequence[Sighting], given: dict[Sighting, Equal]) -> dict[Sighting, Equal]:
        """Further copies of packets: of that of the nearest given sighting before, else of the nearest after it, if
        that packet was seen earlier than the copy (it took another way, or was faster); within the threshold.
        """
        found = {}
        if self.comes_again(position):
            return {}
        for index, sighting in enumerate(here):
            if sighting in given or self.may_begin(position, sighting.time):
                continue
            before = next((s for s in reversed(here[:index]) if s in given), None)
            behind = next((s for s in here[index:] if s in given), None)
            if before is not None and self.within(sighting.time - before.time):
                found[sighting] = given[before]
            elif behind is not None:
                after_it_began = sighting.time - given[behind].began
                if after_it_began >= 0 and self.within(after_it_began):
                    found[sighting] = given[behind]
        return found

    def within(self, time: int) -> bool:
        return self.bound is None or time <= self.bound

    def place(
        self,
        position: int,
        here: Sequence[Sighting],
        given: dict[Sighting, Equal],
        copies: dict[Sighting, Equal],
    ) -> None:
        """What is nobody's begins a packet: a packet is what the first point of its path saw.

        Where the path comes by once more, the rest is left for the second visit; at the first position of all, half of
        it, rounded up, begins packets, since every packet comes back.
        """
        begins = len(here)
        if self.comes_again(position):
            begins = 0 if self.equal else (len(here) + 1) // 2
        for sighting in here:
            equal = given.get(sighting) or copies.get(sighting)
            if equal is None:
                if not begins:
                    continue
                begins -= 1
                equal = Equal(Trajectory(self.path), sighting.time, position, sighting.time, sighting.bytes_key)
                self.equal.append(equal)
                came = True
            else:
                # The first copy to arrive counts, if it came the way of the path.
                came = sighting in given or sighting.time >= equal.sent
            self.placed.add(sighting)
            if came and position not in equal.packet.seen:
                equal.packet.seen[position] = sighting
                equal.at, equal.sent, equal.bytes_key = position, sighting.time, sighting.bytes_key
            else:
                equal.packet.copies.append(sighting)
