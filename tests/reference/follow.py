"""Observations to trajectories, rung by rung. Each rung is a module of its own, and states its rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference.clocks import Clocks
from tests.reference.exact import bytes_keys, place
from tests.reference.order import Delays
from tests.reference.packet_id import first_keys, is_numbered
from tests.reference.ranges import Found, match_ranges
from tests.reference.reach import Coverage, Reach
from tests.reference.rewritten import Keys, Open, Taught, open_ends
from tests.reference.run import Run, fits
from tests.reference.sightings import Key, Range, Sighting, Trajectory

# A packet that is rewritten at several stages is followed through one more of them in each round.
MOST_ROUNDS = 6


@dataclass
class Followed:
    """What following gives: trajectories in order of their first sighting, clock offsets, what the captures prove,
    delays of the packets that are certain; how many sightings belong to no packet.
    """

    trajectories: list[Trajectory]
    clocks: Clocks
    reach: Reach
    delays: dict[tuple[str, int, int], list[int]]
    no_path: int
    off_path: int
    hinges_on: set[str]  # what the reference cannot tell: rules that it has not


def follow(
    sightings: Sequence[Sighting], run: Run, coverage: dict[str, Coverage], taught: Taught | None = None
) -> Followed:
    """All sightings of IP packets to trajectories.

    Keys are learned in rounds: packets are placed by the keys that are known, what ends and what begins is compared,
    and as long as that teaches something new, everything is placed again.

    Args:
        taught: keys that are not to be learned here.
    """
    points = [point.name for point in run.points]
    followable = [s for s in sightings if s.row["ip_version"] is not None and s.row["ts_ns"] is not None]
    followable.sort(key=lambda s: (s.ts_ns, points.index(s.point), s.row["capture"], s.row["frame"]))
    parts = parts_of(run)
    for number, sighting in enumerate(followable):
        sighting.number, sighting.part = number, parts[sighting.point]
        here = [p for p in run.paths if sighting.point in p.points]
        sighting.path = next((p for p in here if fits(p.match, sighting.row)), None)
    bytes_keys(followable)
    own = first_keys(run, followable)
    keys = Keys(run, followable, own) if taught is None else taught.of(run, followable, own)
    hinges_on: set[str] = set()
    every = followable
    for _ in range(MOST_ROUNDS):
        forms = keys.second_forms()
        followable = [s for s in every if s not in forms]
        clocks = Clocks(run, grouped(followable, keys))
        if clocks.contradicted:
            hinges_on.add("clock contradicted")
        for sighting in every:
            sighting.time = clocks.common(sighting)

        def reach_with(certain: Sequence[Trajectory], clocks: Clocks = clocks) -> Reach:
            return Reach(run, coverage, clocks, certain)

        placed, reach = place(run, grouped(followable, keys), reach_with)
        trajectories = placed.trajectories
        owned = {s for packet in trajectories for s in packet.owned()}
        unplaced = [s for s in in_time(followable) if s not in owned]
        found = open_ends(trajectories, unplaced)
        ranges: Found = {}
        doubtful_parts: list[Trajectory] = []
        if keys.learn_rewritten(found, clocks):
            continue
        if not found.starts:
            break  # nothing is left that could be a part
        ranges, doubtful_parts = match_ranges(run, trajectories, unplaced, keys.flow_began_as)
        left = without(found, ranges)
        if not keys.learn_changed(left, clocks, sightings_of(left, trajectories, unplaced)):
            break
    for packet in trajectories:
        packet.ambiguous = packet in keys.doubtful or packet in doubtful_parts
        packet.candidates = max(packet.candidates, 2) if packet in doubtful_parts else packet.candidates
        packet.basis = basis_of(run, packet, keys)
    if ranges:
        trajectories = put_ranges(run, trajectories, unplaced, ranges)
        # What was not seen whole was not missed where its parts were seen.
        reach = reach_with([packet for packet in trajectories if packet.candidates == 1])
    trajectories.sort(key=lambda packet: packet.sighting(packet.first).number)
    certain = [packet for packet in trajectories if packet.candidates == 1 and not packet.backwards]
    delays = Delays(run, certain).known
    owner = {s: packet for packet in trajectories for s in packet.owned()}
    for second, first in forms.items():
        if first in owner:
            owner[first].forms.append(second)
    # What belongs to none fitted no path, or lay off that of its packet; parts of packets that fitted none are placed.
    parted = {part.sighting for packet in ranges for part in ranges[packet]} if ranges else set()
    placed_at_last = parted | {s for packet in trajectories for s in packet.owned()}
    no_path = placed.no_path - sum(s in placed_at_last and s.path is None for s in unplaced)
    placed_at_last |= {s for packet in trajectories for s in packet.forms}
    off_path = sum(s not in placed_at_last for s in every) - no_path
    return Followed(trajectories, clocks, reach, delays, no_path, off_path, hinges_on)


def parts_of(run: Run) -> dict[str, int]:
    """Points that paths join, directly or over others, are one part of the network; no packet crosses to another."""
    part = {point.name: number for number, point in enumerate(run.points)}
    for _ in run.paths:
        for path in run.paths:
            lowest = min(part[point] for point in path.points)
            part.update(dict.fromkeys(path.points, lowest))
    return part


def in_time(sightings: Sequence[Sighting]) -> list[Sighting]:
    return sorted(sightings, key=lambda s: (s.time, s.number))


def grouped(sightings: Sequence[Sighting], keys: Keys) -> list[list[Sighting]]:
    """Sightings with equal keys, each group in order of time."""
    groups: dict[Key, list[Sighting]] = {}
    for sighting in in_time(sightings):
        groups.setdefault(keys.keys[sighting], []).append(sighting)
    return list(groups.values())


def without(found: Open, ranges: Found) -> Open:
    """Ends and starts that no ranges explain."""
    parts = {part.sighting for of_packet in ranges.values() for part in of_packet}
    return Open([end for end in found.ends if end not in ranges], [s for s in found.starts if s not in parts])


def sightings_of(found: Open, trajectories: Sequence[Trajectory], unplaced: Sequence[Sighting]) -> set[Sighting]:
    """What belongs to packets that end or start here, or to none."""
    starts = set(found.starts)
    open_packets = set(found.ends) | {p for p in trajectories if p.sighting(p.first) in starts}
    return set(unplaced) | {s for packet in open_packets for s in packet.owned()}


def basis_of(run: Run, packet: Trajectory, keys: Keys) -> str:
    """The rung that decided. Rewritten wins over modified, order over both; what numbers say of a certain packet goes
    before all.
    """
    basis = "exact"
    first = packet.sighting(packet.first)
    for sighting in packet.seen.values():
        if keys.began_as and sighting.bytes_key != first.bytes_key:
            header = sighting.flow != first.flow or sighting.row["ip_id"] != first.row["ip_id"]
            if header or basis == "rewritten":
                basis = "rewritten"
            else:
                basis = "modified"
    if packet.candidates > 1:
        return "order"
    return "packet_id" if is_numbered(run, packet) else basis


def put_ranges(
    run: Run, trajectories: list[Trajectory], unplaced: Sequence[Sighting], ranges: Found
) -> list[Trajectory]:
    """Enter split and merged packets. Packets that began as parts of others, or as copies of such, are none.

    Of the parts of a packet at a point, the one with its first byte counts as the sighting there; of several with the
    same byte the earliest. A frame that holds just one packet, and all of it, was not split: only its content changed.
    """
    parts = {part.sighting: packet for packet, of_packet in ranges.items() for part in of_packet}
    loose = [s for p in trajectories if p.first > 0 for s in p.owned()] + list(unplaced)
    copies = copies_of_parts(run, parts, loose)
    for sighting, packet in copies.items():
        packet.copies.append(sighting)
    used = parts.keys() | copies.keys()
    kept = [packet for packet in trajectories if packet in ranges or not used & set(packet.owned())]
    for packet, found in ranges.items():
        first = packet.sighting(0)
        found.sort(key=lambda r: (r.position, r.first, r.sighting.time, r.sighting.number))
        for part in found:
            packet.seen.setdefault(part.position, part.sighting)
        packet.ranges = [part for part in found if not is_whole(first, part)]
        if packet.ranges:
            packet.basis = "range"
        else:
            held = [part.sighting for part in found]
            header = any(s.flow != first.flow or s.row["ip_id"] != first.row["ip_id"] for s in held)
            packet.basis = "rewritten" if header else "modified"
            packet.copies += [part.sighting for part in found]
    return kept


def copies_of_parts(
    run: Run, parts: dict[Sighting, Trajectory], loose: Sequence[Sighting]
) -> dict[Sighting, Trajectory]:
    """What a point saw again, at most the loss threshold after a part with the same bytes: it was not sent again."""
    found = {}
    for sighting in loose:
        alike = [
            part
            for part in parts
            if part.point == sighting.point
            and part.bytes_key == sighting.bytes_key
            and (part.time, part.number) < (sighting.time, sighting.number)
        ]
        last = max(alike, key=lambda part: (part.time, part.number), default=None)
        if sighting not in parts and last is not None and sighting.time - last.time <= run.threshold_ns:
            found[sighting] = parts[last]
    return found


def is_whole(first: Sighting, part: Range) -> bool:
    """Whether the part is all of the packet, and its frame holds nothing else."""
    sent, held = first.row, part.sighting.row
    fragment = bool(sent["fragment_offset"] or sent["more_fragments"])
    size = "_segment_length" if fragment else "payload_length"
    same = all(
        (sent[name] or 0) == (held[name] or 0) for name in ("fragment_offset", "more_fragments", "payload_length")
    )
    return same and sent[size] == held[size] == part.last - part.first + 1
