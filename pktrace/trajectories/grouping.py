"""Rows with equal keys get one number, in the order in which the keys first appear; and members of groups in order of
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.identity import found_among, groups_of
from pktrace.trajectories.grouping_kernel import FREE, count_before, number_keys, put_in_groups

Array = np.ndarray[Any, Any]
_FIRST_SIZE = 1 << 12


class Groups:
    """Numbers of the keys of many rows, which are added piece by piece.

    `group` (int32 per row) is the number of the row's key, -1 for rows that are not followed; `count` is the number of
    keys.
    """

    def __init__(self, rows: int) -> None:
        self.group = np.empty(rows, np.int32)
        self.count = 0
        self._key_of = np.empty(rows, np.uint64)
        self._places = np.full(_FIRST_SIZE, -1, np.int32)
        self._entered = 0

    def add(self, keys: Array, paths: Array, first: int, last: int) -> None:
        """Number the keys of rows [first, last); keys and paths cover all rows."""
        row = first
        while True:
            row, count = number_keys(
                keys, paths, np.int64(row), np.int64(last), self._places, self._key_of, np.int64(self._entered),
                np.int64(self.count), self.group,
            )  # fmt: skip
            self.count = self._entered = int(count)
            if row >= last:
                return
            # The table grows by a factor of eight, so the keys that are entered again are few beside the new ones.
            self._places = np.full(min(8 * len(self._places), _size_for(len(keys))), -1, np.int32)
            self._entered = 0


def grouped(keys: Array, paths: Array) -> Groups:
    """The groups of all rows at once."""
    groups = Groups(len(keys))
    groups.add(keys, paths, 0, len(keys))
    return groups


@dataclass(frozen=True)
class InOrder:
    """Members of numbered groups, in order of group and time.

    `members` are their numbers (int64), `times` their times (int64); `begins` per group, and once more, is the number
    of members in the groups before it.
    """

    members: Array
    times: Array
    begins: Array

    @classmethod
    def of(cls, group: Array, times: Array, groups: int) -> InOrder:
        """From the group (int64, below `groups`) and the time of each member; members with both equal stay in order."""
        begins = np.zeros(groups + 1, np.int64)
        np.cumsum(np.bincount(group, minlength=groups), out=begins[1:])
        members = np.empty(len(group), np.int64)
        put_in_groups(group, np.argsort(times, kind="stable"), begins[:-1].copy(), members)
        return cls(members, times[members], begins)

    def before(self, group: Array, times: Array, or_equal: bool = False) -> Array:
        """Per time, the number of members before it in this group (or at it, with `or_equal`), plus those of all groups
        before.
        """
        found = np.empty(len(group), np.int64)
        count_before(group, np.ascontiguousarray(times), self.begins, self.times, or_equal, found)
        return found


def in_order_of(group: Array, times: Array) -> Array:
    """Members in order of group and time, as `np.lexsort((times, group))` has them, for groups with low numbers."""
    return InOrder.of(group, times, int(group.max(initial=-1)) + 1).members


def each_between(low: Array, high: Array) -> tuple[Array, Array]:
    """Every place from low up to high of each span: the number of its span, and the place."""
    many = np.maximum(high - low, 0)
    span = np.repeat(np.arange(len(many)), many)
    return span, np.repeat(low - (np.cumsum(many) - many), many) + np.arange(len(span))


def tallied(values: Array) -> tuple[Array, Array]:
    """The distinct values, and the number of occurrences of each."""
    first, number = groups_of(values)
    return values[first], np.bincount(number)


def looked_up(wanted: Array, keys: Array, values: Array) -> Array:
    """The value of each wanted key, 0 for a key that is not among the keys."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    place = found_among(wanted, keys)
    found: Array = np.where(place >= 0, values[place], 0)
    return found


def counted(values: Array, wanted: Array) -> Array:
    """The number of occurrences of each wanted value among the values."""
    return looked_up(wanted, *tallied(values))


def _size_for(rows: int) -> int:
    """The number of places that is enough for one key per row."""
    return max(2 * _FIRST_SIZE, 1 << (FREE * rows + FREE).bit_length())
