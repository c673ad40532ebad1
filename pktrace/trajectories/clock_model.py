"""The clocks of the points, with the offsets that certain matches give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace import clocks as clock_arithmetic
from pktrace.run.model import Run
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.grouping import Groups

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Clocks:
    """Offset of each point's clock against that of the first point of its group, ns."""

    offset_ns: Array  # int64 per point
    clock: Array  # int64 per point: points with equal numbers share a clock
    group: Array  # int64 per point: times of points with equal numbers can be compared once offsets are removed


def align_clocks(run: Run, columns: Columns, groups: Groups) -> Clocks:
    """Offsets between the clocks of the points, from keys that each point saw at most once."""
    names = sorted({point.clock for point in run.points}, key=[p.clock for p in run.points].index)
    clock = np.array([names.index(point.clock) for point in run.points], np.int64)
    if len(names) == 1:
        zeros = np.zeros(len(run.points), np.int64)
        return Clocks(zeros, clock, zeros)
    at = {point: _seen_once(columns, groups, point) for path in run.paths for point in path.points}
    forward: dict[tuple[int, int], list[Array]] = {}
    for number, path in enumerate(run.paths):
        pairs = list(zip(path.points, path.points[1:], strict=False))
        if path.has_detour:
            pairs.append((path.points[path.filter_input], path.points[path.detour_last + 1]))
        for a, b in pairs:
            if clock[a] != clock[b]:
                found = _differences(columns, at[a], at[b], number)
                forward.setdefault((int(clock[a]), int(clock[b])), []).append(found)
    links: dict[tuple[int, int], int] = {}
    empty = [np.zeros(0, np.int64)]
    for a, b in sorted({(min(pair), max(pair)) for pair in forward}):
        offset = clock_arithmetic.offset_between(
            np.concatenate(forward.get((a, b), empty)), np.concatenate(forward.get((b, a), empty))
        )
        if offset is not None:
            links[a, b] = offset
    offsets, comparable = clock_arithmetic.chain(len(names), links)
    return Clocks(np.array(offsets, np.int64)[clock], clock, np.array(comparable, np.int64)[clock])


def _seen_once(columns: Columns, groups: Groups, point: int) -> Array:
    """int64 per group: its row at the point, -1 where the point saw it not once."""
    rows = np.flatnonzero((columns.points == point) & (groups.group >= 0))
    mine = groups.group[rows]
    found = np.full(groups.count, -1, np.int64)
    found[mine] = rows
    found[np.bincount(mine, minlength=groups.count) > 1] = -1
    return found


def _differences(columns: Columns, a: Array, b: Array, path: int) -> Array:
    """t_b - t_a of the packets of a path that both points saw exactly once."""
    both = np.flatnonzero((a >= 0) & (b >= 0))
    row_a, row_b = a[both], b[both]
    mine = (columns.paths[row_a] == path) & (columns.paths[row_b] == path)
    difference: Array = columns.times[row_b[mine]] - columns.times[row_a[mine]]
    return difference
