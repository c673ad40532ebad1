"""Observations to trajectories: exact keys from actual bytes, identical packets by an order-preserving
assignment.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any

from tests.reference.run import Path_, Run, fits

Key = tuple[Any, ...]
# Certain delays by (path, position, later position).
Delays = dict[tuple[str, int, int], list[int]]


@dataclass(eq=False)
class Sighting:
    """An observation with what the follower needs: its point, clock, resolution, row and key."""

    point: str
    clock: str
    resolution_ns: int
    row: dict[str, Any]
    key: Key = ()

    @property
    def ts_ns(self) -> int:
        return int(self.row["ts_ns"])


@dataclass(eq=False)
class Trajectory:
    """One packet: its sightings per position on the path, first one first."""

    path: Path_
    visits: dict[int, list[Sighting]] = field(default_factory=dict)
    basis: str = "exact"
    candidates: int = 1
    ambiguous: bool = False

    @property
    def first(self) -> int:
        return min(self.visits)

    @property
    def last(self) -> int:
        return max(self.visits)

    def sighting(self, position: int) -> Sighting:
        """The first sighting at a position."""
        return min(self.visits[position], key=lambda s: s.ts_ns)

    def owned(self) -> list[Sighting]:
        return [sighting for sightings in self.visits.values() for sighting in sightings]


@dataclass
class Followed:
    """What following gives: trajectories in a total order, clock offsets, certain delays."""

    trajectories: list[Trajectory]
    clocks: Clocks
    delays: Delays


class Clocks:
    """Offsets of clocks against the clock of the run's first point, from packets whose key is unique in the
    run.

    Design 5: "Clocks of different points may disagree by seconds: offsets are estimated from certain matches
    before time is used to decide." One direction gives the smallest difference (offset plus shortest delay);
    both directions give half the difference of the two smallest. The estimate decides about time only, it
    never becomes a latency.
    """

    def __init__(self, run: Run, unique: Sequence[Sequence[Sighting]]) -> None:
        smallest: dict[tuple[str, str], int] = {}
        # Which of two points comes first is taken from the paths that list both, not from the clocks in
        # question.
        before = {
            (a, b) for path in run.paths for i, a in enumerate(path.points) for b in path.points[i + 1 :] if a != b
        }
        for sightings in unique:
            for a in sightings:
                for b in sightings:
                    if a.clock != b.clock and _is_before(run, a, b, before):
                        pair, difference = (a.clock, b.clock), b.ts_ns - a.ts_ns
                        smallest[pair] = min(difference, smallest.get(pair, difference))
        self.offsets: dict[str, int] = {}
        if run.points:
            self.offsets[run.points[0].clock] = 0
        for _ in run.points:
            for (one, other), forth in smallest.items():
                back = smallest.get((other, one))
                offset = forth if back is None else (forth - back) // 2
                if one in self.offsets and other not in self.offsets:
                    self.offsets[other] = self.offsets[one] + offset
                elif other in self.offsets and one not in self.offsets:
                    self.offsets[one] = self.offsets[other] - offset

    def common(self, sighting: Sighting) -> int:
        """The sighting's time on the first clock; its own time if the offset is not known."""
        return sighting.ts_ns - self.offsets.get(sighting.clock, 0)

    def known(self, a: str, b: str) -> bool:
        return a == b or (a in self.offsets and b in self.offsets)

    def between(self, a: Sighting, b: Sighting) -> int | None:
        """The delay from a to b as far as the clocks allow; None if their offset is not known."""
        if a.clock == b.clock:
            return b.ts_ns - a.ts_ns
        return self.common(b) - self.common(a) if self.known(a.clock, b.clock) else None

    def translate(self, ts_ns: int, source: str, target: str) -> int | None:
        """A time of one clock on another one."""
        if source == target:
            return ts_ns
        if not self.known(source, target):
            return None
        return ts_ns - self.offsets[source] + self.offsets[target]


def _is_before(run: Run, a: Sighting, b: Sighting, before: set[tuple[str, str]]) -> bool:
    """The path that fits these headers lists a before b."""
    for path in run.paths:
        if a.point in path.points and b.point in path.points and fits(path.match, a.row):
            return path.points.index(a.point) < path.points.index(b.point)
    return (a.point, b.point) in before and (b.point, a.point) not in before


def exact_keys(sightings: Sequence[Sighting]) -> None:
    """Design 5, basis `exact`: 5-tuple, IP ID, transport fields and the payload bytes that every point kept.

    Checksums, TTL, DSCP/ECN, MAC, VLAN are not in it. Sightings whose IP header fields agree are compared by
    as many identity bytes as the one with the fewest captured bytes has.
    """
    heads: dict[Key, list[Sighting]] = {}
    for sighting in sightings:
        row = sighting.row
        head = tuple(
            row[name]
            for name in (
                "ip_version",
                "protocol",
                "source",
                "destination",
                "ip_id",
                "fragment_offset",
                "more_fragments",
                "_ip_length",
            )
        )
        heads.setdefault(head, []).append(sighting)
    for head, alike in heads.items():
        kept = min(len(sighting.row["_identity"] or b"") for sighting in alike)
        for sighting in alike:
            sighting.key = (*head, (sighting.row["_identity"] or b"")[:kept])


def assign(n: int, m: int, cost: Callable[[int, int], int | None]) -> list[tuple[int, int]]:
    """Order-preserving assignment of n sources to m targets: as many pairs as possible, then the least sum of
    costs.

    ``cost(i, j)`` is None if source i and target j cannot be the same packet. Plain dynamic programming:
    ``best[i][j]`` is what the first i sources and first j targets can give, as (pairs, minus costs).
    """
    best = [[(0, 0)] * (m + 1) for _ in range(n + 1)]
    choice = [[""] * (m + 1) for _ in range(n + 1)]
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            options = [(best[i - 1][j], "source"), (best[i][j - 1], "target")]
            price = cost(i - 1, j - 1)
            if price is not None:
                pairs, minus = best[i - 1][j - 1]
                options.append(((pairs + 1, minus - price), "pair"))
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


def follow(sightings: Sequence[Sighting], run: Run) -> Followed:
    """All sightings of IP packets to trajectories; what is on no path stays out.

    Unique packets first: they are certain and give clock offsets and typical delays for the others.
    """
    order = {point.name: number for number, point in enumerate(run.points)}
    followable = [s for s in sightings if s.row["ip_version"] is not None and s.row["ts_ns"] is not None]
    exact_keys(followable)
    groups: dict[Key, list[Sighting]] = {}
    for sighting in followable:
        groups.setdefault(sighting.key, []).append(sighting)
    unique = [group for group in groups.values() if len({s.point for s in group}) == len(group)]
    clocks = Clocks(run, unique)

    clusters: list[tuple[Path_, list[Sighting]]] = []
    for group in groups.values():
        for path, members in paths_of(run, group, clocks):
            clusters += [(path, cluster) for cluster in split_by_threshold(path, members, clocks, run.threshold_ns)]

    trajectories: list[Trajectory] = []
    delays: Delays = {}
    difficult = []
    for path, cluster in clusters:
        visits = split_visits(path, cluster, clocks)
        if all(len(at) <= 1 for at in visits.values()):
            trajectory = Trajectory(path, {position: at for position, at in visits.items() if at})
            trajectories.append(trajectory)
            collect_delays(trajectory, clocks, delays)
        else:
            difficult.append((path, visits))
    found = []
    for path, visits in difficult:
        some = next(s for at in visits.values() for s in at)
        rule = next((r for r in run.rules_of(path) if fits(r.match, some.row)), None)
        expected = rule.action if rule else path.default
        found.append(Cluster(run, path, clocks, delays, expected, visits).follow())
    for packets in found:
        trajectories += packets
        if len(packets) == 1:
            collect_delays(packets[0], clocks, delays)

    trajectories.sort(
        key=lambda t: (
            t.sighting(t.first).ts_ns,
            order[t.sighting(t.first).point],
            t.sighting(t.first).row["capture"],
            t.sighting(t.first).row["frame"],
        )
    )
    return Followed(trajectories, clocks, delays)


def collect_delays(trajectory: Trajectory, clocks: Clocks, delays: Delays) -> None:
    """Certain delays, per path and pair of positions; over the bypass only of packets that took it."""
    path = trajectory.path
    in_detour = path.enter is not None and any(
        path.enter <= position <= (path.leave or 0) for position in trajectory.visits
    )
    for a in trajectory.visits:
        for b in trajectory.visits:
            over_bypass = a == path.filter_input and b == path.after_detour
            if a < b and not (over_bypass and in_detour):
                delay = clocks.between(trajectory.sighting(a), trajectory.sighting(b))
                if delay is not None:
                    delays.setdefault((trajectory.path.name, a, b), []).append(delay)


def paths_of(run: Run, group: list[Sighting], clocks: Clocks) -> list[tuple[Path_, list[Sighting]]]:
    """Design 3: a packet belongs to the first path, in file order, whose match fits where it is first seen.

    The path must contain the point of the earliest sighting. Sightings at points that are not on it are
    looked at again without it; what no path wants belongs to no trajectory.
    """
    rest = sorted(group, key=clocks.common)
    found = []
    while rest:
        path = next((p for p in run.paths if rest[0].point in p.points and fits(p.match, rest[0].row)), None)
        if path is None:
            rest = rest[1:]
            continue
        found.append((path, [s for s in rest if s.point in path.points]))
        rest = [s for s in rest if s.point not in path.points]
    return found


def split_by_threshold(path: Path_, members: list[Sighting], clocks: Clocks, threshold_ns: int) -> list[list[Sighting]]:
    """Sightings of one key, cut wherever nothing was seen for longer than the loss threshold.

    Design 5: among equal keys the threshold bounds the candidates; a unique packet that comes later than the
    threshold is matched. So the parts are put together again if each begins further along the path than the
    one before it ended. Where a clock's offset is not known, gaps between clocks mean nothing and nothing is
    cut.
    """
    if not all(clocks.known(members[0].clock, sighting.clock) for sighting in members):
        return [members]
    members = sorted(members, key=clocks.common)
    parts = [[members[0]]]
    for before, sighting in itertools.pairwise(members):
        if clocks.common(sighting) - clocks.common(before) > threshold_ns:
            parts.append([])
        parts[-1].append(sighting)
    if len(parts) > 1 and len(set(path.points)) == len(path.points):
        spans = [[path.points.index(s.point) for s in part] for part in parts]
        if all(max(a) < min(b) for a, b in itertools.pairwise(spans)):
            return [members]
    return parts


def split_visits(path: Path_, cluster: list[Sighting], clocks: Clocks) -> dict[int, list[Sighting]]:
    """Sightings per position. A point that stands twice on the path: what can follow a sighting at a point in
    between (order-preserving, as many as possible) is the second visit, the rest the first. Where nothing was
    seen in between, the later half is the second visit.
    """
    visits: dict[int, list[Sighting]] = {}
    for position, point in enumerate(path.points):
        here = sorted((s for s in cluster if s.point == point), key=lambda s: s.ts_ns)
        places = [p for p, name in enumerate(path.points) if name == point]
        if len(places) == 1:
            visits[position] = here
            continue
        if position != places[0]:
            continue
        between = [
            sorted((s for s in cluster if s.point == path.points[p]), key=lambda s: s.ts_ns)
            for p in range(places[0] + 1, places[1])
            if path.points[p] != point
        ]
        middle = next((seen for seen in between if seen), None)
        if middle is None:
            half = (len(here) + 1) // 2
            visits[places[0]], visits[places[1]] = here[:half], here[half:]
            continue
        pairs = assign(
            len(middle),
            len(here),
            lambda i, j, a=middle, b=here: _not_negative(clocks.between(a[i], b[j])),  # type: ignore[misc]
        )
        second = {j for _, j in pairs}
        visits[places[0]] = [s for j, s in enumerate(here) if j not in second]
        visits[places[1]] = [s for j, s in enumerate(here) if j in second]
    return visits


def _not_negative(delay: int | None) -> int | None:
    return None if delay is None or delay < 0 else delay


def sources_before(path: Path_, position: int) -> list[list[int]]:
    """Positions from which a packet can have come to this one, those to be asked together in one list.

    First the neighbours: at the point after the detour these are the end of the detour and the filter's
    input. Then, one by one, ever further back, for packets that the points in between did not capture.
    """
    neighbours = [position - 1]
    if position == path.after_detour and path.filter_input is not None:
        neighbours.append(path.filter_input)
    return [neighbours, *([p] for p in range(position - 1, -1, -1) if p not in neighbours)]


class Cluster:
    """Packets whose keys are equal, or one packet with duplicates, position by position.

    Design 5: equal keys are settled by an order-preserving assignment within the loss threshold that uses the
    delays of the certain packets; a packet is what the first point saw; a duplicate made on the way belongs
    to the trajectory of its original. What no packet seen before can be is a duplicate, or a packet that is
    seen here for the first time.
    """

    def __init__(
        self,
        run: Run,
        path: Path_,
        clocks: Clocks,
        delays: Delays,
        expected: str,
        visits: dict[int, list[Sighting]],
    ) -> None:
        self.run, self.path, self.clocks, self.delays = run, path, clocks, delays
        self.expected, self.visits = expected, visits
        self.packets: list[Trajectory] = []

    def certain(self, origin: int, position: int) -> list[int]:
        return self.delays.get((self.path.name, origin, position), [])

    def typical(self, origin: int, position: int) -> int:
        """The median delay of the certain packets between two positions, 0 if there is none."""
        certain = self.certain(origin, position)
        return median_low(certain) if certain else 0

    def cost(self, packet: Trajectory, position: int, target: Sighting) -> int | None:
        """How far the delay is from the typical one; None if it is negative or longer than the threshold.

        A packet that was to be punted, and was not seen in the detour, may have been forwarded wrongly: that
        costs what makes a packet late at the filter, ten times the largest certain delay to the detour (the
        threshold if unknown).
        """
        origin = packet.last
        source = packet.sighting(origin)
        delay = self.clocks.between(source, target)
        if delay is None:
            return 0
        slack = source.resolution_ns + target.resolution_ns
        if source.clock != target.clock:
            # Between clocks the offset is known no better than the delays scatter.
            slack += max(self.certain(origin, position), default=0)
        if not -slack <= delay <= self.run.threshold_ns:
            return None
        penalty = 0
        bypassed = origin == self.path.filter_input and position == self.path.after_detour
        if bypassed and self.expected == "punt":
            certain = self.certain(origin, origin + 1)
            penalty = min(self.run.threshold_ns, 10 * max(certain)) if certain else self.run.threshold_ns
        return abs(delay - self.typical(origin, position)) + penalty

    def follow(self) -> list[Trajectory]:
        for position in range(len(self.path.points)):
            left = sorted(self.visits.get(position, []), key=lambda s: s.ts_ns)
            for origins in sources_before(self.path, position):
                left = self.match(position, origins, left)
            for sighting in left:
                owner = self.original(position, sighting)
                if owner is None:
                    self.packets.append(Trajectory(self.path, {position: [sighting]}))
                else:
                    owner.visits.setdefault(position, []).append(sighting)
        if len(self.packets) > 1:
            clock_names = {self.run.point(self.path.points[p]).clock for p in self.visits if self.visits[p]}
            unknown = any(not self.clocks.known(a, b) for a in clock_names for b in clock_names)
            for packet in self.packets:
                packet.basis, packet.candidates = "order", len(self.packets)
                packet.ambiguous = unknown
        return self.packets

    def match(self, position: int, origins: list[int], left: list[Sighting]) -> list[Sighting]:
        """Gives sightings at a position to packets last seen at ``origins``; returns what is left.

        The order that is preserved is that of expected arrival, for the bypass is faster than the detour.
        """
        sources = [packet for packet in self.packets if packet.last in origins]
        sources.sort(key=lambda p: self.clocks.common(p.sighting(p.last)) + self.typical(p.last, position))
        prices = [[self.cost(packet, position, target) for target in left] for packet in sources]
        pairs = assign(len(sources), len(left), lambda i, j: prices[i][j])
        for i, j in pairs:
            sources[i].visits[position] = [left[j]]
        taken = {j for _, j in pairs}
        return [sighting for j, sighting in enumerate(left) if j not in taken]

    def original(self, position: int, sighting: Sighting) -> Trajectory | None:
        """The packet that a left-over sighting is a copy of: one seen here if possible, else upstream; the
        nearest.

        A packet whose only sightings are here is no original: "a packet is what the first point of its path
        saw".
        """
        candidates = []
        for packet in self.packets:
            if packet.first >= position:
                continue
            reference = packet.sighting(position if position in packet.visits else packet.last)
            delay = self.clocks.between(packet.sighting(packet.first), sighting)
            distance = self.clocks.between(reference, sighting)
            if delay is None or distance is None or delay >= 0:
                candidates.append((position not in packet.visits, abs(distance or 0), packet))
        return min(candidates, key=lambda c: c[:2])[2] if candidates else None
