"""The clocks of the points, with the offsets that certain matches give."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pktrace import clocks as clock_arithmetic
from pktrace.decode.identity import group_numbers
from pktrace.decode.rows import rows_at
from pktrace.run.model import Run
from pktrace.trajectories.bounds import EARLY_NS, ENOUGH_BYTES
from pktrace.trajectories.clocks.steps import Steps, sample_of, seen_once
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.flows import side_of
from pktrace.trajectories.grouping import Groups
from pktrace.trajectories.paths import NOT_FOLLOWED

Array = np.ndarray[Any, Any]
_SAMPLE = 1 << 16  # packets
_ENOUGH = 3
_MUCH_STEADIER = 4  # times
_ENOUGH_SHORT, _SHORT_NS = 20, 1_000  # so many packets show that points of short stages stand in the wrong order
_TIGHT = 20  # part of the loss threshold within which most differences of two clocks lie
_NEARLY_ALL = 0.9
# No network holds packets for a second and lets none of them go a hundredth sooner: the rest is an offset between
# clocks.
_SHORTEST_OFFSET_NS, _STEADY = 1_000_000_000, 100


@dataclass(frozen=True)
class Contradiction:
    """A stage whose certain packets show that its points do not share a clock, although run.toml says so."""

    path: int
    from_point: int
    to_point: int
    packets: int  # certain ones
    backwards: int  # the certain packets that the second point saw before the first
    late: int  # the certain packets that took longer than the loss threshold, all about as long
    median_ns: int
    disordered: bool = False  # the second point alone saw more packets than the first alone, too


@dataclass(frozen=True)
class Clocks:
    """Offset of each point's clock against the clock of the first point of its group, ns."""

    offset_ns: Array  # int64 per point
    clock: Array  # int64 per point: points with equal numbers share a clock
    group: Array  # int64 per point: times of points with equal numbers can be compared once offsets are removed
    contradictions: tuple[Contradiction, ...] = ()
    steps: Steps | None = None  # of clocks that were set in mid-run

    def aligned(self, rows: Array, which: Array | slice = slice(None)) -> Array:
        """int64 per chosen observation: its time on the clock of its group's first point, as far as that clock is
        known.
        """
        found: Array = rows["ts_ns"][which] - self.offset_ns[rows["point"][which]]
        return found if self.steps is None else found - self.steps.correction_ns[which]


class RewrittenOnce:
    """Packets with 16 payload bytes and more whose payload and one side no other packet has."""

    def __init__(self, run: Run, rows: Array, columns: Columns) -> None:
        self._run, self._rows, self._columns = run, rows, columns

    @cached_property
    def by_side(self) -> list[dict[int, Array]]:
        """As `seen_once`, by the source and by the destination."""
        rows = self._rows
        told = rows["payload_length"] >= ENOUGH_BYTES
        step = 1 << (int(np.count_nonzero(told)) // _SAMPLE).bit_length()
        which = np.flatnonzero(told & (rows["content"] & np.uint64(step - 1) == 0))
        which = which[self._columns.paths[which] != NOT_FOLLOWED]
        some, found = rows_at(rows, which), []
        for side in ("source", "destination"):
            number = group_numbers(some["protocol"], some["payload_length"], some["content"], *side_of(some, side))
            found.append(seen_once(self._run, self._columns, which, number, int(number.max(initial=-1)) + 1))
        return found

    def differences(self, path: int, a: int, b: int) -> list[Array]:
        """t_b - t_a of the packets that point a saw on a path, by either side, if most are nearly equal."""
        found = []
        for seen in self.by_side:
            of_path = (seen[a] >= 0) & (self._columns.paths[seen[a]] == path)
            delays = _differences(self._columns, seen[a][of_path], seen[b][of_path], None)
            if len(delays) >= _ENOUGH_SHORT:
                low, high = np.quantile(delays, (0.1, 0.9))
                found += [delays] if high - low <= self._run.threshold_ns // _TIGHT else []
        return found


def align_clocks(
    run: Run, columns: Columns, groups: Groups, rewritten: RewrittenOnce, steps: Steps | None = None
) -> Clocks:  # fmt: skip
    """Offsets between the clocks of the points, from keys that each point saw at most once.

    Args:
        columns: with times that are corrected for `steps`; a clock that was set counts as a clock of its own;
        rewritten: asked if a box rewrites all packets.

    Packets may contradict a clock that run.toml gives to several points: nearly all come to the second point before the
    first, or all of them a second and more after it, and equally late. The data cannot show which of the points with
    that clock is off. Each of them then counts as having its own clock, except points between which packets go both
    ways in a time that a network can take.
    Two clocks between which packets seem to take so long both ways are not compared: one offset cannot make up for it.
    """
    names = sorted({point.clock for point in run.points}, key=[p.clock for p in run.points].index)
    declared = np.array([names.index(point.clock) for point in run.points], np.int64)
    for point in sorted(steps.points if steps is not None else ()):
        declared[point] = len(names) + point
    declared = np.unique(declared, return_inverse=True)[1].astype(np.int64)
    clock, contradictions = declared, _contradictions(run, columns, groups, declared, rewritten)
    if contradictions:
        clock = _apart(run, columns, groups, declared, contradictions)
    clocks = int(clock.max(initial=0)) + 1
    if clocks == 1:
        zeros = np.zeros(len(run.points), np.int64)
        return Clocks(zeros, clock, zeros, steps=steps)
    at = seen_once(run, columns, *_all_numbered(groups))
    forward: dict[tuple[int, int], list[Array]] = {}
    for number, a, b in _stages(run):
        if clock[a] != clock[b]:
            found = _differences(columns, at[a], at[b], number)
            if len(found) < _ENOUGH:
                found = np.concatenate([found, *rewritten.differences(number, a, b)])
            forward.setdefault((int(clock[a]), int(clock[b])), []).append(found)
    links: dict[tuple[int, int], int] = {}
    empty = [np.zeros(0, np.int64)]
    for a, b in sorted({(min(pair), max(pair)) for pair in forward}):
        there, back = np.concatenate(forward.get((a, b), empty)), np.concatenate(forward.get((b, a), empty))
        offset = clock_arithmetic.offset_between(there, back)
        # The rest after one offset is as long in both directions: no single offset explains it.
        if offset is not None and not (
            len(back) and _is_offset(there - offset, run) and _is_offset(back + offset, run)
        ):
            links[a, b] = offset
    offsets, comparable = clock_arithmetic.chain(clocks, links)
    return Clocks(
        np.array(offsets, np.int64)[clock], clock, np.array(comparable, np.int64)[clock], contradictions, steps
    )


def _stages(run: Run) -> list[tuple[int, int, int]]:
    """(path, point, next point) of every stage, bypasses too."""
    found = []
    for number, path in enumerate(run.paths):
        found += [(number, a, b) for a, b in zip(path.points, path.points[1:], strict=False)]
        if path.has_detour:
            found.append((number, path.points[path.filter_input], path.points[path.detour_last + 1]))
    return found


def _visited_once(run: Run, path: int, a: int, b: int) -> bool:
    points = run.paths[path].points
    return points.count(a) == points.count(b) == 1


def _contradictions(
    run: Run, columns: Columns, groups: Groups, clock: Array, rewritten: RewrittenOnce
) -> tuple[Contradiction, ...]:  # fmt: skip
    """Stages between points of one clock on which nearly all certain packets go backwards in time, or are equally late.

    A sample of the packets is enough: a clock is off for all of them. Points that the path visits twice are left out: a
    single sighting there may be the visit before, or behind, the rest of the path. If a box rewrites all packets, the
    packets of `RewrittenOnce` are asked instead.
    """
    at = seen_once(run, columns, *sample_of(groups, _SAMPLE))
    found = []
    for number, a, b in _stages(run):
        if clock[a] == clock[b] and _visited_once(run, number, a, b):
            delays = _differences(columns, at[a], at[b], number)
            if len(delays) < _ENOUGH and len(run.points) > 1:
                some = [_differences(columns, seen[a], seen[b], None) for seen in rewritten.by_side]
                delays = np.concatenate([one for one in some if _steady(one)] or [delays])
            backwards = int(np.count_nonzero(delays < -EARLY_NS))
            late = len(delays) if _is_offset(delays, run) else 0
            if len(delays) >= _ENOUGH_SHORT and np.median(delays) <= -_SHORT_NS:
                backwards = int(np.count_nonzero(delays < 0))
            if max(backwards, late) >= _ENOUGH and max(backwards, late) >= _NEARLY_ALL * len(delays):
                alone = [
                    int(np.count_nonzero(columns.paths[one[(one >= 0) & (other < 0)]] == number))
                    for one, other in ((at[a], at[b]), (at[b], at[a]))
                ]
                disordered = backwards > late and alone[1] > alone[0]
                median = int(np.median(delays))
                found.append(Contradiction(number, a, b, len(delays), backwards, late, median, disordered))
    return tuple(found)


def _steady(delays: Array) -> bool:
    """True if delays contradict the order of time by about as much each time; delays of strangers vary."""
    if len(delays) < _ENOUGH_SHORT:
        return False
    low, median, high = np.quantile(delays, (0.1, 0.5, 0.9))
    return bool((high - low) * _MUCH_STEADIER <= abs(median) and (median < -EARLY_NS or low > _SHORTEST_OFFSET_NS))


def _is_offset(delays: Array, run: Run) -> bool:
    """True if these delays are beyond the loss threshold and so much alike that they hold an offset between clocks."""
    if len(delays) < _ENOUGH:
        return False
    low, median, high = np.quantile(delays, (0.1, 0.5, 0.9))
    return bool(low > max(run.threshold_ns, _SHORTEST_OFFSET_NS) and (high - low) * _STEADY <= median)


def _apart(
    run: Run, columns: Columns, groups: Groups, clock: Array, contradictions: tuple[Contradiction, ...]
) -> Array:
    """Clock numbers of the points, with a clock of its own for each point whose clock is contradicted."""
    doubted = np.isin(clock, [clock[entry.from_point] for entry in contradictions])
    apart = np.where(doubted, len(run.points) + np.arange(len(run.points)), clock)
    at = seen_once(run, columns, *_all_numbered(groups))
    forwards: dict[tuple[int, int], bool] = {}
    for number, a, b in _stages(run):
        delays = _differences(columns, at[a], at[b], number)
        if len(delays) >= _ENOUGH and _visited_once(run, number, a, b):
            share = 0.0 if _is_offset(delays, run) else np.count_nonzero(delays >= -EARLY_NS) / len(delays)
            forwards[a, b] = forwards.get((a, b), True) and bool(share >= _NEARLY_ALL)
    # Packets that go both ways in a possible time show that two points do share a clock.
    for a, b in sorted(forwards):
        if clock[a] == clock[b] and doubted[a] and forwards[a, b] and forwards.get((b, a), False):
            apart[apart == apart[b]] = apart[a]
    return np.unique(apart, return_inverse=True)[1].astype(np.int64)


def _all_numbered(groups: Groups) -> tuple[Array, Array, int]:
    """All rows with a group, their groups, and the number of groups."""
    rows = np.flatnonzero(groups.group >= 0)
    return rows, groups.group[rows], groups.count


def _differences(columns: Columns, a: Array, b: Array, path: int | None) -> Array:
    """t_b - t_a of the packets of a path, or of all packets, that both points saw exactly once."""
    both = np.flatnonzero((a >= 0) & (b >= 0))
    row_a, row_b = a[both], b[both]
    mine = (columns.paths[row_a] == path) & (columns.paths[row_b] == path) if path is not None else slice(None)
    difference: Array = columns.times[row_b[mine]] - columns.times[row_a[mine]]
    return difference
