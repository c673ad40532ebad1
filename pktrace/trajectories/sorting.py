"""Rows in order of their keys: a radix sort, for keys that are hashes.

Only as many of a key's first bits are sorted by counting as tell most keys apart; the few rows that share them are
put in order one by one. Where many share them (one key is seen very often, or keys are no hashes), the rest of the bits
is counted too, so that the time stays linear in the number of rows whatever the keys are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.compiled import inlined, kernel

Array = np.ndarray[Any, Any]

_DIGIT = 11  # bits that are counted at once: 2048 places to write to
_TWO_DIGITS = 2 * _DIGIT
_MOST_SINGLY = 128  # rows that are put in order one by one


@inlined
def _count_in(values, members, to_values, to_members, first, last, bit, place):
    """Copy [first, last) in the order of the digit of the values that begins at `bit`; stable."""
    by = np.uint64(bit)
    mask = np.uint64((1 << _DIGIT) - 1)
    place[:] = 0
    for at in range(first, last):
        place[np.int64((values[at] >> by) & mask) + 1] += 1
    for digit in range(1 << _DIGIT):
        place[digit + 1] += place[digit]
    for at in range(first, last):
        digit = np.int64((values[at] >> by) & mask)
        to = first + place[digit]
        place[digit] += 1
        to_values[to] = values[at]
        to_members[to] = members[at]


@inlined
def _count_twice(values, members, other_values, other_members, first, last, bit, place):
    """Put [first, last) into the order of the two digits that begin at `bit`."""
    _count_in(values, members, other_values, other_members, first, last, np.int64(bit), place)
    _count_in(other_values, other_members, values, members, first, last, np.int64(bit + _DIGIT), place)


@inlined
def _insert_in(values, members, first, last):
    """Put [first, last) into order, one by one."""
    for at in range(first + 1, last):
        value = values[at]
        member = members[at]
        to = at
        while to > first and values[to - 1] > value:
            values[to] = values[to - 1]
            members[to] = members[to - 1]
            to -= 1
        values[to] = value
        members[to] = member


@kernel
def sort_pairs(values, members):
    """Put both into the order of `values`, in place; equal values stay as they stand.

    Args:
        values: uint64; members: int64, as many.
    """
    size = np.int64(len(values))
    other_values = np.empty(size, np.uint64)
    other_members = np.empty(size, np.int64)
    place = np.empty((1 << _DIGIT) + 1, np.int64)
    _count_twice(values, members, other_values, other_members, np.int64(0), size, 64 - _TWO_DIGITS, place)
    first = np.int64(0)
    while first < size:
        upper = values[first] >> np.uint64(64 - _TWO_DIGITS)
        last = first + 1
        while last < size and values[last] >> np.uint64(64 - _TWO_DIGITS) == upper:
            last += 1
        if last - first > _MOST_SINGLY:
            # The other 42 bits: the second of these steps begins two bits early, which does no harm.
            _count_twice(values, members, other_values, other_members, first, last, 0, place)
            _count_twice(values, members, other_values, other_members, first, last, 64 - 2 * _TWO_DIGITS, place)
        else:
            _insert_in(values, members, first, last)
        first = last


def sorted_by_key(keys: Array, members: Array) -> tuple[Array, Array]:
    """Members in order of their keys, equal ones as they stand; and the keys in that order.

    Args:
        keys: uint64 per row; members: row numbers.
    """
    values, order = keys[members], members.astype(np.int64)
    sort_pairs(values, order)
    return order, values
