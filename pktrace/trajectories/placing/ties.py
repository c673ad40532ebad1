"""Ties: packets with equal keys, distinguished by the bytes that the keys leave out, before order is used.

Test generators send packets that differ in their last bytes alone; two tenants send the same packet in two VLANs; ACKs
differ in their time stamps alone.

Rule: packets with equal keys are compared by these features, one after the other: tags (VLAN, number of the innermost
tunnel), TCP options, the last 64 payload bytes (before them the checksum, if a capture has cut them off), and the bytes
in the middle. A difference distinguishes packets if boxes leave it alone: between neighbouring points more than half of
the values that both saw are the same, among all packets and among those that are like each other. Tags may be mapped,
one to one (tags.py).
A point whose captures cut these bytes off takes nothing from the others: its sightings are assigned to their packets in
order, and so marked.
Bound: a box that changes such bytes in fewer than half of the packets that are like each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES
from pktrace.decode.identity import among, group_numbers, groups_of, mixed
from pktrace.decode.rows import is_fragment, rows_at
from pktrace.observations.observe import Observations
from pktrace.observations.payloads import Payloads
from pktrace.protocols import TCP, UDP
from pktrace.run.model import Run
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.invariants import of_rewrite
from pktrace.trajectories.placing.tags import mapped_tags, tags_of

Array = np.ndarray[Any, Any]
Stage = tuple[int, int]
_KEPT = 0.5
_MOST_KINDS = 64  # sets of points whose captures cut bytes off


@dataclass(frozen=True)
class Told:
    """Rows that are distinguished, a hash of the difference for each (`marks`), and the rows assigned in order
    (`in_order`).

    `compared` are the rows that were looked at.
    """

    rows: Array
    marks: Array
    in_order: Array
    compared: Array

    def __len__(self) -> int:
        return len(self.rows)


def tell_apart(
    run: Run, observations: Observations, payloads: Payloads, times: Array, keys: Array, tied: Array
) -> Told:  # fmt: skip
    """Compare the features of tied packets that the keys leave out.

    Args:
        times: int64 per row, aligned; keys: uint64 per row; tied: int64, rows of packets with equal keys. All rows that
        are like them are compared.
    """
    tied = _all_like(observations.rows, tied)
    rows, at = rows_at(observations.rows, tied), times[tied]
    marks, in_order = np.zeros(len(tied), np.uint64), np.zeros(len(tied), bool)
    like = of_rewrite(rows)
    alike = group_numbers(like)
    for values, there in _features(run, payloads, rows, at, like):
        before = like.copy()
        for some, blind in _by_blind_points(before, rows["point"], there):
            seeing = ~np.isin(rows["point"][some], list(blind))
            if not seeing.any():
                continue
            points = rows["point"][some]
            kept = _kept(before[some], values[some], points, seeing, stages_of(run, blind))
            given = values[some]
            like_there = mixed(before[some], keys[tied[some]])
            for point in sorted(blind):
                mine, source = _in_order(run, point, blind, points, at[some], like_there, kept)
                given[mine] = given[source]
                in_order[some[mine]] = _several(like_there[source], given[source])
                seeing[mine] = True
            # Behind a box that rewrites them, no order is known: then no packet of the group gets a mark.
            group = group_numbers(before[some])
            kept &= (np.bincount(group, weights=~seeing) == 0)[group]
            mine = some[kept]
            marks[mine] = mixed(marks[mine], given[kept])
            like[mine] = mixed(before[mine], given[kept])
    # A value that all similar packets share is no mark.
    first, _ = groups_of(alike, marks)
    some = (marks != 0) & (np.bincount(alike[first], minlength=len(alike))[alike] > 1)
    return Told(tied[some], marks[some], in_order[some], tied)


def _several(group: Array, values: Array) -> Array:
    """bool per row: others of its group have other values."""
    number = group_numbers(group)
    first, _ = groups_of(group, values)
    return np.asarray(np.bincount(number[first], minlength=int(number.max(initial=-1)) + 1)[number] > 1)


def _by_blind_points(like: Array, points: Array, there: Array) -> Iterator[tuple[Array, set[int]]]:
    """Rows that are like each other, by the points whose captures lack the bytes asked for."""
    if there.all():
        yield np.arange(len(like)), set()
        return
    group = group_numbers(like)
    cut, _ = groups_of(group[~there], points[~there])
    lacking = np.flatnonzero(~there)[cut]
    blind = np.zeros((int(group.max(initial=-1)) + 1, int(points.max(initial=0)) + 1), bool)
    blind[group[lacking], points[lacking]] = True
    kinds, kind = np.unique(blind, axis=0, return_inverse=True)
    for number, which in enumerate(kinds[:_MOST_KINDS]):
        yield np.flatnonzero(kind.ravel()[group] == number), set(np.flatnonzero(which).tolist())


def _all_like(rows: Array, tied: Array) -> Array:
    """All rows with the invariants of some: a mark for those is part of these, too, wherever they are seen."""
    found = np.flatnonzero(among(rows["content"], rows["content"][tied]))
    if len(found) == len(tied):
        return tied
    like = of_rewrite(rows_at(rows, found))
    return np.asarray(found[among(like, like[np.searchsorted(found, tied)])])


def stages_of(run: Run, without: set[int]) -> list[Stage]:
    """Pairs of points that follow each other on a path, or by a bypass, without some points."""
    found = set()
    for path in run.paths:
        points = [point for point in path.points if point not in without]
        found |= set(pairwise(points))
        if path.has_detour:
            found.add((path.points[path.filter_input], path.points[path.detour_last + 1]))
    return sorted((a, b) for a, b in found if a != b and not {a, b} & without)


def _kept(like: Array, values: Array, points: Array, seeing: Array, stages: list[Stage]) -> Array:
    """bool per row: boxes leave these values alone in packets that are like it."""
    group = group_numbers(like)
    groups = int(group.max(initial=-1)) + 1
    vetoed = np.zeros(groups, bool)
    for a, b in stages:
        here, there = (np.flatnonzero((points == point) & seeing) for point in (a, b))
        least = np.minimum(*(np.bincount(group[side], minlength=groups) for side in (here, there)))
        both = np.concatenate([here, there])
        first, number = groups_of(group[both], values[both])
        of_a = np.bincount(number[: len(here)], minlength=len(first))
        of_b = np.bincount(number[len(here) :], minlength=len(first))
        same = np.bincount(group[both][first], weights=np.minimum(of_a, of_b), minlength=groups)
        if same.sum() <= _KEPT * least.sum():
            vetoed |= least > 0
        # A group is vetoed if at most half of its values stay the same. Without packets at one of the points its bound
        # is below 0, so it is not vetoed.
        vetoed |= same <= _KEPT * least - (least == 0)
    found: Array = ~vetoed[group]
    return found


def _in_order(
    run: Run, point: int, blind: set[int], points: Array, times: Array, like: Array, chosen: Array
) -> tuple[Array, Array]:  # fmt: skip
    """Sightings of a blind point, and the sightings of their packets at a neighbour that sees, assigned in order."""
    from pktrace.trajectories.placing.ties_kernel import pairs_in_order  # compiled only if it is needed

    nothing = np.zeros(0, np.int64)
    for path in run.paths:
        if point not in path.points:
            continue
        position = path.points.index(point)
        before = [other for other in path.points[:position] if other not in blind]
        behind = [other for other in path.points[position + 1 :] if other not in blind]
        if not before and not behind:
            continue
        source = before[-1] if before else behind[0]
        sign = 1 if before else -1  # with time reversed, the sighting behind comes first
        here, there = (np.flatnonzero((points == side) & chosen) for side in (point, source))
        group = group_numbers(like[np.concatenate([here, there])])
        mine, theirs = group[: len(here)], group[len(here) :]
        one, other = np.lexsort((sign * times[here], mine)), np.lexsort((sign * times[there], theirs))
        here, there = here[one], there[other]
        given = pairs_in_order(
            mine[one], sign * times[here], theirs[other], sign * times[there], -EARLY_NS, np.int64(run.threshold_ns)
        )
        # A sighting that is left over is a copy of the one before it.
        same = np.searchsorted(theirs[other], mine[one], "left"), np.searchsorted(theirs[other], mine[one], "right")
        before_it = np.maximum.accumulate(np.where(given >= 0, given, 0))
        given = np.where(given >= 0, given, np.clip(before_it, same[0], same[1] - 1))
        known = same[1] > same[0]
        return here[known], there[given[known]]
    return nothing, nothing


def _features(run: Run, payloads: Payloads, rows: Array, times: Array, like: Array) -> Iterator[tuple[Array, Array]]:
    """Features that may distinguish packets: a hash per row, and bool, if the capture has it."""
    everywhere = np.ones(len(rows), bool)
    tags = tags_of(rows)
    yield mapped_tags(stages_of(run, set()), rows["point"], times, like, tags), everywhere
    values, there = np.zeros(len(rows), np.uint64), np.ones(len(rows), bool)
    tcp = np.flatnonzero((rows["protocol"] == TCP) & (rows["has"] & field.HAS_PAYLOAD != 0))
    if len(tcp):
        options, size = payloads.options(rows_at(rows, tcp))
        words = np.ascontiguousarray(options).view(np.uint64)
        values[tcp] = mixed(*words.T)
        there[tcp] = size >= 0
        yield values, there
    length = rows["payload_length"].astype(np.int64)
    longer = np.flatnonzero((length > PAYLOAD_BYTES) & ~is_fragment(rows))
    if len(longer):
        some = rows_at(rows, longer)
        # The bytes are read from the end on: a generator's mark is among the last bytes.
        last = np.full(len(longer), PAYLOAD_BYTES)
        values, there = _spread(len(rows), longer, payloads.contents(some, length[longer] - PAYLOAD_BYTES, last))
        if not there.all():
            yield _spread(len(rows), longer, _checksums(payloads, some))
        yield values, there
        middle = payloads.rest(some, np.full(len(longer), PAYLOAD_BYTES), length[longer] - PAYLOAD_BYTES)
        yield _spread(len(rows), longer, middle)


def _checksums(payloads: Payloads, rows: Array) -> tuple[Array, Array]:
    """The transport checksums of packets, which are sums of all of their bytes; 0 if the sender left the field open."""
    place = np.where(rows["protocol"] == TCP, 16, 6)
    begin = rows["l4"].astype(np.int64) + place - rows["payload"]
    size = np.where(np.isin(rows["protocol"], (TCP, UDP)) & (rows["has"] & field.PARTIAL_CHECKSUM == 0), 2, 0)
    return payloads.contents(rows, begin, size)


def _spread(count: int, which: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
    """Values of some rows among all rows: 0, and present, for the others."""
    values, there = np.zeros(count, np.uint64), np.ones(count, bool)
    values[which], there[which] = found
    return values, there
