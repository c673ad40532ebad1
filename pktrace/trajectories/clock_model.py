"""The clocks of the points, with the offsets that certain matches give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace import clocks as clock_arithmetic
from pktrace.run.model import Run

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Clocks:
    """Offset of each point's clock against that of the first point of its group, ns."""

    offset_ns: Array  # int64 per point
    clock: Array  # int64 per point: points with equal numbers share a clock
    group: Array  # int64 per point: times of points with equal numbers can be compared once offsets are removed


def align_clocks(run: Run, rows: Array, keys: Array, members: Array, paths: Array) -> Clocks:
    """Offsets between the clocks of the points, from keys that each point saw at most once.

    Args:
        keys: uint64 per member; members: row numbers in order of key; paths: int16 per row.
    """
    names = sorted({point.clock for point in run.points}, key=[p.clock for p in run.points].index)
    clock = np.array([names.index(point.clock) for point in run.points], np.int64)
    if len(names) == 1:
        zeros = np.zeros(len(run.points), np.int64)
        return Clocks(zeros, clock, zeros)
    points = rows["point"][members]
    at = {}
    for number in range(len(run.points)):
        mine = np.flatnonzero(points == number)
        mine = mine[_once(keys[mine])]
        at[number] = keys[mine], rows["ts_ns"][members[mine]], paths[members[mine]]
    forward: dict[tuple[int, int], list[Array]] = {}
    for number, path in enumerate(run.paths):
        for a, b in zip(path.points, path.points[1:], strict=False):
            if clock[a] != clock[b]:
                forward.setdefault((int(clock[a]), int(clock[b])), []).append(_differences(at[a], at[b], number))
        if path.has_detour:
            a, b = path.points[path.filter_input], path.points[path.detour_last + 1]
            if clock[a] != clock[b]:
                forward.setdefault((int(clock[a]), int(clock[b])), []).append(_differences(at[a], at[b], number))
    links: dict[tuple[int, int], int] = {}
    empty = [np.zeros(0, np.int64)]
    for a, b in sorted({(min(pair), max(pair)) for pair in forward}):
        offset = clock_arithmetic.offset_between(
            np.concatenate(forward.get((a, b), empty)), np.concatenate(forward.get((b, a), empty))
        )
        if offset is not None:
            links[a, b] = offset
    offsets, groups = clock_arithmetic.chain(len(names), links)
    return Clocks(np.array(offsets, np.int64)[clock], clock, np.array(groups, np.int64)[clock])


def _once(keys: Array) -> Array:
    """bool per key: it occurs once; keys are in order."""
    found = np.ones(len(keys), bool)
    again = keys[1:] == keys[:-1]
    found[1:] &= ~again
    found[:-1] &= ~again
    return found


def _differences(a: tuple[Array, Array, Array], b: tuple[Array, Array, Array], path: int) -> Array:
    """t_b - t_a of the packets of a path that both points saw exactly once."""
    _, index_a, index_b = np.intersect1d(a[0], b[0], assume_unique=True, return_indices=True)
    mine = (a[2][index_a] == path) & (b[2][index_b] == path)
    difference: Array = b[1][index_b[mine]] - a[1][index_a[mine]]
    return difference
