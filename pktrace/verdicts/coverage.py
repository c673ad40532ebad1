"""The coverage of each path position by captures, and the waiting time before a packet counts as lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.trajectories.capture_evidence import FOREVER
from pktrace.trajectories.model import UNSEEN, Trajectories
from pktrace.verdicts.judge import Captures

_WAIT_FACTOR = 10


@dataclass(frozen=True)
class Trust:
    """The coverage by captures (`captures`, judge.py), waiting times and clocks.

    Arrays (paths x positions): `clock_group` (times of equal numbers can be compared); (paths x stages): `wait` in ns,
    `same_clock`, `error_ns`; `window` in ns.
    """

    captures: Captures
    wait: np.ndarray[Any, Any]
    same_clock: np.ndarray[Any, Any]
    error_ns: np.ndarray[Any, Any]
    clock_group: np.ndarray[Any, Any]
    window: tuple[int, int]

    @property
    def end(self) -> np.ndarray[Any, Any]:
        """int64 (paths x positions): when the captures end, on the clock of the path's group, ns."""
        return self.captures.end

    @property
    def incomplete(self) -> np.ndarray[Any, Any]:
        """bool (paths x positions): the captures missed packets."""
        return self.captures.incomplete


def _captures(trajectories: Trajectories) -> Captures:
    run, reach = trajectories.run, trajectories.reach
    shape = (max(1, len(run.paths)), trajectories.seen.shape[1])
    start, end = np.full(shape, FOREVER), np.full(shape, -FOREVER)
    incomplete, cut = np.zeros(shape, bool), np.zeros(shape, bool)
    first, behind = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    bounded = np.flatnonzero(reach.outages.bounded)
    outages = [reach.outages.of_point(int(point)) for point in bounded]
    place = np.cumsum([0, *(len(begin) for begin, _ in outages)])
    for number, path in enumerate(run.paths):
        for position, point in enumerate(path.points):
            start[number, position] = reach.start[point]
            end[number, position] = reach.end[point]
            incomplete[number, position] = reach.incomplete[point]
            cut[number, position] = trajectories.observations.coverage[point].cut
            for at in np.flatnonzero(bounded == point):
                first[number, position], behind[number, position] = place[at], place[at + 1]
    nothing = np.zeros(0, np.int64)
    begin, latest = (np.concatenate([nothing, *(times[side] for times in outages)]) for side in (0, 1))
    return Captures(start, end, incomplete, cut, first, behind, begin, latest)


def trust_in_captures(trajectories: Trajectories) -> Trust:
    """The coverage by captures, position by position.

    The wait of a stage is min(loss threshold, 10 x the largest delay of certain packets); the threshold without any.
    """
    run = trajectories.run
    width = trajectories.seen.shape[1]
    shape = (max(1, len(run.paths)), width)
    group = np.zeros(shape, np.int64)
    wait = np.full((shape[0], width + 1), np.int64(run.threshold_ns))
    same_clock = np.ones((shape[0], width + 1), bool)
    error = np.zeros((shape[0], width + 1), np.int64)
    for number, path in enumerate(run.paths):
        for position, point in enumerate(path.points):
            group[number, position] = trajectories.clocks.group[point]
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
    return Trust(_captures(trajectories), wait, same_clock, error, group, window)


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
