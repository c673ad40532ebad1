"""The hash table that numbers keys, and members of groups in order of time.

Sightings of a packet lie close together in time, so only the first of its look-ups misses the processor's cache;
sorting the rows by key would touch all of them several times over. Each key is compared whole, so keys are never mixed
up. Keys are hashes with a secret key (decode/identity.py): nobody can make packets whose keys share a place.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.trajectories.paths import NOT_FOLLOWED

FREE = 3  # times as many places as keys
_AT_ONCE = 64  # rows
_EXCLUDED = np.int64(NOT_FOLLOWED)


@inlined
def _place(key, size):
    """The place at which the search for a key begins; all bits of the key take part."""
    folded = key ^ (key >> np.uint64(32))
    return np.int64((folded * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)) & (size - 1)


@kernel
def number_keys(keys, paths, first, last, places, key_of, entered, count, group):
    """Number the keys of rows [first, last) until the table is too small.

    Args:
        keys: uint64 per row; paths: int16 per row, rows with NOT_FOLLOWED get no number;
        places: int32, a power of two in length, -1 where free; key_of: uint64 by number; count: numbers assigned so
        far; entered: how many of these the table holds; group: int32 per row, filled.

    Returns:
        (the first row that was not done, numbers assigned).
    """
    size = np.int64(len(places))
    for number in range(entered, count):
        at = _place(key_of[number], size)
        while places[at] >= 0:
            at = (at + 1) & (size - 1)
        places[at] = number
    begins = np.empty(_AT_ONCE, np.int64)
    fetched = np.empty(_AT_ONCE, np.int32)
    row = first
    while row < last and (count + _AT_ONCE) * FREE < size:
        many = min(_AT_ONCE, last - row)
        # Many places are fetched at once: the processor waits for all of them together, hardly longer than for one.
        for index in range(many):
            begins[index] = _place(keys[row + index], size)
            fetched[index] = places[begins[index]]
        for index in range(many):
            if paths[row + index] == _EXCLUDED:
                group[row + index] = -1
                continue
            key = keys[row + index]
            at = begins[index]
            while places[at] >= 0 and key_of[places[at]] != key:
                at = (at + 1) & (size - 1)
            if places[at] < 0:
                places[at] = count
                key_of[count] = key
                count += 1
            group[row + index] = places[at]
        row += many
    return row, count


@kernel
def put_in_groups(group, order, ends, found):
    """Put members one group after the other, each group in the sequence of `order`.

    Args:
        group: int64 per member; order: int64, members; ends: int64 per group, at first the end of the group before,
        advanced to the group's own end; found: int64 per member, filled.
    """
    for member in order:
        found[ends[group[member]]] = member
        ends[group[member]] += 1


@kernel
def count_before(group, times, begins, ordered, or_equal, found):
    """Count the members that come before a time in a group, plus all members of the groups before.

    Args:
        group, times: int64, the groups and times asked for; begins: int64 per group and one more, the number of members
        in the groups before; ordered: int64, times of the members in order of group and time; or_equal: members at the
        very time count; found: int64 per time asked for, filled.
    """
    for number in range(len(group)):
        low, high, time = begins[group[number]], begins[group[number] + 1], times[number]
        while low < high:
            middle = (low + high) >> 1
            if ordered[middle] < time or (or_equal and ordered[middle] == time):
                low = middle + 1
            else:
                high = middle
        found[number] = low
