"""Chains: the order in which the packets of each kind of traffic pass the places. A chain may become a path.

Packets of one source and destination are a flow. Each flow votes on the order of every two places that share its
packets. Flows are one kind of traffic if they agree and one of them visits no place that the other does not visit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.init.clock_groups import ClockGroups
from pktrace.init.shared_packets import Sightings

Array = np.ndarray[Any, Any]
_LEAST_SHARE = 0.01  # a place that fewer of a flow's packets visit is not on their way (for example a flooded frame)
_SECOND_SHARE = 0.5  # a second visit counts if this share of them makes it
_FEW = 20
_STRAY_SHARE = 0.005  # flows with a smaller share of packets against the order of all others have late time stamps
_MOST_KINDS = 2000


@dataclass(frozen=True)
class Chain:
    """One kind of traffic: the columns of `Sightings` that it passes in order, its flows, and its uncertainties.

    `left_out` are columns that its packets visit without a known order to another column of the chain; `uncertain` is
    True if the order contradicts itself somewhere.
    """

    columns: tuple[int, ...]
    flows: Array
    packets: Array  # bool per packet of the sightings
    left_out: tuple[int, ...]
    uncertain: bool


@dataclass
class _Kind:
    order: Array  # int8 (columns x columns): +1 where the first comes before the second
    present: Array  # bool per column
    packets: int
    flows: list[Array]

    def agrees(self, other: _Kind) -> bool:
        return not (self.order * other.order < 0).any()

    def within(self, other: _Kind) -> bool:
        return not (self.present & ~other.present).any()


def aligned_times(sightings: Sightings, clocks: ClockGroups) -> Array:
    """Times of the sightings on the clock of group 0."""
    found: Array = sightings.time - clocks.offset_ns[clocks.group[sightings.column_place]][None, :]
    return found


def chains_of(sightings: Sightings, rows: Array, clocks: ClockGroups) -> list[Chain]:
    """The chains of all traffic, the one with most packets first."""
    if len(sightings.row) == 0:
        return []
    times = aligned_times(sightings, clocks)
    votes = {(a, b): _vote(sightings, rows, clocks, times, a, b) for a, b in sightings.pairs()}
    kinds = _kinds(sightings, _signs(sightings, votes))
    chains = [_chain(sightings, votes, kind) for kind in kinds]
    return sorted(
        (chain for chain in chains if len(chain.columns) > 1),
        key=lambda chain: (-int(chain.packets.sum()), chain.columns),
    )


def _vote(
    sightings: Sightings, rows: Array, clocks: ClockGroups, times: Array, a: int, b: int
) -> tuple[Array, Array, Array]:
    """Packets per flow: passed a before b, passed b before a, seen at both."""
    both = np.flatnonzero((sightings.row[:, a] >= 0) & (sightings.row[:, b] >= 0))
    row_a, row_b = sightings.row[both, a], sightings.row[both, b]
    group_a, group_b = (clocks.group[sightings.column_place[column]] for column in (a, b))
    sign = np.zeros(len(both), np.int64)
    if group_a == group_b or (clocks.known[group_a] and clocks.known[group_b]):
        sign = np.sign(times[both, b] - times[both, a])
        # Equal times in one file: packets stand in the order in which they were recorded.
        same_file = (rows["capture"][row_a] == rows["capture"][row_b]) & (sign == 0)
        sign[same_file] = np.sign(sightings.frame[both, b] - sightings.frame[both, a])[same_file]
    fall = rows["ttl"][row_a].astype(np.int64) - rows["ttl"][row_b]
    sign = np.where(sign == 0, np.sign(fall), sign)
    flow, flows = sightings.flow[both], len(sightings.flow_row)
    return (
        np.bincount(flow[sign > 0], minlength=flows),
        np.bincount(flow[sign < 0], minlength=flows),
        np.bincount(flow, minlength=flows),
    )


def _shared_packets(sightings: Sightings) -> Array:
    """Packets per flow that more than one visit saw: only they are evidence of order."""
    return np.bincount(sightings.flow[sightings.seen.sum(axis=1) > 1], minlength=len(sightings.flow_row))


def _sign(before: Array, after: Array, both: Array) -> Array:
    """+1 if clearly most packets passed one before the other, -1 for the opposite order, 0 if the order is unclear."""
    told = (before + after) * 100 >= both
    return ((before > 2 * after) & told).astype(np.int8) - ((after > 2 * before) & told).astype(np.int8)


def _signs(
    sightings: Sightings, votes: dict[tuple[int, int], tuple[Array, Array, Array]]
) -> dict[tuple[int, int], tuple[Array, Array]]:
    """(order, True if both are visited) per pair of columns and flow; rare visits do not count."""
    size = _shared_packets(sightings)
    first_visits = int(sightings.column_place.max()) + 1
    found = {}
    for (a, b), (before, after, both) in votes.items():
        # A second visit counts if most packets of the flow make it.
        share = _SECOND_SHARE if max(a, b) >= first_visits else _LEAST_SHARE
        least = np.maximum(np.where(size >= _FEW, 2, 1), share * size)
        visited = both >= least
        found[a, b] = _sign(before, after, both) * visited, visited
    return found


def _kinds(sightings: Sightings, signs: dict[tuple[int, int], tuple[Array, Array]]) -> list[_Kind]:
    """Flows with equal votes, joined with flows that saw a part of the same way."""
    columns = len(sightings.column_place)
    flows = len(sightings.flow_row)
    size = _shared_packets(sightings)
    random = np.random.default_rng(1).integers(1, 1 << 62, (len(signs), 3), np.uint64)
    name = np.zeros(flows, np.uint64)
    for at, (sign, visited) in enumerate(signs.values()):
        name += np.where(
            sign > 0, random[at, 0], np.where(sign < 0, random[at, 1], np.where(visited, random[at, 2], 0))
        )
    names, first, of_flow = np.unique(name, return_index=True, return_inverse=True)
    weight = np.bincount(of_flow, weights=size, minlength=len(names)).astype(np.int64)
    candidates = []
    for number in np.lexsort((first, -weight))[:_MOST_KINDS].tolist():
        order = np.zeros((columns, columns), np.int8)
        present = np.zeros(columns, bool)
        for (a, b), (sign, visited) in signs.items():
            order[a, b], order[b, a] = sign[first[number]], -sign[first[number]]
            if visited[first[number]]:
                present[[a, b]] = True
        if present.any():
            candidates.append(_Kind(order, present, int(weight[number]), [np.flatnonzero(of_flow == number)]))
    return _joined(candidates, int(size.sum()))


def _joined(candidates: list[_Kind], total: int) -> list[_Kind]:
    """Join kinds, heaviest first, if the places and the order of one lie within the other."""
    kinds: list[_Kind] = []
    pending: list[_Kind] = []
    for candidate in candidates:
        for kind in kinds:
            if kind.within(candidate) and kind.agrees(candidate) and candidate.packets >= _LEAST_SHARE * kind.packets:
                kind.order = np.where(kind.order != 0, kind.order, candidate.order)
                kind.present = kind.present | candidate.present
                kind.packets += candidate.packets
                kind.flows += candidate.flows
                break
        else:
            inside = any(candidate.within(kind) and candidate.agrees(kind) for kind in kinds)
            strays = candidate.packets < _STRAY_SHARE * total and any(
                candidate.within(kind) and not _turned(candidate, kind) for kind in kinds
            )
            few = candidate.packets < _LEAST_SHARE * total and any(
                kind.within(candidate) and kind.agrees(candidate) for kind in kinds
            )
            if inside or strays or few:
                pending.append(candidate)
            else:
                kinds.append(_Kind(candidate.order, candidate.present, candidate.packets, list(candidate.flows)))
    # A candidate that saw a part of the way joins a kind that it agrees with; a kind that grew may now hold another
    # one.
    for candidate in pending:
        fitting = [kind for kind in kinds if candidate.within(kind) and candidate.agrees(kind)]
        fitting = fitting or [kind for kind in kinds if candidate.agrees(kind)] or kinds
        best = max(fitting, key=lambda kind: (int((kind.present & candidate.present).sum()), kind.packets))
        best.flows += candidate.flows
        best.packets += candidate.packets
    grown = True
    while grown:
        grown = False
        for small in sorted(kinds, key=lambda kind: kind.packets):
            larger = [kind for kind in kinds if kind is not small and small.within(kind) and small.agrees(kind)]
            if larger:
                best = max(larger, key=lambda kind: kind.packets)
                best.flows += small.flows
                best.packets += small.packets
                kinds.remove(small)
                grown = True
                break
    return sorted(kinds, key=lambda kind: -kind.packets)


def _turned(candidate: _Kind, kind: _Kind) -> bool:
    """True if the candidate passes all its places in the opposite order, shown by more than two packets."""
    told = (candidate.order != 0) & (kind.order != 0)
    return candidate.packets > 2 and bool(told.any()) and bool((candidate.order[told] == -kind.order[told]).all())


def _chain(sightings: Sightings, votes: dict[tuple[int, int], tuple[Array, Array, Array]], kind: _Kind) -> Chain:
    """The places of one kind of traffic in order."""
    flows = np.concatenate(kind.flows)
    packets = np.isin(sightings.flow, flows)
    seen = sightings.seen[packets & (sightings.seen.sum(axis=1) > 1)]
    visited = seen.sum(axis=0)
    first_visit = np.array([np.flatnonzero(sightings.column_place == place)[0] for place in sightings.column_place])
    is_first = first_visit == np.arange(len(first_visit))
    least = np.where(is_first, _LEAST_SHARE * len(seen), _SECOND_SHARE * visited[first_visit])
    present = np.flatnonzero(kind.present & (visited >= least)).tolist()
    after = np.zeros((len(present), len(present)), bool)
    for (a, b), (before, later, both) in votes.items():
        if a in present and b in present:
            sign = int(_sign(before[flows].sum(), later[flows].sum(), both[flows].sum()))
            after[present.index(a), present.index(b)] = sign > 0
            after[present.index(b), present.index(a)] = sign < 0
    for through in range(len(present)):
        after |= after[:, through, None] & after[None, through, :]
    uncertain = bool(after.diagonal().any())
    ordered = sorted(range(len(present)), key=lambda at: (-int(after[at].sum()), -int(visited[present[at]]), at))
    columns: list[int] = []
    left_out: list[int] = []
    for at in ordered:
        # If the order of two places is unknown, the place that saw more packets is kept.
        while columns and not after[columns[-1], at] and visited[present[at]] > visited[present[columns[-1]]]:
            left_out.append(present[columns.pop()])
        if columns and not after[columns[-1], at]:
            left_out.append(present[at])
        else:
            columns.append(at)
    chosen = _without_echoes([present[at] for at in columns], sightings.column_place)
    return Chain(tuple(chosen), flows, packets, tuple(sorted(left_out)), uncertain)


def _without_echoes(columns: list[int], place: Array) -> list[int]:
    """The columns without second visits that follow at once: these are copies of the packet, not a way back."""
    found: list[int] = []
    for column in columns:
        if not found or place[found[-1]] != place[column]:
            found.append(column)
    return found
