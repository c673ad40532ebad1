"""Indistinguishable flows: flows with equal packets, whose losses can only be counted for all of them together.

Rule: the flows before a stage and the flows behind it whose packets have the same invariants, and one side (address and
port) in common that stays, are one crowd if

- all of them depart there, or arrive there: at least _WHOLE of the packets of each;
- there are no more flows and packets behind it than before, and not less than half as many;
- 99 in 100 arrivals have a departure of their own at most some time before, in order; with the departures moved to any
  of _MOVES other times, one in ten has none. This shows that these packets come when those come, as no others would.

The number of lost packets is then known, but not the lost packets themselves; the matcher `order` counts them.
Bound: two crowds that have nothing to do with each other are taken for one if one is lost as a whole, the other comes
from nowhere, and their packets keep time with each other. TCP flows are no crowd: their numbers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import group_numbers, groups_of, mixed
from pktrace.decode.rows import Fielded
from pktrace.protocols import TCP
from pktrace.run.model import Run
from pktrace.trajectories.links.flow_evidence import DISAGREE, Candidates
from pktrace.trajectories.links.indistinguishable_kernel import without_end
from pktrace.trajectories.links.loose_ends import LooseEnds

Array = np.ndarray[Any, Any]
_WHOLE = 0.8
_FEWEST = 16  # arrivals: fewer are no evidence about time
_LEFT_OVER = 100  # one arrival in so many may be without a departure of its own
_MANY = 4096  # arrivals, one after the other, that are looked at
_MOVES = 64  # times that the departures are moved to
_MOVED_LEFT_OVER = 10  # one arrival in so many has to be without a departure then
_WIDER = 1.25  # also if the window is so many times as long
_SHORTEST_NS, _LONGER = 1_000, 1.25
_GOLDEN = 0.6180339887498949  # its multiples, modulo 1, are spread evenly for any period of the packets


@dataclass(frozen=True)
class Crowd:
    """Flows (hashes) that became others; `ids_kept`: they kept their IP IDs; `here`: the point, if both are at one."""

    before: Array
    behind: Array
    ids_kept: bool
    here: int | None


def crowds_of(
    pairs: Candidates, found: LooseEnds, run: Run, rows: Fielded, times: Array, flows: Array, remains: Array,
    share: Callable[[Array], Array],
) -> Iterator[Crowd]:  # fmt: skip
    """Find the crowds among the loose ends.

    Args:
        pairs: the candidates, with equal `remains`; flows, remains: uint64 per row; share: the share of the packets of
        flows that departs.
    """
    protocol = rows["protocol"][found.end_rows[pairs.end]]
    # At a point that shows both sides, a packet that is lost behind it departs where it arrived.
    begun_here = (pairs.at == found.end_position[pairs.end]) & np.isin(found.end_rows, found.start_rows)[pairs.end]
    pairs = pairs.chosen((protocol != TCP) & pairs.timed & ~begun_here)
    if len(pairs) < _FEWEST:
        return
    label = _components(pairs)
    eligible = _eligible(pairs, label, share)
    pairs, label = pairs.chosen(eligible), label[eligible]
    if not len(pairs):
        return
    ends = found.end_rows
    path, position = found.end_path[pairs.end], found.end_position[pairs.end]
    point = rows["point"][found.start_rows[pairs.start]]
    order = np.argsort(label, kind="stable")
    # There may be as many crowds as a sixteenth of the packets: each one looks at its own rows alone.
    ends_of, starts_of, rows_of = (_ByFlow(flows[some]) for some in (ends, found.start_rows, slice(None)))
    for mine in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        first = mine[0]
        before, behind = (side[mine][groups_of(side[mine])[0]] for side in (pairs.before, pairs.behind))
        alike = np.unique(remains[ends[pairs.end[mine]]])
        at = ends_of.places(before)
        at = at[(found.end_path[at] == path[first]) & (found.end_position[at] == position[first])]
        end_rows, start_rows = ends[at], found.start_rows[starts_of.places(behind)]
        end_rows = end_rows[np.isin(remains[end_rows], alike)]
        start_rows = start_rows[rows["point"][start_rows] == point[first]]
        start_rows = start_rows[np.isin(remains[start_rows], alike)]
        if not len(start_rows) <= len(end_rows) <= 2 * len(start_rows):
            continue
        there = rows_of.places(behind)
        there = there[rows["point"][there] == point[first]]
        if not _all_begin(flows[there], flows[start_rows]):
            continue
        group = group_numbers(np.concatenate([remains[end_rows], remains[start_rows]]))
        # An estimated offset between clocks hides the delay: arrivals come as often too early as late.
        clocks = [run.points[rows["point"][some[0]]].clock for some in (end_rows, start_rows)]
        if _in_time(
            times[end_rows], group[: len(end_rows)], times[start_rows], group[len(end_rows) :], run.threshold_ns,
            centred=clocks[0] != clocks[1],
        ):  # fmt: skip
            here = int(point[first]) if pairs.at[first] == position[first] else None
            yield Crowd(before, behind, _keeps_ids(end_rows, start_rows, rows, remains), here)


def _eligible(pairs: Candidates, label: Array, share: Callable[[Array], Array]) -> Array:
    """bool per pair: its component has as many flows and packets as a crowd, and its flows depart as a whole."""
    of = group_numbers(label)
    before, behind, starts = (
        np.bincount(of[groups_of(of, side)[0]], minlength=len(of)) for side in (pairs.before, pairs.behind, pairs.start)
    )
    found = (behind <= before) & (before <= 2 * behind) & (before > 1) & (starts >= _FEWEST)
    first, number = groups_of(pairs.before)
    goes_on = (share(pairs.before[first]) < _WHOLE)[number]
    found &= np.bincount(of, weights=goes_on, minlength=len(of)) == 0
    return np.asarray(found[of])


def _components(pairs: Candidates) -> Array:
    """Per pair a number that is equal for all pairs connected by flows or invariants, within a stage."""
    of_group = np.zeros(int(pairs.group.max()) + 1, np.int64)
    nodes = [pairs.group]
    size = len(of_group)
    # Each flow is one node per stage; all pairs of a group are at one stage.
    for flow, stage in ((pairs.before, 0), (pairs.behind, 1)):
        number = group_numbers(flow, np.full(len(flow), stage))
        nodes.append(size + number)
        size += int(number.max()) + 1
    label = np.arange(size)
    while True:
        lowest = np.minimum.reduce([label[node] for node in nodes])
        new = label.copy()
        for node in nodes:
            np.minimum.at(new, node, lowest)
        new = new[new]
        if (new == label).all():
            return label[nodes[0]]
        label = new


class _ByFlow:
    """An index from flows to their rows."""

    def __init__(self, flows: Array) -> None:
        self._order = np.argsort(flows, kind="stable")
        self._flows = flows[self._order]

    def places(self, flows: Array) -> Array:
        """All rows of some flows, in order."""
        low, high = (np.searchsorted(self._flows, flows, side) for side in ("left", "right"))
        return np.sort(np.concatenate([self._order[a:b] for a, b in zip(low, high, strict=True)]))


def _all_begin(there: Array, begun: Array) -> bool:
    """True if all packets of the flows behind are arrivals, except copies.

    Args:
        there, begun: the flows of the packets that their point saw, and of its arrivals.
    """
    unique, sightings = np.unique(there, return_counts=True)
    of_start, starts = np.unique(begun, return_counts=True)
    return bool(len(unique) == len(of_start) and (starts >= _WHOLE * sightings).all())


def _keeps_ids(end_rows: Array, start_rows: Array, rows: Fielded, remains: Array) -> bool:
    """True if packets keep IP IDs that are not 0."""
    ids = rows["ip_id"]
    if not ((rows["has"][start_rows] & field.HAS_ID != 0) & (ids[start_rows] != 0)).all():
        return False
    known = np.isin(mixed(remains[start_rows], ids[start_rows]), mixed(remains[end_rows], ids[end_rows]))
    return bool(known.sum() * (DISAGREE + 1) >= len(known) * DISAGREE)


def _in_time(
    ends: Array, end_group: Array, starts: Array, start_group: Array, threshold: int, centred: bool = False
) -> bool:
    """True if arrivals follow departures of their group as unrelated packets would not.

    Args:
        centred: arrivals may come as much before as after.
    """
    order = np.argsort(starts, kind="stable")[:_MANY]
    starts, start_group = starts[order], start_group[order]
    near = (ends >= starts[0] - threshold) & (ends <= starts[-1])
    ends, end_group = ends[near], end_group[near]
    if not len(ends):
        return False
    begin = min(int(ends.min()), int(starts[0]))
    span = int(starts[-1]) - begin + 1
    apart = span + 2 * threshold  # between groups: no departure of one is near an arrival of another
    if (int(start_group.max()) + 1) * apart >= 1 << 62:
        return False
    starts = np.sort(starts - begin + start_group * apart)
    allowed = len(starts) // _LEFT_OVER

    def left_over(within: int, moved: int) -> int:
        moved -= within // 2 if centred else 0
        return int(without_end(np.sort((ends - begin + moved) % span + end_group * apart), starts, np.int64(within)))

    within = float(_SHORTEST_NS)
    while left_over(int(within), 0) > allowed:
        within *= _LONGER
        if within > threshold:
            return False
    gap = max(span / len(ends), 2 * within)
    moves = [int(2 * within + (number + 1) * _GOLDEN * gap) for number in range(_MOVES)]
    return all(left_over(int(_WIDER * within), moved) * _MOVED_LEFT_OVER >= len(starts) for moved in moves)
