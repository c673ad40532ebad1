"""The last step of following: number trajectories by their first sighting, and count the observations of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.trajectories.reassembly.byte_ranges import Ranges

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Followed:
    """Trajectories in any order.

    `owner` (int32 per row, -1 for none); for n packets `path` (int16), `seen` (int64 n x longest path), `candidates`
    (int32), `basis` (uint8), `ambiguous` and `unsure` (bool); `ranges`: the byte ranges of split and merged packets.
    """

    owner: Array
    path: Array
    seen: Array
    candidates: Array
    basis: Array
    ambiguous: Array
    unsure: Array
    ranges: Ranges

    def __len__(self) -> int:
        return len(self.path)

    def chosen(self, which: Array) -> Followed:
        """The chosen trajectories, numbered in the order of `which`; rows of the others have no owner."""
        number = np.full(len(self) + 1, -1, np.int32)  # the last entry is for rows without owner
        number[which] = np.arange(len(which), dtype=np.int32)
        columns = (self.path, self.seen, self.candidates, self.basis, self.ambiguous, self.unsure)
        path, seen, candidates, basis, ambiguous, unsure = (column[which] for column in columns)
        owner, ranges = number[self.owner], self.ranges.renumbered(number)
        return Followed(owner, path, seen, candidates, basis, ambiguous, unsure, ranges)

    def first_row(self) -> Array:
        """int64 per packet: the row of its first sighting."""
        found: Array = self.seen[:, 0].copy()
        later = np.flatnonzero(found < 0)
        found[later] = self.seen[later, np.argmax(self.seen[later] >= 0, axis=1)]
        return found


def in_order(found: Followed) -> Followed:
    """The trajectories in order of the rows of their first sightings."""
    first_row = found.first_row()
    if (first_row[1:] > first_row[:-1]).all():
        return found
    return found.chosen(_order_of(first_row, len(found.owner)))


def _order_of(first_row: Array, rows: int) -> Array:
    """The order of trajectories by their first rows, stable; row numbers are below `rows`."""
    at = np.full(rows, -1, np.int64)
    at[first_row] = np.arange(len(first_row))
    order = at[at >= 0]
    # Two trajectories with one first row are rare, and need a sort.
    return order if len(order) == len(first_row) else np.argsort(first_row, kind="stable")


def further_rows(owner: Array, seen: Array, ranges: Ranges) -> Array:
    """Rows of further sightings: copies of a packet at a position where it was seen already, in order."""
    if not len(ranges) and np.count_nonzero(seen >= 0) == np.count_nonzero(owner >= 0):
        return np.zeros(0, np.int64)  # every row owned is a sighting
    at_positions = _positions_seen(seen)
    rows = np.flatnonzero(owner >= 0)
    # Copies belong to packets that own more rows than positions with a sighting, or that are split.
    more = np.bincount(owner[rows], minlength=len(seen)) > at_positions
    more[ranges.trajectory] = True
    rows = rows[more[owner[rows]]]
    extra = ~(seen[owner[rows]] == rows[:, None]).any(axis=1)
    extra &= ~np.isin(rows, ranges.row)  # the parts of a split packet are no copies
    found: Array = rows[extra]
    return found


def _positions_seen(seen: Array) -> Array:
    """int32 per packet: the number of positions with a sighting."""
    found = np.zeros(len(seen), np.int32)
    for position in range(seen.shape[1]):
        found += seen[:, position] >= 0
    return found


def owned(found: Followed, points: Array) -> tuple[Array, Array]:
    """(observations of each packet, further copies among them), int32.

    Copies are the most that any one point saw beyond its visits (RFC 5560 3.4).

    Args:
        points: per row.
    """
    duplicates = np.zeros(len(found), np.int32)
    extra = further_rows(found.owner, found.seen, found.ranges)
    if not len(extra) and not len(found.ranges):
        return _positions_seen(found.seen), duplicates
    sightings = np.bincount(found.owner[found.owner >= 0], minlength=len(found)).astype(np.int32)
    width = 1 + int(points.max(initial=0))
    place, copies = np.unique(found.owner[extra].astype(np.int64) * width + points[extra], return_counts=True)
    np.maximum.at(duplicates, place // width, copies.astype(np.int32))
    return sightings, duplicates
