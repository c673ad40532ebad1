"""What each point's captures can prove: the time that they cover, and whether they missed packets in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.observations.coverage import Coverage
from pktrace.run.model import Run
from pktrace.trajectories.clock_model import Clocks
from pktrace.trajectories.paths import not_all_along

Array = np.ndarray[Any, Any]
FOREVER = np.int64((1 << 62) - 1)


@dataclass(frozen=True)
class Reach:
    """Per point, times on the clock of the first point: `start` and `end` of what its captures cover; `missed`, how
    many certain packets it provably missed in that time; `incomplete`, it missed packets or says that it dropped
    some; `unknown`, it does not say."""

    start: Array
    end: Array
    missed: Array
    incomplete: Array
    unknown: Array


def reach_of(run: Run, coverage: tuple[Coverage, ...], clocks: Clocks) -> Reach:
    """What the captures say of themselves.

    A capture runs from its statistics' start to their end, else from its first to its last packet; the window of
    run.toml widens that, since every point captured all through it, except where a file is damaged. A capture without
    packets saw nothing in that time; without statistics and window nobody knows when it ran, and it proves nothing: it
    may be that of a tool with a wrong filter, or one that was started too late. Damaged files alone prove nothing.
    """
    start = np.full(len(run.points), FOREVER)
    end = np.full(len(run.points), -FOREVER)
    for point, cover in enumerate(coverage):
        offset = int(clocks.offset_ns[point])
        first = [] if cover.start_ns is None else [cover.start_ns - offset]
        step = 0 if clocks.steps is None else int(clocks.steps.last_ns[point])
        last = [] if cover.end_ns is None else [cover.end_ns - offset - step]
        if run.window is not None:
            first.append(run.window[0])
            last += [] if cover.cut else [run.window[1]]
        if cover.cut and not cover.packets and cover.end_ns is None:
            start[point] = end[point] = -FOREVER  # whatever is asked of it lies behind its end
        elif first and last:
            start[point] = max(-int(FOREVER), min(first))
            end[point] = min(int(FOREVER), max(last))
    return Reach(
        start=start,
        end=end,
        missed=np.zeros(len(run.points), np.int64),
        incomplete=np.array([cover.incomplete for cover in coverage], bool),
        unknown=np.array([cover.dropped is None for cover in coverage], bool),
    )


def with_proven_misses(reach: Reach, run: Run, times: Array, seen: Array, path_of: Array) -> Reach:
    """The same with what certain packets prove: one that was seen before and after a point, which was capturing at
    that time and has not seen it, was missed there (RFC 5644 6.2.5). So absence there proves nothing any more.

    Args:
        times: int64 per row, aligned; seen: rows of certain packets by position, -1 where not seen; path_of: int16.
    """
    missed = np.zeros(len(run.points), np.int64)
    some = not_all_along(run, seen, path_of)
    seen, path_of = seen[some], path_of[some]
    for number, path in enumerate(run.paths):
        mine = seen[path_of == number][:, : len(path.points)]
        if len(mine) == 0:
            continue
        there = mine >= 0
        in_detour = there[:, path.detour_first : path.detour_last + 1].any(axis=1) if path.has_detour else None
        before = there[:, 0].copy()  # whether it was seen before the position
        for position in range(1, len(path.points) - 1):
            point = path.points[position]
            passed = before & ~there[:, position]
            if in_detour is not None and path.detour_first <= position <= path.detour_last:
                passed &= in_detour  # else it may have gone over the bypass
            before |= there[:, position]
            unseen = np.flatnonzero(passed)
            unseen = unseen[there[unseen, position + 1 :].any(axis=1)]
            if not len(unseen):
                continue
            at, known = times[np.maximum(mine[unseen], 0)], there[unseen]
            left = np.where(known, at, -FOREVER)[:, :position].max(axis=1)
            came = np.where(known, at, FOREVER)[:, position + 1 :].min(axis=1)
            missed[point] += int(((left >= reach.start[point]) & (came <= reach.end[point])).sum())
    return Reach(reach.start, reach.end, missed, reach.incomplete | (missed > 0), reach.unknown)
