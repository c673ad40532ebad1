"""Silences of a point that are much longer than its usual gaps, with the packets that its neighbours saw meanwhile.

A pause is *long* if it lasts at least `LEAST_NS` and more than `TIMES_USUAL` times the bound that 99 % of the point's
gaps stay below; a stream with exponential gaps has such a pause once in e^92 packets. `expected` is the number of
packets that the point would have seen in the pause, had it seen the same share of a neighbour's packets as over the
whole run, at most all of them. Only packets that fit a path are counted. Chance explains 20 and more with a probability
of e^-20, but traffic whose mix changes during a run has the same effect. Neighbours are the next points on a path
without its detour. A point that only lies in detours has no neighbours, since punted packets come when rules match.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pktrace.run.model import Run

TIMES_USUAL = 20
LEAST_NS = 10_000_000
LEAST_GAPS = 20
MOST_SHOWN = 50
EXPECTED_IN_PAUSE = 20

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Pause:
    """A pause from one packet to the next, common times; 99 % of the gaps stay below `usual_ns`."""

    start_ns: int
    end_ns: int
    usual_ns: int
    expected: float


def pauses_of(run: Run, times: list[Array], on_path: list[Array]) -> list[tuple[Pause, ...]]:
    """Long pauses of every point in order of time, the `MOST_SHOWN` longest of each.

    Args:
        times, on_path: int64 per point, sorted, common: times of all its packets, and of its packets that fit a path.
    """
    near = _neighbours(run)
    return [_pauses(times[number], on_path[number], [on_path[other] for other in near[number]]) for number in near]


def _neighbours(run: Run) -> dict[int, list[int]]:
    found: list[set[int]] = [set() for _ in run.points]
    for path in run.paths:
        line = [
            point
            for at, point in enumerate(path.points)
            if not path.has_detour or not path.detour_first <= at <= path.detour_last
        ]
        for a, b in pairwise(line):
            if a != b:
                found[a].add(b)
                found[b].add(a)
    return {number: sorted(points) for number, points in enumerate(found)}


def _pauses(times: Array, on_path: Array, near: list[Array]) -> tuple[Pause, ...]:
    gaps = np.diff(times)
    if len(gaps) < LEAST_GAPS:
        return ()
    usual = int(np.percentile(gaps, 99, method="higher"))
    long = np.flatnonzero(gaps > max(TIMES_USUAL * usual, LEAST_NS))
    long = np.sort(long[np.argsort(-gaps[long], kind="stable")[:MOST_SHOWN]])
    starts, ends = times[long], times[long + 1]
    expected = np.zeros(len(long))
    for other in near:
        both = (other >= times[0]) & (other <= times[-1])
        if not both.any():
            continue
        inside = np.searchsorted(other, ends, "left") - np.searchsorted(other, starts, "right")
        # The usual share comes from the packets outside of the pauses; the packets inside are in question.
        outside = max(1, int(both.sum()) - int(inside.sum()))
        # At most one packet here per packet there: few packets of a neighbour cannot make many expected.
        expected = np.maximum(expected, inside * min(1.0, len(on_path) / outside))
    return tuple(
        Pause(int(start), int(end), usual, round(float(value), 1))
        for start, end, value in zip(starts, ends, expected, strict=True)
    )
