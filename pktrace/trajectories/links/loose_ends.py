"""Loose ends: departures, last sightings before the end of a path, and arrivals, first sightings behind its beginning.

An arrival is also a sighting that fits no path. Evidence that departures became arrivals: flow_evidence.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pktrace.run.model import Run
from pktrace.trajectories.capture_evidence import CaptureEvidence
from pktrace.trajectories.paths import not_all_along, visits

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LooseEnds:
    """Departures and arrivals as row numbers. Departures also have their trajectory, path and last position."""

    end_rows: Array
    end_trajectories: Array
    end_path: Array
    end_position: Array
    start_rows: Array

    def rows_of(self, owner: Array, members: Array) -> Array:
        """bool per row: it belongs to a trajectory with a loose end here, or to none."""
        begun = owner[self.start_rows]
        found: Array = np.isin(owner, np.concatenate([self.end_trajectories, begun[begun >= 0]]))
        found[members[owner[members] < 0]] = True
        return found

    def without(self, trajectories: Array, rows: Array) -> LooseEnds:
        """The same without the departures of some trajectories and the arrivals at some rows."""
        ends = ~np.isin(self.end_trajectories, trajectories)
        starts = ~np.isin(self.start_rows, rows)
        return replace(self.only(ends), start_rows=self.start_rows[starts])

    def only(self, ends: Array) -> LooseEnds:
        """The same with some of the departures, by number or mask."""
        if ends.dtype == np.bool_ and ends.all():
            return self
        return LooseEnds(
            self.end_rows[ends], self.end_trajectories[ends], self.end_path[ends], self.end_position[ends],
            self.start_rows,
        )  # fmt: skip


def loose_ends_of(run: Run, rows: Array, members: Array, owner: Array, seen: Array, path_of: Array) -> LooseEnds:
    """The departures before the end of their path, and the arrivals behind the beginning of one."""
    some = not_all_along(run, seen, path_of)
    there = seen[some] >= 0
    lengths = np.array([len(path.points) for path in run.paths], np.int64)[path_of[some]]
    last = seen.shape[1] - 1 - np.argmax(there[:, ::-1], axis=1)
    first = np.argmax(there, axis=1)
    ended, late = last < lengths - 1, first > 0
    ends, last = some[ended], last[ended]
    begun, first = some[late], first[late]
    unplaced = members[owner[members] < 0]
    # At the point that saw such bytes first, each sighting begins a packet (members are in order of identity, then
    # time).
    first_of = np.ones(len(unplaced), bool)
    first_of[1:] = rows["identity"][unplaced[1:]] != rows["identity"][unplaced[:-1]]
    point = rows["point"][unplaced]
    new = point == point[first_of][np.cumsum(first_of) - 1]
    return LooseEnds(
        end_rows=seen[ends, last],
        end_trajectories=ends,
        end_path=path_of[ends].astype(np.int64),
        end_position=last,
        start_rows=np.concatenate([seen[begun, first], unplaced[new]]),
    )


def begins_unseen(found: LooseEnds, run: Run, rows: Array, times: Array, paths: Array, reach: CaptureEvidence) -> Array:
    """bool per arrival: no point before it on its path was capturing at its time, except points that missed packets.

    Args:
        paths: int16 per row.
    """
    unseen = np.ones(len(found.start_rows), bool)
    path, point, at = paths[found.start_rows], rows["point"][found.start_rows], times[found.start_rows]
    table = visits(run)
    position = table[np.maximum(path, 0), point].max(axis=1)
    for number, way in enumerate(run.paths):
        for before, other in enumerate(way.points):
            there = (at >= reach.start[other]) & (at <= reach.end[other]) & ~reach.incomplete[other]
            unseen &= ~((path == number) & (before < position) & there)
    return unseen
