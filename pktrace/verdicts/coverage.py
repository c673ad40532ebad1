"""How far the captures of each path position can be trusted, and how long to wait before a packet counts as lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.trajectories.model import UNSEEN, Trajectories
from pktrace.trajectories.reach import FOREVER

_WAIT_FACTOR = 10


@dataclass(frozen=True)
class Trust:
    """Arrays (paths x positions): `start`, `end` of the captures on the clock of the path's group, `incomplete` (the
    capture missed packets), `cut` (a file is damaged), `clock_group` (times of equal numbers can be compared);
    (paths x stages): `wait` in ns, `same_clock`, `error_ns`; `window` in ns."""

    start: np.ndarray[Any, Any]
    end: np.ndarray[Any, Any]
    incomplete: np.ndarray[Any, Any]
    cut: np.ndarray[Any, Any]
    wait: np.ndarray[Any, Any]
    same_clock: np.ndarray[Any, Any]
    error_ns: np.ndarray[Any, Any]
    clock_group: np.ndarray[Any, Any]
    window: tuple[int, int]


def trust_in_captures(trajectories: Trajectories) -> Trust:
    """What the captures cover, position by position.

    The wait of a stage is min(loss threshold, 10 x the largest delay of certain packets); the threshold without any.
    """
    run, reach = trajectories.run, trajectories.reach
    width = trajectories.seen.shape[1]
    shape = (max(1, len(run.paths)), width)
    start = np.full(shape, FOREVER)
    end = np.full(shape, -FOREVER)
    incomplete = np.zeros(shape, bool)
    cut = np.zeros(shape, bool)
    group = np.zeros(shape, np.int64)
    wait = np.full((shape[0], width + 1), np.int64(run.threshold_ns))
    same_clock = np.ones((shape[0], width + 1), bool)
    error = np.zeros((shape[0], width + 1), np.int64)
    for number, path in enumerate(run.paths):
        for position, point in enumerate(path.points):
            start[number, position] = reach.start[point]
            end[number, position] = reach.end[point]
            group[number, position] = trajectories.clocks.group[point]
            incomplete[number, position] = reach.incomplete[point]
            cut[number, position] = trajectories.observations.coverage[point].cut
        mine = (trajectories.path == number) & (trajectories.candidates == 1) & ~trajectories.backwards
        for stage in path.stage_numbers():
            a, b = path.ends_of(stage)
            resolution = [trajectories.observations.coverage[path.points[at]].resolution_ns for at in (a, b)]
            clocks = [trajectories.clocks.clock[path.points[at]] for at in (a, b)]
            same_clock[number, stage] = clocks[0] == clocks[1]
            error[number, stage] = sum(resolution)
            delays = certain_delays(trajectories, mine, a, b)
            if stage == path.bypass:
                inside = trajectories.seen[mine][:, path.detour_first : path.detour_last + 1]
                delays = delays[(inside < 0).all(axis=1)[_both(trajectories, mine, a, b)]]
            if len(delays) and int(delays.max()) > 0:
                wait[number, stage] = min(run.threshold_ns, _WAIT_FACTOR * int(delays.max()))
    window = run.window if run.window is not None else (-int(FOREVER), int(FOREVER))
    return Trust(start, end, incomplete, cut, wait, same_clock, error, group, window)


def _both(trajectories: Trajectories, mine: np.ndarray[Any, Any], a: int, b: int) -> np.ndarray[Any, Any]:
    times = trajectories.first_bytes[mine]
    found: np.ndarray[Any, Any] = (times[:, a] != UNSEEN) & (times[:, b] != UNSEEN)
    return found


def certain_delays(trajectories: Trajectories, mine: np.ndarray[Any, Any], a: int, b: int) -> np.ndarray[Any, Any]:
    """Delays between positions a and b of the chosen packets whose first byte both saw, offsets of clocks removed."""
    times = trajectories.first_bytes[mine]
    both = _both(trajectories, mine, a, b)
    delays: np.ndarray[Any, Any] = times[both, b] - times[both, a]
    return delays
