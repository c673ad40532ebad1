"""Tags: the VLAN and the number of the innermost tunnel, and what stages make of them.

Rule: a tag at one point is a tag at the next if, of packets that are like each other and in their order of time at both
points, at least eight have both, and these are eight of ten of those that have either. A map leads from one tag to one
tag.
Bound: tenants whose packets are all the same, and overtake each other in more than two cases of ten.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import group_numbers, groups_of, mixed

Array = np.ndarray[Any, Any]
_FEWEST, _MOSTLY = 8, 0.8


def tags_of(rows: Array) -> Array:
    """uint64 per row: a hash of its outermost VLAN and of the number of its innermost tunnel."""
    vlan, tunnel = (
        np.where(rows["has"] & bit != 0, rows[name].astype(np.uint64) + np.uint64(1), np.uint64(0))
        for name, bit in (("vlan", field.HAS_VLAN), ("tunnel_id", field.HAS_TUNNEL_ID))
    )
    return mixed(vlan, tunnel)


def mapped_tags(stages: list[tuple[int, int]], points: Array, times: Array, like: Array, tags: Array) -> Array:
    """uint64 per row: its tag, or the one that stages have made it of.

    Args:
        stages: pairs of points; points, times: per row; like: uint64 per row, equal for packets that may be one.
    """
    found = tags.copy()
    order = np.lexsort((times, group_numbers(like)))
    for a, b in stages:
        here, there = (order[points[order] == point] for point in (a, b))
        if not len(here) or not len(there) or np.isin(found[there], found[here]).all():
            continue
        one, other = _in_turn(like[here]), _in_turn(like[there])
        place = np.argsort(one, kind="stable")
        at = np.minimum(np.searchsorted(one[place], other), len(place) - 1)
        both = one[place[at]] == other
        pairs = found[here[place[at[both]]]], found[there[both]]
        first, number = groups_of(*pairs)
        votes = np.bincount(number)
        totals = [np.bincount(groups_of(side)[1])[groups_of(side)[1][first]] for side in pairs]
        good = (votes >= _FEWEST) & (votes >= _MOSTLY * np.maximum(*totals))
        for before, behind in zip(pairs[0][first[good]], pairs[1][first[good]], strict=True):
            found[there[found[there] == behind]] = before
    return found


def _in_turn(like: Array) -> Array:
    """A hash per row of what it is like and of how many such rows come before it."""
    number = group_numbers(like)
    order = np.argsort(number, kind="stable")
    turn = np.empty(len(like), np.int64)
    turn[order] = np.arange(len(like)) - np.searchsorted(number[order], number[order], "left")
    return mixed(like, turn)
