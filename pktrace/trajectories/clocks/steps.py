"""Clock steps: clocks that were set in mid-run, found by the packets that two points saw.

Rule: between two points the difference of the time stamps of certain packets stays about the same. One of the two
clocks was set if the difference jumps by a second and more, stays there for at least 3 packets, and varies by less than
a quarter of the jump on either side. Packets of both directions have to show it: a queue holds back only one direction.
Without packets of the other direction, 20 have to stand on either side, and vary by less than a hundredth of the jump.
The step is assigned to the clock of the later point, in the order in which points are reached from the first one. Its
later times are brought back to the clock before the step.
Bound: a queue that holds 20 packets for a second longer from one packet on, and all for the same time, looks the same.
Jumps below a second are not looked for. The data cannot show which of two clocks was set, so no latency is measured
between them. Clocks of different speed: drift.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.run.model import Run
from pktrace.trajectories.clocks.drift import drift_of
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.grouping import Groups

Array = np.ndarray[Any, Any]
SHORTEST_NS = 1_000_000_000
_FEWEST = 3
_EACH_WAY = 2  # packets of each direction on either side of a jump; or, in one direction:
_FEWEST_ONE_WAY, _STEADY = 20, 100
_JITTER = 4  # a jump is so many times the variation of the difference beside it
_SAMPLE = 1 << 12  # packets


@dataclass(frozen=True)
class Step:
    """A point whose clock was set: the jump, ns, and the number of packets that show it behind the jump."""

    point: int
    jump_ns: int
    packets: int


@dataclass(frozen=True)
class Drift:
    """A point whose clock gains on its neighbour's, in millionths, and the number of packets that show it."""

    point: int
    ppm: float
    packets: int


@dataclass(frozen=True)
class Steps:
    """All steps and drifts. `correction_ns`, int64 per row, is to be subtracted from times; `last_ns` is the correction
    per point at the end.
    """

    steps: tuple[Step, ...]
    correction_ns: Array
    last_ns: Array
    drifts: tuple[Drift, ...] = ()

    @property
    def points(self) -> set[int]:
        """Points whose clocks were set, or gain on others."""
        return {step.point for step in self.steps} | {drift.point for drift in self.drifts}


def clock_steps(run: Run, rows: Array, columns: Columns, groups: Groups) -> Steps | None:
    """The steps of all clocks, point by point from the first one; None if there are none."""
    once = seen_once(run, columns, *sample_of(groups, _SAMPLE))
    times = columns.times
    found: list[Step] = []
    drifts: list[Drift] = []
    correction = np.zeros(len(times) if len(run.points) > 1 else 0, np.int64)
    last = np.zeros(len(run.points), np.int64)
    for a, b in _links(run):
        both = np.flatnonzero((once[a] >= 0) & (once[b] >= 0))
        if len(both) < 2 * _FEWEST:
            continue
        row_a, row_b = once[a][both], once[b][both]
        order = np.lexsort((rows["frame"][row_b], rows["capture"][row_b]))
        row_a, row_b = row_a[order], row_b[order]
        there = _goes_there(run, columns.paths[row_a], a, b)
        sent, came = (times[row] - correction[row] for row in (row_a, row_b))
        jumps = list(_jumps(came - sent, there))
        for end, begin, jump in jumps:
            here = np.flatnonzero(columns.points == b)
            here = here[np.lexsort((rows["frame"][here], rows["capture"][here]))]
            low, high = (int(np.flatnonzero(here == row)[0]) for row in (row_b[end], row_b[begin]))
            # The stamps of the file itself show the two packets between which the clock was set.
            difference = np.diff(times[here[low : high + 1]]) * np.sign(jump)
            correction[here[low + 1 + int(np.argmax(difference)) :]] += jump
            last[b] += jump
            found.append(Step(b, int(jump), len(row_b) - begin))
        came = times[row_b] - correction[row_b]
        gained = drift_of(sent, came - sent, there)
        if gained is not None:
            here = np.flatnonzero(columns.points == b)
            at, begin_ns = times[here] - correction[here], int(came.min())
            correction[here] += (gained * (at - begin_ns)).astype(np.int64)
            last[b] += int(gained * (int(at.max()) - begin_ns))
            drifts.append(Drift(b, round(gained * 1e6, 3), len(row_b)))
    if not found and not drifts:
        return None
    return Steps(tuple(found), correction, last, tuple(drifts))


def sample_of(groups: Groups, most: int) -> tuple[Array, Array, int]:
    """Rows of about `most` packets and more, their packets' numbers, and the count of these numbers."""
    step = 1 << (groups.count // most).bit_length()
    rows = np.flatnonzero((groups.group & np.int32(step - 1)) == 0)
    rows = rows[groups.group[rows] >= 0]
    return rows, groups.group[rows] // step, 1 + groups.count // step


def seen_once(run: Run, columns: Columns, rows: Array, numbers: Array, count: int) -> dict[int, Array]:
    """By point of the paths, int64 per number: its row at the point, -1 if it has none or several there.

    Args:
        numbers: per row, of packets, below `count`.
    """
    found = {}
    points = columns.points[rows]
    for point in sorted({point for path in run.paths for point in path.points}):
        there = points == point
        mine = numbers[there]
        one = np.full(count, -1, np.int64)
        one[mine] = rows[there]
        one[np.bincount(mine, minlength=count) > 1] = -1
        found[point] = one
    return found


def _links(run: Run) -> Iterator[tuple[int, int]]:
    """Pairs of points: each point but the first ones, after a neighbour on some path that was reached before it."""
    neighbours: dict[int, set[int]] = {}
    for path in run.paths:
        for a, b in itertools.pairwise(path.points):
            if a != b:
                neighbours.setdefault(a, set()).add(b)
                neighbours.setdefault(b, set()).add(a)
    reached: set[int] = set()
    for first in sorted(neighbours):
        waiting = [] if first in reached else [first]
        reached.add(first)
        while waiting:
            a = waiting.pop(0)
            for b in sorted(neighbours[a] - reached):
                reached.add(b)
                waiting.append(b)
                yield a, b


def _goes_there(run: Run, paths: Array, a: int, b: int) -> Array:
    """bool per packet: its path comes to a before b."""
    there = [
        a in path.points and b in path.points and path.points.index(a) < path.points.index(b) for path in run.paths
    ]
    found: Array = np.array([*there, False])[paths]  # the last entry is for packets without a path
    return found


def _jumps(difference: Array, there: Array) -> Iterator[tuple[int, int, int]]:
    """(last packet before, first packet behind, jump in ns) of each step; single late packets are no step."""
    far = np.flatnonzero(np.abs(np.diff(difference)) >= SHORTEST_NS)
    if not len(far):
        return
    bounds = np.concatenate([[0], far + 1, [len(difference)]])
    levels = [(a, b) for a, b in itertools.pairwise(bounds.tolist()) if b - a >= _FEWEST]
    # Nearly all packets lie on some level. Otherwise the differences jump to and fro, and no clock was set.
    if len(levels) < 2 or sum(b - a for a, b in levels) < 0.9 * len(difference):
        return
    for (a, b), (c, d) in itertools.pairwise(levels):
        before, behind = difference[a:b], difference[c:d]
        jump = int(np.median(behind)) - int(np.median(before))
        spread = max(np.ptp(np.quantile(before, (0.1, 0.9))), np.ptp(np.quantile(behind, (0.1, 0.9))))
        ways = [np.count_nonzero(side == way) for side in (there[a:b], there[c:d]) for way in (False, True)]
        one_way = min(b - a, d - c) >= _FEWEST_ONE_WAY and abs(jump) >= _STEADY * spread
        if abs(jump) >= max(SHORTEST_NS, _JITTER * spread) and (min(ways) >= _EACH_WAY or one_way):
            yield b - 1, c, jump
