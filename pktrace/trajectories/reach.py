"""What each point's captures can prove: the time that they cover, and whether they missed packets in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.observations.coverage import Coverage
from pktrace.run.model import Run
from pktrace.trajectories.clock_model import Clocks

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
    run.toml widens that, since every point captured all through it, except where a file is damaged.
    """
    start = np.full(len(run.points), FOREVER)
    end = np.full(len(run.points), -FOREVER)
    for point, cover in enumerate(coverage):
        offset = int(clocks.offset_ns[point])
        first = [] if cover.start_ns is None else [cover.start_ns - offset]
        last = [] if cover.end_ns is None else [cover.end_ns - offset]
        if run.window is not None:
            first.append(run.window[0])
            last += [] if cover.cut else [run.window[1]]
        if first and last:
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
    for number, path in enumerate(run.paths):
        mine = seen[path_of == number][:, : len(path.points)]
        if len(mine) == 0:
            continue
        at = np.where(mine >= 0, times[np.maximum(mine, 0)], FOREVER)
        in_detour = (mine[:, path.detour_first : path.detour_last + 1] >= 0).any(axis=1)
        for position in range(1, len(path.points) - 1):
            point = path.points[position]
            before, after = mine[:, :position] >= 0, mine[:, position + 1 :] >= 0
            passed = before.any(axis=1) & after.any(axis=1) & (mine[:, position] < 0)
            if path.has_detour and path.detour_first <= position <= path.detour_last:
                passed &= in_detour  # else it may have gone over the bypass
            left = np.where(before, at[:, :position], -FOREVER).max(axis=1, initial=-FOREVER)
            came = np.where(after, at[:, position + 1 :], FOREVER).min(axis=1, initial=FOREVER)
            passed &= (left >= reach.start[point]) & (came <= reach.end[point])
            missed[point] += int(passed.sum())
    return Reach(reach.start, reach.end, missed, reach.incomplete | (missed > 0), reach.unknown)
