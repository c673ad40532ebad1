"""The rung exact: sightings with one key, at most one per visit of a point, are one packet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.reference.order import Cluster, Delays
from tests.reference.reach import Reach
from tests.reference.run import Path_, Run
from tests.reference.sightings import EARLY_NS, Key, Sighting, Trajectory

# What the captures prove, once it is known which packets are certain.
ReachWith = Callable[[Sequence[Trajectory]], Reach]


def bytes_keys(sightings: Sequence[Sighting]) -> None:
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
            sighting.bytes_key = (*head, (sighting.row["_identity"] or b"")[:kept])


@dataclass
class Placed:
    """Packets, and how many sightings belong to none: no path fits them, or they are not on that of their packet."""

    certain: list[Trajectory] = field(default_factory=list)
    equal: list[Trajectory] = field(default_factory=list)
    no_path: int = 0

    @property
    def trajectories(self) -> list[Trajectory]:
        return [*self.certain, *self.equal]


def place(run: Run, groups: Iterable[list[Sighting]], reach_with: ReachWith) -> tuple[Placed, Reach]:
    """All sightings to packets, group by group of equal keys, each in order of time.

    What can be one packet is one, and certain. The certain packets tell what the captures missed and how long packets
    take; with that, sightings are given to packets in groups that must hold several.
    """
    placed = Placed()
    repeated = []
    for members in groups:
        path = path_of(members)
        if path is None:
            placed.no_path += len(members)
        elif is_one_packet(run, path, members):
            placed.certain.append(place_one(path, members))
        else:
            repeated.append(members)
    reach = reach_with(placed.certain)
    delays = Delays(run, placed.certain)
    for members in repeated:
        for cluster in split_by_threshold(run, members, reach):
            path = path_of(cluster)
            if path is None:
                placed.no_path += len(cluster)
                continue
            if is_one_packet(run, path, cluster):
                packets = [place_one(path, cluster)]
            else:
                packets = Cluster(run, path, cluster, delays, reach).follow()
            placed.equal += packets
    return placed, reach


def path_of(members: Sequence[Sighting]) -> Path_ | None:
    """Design 3: a packet belongs to the first path, in file order, whose match fits where it is first seen: that of
    the earliest sighting that fits one.
    """
    return next((s.path for s in members if s.path is not None), None)


def is_one_packet(run: Run, path: Path_, members: Sequence[Sighting]) -> bool:
    """No point of the path saw it more often than the path visits it, and the points saw it in the order of the path,
    as far as their clocks can tell; two visits of one point lie within the loss threshold.

    Whether it was in order is asked of the position that was furthest on the path so far, on one clock, and for more
    than 1 ms. Within the threshold it is one packet all the same, that came the other way, or was stamped late.
    """
    for point in set(path.points):
        if sum(s.point == point for s in members) > path.points.count(point):
            return False
    on_path = [s for s in members if s.point in path.points]
    furthest, at_furthest, against = -1, members[0], False
    for index, sighting in enumerate(on_path):
        places = places_of(path, sighting.point)
        position = places[0]
        if len(places) > 1:
            for earlier in on_path[:index]:
                if earlier.point == sighting.point and sighting.time - earlier.time > run.threshold_ns:
                    return False
            if position < furthest:
                position = places[1]
        if position >= furthest:
            furthest, at_furthest = position, sighting
        elif sighting.clock == at_furthest.clock and sighting.time - at_furthest.time > EARLY_NS:
            against = True
    return not against or members[-1].time - members[0].time <= run.threshold_ns


def places_of(path: Path_, point: str) -> list[int]:
    """The positions at which a path visits a point."""
    return [position for position, name in enumerate(path.points) if name == point]


def place_one(path: Path_, members: Sequence[Sighting]) -> Trajectory:
    """One packet. A point that the path visits twice and that saw it once: that is the second visit if it was seen
    earlier at a position between the two visits (a filter before and after the service).
    """
    packet = Trajectory(path)
    for sighting in members:
        places = places_of(path, sighting.point)
        free = [p for p in places if p not in packet.seen]
        if free:
            packet.seen[free[0]] = sighting
    for point in dict.fromkeys(path.points):
        places = places_of(path, point)
        if len(places) == 2 and places[0] in packet.seen and places[1] not in packet.seen:
            once = packet.seen[places[0]]
            if any(packet.seen[p].time < once.time for p in range(places[0] + 1, places[1]) if p in packet.seen):
                packet.seen[places[1]] = packet.seen.pop(places[0])
    return packet


def split_by_threshold(run: Run, members: Sequence[Sighting], reach: Reach) -> list[list[Sighting]]:
    """Sightings further apart than the loss threshold belong to different packets.

    Except where the first point of the path, which was capturing and missed nothing, saw no new packet behind the
    gap: then what comes there is still of the packets before it, and late.
    """
    parts = [[members[0]]]
    for number, (before, sighting) in enumerate(itertools.pairwise(members), start=1):
        if sighting.time - before.time > run.threshold_ns:
            path = path_of(members[number - len(parts[-1]) :])
            behind = [sighting]
            for a, b in itertools.pairwise(members[number:]):
                if b.time - a.time > run.threshold_ns:
                    break
                behind.append(b)
            if path is None or not goes_on(path, behind, reach):
                parts.append([])
        parts[-1].append(sighting)
    return parts


def goes_on(path: Path_, behind: Sequence[Sighting], reach: Reach) -> bool:
    """Whether what comes behind a gap is still of the packets before it."""
    first_point = path.points[0]
    time = behind[0].time
    capturing = reach.began_by(first_point, time) and reach.lasted_to(first_point, time)
    if reach.dropped(first_point) or not capturing:
        return False
    return not any(s.point == first_point for s in behind)
