"""The exact rung: observations with one key, at most one per visit of a point, are one packet.

Rule: equal identities are the same packet if no point of its path saw them more often than the path visits it, and
the points saw it in the order of the path, as far as their clocks can tell, or all within the loss threshold (it came
the other way, on a path whose `match` does not say which way it means, or a clock was stepped); two visits of one point
lie within the threshold.
Bound: wrong only where two packets with equal bytes were each missed by the captures of the other's points, or where
two identities collide (at most n^2 / 2^63, whatever the bytes: decode/identity.py). Groups that a point saw more often
are left to the order rung.

Most packets are seen in the order of their path, once at each point: `place_in_order` follows them in one pass over
the rows in order of time. Only the groups that do anything else are gathered, and looked at as the rule says.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.trajectories.bounds import EARLY_NS


class Sightings(NamedTuple):
    """All rows: `times` (int64, ns, aligned), `points` (int32), `paths` (int16, the path that the headers fit)."""

    times: np.ndarray[Any, Any]
    points: np.ndarray[Any, Any]
    paths: np.ndarray[Any, Any]


class Ways(NamedTuple):
    """Paths and clocks: `visits` (of `paths.visits`), `clocks` (int64 per point; equal: times can be compared)."""

    visits: np.ndarray[Any, Any]
    clocks: np.ndarray[Any, Any]


class Packets(NamedTuple):
    """Packets to fill: `owner` (int32 per row), `seen` (int64, packets x positions), `path_of` (int16 per packet); and
    the loss `threshold` (ns).
    """

    owner: np.ndarray[Any, Any]
    seen: np.ndarray[Any, Any]
    path_of: np.ndarray[Any, Any]
    threshold: np.int64


@inlined
def place_one(members, first, last, sightings, path, visits, into, trajectory):
    """Give members[first:last] to one trajectory; those off its path belong to none.

    A point that the path visits twice and that saw the packet once: the sighting is the second visit if the packet
    was seen earlier at a position between the two visits (a filter before and after the service).
    """
    for index in range(first, last):
        row = members[index]
        position = visits[path, sightings.points[row], 0]
        if position < 0:
            continue
        into.owner[row] = trajectory
        second = visits[path, sightings.points[row], 1]
        if into.seen[trajectory, position] < 0:
            into.seen[trajectory, position] = row
        elif second >= 0 and into.seen[trajectory, second] < 0:
            into.seen[trajectory, second] = row
    for index in range(first, last):
        row = members[index]
        position = visits[path, sightings.points[row], 0]
        if position < 0:
            continue
        second = visits[path, sightings.points[row], 1]
        if second >= 0 and into.seen[trajectory, second] < 0 and into.seen[trajectory, position] == row:
            between = False
            for other in range(position + 1, second):
                at = into.seen[trajectory, other]
                between |= at >= 0 and sightings.times[at] < sightings.times[row]
            if between:
                into.seen[trajectory, second] = row
                into.seen[trajectory, position] = -1


@inlined
def group_path(members, first, last, paths):
    """The path of the earliest member that has one, else -1; members are in order of time."""
    for index in range(first, last):
        if paths[members[index]] >= 0:
            return np.int64(paths[members[index]])
    return np.int64(-1)


@inlined
def _against_order(members, first, last, sightings, path, ways, threshold):
    """True if a point saw the packet before a point that comes earlier on the path, or again after the threshold.

    Compared is with the furthest position so far, on one clock; EARLY_NS is how late a stamp may be taken. Within the
    threshold it is one packet all the same: it came the other way, a stamp was taken late, or a clock was stepped.
    """
    times, points, visits, clocks = sightings.times, sightings.points, ways.visits, ways.clocks
    furthest = np.int64(-1)
    at_furthest = np.int64(first)
    against = False
    for index in range(first, last):
        row = members[index]
        position = visits[path, points[row], 0]
        if position < 0:
            continue
        second = visits[path, points[row], 1]
        if second >= 0:
            for earlier in range(first, index):
                again = points[members[earlier]] == points[row]
                if again and times[row] - times[members[earlier]] > threshold:
                    return True
            if position < furthest:
                position = second
        if position < furthest:
            other = members[at_furthest]
            against |= clocks[points[row]] == clocks[points[other]] and times[row] - times[other] > EARLY_NS
        else:
            furthest = position
            at_furthest = np.int64(index)
    return against and times[members[last - 1]] - times[members[first]] > threshold


@inlined
def several(members, first, last, sightings, path, ways, threshold, counts):
    """True if the members cannot be one packet; `counts` is scratch space of zeros, one per point."""
    points, visits = sightings.points, ways.visits
    found = False
    for index in range(first, last):
        point = points[members[index]]
        if visits[path, point, 0] < 0:
            continue
        counts[point] += 1
        found |= counts[point] > (1 if visits[path, point, 1] < 0 else 2)
    for index in range(first, last):
        counts[points[members[index]]] = 0
    return found or _against_order(members, first, last, sightings, path, ways, threshold)


@kernel
def place_in_order(order, sightings, visits, into, furthest, unclear):
    """Give every row to the trajectory of its group, as far as the sightings come in the order of the path.

    Groups that do anything else are marked as unclear: `settle_unclear` looks at all their rows together.

    Args:
        order: row numbers in order of time, or none: then rows are in that order; sightings, visits: as above; into:
        with the group of each row as its owner, and a packet per group to fill; furthest: int16 per group, unclear:
        bool per group, both filled.

    Returns:
        How many groups have been seen.
    """
    group, seen, path_of, threshold = into.owner, into.seen, into.path_of, into.threshold
    points, paths, times = sightings.points, sightings.paths, sightings.times
    begun = np.int64(0)
    for index in range(len(order) if len(order) else len(group)):
        row = order[index] if len(order) else np.int64(index)
        number = np.int64(group[row])
        while begun <= number:
            for position in range(seen.shape[1]):
                seen[begun, position] = -1
            path_of[begun] = -1
            furthest[begun] = -1
            unclear[begun] = False
            begun += 1
        if number < 0 or unclear[number]:
            continue
        path = np.int64(path_of[number])
        if path < 0:
            path = np.int64(paths[row])
            if path < 0:
                unclear[number] = True
                continue
            path_of[number] = path
        position = visits[path, points[row], 0]
        before = np.int64(furthest[number])
        if position >= 0 and position <= before:
            # The second visit, where there is one: after the first, or after something between the two.
            first = seen[number, position]
            second = visits[path, points[row], 1]
            after = times[row] - times[first] <= threshold if first >= 0 else times[row] > times[seen[number, before]]
            position = second if second > before and after else np.int64(-1)
        if position < 0:
            unclear[number] = True
            continue
        seen[number, position] = row
        furthest[number] = position
    return begun


@kernel
def settle_unclear(order, unclear, sightings, ways, into, repeated):
    """Look at all rows of each unclear group together: one packet, several, or nothing that has a path.

    Args:
        order, sightings: as for `place_in_order`; unclear: bool per group; ways: as above; into: as `place_in_order`
        left it; rows of unclear groups that belong to no packet, or to one of several, get the owner -1; repeated:
        int64, twice as many as unclear groups, filled with the begin and end in the first result of those that are
        several packets, whose `path_of` becomes -1, as for groups without a path.

    Returns:
        (rows of unclear groups, group by group and in order of time, numbers written to `repeated`, rows of groups
        without a path).
    """
    owner, seen, path_of, visits = into.owner, into.seen, into.path_of, ways.visits
    begins = np.zeros(len(unclear) + 1, np.int64)
    for row in range(len(owner)):
        number = owner[row]
        if number >= 0 and unclear[number]:
            begins[number + 1] += 1
    for number in range(len(unclear)):
        begins[number + 1] += begins[number]
    members = np.empty(begins[len(unclear)], np.int64)
    place = begins[:-1].copy()
    for index in range(len(order) if len(order) else len(owner)):
        row = order[index] if len(order) else np.int64(index)
        number = owner[row]
        if number >= 0 and unclear[number]:
            members[place[number]] = row
            place[number] += 1
    for row in members:
        owner[row] = -1
    counts = np.zeros(visits.shape[1], np.int64)
    left = 0
    no_path = 0
    for number in range(len(unclear)):
        first = begins[number]
        last = begins[number + 1]
        if first == last:
            continue
        for position in range(seen.shape[1]):
            seen[number, position] = -1
        path = group_path(members, first, last, sightings.paths)
        path_of[number] = -1
        if path < 0:
            no_path += last - first
        elif several(members, first, last, sightings, path, ways, into.threshold, counts):
            repeated[left] = first
            repeated[left + 1] = last
            left += 2
        else:
            place_one(members, first, last, sightings, path, visits, into, np.int64(number))
            path_of[number] = path
    return members, left, no_path
