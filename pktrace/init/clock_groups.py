"""Places that share a clock, found from the packets that they share.

The difference of two time stamps of one packet is delay plus clock offset. Both directions of a conversation have
delays, so on one clock their differences have opposite signs. They have the same sign and are small if both directions
pass the places in the same order, as around a service. Two clocks show by differences that no delay explains: a
difference longer than the loss threshold, packets whose TTL went down against the order of time, or a large and steady
difference of the same sign in both directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.init.shared_packets import Sightings, group_medians

Array = np.ndarray[Any, Any]
_LONGEST_DELAY_NS = 2_000_000_000  # the loss threshold: a packet with a longer delay counts as lost
_LEAST_OFFSET_NS = 1_000_000
_STEADY = 4  # an offset is this many times as large as the variation of a flow's delays
_TOGETHER, _UNCLEAR, _APART = "together", "unclear", "apart"


@dataclass(frozen=True)
class ClockGroups:
    """`group` per place: places of one group share a clock, as far as packets show; `offset_ns` is the number to
    subtract from the group's times to compare them with times of group 0. `known` is False if the offset includes an
    unknown delay, since packets went one way only; then times are no evidence of the order between the groups.
    """

    group: Array
    offset_ns: Array
    known: Array


@dataclass(frozen=True)
class _Pair:
    a: int
    b: int
    verdict: str
    packets: int
    low: int | None  # bounds of the offset of b against a, by conversations that go both ways
    high: int | None
    middle: int


def clock_groups(sightings: Sightings, rows: Array, places: int) -> ClockGroups:
    """Group the places by clock; a place that no packet connects to another one joins group 0."""
    pairs = list(_pairs(sightings, rows, places))
    parent = list(range(places))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    for pair in pairs:
        if pair.verdict == _TOGETHER:
            parent[root(pair.b)] = root(pair.a)
    for pair in sorted(pairs, key=lambda pair: -pair.packets):
        if pair.verdict == _UNCLEAR and root(pair.a) != root(pair.b):
            between = [other for other in pairs if {root(other.a), root(other.b)} == {root(pair.a), root(pair.b)}]
            against = sum(other.packets for other in between if other.verdict == _APART)
            if sum(other.packets for other in between if other.verdict == _UNCLEAR) >= against:
                parent[root(pair.b)] = root(pair.a)
    return _with_offsets(_numbered([root(place) for place in range(places)], pairs), pairs)


def _numbered(roots: list[int], pairs: list[_Pair]) -> Array:
    """Group numbers: among groups that packets connect, the one with most packets is group 0. Groups without any
    connection are 0 as well, since nothing shows their offset.
    """
    weight = dict.fromkeys(roots, 0)
    connected = {group: {group} for group in roots}
    for pair in pairs:
        a, b = roots[pair.a], roots[pair.b]
        weight[a] += pair.packets
        weight[b] += pair.packets
        joined = connected[a] | connected[b]
        for group in joined:
            connected[group] = joined
    number: dict[int, int] = {}
    count = 0
    for group in sorted(weight, key=lambda group: (-weight[group], group)):
        first = not any(other in number for other in connected[group])
        count += not first
        number[group] = 0 if first else count
    return np.array([number[group] for group in roots], np.int64)


def _pairs(sightings: Sightings, rows: Array, places: int) -> Iterator[_Pair]:
    seen = sightings.seen
    for a, b in sightings.pairs():
        if b < places:  # second visits add no evidence about clocks
            both = np.flatnonzero(seen[:, a] & seen[:, b])
            fall = _ttl(sightings, rows, both, a) - _ttl(sightings, rows, both, b)
            yield _pair(sightings, both, a, b, fall)


def _ttl(sightings: Sightings, rows: Array, packets: Array, column: int) -> Array:
    found: Array = rows["ttl"][sightings.row[packets, column]].astype(np.int64)
    return found


def _pair(sightings: Sightings, both: Array, a: int, b: int, fall: Array) -> _Pair:
    """The evidence of two places' packets about their clocks; `fall` is the decrease of the TTL from a to b."""
    difference = sightings.time[both, b] - sightings.time[both, a]
    middle = int(np.sort(difference)[(len(difference) - 1) // 2])
    flows, medians, sizes = group_medians(sightings.flow[both], difference)
    _, falls, _ = group_medians(sightings.flow[both], fall)
    backs = sightings.back[flows]
    at = np.minimum(np.searchsorted(flows, backs), len(flows) - 1)
    two_way = (backs >= 0) & (flows[at] == backs) & (flows < backs)
    mine, theirs = medians[two_way], medians[at[two_way]]
    low = high = None
    verdict = _UNCLEAR
    if len(mine):
        weight = np.minimum(sizes[two_way], sizes[at[two_way]])
        low = _weighted_median(np.minimum(mine, theirs), weight)
        high = _weighted_median(np.maximum(mine, theirs), weight)
        opposite = int(weight[np.sign(mine) * np.sign(theirs) < 0].sum())
        if 2 * opposite > int(weight.sum()):
            verdict = _TOGETHER
        elif _steady_offset(low, high, difference - medians[np.searchsorted(flows, sightings.flow[both])]):
            verdict = _APART
    against = int(sizes[(np.sign(falls) * np.sign(medians)) < 0].sum())
    if verdict != _TOGETHER and 2 * against > len(both):
        verdict = _APART
    if abs(middle) > _LONGEST_DELAY_NS and verdict != _TOGETHER:
        verdict = _APART
    return _Pair(a, b, verdict, len(both), low, high, middle)


def _steady_offset(low: int, high: int, deviation: Array) -> bool:
    """True if differences of one sign in both directions are an offset and no delay: large, and steady.

    Two places that both directions pass in one order may look the same if the way between them has a steady delay;
    other places on the same clock then hold them together.
    """
    least = min(abs(low), abs(high))
    if low * high <= 0 or least < _LEAST_OFFSET_NS:
        return False
    ordered = np.sort(deviation)
    spread = int(ordered[(len(ordered) - 1) * 19 // 20] - ordered[(len(ordered) - 1) // 20])
    return least > _STEADY * spread


def _weighted_median(values: Array, weights: Array) -> int:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return int(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _with_offsets(group: Array, pairs: list[_Pair]) -> ClockGroups:
    """Offsets of all groups against group 0, over the pair of groups with most packets at each step.

    On one clock a packet is never seen before it was sent: each pair of places bounds the offset from both sides, by
    its packets of each direction, and the tightest bounds of all pairs apply.
    """
    groups = int(group.max(initial=0)) + 1
    offset = np.zeros(groups, np.int64)
    doubt = np.zeros(groups, np.int64)  # the largest error of the offset
    known = np.zeros(groups, bool)
    known[:1] = True
    reached = {0}
    while True:
        steps: dict[tuple[int, int], list[tuple[_Pair, int]]] = {}
        for pair in pairs:
            ga, gb = int(group[pair.a]), int(group[pair.b])
            if ga in reached and gb not in reached:
                steps.setdefault((ga, gb), []).append((pair, 1))
            elif gb in reached and ga not in reached:
                steps.setdefault((gb, ga), []).append((pair, -1))
        if not steps:
            break
        near, far = max(sorted(steps), key=lambda step: sum(pair.packets for pair, _ in steps[step]))
        between = steps[near, far]
        bounds = [
            (pair.low, pair.high) if sign > 0 else (-pair.high, -pair.low)
            for pair, sign in between
            if pair.low is not None and pair.high is not None
        ]
        if bounds:
            low, high = max(low for low, _ in bounds), min(high for _, high in bounds)
            if low > high:  # both directions pass some pair in one order, so it bounds nothing
                low = high = sorted((one + other) // 2 for one, other in bounds)[len(bounds) // 2]
            step, doubt[far] = (low + high) // 2, doubt[near] + (high - low + 1) // 2
        else:
            pair, sign = max(between, key=lambda entry: entry[0].packets)
            step = sign * pair.middle
        offset[far] = offset[near] + step
        known[far] = bool(bounds) and known[near]
        reached.add(far)
    return _without_equals(group, offset, known, doubt, pairs)


def _without_equals(group: Array, offset: Array, known: Array, doubt: Array, pairs: list[_Pair]) -> ClockGroups:
    """Join groups into one clock if they share no packets and their offsets agree within their doubts."""
    apart = {frozenset((int(group[pair.a]), int(group[pair.b]))) for pair in pairs}
    of_group = list(range(len(offset)))
    for far in range(1, len(offset)):
        for near in range(far):
            alike = abs(offset[far] - offset[near]) <= doubt[far] + doubt[near]
            if of_group[near] == near and known[far] and known[near] and alike and {far, near} not in apart:
                of_group[far] = near
                break
    return ClockGroups(np.array(of_group, np.int64)[group], offset, known)
