"""Open sets: sets of sightings with an open position, which joins combine (join_sets.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.identity import among, groups_of, mixed
from pktrace.run.model import Run
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.paths import NOT_FOLLOWED, not_all_along, visits

Array = np.ndarray[Any, Any]
_TAG = np.uint64(0x6A6F696E)  # keeps joined keys apart from all other hashes


@dataclass(frozen=True)
class Sightings:
    """The sightings placed so far.

    `owner` (int32 per row), `seen` (rows by position), `path_of`, `candidates` per packet, `points` (int32), `times`
    (int64, aligned) and `paths` (int16) per row, `clock` (int64 per point, equal if times can be compared).
    """

    owner: Array
    seen: Array
    path_of: Array
    candidates: Array
    points: Array
    times: Array
    paths: Array
    clock: Array


class OpenSets:
    """The sets with an open position: trajectories with a gap, a departure or a late beginning, and single rows.

    `of_row` is the set of every row: the number of an open set, -2 - its trajectory for others, or -1.
    """

    def __init__(self, run: Run, at: Sightings, explained: Array, by_order: bool = False) -> None:
        """Args as for `joins.join_sets`; by_order: include packets that are distinguished by their order only."""
        self._run, self._at = run, at
        trajectories = not_all_along(run, at.seen, at.path_of)
        held = at.seen[trajectories].max(axis=1, initial=-1)
        trajectories = trajectories[(by_order | (at.candidates[trajectories] == 1)) & ~explained[held]]
        single = np.flatnonzero((at.owner < 0) & (at.paths != NOT_FOLLOWED) & ~explained)
        count = len(trajectories)
        number = np.full(len(at.path_of) + 1, -1, np.int64)  # the last entry is for rows without a trajectory
        number[trajectories] = np.arange(count)
        self.of_row = np.where(at.owner >= 0, -2 - at.owner.astype(np.int64), -1)
        self.of_row = np.where(number[at.owner] >= 0, number[at.owner], self.of_row)
        self.of_row[single] = count + np.arange(len(single))
        self.path = np.concatenate([at.path_of[trajectories].astype(np.int64), np.full(len(single), -1)])
        self._root = np.arange(len(self.path))
        self._rows: dict[tuple[int, int, int, bool], Array] = {}
        self.places = [self._on_path(path, trajectories, single) for path in range(len(run.paths))]

    def _on_path(self, path: int, trajectories: Array, single: Array) -> Array:
        """int64 (sets x positions of a path): the row at each position; -1 for none, -2 if it cannot be on the path."""
        at, table = self._at, visits(self._run)[path]
        length, count = len(self._run.paths[path].points), len(trajectories)
        found = np.full((len(self.path), length), -1, np.int64)
        own = at.path_of[trajectories] == path
        found[:count][own] = at.seen[trajectories[own]][:, :length]
        others = np.flatnonzero(~own)
        columns = [(others, at.seen[trajectories[others], position]) for position in range(at.seen.shape[1])]
        for sets, rows in [*columns, (np.arange(count, len(self.path)), single)]:
            sets, rows = sets[rows >= 0], rows[rows >= 0]
            visit = table[at.points[rows]]
            once = (visit[:, 0] >= 0) & (visit[:, 1] < 0)
            found[sets[once], visit[once, 0]] = rows[once]
            found[sets[~once]] = -2
        found[(found == -2).any(axis=1)] = -2
        return found

    def rows(self, path: int, position: int, open_at: int, of_path: bool) -> Array:
        """Sightings at a position, from sets that are open at another.

        Args:
            of_path: only trajectories of this very path.
        """
        asked = path, position, open_at, of_path
        if asked not in self._rows:
            places = self.places[path]
            fits = (places[:, position] >= 0) & (places[:, open_at] == -1)
            if of_path:
                fits &= self.path == path
            self._rows[asked] = places[fits, position]
        return self._rows[asked]

    def points(self, path: int) -> tuple[int, ...]:
        """The points of a path."""
        return self._run.paths[path].points

    def bounded(self, path: int, i: int, j: int, x: Array, y: Array) -> Array:
        """bool per pair: the set of x goes on behind j, or the set of y begins before i; times bound it on both
        sides.
        """
        places = self.places[path]
        behind = np.any(places[self.set_of(x), j + 1 :] >= 0, axis=1)
        before = np.any(places[self.set_of(y), :i] >= 0, axis=1)
        return np.asarray(behind | before)

    def set_of(self, rows: Array) -> Array:
        """The set of each row, after all joins."""
        sets = self.of_row[rows]
        found: Array = np.where(sets >= 0, self._root[np.maximum(sets, 0)], sets)
        return found

    def join(self, path: int, x: Array, y: Array) -> None:
        """Join the sets of these rows, pair by pair, if the joined set has one row per position and goes forward in
        time.
        """
        one, other = self.set_of(x), self.set_of(y)
        # The first pair of each set counts. A pair is dropped if its left set is the right set of another pair.
        first = np.zeros(len(one), bool)
        first[groups_of(one)[0]] = True
        again = np.zeros(len(one), bool)
        again[groups_of(other)[0]] = True
        chosen = first & again & ~among(one, other) & (one >= 0) & (other >= 0)
        one, other = one[chosen], other[chosen]
        places = self.places[path]
        left, right = places[one], places[other]
        joined = np.maximum(left, right)
        fits = ((left == -1) | (right == -1)).all(axis=1) & (joined >= -1).all(axis=1)
        fits &= self._goes_forward(path, joined)
        one, other = one[fits], other[fits]
        if len(one):
            self._rows.clear()
        for number, other_places in enumerate(self.places):
            if number != path:
                other_places[one] = -2
            other_places[other] = -2
        places[one] = joined[fits]
        self.path[one] = path
        self._root[other] = one
        self._root = self._root[self._root]

    def _goes_forward(self, path: int, joined: Array) -> Array:
        """bool per set: on each clock it goes from position to position, in no more than the loss threshold."""
        at, points = self._at, self._run.paths[path].points
        found = np.ones(len(joined), bool)
        clocks = at.clock[list(points)]
        for clock in np.unique(clocks):
            before = np.full(len(joined), np.iinfo(np.int64).min // 2)
            for position in np.flatnonzero(clocks == clock):
                there = joined[:, position] >= 0
                time = at.times[np.maximum(joined[:, position], 0)]
                known = before > np.iinfo(np.int64).min // 2
                found &= ~(there & known) | ((time >= before - EARLY_NS) & (time - before <= self._run.threshold_ns))
                before = np.where(there, time, before)
        return found

    def joined(self) -> tuple[Array, Array]:
        """Rows of all sets that joined, and their new keys."""
        size = np.bincount(self._root, minlength=len(self._root))
        rows = np.flatnonzero(self.of_row >= 0)
        root = self._root[self.of_row[rows]]
        mine = size[root] > 1
        rows, root = rows[mine], root[mine]
        if not len(rows):
            return rows, np.zeros(0, np.uint64)
        first, number = groups_of(root)
        return rows, mixed(rows[first][number], np.full(len(rows), _TAG))
