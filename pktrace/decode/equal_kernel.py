"""The kernels behind `mixed`, `groups_of` and `found_among` (identity.py): they read each value once, without sorting.

The place of a value in a table follows from its product with an odd word of the key, so nobody can make packets whose
values share a place (multiply-shift, Dietzfelbinger et al. 1997). Each value is compared whole.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel

_AT_ONCE = 64  # values whose places are fetched at once: the processor waits for all of them as long as for one
_HALF = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@inlined
def _shift(places):
    """The number of bits by which a product is shifted to become a place."""
    shift = np.uint64(64)
    while places > 1:
        places >>= 1
        shift -= np.uint64(1)
    return shift


@inlined
def _place(value, factor, shift):
    """The place where the search for a value begins: the upper bits of the product."""
    return np.int64((value * factor) >> shift)


@kernel
def number_values(values, factor, places, number, first):
    """Give equal values one number, from 0 on in order of first appearance.

    Args:
        values: uint64; factor: uint64, odd; places: int32, a power of two of them, two at least and more than values,
        all -1; number: int64 per value, filled; first: int64 per value, filled with the first place of each number.

    Returns:
        The count of numbers.
    """
    mask, shift = np.int64(len(places) - 1), _shift(len(places))
    begins = np.empty(_AT_ONCE, np.int64)
    fetched = np.empty(_AT_ONCE, np.int32)
    count = 0
    for begin in range(0, len(values), _AT_ONCE):
        many = min(_AT_ONCE, len(values) - begin)
        for index in range(many):
            begins[index] = _place(values[begin + index], factor, shift)
            fetched[index] = places[begins[index]]
        for index in range(many):
            row = begin + index
            value = values[row]
            at = begins[index]
            while places[at] >= 0 and values[places[at]] != value:
                at = (at + 1) & mask
            if places[at] < 0:
                places[at] = row
                first[count] = row
                number[row] = count
                count += 1
            else:
                number[row] = number[places[at]]
    return count


@kernel
def find_wanted(values, wanted, factor, places, found):
    """Find values among the wanted ones.

    Args:
        values, wanted: uint64; factor, places: as for `number_values`, filled with the wanted values; found: int64 per
        value, filled with its first place among the wanted values, -1 without one.
    """
    mask, shift = np.int64(len(places) - 1), _shift(len(places))
    for row in range(len(wanted)):
        at = _place(wanted[row], factor, shift)
        while places[at] >= 0 and wanted[places[at]] != wanted[row]:
            at = (at + 1) & mask
        if places[at] < 0:
            places[at] = row
    begins = np.empty(_AT_ONCE, np.int64)
    fetched = np.empty(_AT_ONCE, np.int32)
    for begin in range(0, len(values), _AT_ONCE):
        many = min(_AT_ONCE, len(values) - begin)
        for index in range(many):
            begins[index] = _place(values[begin + index], factor, shift)
            fetched[index] = places[begins[index]]
        for index in range(many):
            value = values[begin + index]
            at = begins[index]
            while places[at] >= 0 and wanted[places[at]] != value:
                at = (at + 1) & mask
            found[begin + index] = places[at]


@kernel
def add_column(lower, upper, column, keys, short):
    """Add the products of a column to the sums of `mixed`.

    Args:
        lower, upper: uint64 per row, the sums of both halves; column: uint64 per row; keys: four words; short: True
        leaves out the upper halves, since they are all 0.
    """
    a, b, c, d = keys[0], keys[1], keys[2], keys[3]
    if short:
        for row in range(len(column)):
            low = column[row] & _HALF
            lower[row] += low * a
            upper[row] += low * c
    else:
        for row in range(len(column)):
            low, high = column[row] & _HALF, column[row] >> _32
            lower[row] += low * a + high * b
            upper[row] += low * c + high * d
