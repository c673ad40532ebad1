"""The last step of following: trajectories are numbered by their first sighting, and what each owns is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.trajectories.ranges import Ranges

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Followed:
    """Trajectories in any order.

    `owner` (int32 per row, -1 for none); of n packets `path` (int16), `seen` (int64 n x longest path), `candidates`
    (int32), `basis` (uint8), `ambiguous` (bool); `ranges` of split and merged ones.
    """

    owner: Array
    path: Array
    seen: Array
    candidates: Array
    basis: Array
    ambiguous: Array
    ranges: Ranges

    def __len__(self) -> int:
        return len(self.path)

    def chosen(self, which: Array) -> Followed:
        """Some of them, numbered in the order given; rows of the others belong to none."""
        number = np.full(len(self) + 1, -1, np.int32)  # the last is that of rows without owner
        number[which] = np.arange(len(which), dtype=np.int32)
        path, seen, candidates, basis, ambiguous = (
            column[which] for column in (self.path, self.seen, self.candidates, self.basis, self.ambiguous)
        )
        owner, ranges = number[self.owner], self.ranges.renumbered(number)
        return Followed(owner, path, seen, candidates, basis, ambiguous, ranges)

    def first_row(self) -> Array:
        """int64 per packet: the row of its first sighting."""
        found: Array = self.seen[:, 0].copy()
        later = np.flatnonzero(found < 0)
        found[later] = self.seen[later, np.argmax(self.seen[later] >= 0, axis=1)]
        return found


def in_order(found: Followed) -> Followed:
    """In order of the rows of their first sightings."""
    first_row = found.first_row()
    if (first_row[1:] > first_row[:-1]).all():
        return found
    return found.chosen(_order_of(first_row, len(found.owner)))


def _order_of(first_row: Array, rows: int) -> Array:
    """What puts trajectories in order of their first rows, stable; rows are numbers below `rows`."""
    at = np.full(rows, -1, np.int64)
    at[first_row] = np.arange(len(first_row))
    order = at[at >= 0]
    # Two that begin with one row are rare, and want a sort.
    return order if len(order) == len(first_row) else np.argsort(first_row, kind="stable")


def owned(found: Followed, points: Array) -> tuple[Array, Array]:
    """(observations that each packet owns, further copies of it), int32.

    Copies are the most that any one point saw beyond its visits (RFC 5560 3.4).

    Args:
        points: per row.
    """
    at_positions = np.zeros(len(found), np.int32)
    for position in range(found.seen.shape[1]):
        at_positions += found.seen[:, position] >= 0
    duplicates = np.zeros(len(found), np.int32)
    rows = np.flatnonzero(found.owner >= 0)
    if not len(found.ranges) and at_positions.sum() == len(rows):
        return at_positions, duplicates  # every row owned is a sighting
    sightings = np.bincount(found.owner[rows], minlength=len(found)).astype(np.int32)
    # Copies are among the rows of those that own more rows than they were seen at positions, or are split.
    more = sightings > at_positions
    more[found.ranges.trajectory] = True
    rows = rows[more[found.owner[rows]]]
    owner = found.owner[rows].astype(np.int64)
    extra = ~(found.seen[owner] == rows[:, None]).any(axis=1)
    extra &= ~np.isin(rows, found.ranges.row)  # the parts of a split packet are no copies of it
    width = 1 + int(points.max(initial=0))
    place, copies = np.unique(owner[extra] * width + points[rows[extra]], return_counts=True)
    np.maximum.at(duplicates, place // width, copies.astype(np.int32))
    return sightings, duplicates
