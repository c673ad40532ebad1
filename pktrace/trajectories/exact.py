"""The exact rung: observations with one key, at most one per visit of a point, are one packet.

Rule: equal digests are the same packet if no point of its path saw the digest more often than the path visits it, and
the points saw it in the order of the path, as far as their clocks can tell; two visits of one point lie within the
loss threshold.
Bound: wrong only where two packets with equal bytes were each missed by the captures of the other's points, or where
two digests collide (n^2 / 2^65). Groups that a point saw more often are left to the order rung.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel

EARLY_NS = np.int64(1_000_000)  # how far before its cause a sighting may lie on one clock (stamps taken late)


@inlined
def place_one(members, first, last, times, points, path, visits, owner, seen, trajectory):
    """Give members[first:last] to one trajectory; returns how many were off its path.

    A point that the path visits twice and that saw the packet once: the sighting is the second visit if the packet
    was seen earlier at a position between the two visits (a filter before and after the service).
    """
    off_path = 0
    for index in range(first, last):
        row = members[index]
        position = visits[path, points[row], 0]
        if position < 0:
            off_path += 1
            continue
        owner[row] = trajectory
        second = visits[path, points[row], 1]
        if seen[trajectory, position] < 0:
            seen[trajectory, position] = row
        elif second >= 0 and seen[trajectory, second] < 0:
            seen[trajectory, second] = row
    for index in range(first, last):
        row = members[index]
        position = visits[path, points[row], 0]
        if position < 0:
            continue
        second = visits[path, points[row], 1]
        if second >= 0 and seen[trajectory, second] < 0 and seen[trajectory, position] == row:
            between = False
            for other in range(position + 1, second):
                at = seen[trajectory, other]
                between |= at >= 0 and times[at] < times[row]
            if between:
                seen[trajectory, second] = row
                seen[trajectory, position] = -1
    return off_path


@inlined
def group_path(members, first, last, paths):
    """The path of the earliest member that has one, else -1; members are in order of time."""
    for index in range(first, last):
        if paths[members[index]] >= 0:
            return np.int64(paths[members[index]])
    return np.int64(-1)


@inlined
def _against_order(members, first, last, times, points, path, visits, clocks, threshold):
    """Whether some point saw it before a point that comes earlier on the path, or saw it again after the threshold.

    Compared is with the furthest position so far, on one clock; EARLY_NS is how late a stamp may be taken.
    """
    furthest = np.int64(-1)
    at_furthest = np.int64(first)
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
            if clocks[points[row]] == clocks[points[other]] and times[row] - times[other] > EARLY_NS:
                return True
        else:
            furthest = position
            at_furthest = np.int64(index)
    return False


@inlined
def several(members, first, last, times, points, path, visits, clocks, threshold, counts):
    """Whether the members cannot be one packet; `counts` is scratch space of zeros, one per point."""
    found = False
    for index in range(first, last):
        point = points[members[index]]
        if visits[path, point, 0] < 0:
            continue
        counts[point] += 1
        found |= counts[point] > (1 if visits[path, point, 1] < 0 else 2)
    for index in range(first, last):
        counts[points[members[index]]] = 0
    return found or _against_order(members, first, last, times, points, path, visits, clocks, threshold)


@kernel
def follow_unique(
    keys, members, times, points, paths, visits, clocks, threshold, owner, seen, path_of, repeated
):  # fmt: skip
    """Place all groups of equal keys without repeats.

    Args:
        keys: uint64 per member; members: row numbers sorted by (key, time); times, points, paths: per row;
        visits: of paths.visits; clocks: int64 per point; threshold: ns;
        owner: int64 per row, -1, filled; seen: int64 (keys x positions), -1, filled;
        path_of: int16 per trajectory, filled; repeated: int64, filled with the begin and end of repeated groups.

    Returns:
        (trajectories, numbers written to `repeated`, sightings off their path, packets without a path).
    """
    counts = np.zeros(visits.shape[1], np.int64)
    # np.int64(0), not 0: numba would compile what is called with the literal 0 a second time.
    trajectories = np.int64(0)
    left = 0
    off_path = 0
    no_path = 0
    first = np.int64(0)
    while first < len(members):
        last = first + 1
        while last < len(members) and keys[last] == keys[first]:
            last += 1
        path = group_path(members, first, last, paths)
        if path < 0:
            no_path += last - first
        elif several(members, first, last, times, points, path, visits, clocks, threshold, counts):
            repeated[left] = first
            repeated[left + 1] = last
            left += 2
        else:
            off_path += place_one(members, first, last, times, points, path, visits, owner, seen, trajectories)
            path_of[trajectories] = path
            trajectories += 1
        first = last
    return trajectories, left, off_path, no_path
