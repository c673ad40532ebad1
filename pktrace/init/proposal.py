"""A proposal for run.toml from bare capture files: points, clocks, paths with their detour and match.

Facts that packets do not show are left out, with a sentence in `notes`. The result does not depend on the order of the
files.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.rows import ROW
from pktrace.init.clock_groups import ClockGroups, clock_groups
from pktrace.init.detours import detour_of
from pktrace.init.path_filters import Address, Match, match_of
from pktrace.init.point_order import Chain, aligned_times, chains_of
from pktrace.init.samples import Sample
from pktrace.init.shared_packets import (
    Shared,
    Sightings,
    packet_keys,
    sessions_of,
    sightings_of,
)
from pktrace.init.vantage_points import Place, named, places_of, split_directions
from pktrace.run.conditions import PROTOCOL_NAMES

Array = np.ndarray[Any, Any]
_SHOWN_SERVICES = 8
_REPEATED = 4  # repeated packets are mentioned if they are more than one in this many


@dataclass(frozen=True)
class ProposedPoint:
    """A [[point]]: captures by name as given; `clock` and `session` are None if the default holds."""

    name: str
    captures: tuple[str, ...]
    interface: str | None
    direction: str
    clock: str | None
    session: str | None
    packets: int
    ip_packets: int
    first_ns: int | None
    last_ns: int | None
    offset_ns: int | None  # against the clock of most points
    offset_known: bool


@dataclass(frozen=True)
class ProposedStage:
    """The way between two neighbouring points: the first saw `seen` packets, both saw `common` of them."""

    start: str
    end: str
    seen: int
    common: int
    median_ns: int | None  # None on two clocks


@dataclass(frozen=True)
class Service:
    """Packets of one kind at a filter: how many took the detour and how many skipped it."""

    protocol: str
    port: int | None
    detoured: int
    skipped: int


@dataclass(frozen=True)
class ProposedPath:
    """A [[path]]; `stage_names` is None if the default names suffice."""

    name: str
    points: tuple[str, ...]
    detour: tuple[str, ...]
    stage_names: tuple[str, ...] | None
    match: Match
    packets: int
    stages: tuple[ProposedStage, ...]
    services: tuple[Service, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """Two points that share packets: `common` of `first_packets` and `second_packets`."""

    first: str
    second: str
    first_packets: int
    second_packets: int
    common: int
    median_ns: int | None  # None on two clocks, or if all shared packets repeat
    one_clock: bool
    identical: bool  # all at equal times: parts or copies of one capture


@dataclass(frozen=True)
class Proposal:
    """The contents of a proposed run.toml."""

    points: tuple[ProposedPoint, ...]
    paths: tuple[ProposedPath, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]
    packets: int
    damaged: bool


def propose(samples: Sequence[Sample], every: int = 1) -> Proposal:
    """Find points, their order and paths.

    Args:
        samples: capture files in order of their names (`read_samples`); every: the samples hold one in this many
        packets.
    """
    rows = np.concatenate([sample.rows for sample in samples]) if samples else np.zeros(0, ROW)
    places, where, silent = places_of(samples, rows)
    session = sessions_of(rows, len(samples))
    keys = packet_keys(rows, session)
    places, where = split_directions(places, where, rows, keys)
    places = named(places)
    sightings, shared = sightings_of(rows, where, keys, len(places))
    clocks = clock_groups(sightings, rows, len(places))
    chains = chains_of(sightings, rows, clocks)
    paths = _paths(chains, sightings, rows, clocks, places, _addresses(sightings, rows))
    clock_names = _clock_names(clocks, places)
    points = [
        _point(samples, place, clock_names[number], _session_name(session, place), clocks, number)
        for number, place in enumerate(places)
    ]
    pairs = _pairs(sightings, shared, clocks, points, every)
    order = [name for path in paths for name in path.points]
    ranked = sorted(
        points, key=lambda point: (order.index(point.name) if point.name in order else len(order), point.name)
    )
    notes = _notes(paths, ranked, pairs)
    notes += _notes_on_captures(points, shared, every, silent)
    return Proposal(
        points=tuple(ranked),
        paths=tuple(paths),
        pairs=tuple(pairs),
        notes=tuple(notes),
        packets=sum(sample.tally().packets for sample in samples),
        damaged=any(sample.damaged for sample in samples),
    )


def _point(
    samples: Sequence[Sample],
    place: Place,
    clock: str | None,
    session: str | None,
    clocks: ClockGroups,
    number: int,
) -> ProposedPoint:
    tally = place.tally()
    group = clocks.group[number]
    return ProposedPoint(
        name=place.name,
        captures=tuple(samples[file].name for file in place.captures),
        interface=place.interface,
        direction=place.direction,
        clock=clock,
        session=session,
        packets=tally.packets,
        ip_packets=tally.ip_packets,
        first_ns=tally.first_ns,
        last_ns=tally.last_ns,
        offset_ns=int(clocks.offset_ns[group]) if group else None,
        offset_known=bool(clocks.known[group]),
    )


def _clock_names(clocks: ClockGroups, places: list[Place]) -> list[str | None]:
    """A name per place whose clock differs from the clock of most packets. The first place of a clock gives the name,
    so that it is stable.
    """
    names: dict[int, str] = {}
    for group, place in sorted(zip(clocks.group.tolist(), (place.name for place in places), strict=True)):
        names.setdefault(group, f"clock-of-{place}")
    return [names[group] if group else None for group in clocks.group.tolist()]


def _session_name(session: Array, place: Place) -> str | None:
    """The name of a session: files that number the same packets alike share one. A single file needs no name."""
    number = int(session[place.captures[0]])
    sharing = np.count_nonzero(session == number)
    return f"session-{number + 1}" if sharing > 1 else None


def _addresses(sightings: Sightings, rows: Array) -> list[tuple[Address, Address]]:
    """Source and destination of each flow."""
    found = []
    for row in rows[sightings.flow_row] if len(sightings.flow_row) else ():
        kind = ipaddress.IPv6Address if row["ip_version"] == 6 else ipaddress.IPv4Address
        ends = (int(row[f"{end}_high"]) << 64 | int(row[f"{end}_low"]) for end in ("source", "destination"))
        source, destination = (kind(value) for value in ends)
        found.append((source, destination))
    return found


def _paths(
    chains: list[Chain],
    sightings: Sightings,
    rows: Array,
    clocks: ClockGroups,
    places: list[Place],
    flows: list[tuple[Address, Address]],
) -> list[ProposedPath]:
    size = np.bincount(sightings.flow, minlength=len(flows)) if len(flows) else np.zeros(0, np.int64)
    of_chain = [[(*flows[flow], int(size[flow])) for flow in chain.flows.tolist()] for chain in chains]
    times = aligned_times(sightings, clocks)
    found: list[ProposedPath] = []
    for number, chain in enumerate(chains):
        others = [flow for at, held in enumerate(of_chain) if at != number for flow in held]
        match = match_of(of_chain[number], others)
        points = tuple(places[sightings.column_place[column]].name for column in chain.columns)
        name = _unused(f"{points[0]}-to-{points[-1]}", [path.name for path in found])
        detour = detour_of(chain, sightings, rows)
        notes = []
        if chain.uncertain:
            notes.append("The times contradict each other on the order of some of these points; check it.")
        notes += [
            f"{places[sightings.column_place[column]].name} also saw packets of this kind; its order among the other "
            "points is unknown (packets visit one or the other, or both at the same time)."
            for column in chain.left_out
        ]
        if match.overlapping:
            notes.append(
                f"{match.overlapping:,} packets of other paths fit this match too: addresses do not separate them;"
                " add ports or a protocol."
            )
        names = [f"{a}-{b}" for a, b in pairwise(points)]
        if len(set(names)) < len(names):
            names = [f"{at}-{name}" for at, name in enumerate(names)]
            stage_names: tuple[str, ...] | None = tuple(names)
        else:
            stage_names = None
        found.append(
            ProposedPath(
                name=name,
                points=points,
                detour=points[detour[0] : detour[1] + 1] if detour else (),
                stage_names=stage_names,
                match=match,
                packets=int(chain.packets.sum()),
                stages=tuple(_stages(chain, detour, sightings, times, clocks, points)),
                services=tuple(_services(chain, detour, sightings, rows)) if detour else (),
                notes=tuple(notes),
            )
        )
    return found


def _unused(name: str, taken: list[str]) -> str:
    """The name, with a number appended if it is taken."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    return unique


def _stages(
    chain: Chain,
    detour: tuple[int, int] | None,
    sightings: Sightings,
    times: Array,
    clocks: ClockGroups,
    points: tuple[str, ...],
) -> list[ProposedStage]:
    """The packets that neighbouring points share, the way past the detour last."""
    seen = sightings.seen[chain.packets][:, chain.columns]
    at = times[chain.packets][:, chain.columns]
    ends = [(start, start + 1) for start in range(len(points) - 1)]
    found = []
    for start, end in [*ends, *([(detour[0] - 1, detour[1] + 1)] if detour else [])]:
        skips = ~seen[:, start + 1 : end].any(axis=1)
        both = seen[:, start] & seen[:, end] & skips
        one_clock = (
            clocks.group[sightings.column_place[chain.columns[start]]]
            == (clocks.group[sightings.column_place[chain.columns[end]]])
        )
        found.append(
            ProposedStage(
                start=points[start],
                end=points[end],
                seen=int((seen[:, start] & skips).sum()),
                common=int(both.sum()),
                median_ns=_median((at[:, end] - at[:, start])[both]) if one_clock else None,
            )
        )
    return found


def _median(values: Array) -> int | None:
    return int(np.sort(values)[(len(values) - 1) // 2]) if len(values) else None


def _services(chain: Chain, detour: tuple[int, int], sightings: Sightings, rows: Array) -> list[Service]:
    """Packets that took the detour and packets that skipped it, by protocol and the lower port, the most frequent
    first.
    """
    seen = sightings.seen[chain.packets][:, chain.columns]
    visited = np.asarray(seen[:, detour[0] : detour[1] + 1].any(axis=1))
    reached = np.asarray(visited | seen[:, detour[1] + 1 :].any(axis=1))
    packet = rows[sightings.row[chain.packets][reached].max(axis=1)]
    ports: Array = np.minimum(packet["sport"], packet["dport"]).astype(np.int64)
    ports[packet["has"] & field.HAS_PORTS == 0] = -1
    kinds, inverse = np.unique(packet["protocol"].astype(np.int64) << 20 | (ports + 1), return_inverse=True)
    total = np.bincount(inverse, minlength=len(kinds))
    took = np.bincount(inverse, weights=visited[reached], minlength=len(kinds)).astype(np.int64)
    found = []
    for at in np.lexsort((kinds, -total))[:_SHOWN_SERVICES].tolist():
        protocol, port = int(kinds[at]) >> 20, (int(kinds[at]) & 0xFFFFF) - 1
        found.append(
            Service(
                PROTOCOL_NAMES.get(protocol, str(protocol)),
                port if port >= 0 else None,
                int(took[at]),
                int(total[at] - took[at]),
            )
        )
    return found


def _pairs(
    sightings: Sightings, shared: Shared, clocks: ClockGroups, points: list[ProposedPoint], every: int
) -> list[Pair]:
    found = []
    for a in range(len(points)):
        for b in range(a + 1, len(points)):
            if not shared.common[a, b]:
                continue
            both = sightings.seen[:, a] & sightings.seen[:, b]
            difference = sightings.time[both, b] - sightings.time[both, a]
            found.append(
                Pair(
                    first=points[a].name,
                    second=points[b].name,
                    first_packets=points[a].packets,
                    second_packets=points[b].packets,
                    common=min(int(shared.common[a, b]) * every, points[a].packets, points[b].packets),
                    median_ns=_median(np.abs(difference)) if clocks.group[a] == clocks.group[b] else None,
                    one_clock=bool(clocks.group[a] == clocks.group[b]),
                    identical=bool(both.any()) and not difference.any(),
                )
            )
    return sorted(found, key=lambda pair: (-pair.common, pair.first, pair.second))


def _notes(paths: list[ProposedPath], points: list[ProposedPoint], pairs: list[Pair]) -> list[str]:
    """Sentences about the points whose order is unknown."""
    on_path = {name for path in paths for name in path.points}
    sharing = {name for pair in pairs for name in (pair.first, pair.second)}
    copies = {name for pair in pairs if pair.identical for name in (pair.first, pair.second)}
    notes = [
        f"{pair.first} and {pair.second} hold the same packets at the same times: copies or parts of one capture, not"
        " two points on a way; so no path was made of them."
        for pair in pairs
        if pair.identical
    ]
    for point in points:
        if point.name in on_path:
            continue
        if not point.packets:
            notes.append(f"{point.name} has no packets: its place on a path is unknown.")
        elif not point.ip_packets:
            notes.append(f"{point.name} has no IP packets that are decoded: it is on no path.")
        elif len(points) == 1:
            notes.append("There is one point only: between it and itself there is nothing to measure.")
        elif point.name not in sharing:
            notes.append(
                f"{point.name} shares no packets with another point: other traffic, another time, or packets that"
                " were encrypted or rewritten (NAT) on the way. If they were rewritten, add the point to the paths "
                "by hand: the analysis follows rewritten packets."
            )
        elif point.name not in copies:
            notes.append(f"The place of {point.name} in the order of the points is unknown; it is on no path.")
    return notes


def _notes_on_captures(points: list[ProposedPoint], shared: Shared, every: int, silent: list[str]) -> list[str]:
    """Sentences about limits of the proposal that come from the captures themselves."""
    notes = [
        f"{point.name} saw {min(int(repeated) * every, point.packets):,} packets whose bytes repeat (duplicates, or"
        " datagrams that are all the same): its order is taken from the others."
        for point, repeated, packets in zip(points, shared.repeated, shared.packets, strict=True)
        if _REPEATED * int(repeated) > int(packets)
    ]
    if every > 1:
        notes.append(
            f"There are many packets: a sample of one in {every:,}, the same at all points, was used; counts of "
            "shared packets are of the sample."
        )
    if silent:
        notes.append(f"Interfaces without packets are left out: {', '.join(silent)}.")
    if any(point.session for point in points):
        notes.append("Packet ids (epb_packetid) number the same packets in several files: these share a session.")
    return notes
