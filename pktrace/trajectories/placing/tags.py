"""Tags: VLANs, PPPoE sessions, MPLS labels and the number of the innermost tunnel, and the mapping of tags by stages.

Rule: a stage takes about as long for the packets of one tenant as for those of another. Among similar packets, each tag
of one point is compared with each tag of the next. The right map has median delays that are all alike: they differ half
as much as those of any other map at most, and four packets at least show each. If no map is so much better, tags stay
as they are; if there are new ones, they are no evidence.
Bound: tenants whose packets follow each other more closely than the medians are known.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import group_numbers, groups_of, mixed
from pktrace.trajectories.grouping import each_between

Array = np.ndarray[Any, Any]
_FEWEST = 4
_MOST_TAGS = 16  # of packets that are like each other


def tags_of(rows: Array) -> Array:
    """uint64 per row: a hash of its VLANs, PPPoE session, last MPLS label and the number of its innermost tunnel."""
    vlan, tunnel = (
        np.where(rows["has"] & bit != 0, rows[name].astype(np.uint64) + np.uint64(1), np.uint64(0))
        for name, bit in (("vlan", field.HAS_VLAN), ("tunnel_id", field.HAS_TUNNEL_ID))
    )
    return mixed(vlan, tunnel, rows["inner_tags"])


def mapped_tags(stages: list[tuple[int, int]], points: Array, times: Array, like: Array, tags: Array) -> Array:
    """uint64 per row: its tag, or the original tag from which stages have mapped it.

    Args:
        stages: pairs of points; points, times: per row; like: uint64 per row, equal for packets that may be one.
    """
    found = tags.copy()
    alike = group_numbers(like)
    for a, b in stages:
        sides = []
        for point in (a, b):
            here = np.flatnonzero(points == point)
            _, number = groups_of(alike[here], found[here])
            sides.append(here[np.bincount(number)[number] == 1])
        told = _map_of(_delays(sides[0], sides[1], alike, times, found))
        there = points == b
        if told is None:
            here = found[points == a]
            if len(here) and there.any() and not np.isin(found[there], here).all():
                return np.zeros_like(tags)  # the tags are new, and nothing shows their origin
            continue
        before = found[there]
        after = before.copy()
        for one, other in told.items():
            after[before == other] = one
        found[there] = after
    return found


def _delays(here: Array, there: Array, alike: Array, times: Array, tags: Array) -> dict[tuple[Any, Any], float]:
    """The median delay from each tag at one point to each tag at the next, for packets that are like each other."""
    order = there[np.argsort(alike[there], kind="stable")]
    low, high = (np.searchsorted(alike[order], alike[here], side) for side in ("left", "right"))
    which, place = each_between(low, np.where(high - low <= _MOST_TAGS, high, low))
    one, other = here[which], order[place]
    first, number = groups_of(tags[one], tags[other])
    if len(first) > _MOST_TAGS**2:
        return {}
    found = {}
    for pair, at in enumerate(first):
        mine = number == pair
        if np.count_nonzero(mine) >= _FEWEST:
            found[tags[one[at]], tags[other[at]]] = float(np.median(times[other[mine]] - times[one[mine]]))
    return found


def _map_of(delays: dict[tuple[Any, Any], float]) -> dict[Any, Any] | None:
    """The new tag for each tag that was changed; None if no map is much better than others."""
    tags = list(dict.fromkeys(one for one, _ in delays))
    costs: dict[tuple[Any, ...], float] = {}
    for usual in delays.values():
        chosen, cost = [], 0.0
        for tag in tags:
            ways = [(abs(delay - usual), other) for (one, other), delay in delays.items() if one == tag]
            away, other = min(ways, key=lambda way: way[0])
            chosen.append(other)
            cost += away
        if len(set(chosen)) == len(chosen):
            costs[tuple(chosen)] = min(cost, costs.get(tuple(chosen), cost))
    best = sorted(costs, key=lambda chosen: costs[chosen])
    if not best or (len(best) > 1 and 2 * costs[best[0]] > costs[best[1]]):
        return None
    return {one: other for one, other in zip(tags, best[0], strict=True) if one != other}
