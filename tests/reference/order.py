"""The rung order: packets with equal keys, told apart by order and delay within the loss threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.reference.clocks import middle
from tests.reference.reach import Reach
from tests.reference.run import Path_, Run
from tests.reference.sightings import EARLY_NS, Key, Sighting, Trajectory

SAME_ID_NS = 1_000_000  # no sender repeats an IP ID so soon (RFC 6864 4.2)


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
            seen = packet.first_bytes
            for a in seen:
                for b in seen:
                    over_bypass = (a, b) == (path.filter_input, path.after_detour)
                    if a < b and not (over_bypass and packet.in_detour):
                        delay = seen[b].time - seen[a].time
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
            given, known = self.by_bytes(position, here)
            loose = [s for s in here if s not in known]
            given |= self.in_order(position, loose, [e for e in self.equal if e not in given.values()])
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

    @property
    def varied(self) -> bool:
        """Rewritten packets have equal keys, and bytes that still tell many of them apart."""
        return len({s.bytes_key for s in self.members}) > 1

    def by_bytes(self, position: int, here: Sequence[Sighting]) -> tuple[dict[Sighting, Equal], set[Sighting]]:
        """Sightings whose bytes some packets had where they were seen last are these packets, or copies of them.

        What is the same before and behind was not rewritten between: one of each is certain, of several the order
        decides. Returned are also the sightings whose bytes any packet had: they are of no packet that had others.
        """
        given: dict[Sighting, Equal] = {}
        known: set[Sighting] = set()
        if not self.varied:
            return given, known
        for bytes_key in dict.fromkeys(s.bytes_key for s in here):
            alike = [s for s in here if s.bytes_key == bytes_key]
            packets = [e for e in self.equal if e.bytes_key == bytes_key]
            if not packets:
                continue
            known |= set(alike)
            if len(alike) == len(packets) == 1:
                if alike[0].time - packets[0].sent <= self.run.threshold_ns:
                    given[alike[0]] = packets[0]
            else:
                given |= self.assigned(position, alike, packets, self.run.threshold_ns)
        return given, known

    def in_order(self, position: int, here: Sequence[Sighting], others: Sequence[Equal]) -> dict[Sighting, Equal]:
        """The other sightings and the other packets that can have come here, in the order in which they are due."""
        sources = [e for e in others if self.can_come(e, position, self.due(e, position))]
        return self.assigned(position, here, sources, self.bound)

    def due(self, equal: Equal, position: int) -> int:
        return equal.sent + self.delays.typical(self.path, equal.at, position)

    def assigned(
        self, position: int, targets: Sequence[Sighting], packets: Sequence[Equal], bound: int | None
    ) -> dict[Sighting, Equal]:
        """As many as possible, and the least deviation from the delay that certain packets had.

        A packet that was not seen at the position before may have skipped it; a sighting goes to it only if it is not
        plausible for those that were seen there.
        """
        path, delays = self.path, self.delays
        sources = sorted(packets, key=lambda e: self.due(e, position))

        def cost(i: int, j: int) -> int | None:
            source, target = sources[i], targets[j]
            delay = target.time - source.sent
            if delay < -delays.early(path, source.at, position) or (bound is not None and delay > bound):
                return None
            skipped = 0 if source.at == position - 1 else delays.plausible(path, position)
            return abs(target.time - self.due(source, position)) + skipped

        return {targets[j]: sources[i] for i, j in assign(len(sources), len(targets), cost)}

    def can_come(self, equal: Equal, position: int, due: int) -> bool:
        """A packet has passed a point unseen only over the bypass, or where that point's capture may have missed it:
        because it may have missed packets, or did not cover the time from when it was last seen to when it is due.
        """
        path = self.path
        for between in range(equal.at + 1, position):
            if path.enter is not None and path.leave is not None:
                skips_detour = equal.at < path.enter and position > path.leave
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
        that packet was seen earlier than the copy (it took another way, or was faster); within the threshold. Given
        sightings with the same bytes go before others.
        """
        found: dict[Sighting, Equal] = {}
        if self.comes_again(position):
            return found
        for index, sighting in enumerate(here):
            if sighting in given or self.may_begin(position, sighting.time):
                continue
            before = [s for s in reversed(here[:index]) if s in given]
            behind = [s for s in here[index:] if s in given]
            alike = [[s for s in side if s.bytes_key == sighting.bytes_key] for side in (before, behind)]
            if any(alike):
                before, behind = alike
            if before and self.within(sighting.time - before[0].time):
                found[sighting] = given[before[0]]
            elif behind:
                after_it_began = sighting.time - given[behind[0]].began
                if after_it_began >= 0 and self.within(after_it_began):
                    found[sighting] = given[behind[0]]
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

        Behind that point, where nothing before could see whether it was one packet, its IP ID says so: what comes
        within 1 ms of another one with the same bytes and ID is a copy of it.
        Where the path comes by once more, the rest is left for the second visit; at the first position of all, half of
        it, rounded up, begins packets, since every packet comes back.
        """
        begins = len(here)
        if self.comes_again(position):
            begins = 0 if self.equal else (len(here) + 1) // 2
        for sighting in here:
            equal = given.get(sighting) or copies.get(sighting)
            if equal is None and position and sighting.ip_id and not self.comes_again(position):
                at = here.index(sighting)
                alike = [s for s in here[:at][::-1] if s in given and s.bytes_key == sighting.bytes_key][:1]
                alike += [s for s in here[at + 1 :] if s in given and s.bytes_key == sighting.bytes_key][:1]
                near = [s for s in alike if abs(sighting.time - s.time) <= SAME_ID_NS]
                if near:
                    equal = given[near[0]]
            if equal is None:
                if not begins:
                    continue
                begins -= 1
                equal = Equal(Trajectory(self.path), sighting.time, position, sighting.time, sighting.bytes_key)
                self.equal.append(equal)
                given[sighting] = equal
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
