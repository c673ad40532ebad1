"""The order rung: packets with equal keys, told apart by order and delay within the loss threshold.

Rule: sightings further apart than the loss threshold belong to different packets. Within it, the sightings at the
next position are given to the packets seen before by an order-preserving assignment: as many as possible, and among
these the assignment with the smallest sum of differences from the delay that certain packets had. What is left over
at a position where packets arrived is a duplicate of the one before it (RFC 5560); elsewhere it begins a packet.
Bound: which of the equal packets was lost may be wrong, how many were lost at a stage is not, unless a loss and a
duplicate among equal packets fall into the same stage within the threshold.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.trajectories.exact import group_path, place_one, repeats

_SKIP_COST = np.int64(1 << 45)  # ns: above any difference within a threshold, 2^17 of them fit 63 bits
_LARGEST_TABLE = 1 << 25  # cells of the assignment table; beyond it, in order by nearest delay
_EARLY_NS = np.int64(1_000_000)  # how far before its cause a sighting may lie on one clock (stamps taken late)


@inlined
def _assign(sent, arrived, delay, earliest, latest, given):
    """Order-preserving assignment: given[j] becomes the index in `sent` of arrived[j], or -1.

    Minimal sum of |arrived - sent - delay| among the assignments with most pairs; pairs need a difference within
    [earliest, latest]. Dynamic programming over both lists, each in order of time.
    """
    rows = len(sent)
    columns = len(arrived)
    given[:] = -1
    if rows * columns > _LARGEST_TABLE:
        _assign_nearest(sent, arrived, delay, earliest, latest, given)
        return
    step = np.zeros((rows + 1, columns + 1), np.uint8)
    above = np.zeros(columns + 1, np.int64)
    for j in range(columns + 1):
        above[j] = j * _SKIP_COST
        step[0, j] = 2
    for i in range(1, rows + 1):
        diagonal = above[0]
        for j in range(1, columns + 1):
            best = above[j]  # packet i - 1 did not arrive
            taken = 1
            left = above[j - 1] + _SKIP_COST  # sighting j - 1 is of no packet before; above[j - 1] is this row's
            if left < best:
                best = left
                taken = 2
            difference = arrived[j - 1] - sent[i - 1]
            if difference >= earliest and difference <= latest:
                pair = diagonal + abs(difference - delay)
                if pair <= best:
                    best = pair
                    taken = 3
            diagonal = above[j]
            above[j] = best
            step[i, j] = taken
    i = rows
    j = columns
    while i > 0 and j > 0:
        if step[i, j] == 3:
            given[j - 1] = i - 1
            i -= 1
            j -= 1
        elif step[i, j] == 2:
            j -= 1
        else:
            i -= 1


@inlined
def _assign_nearest(sent, arrived, delay, earliest, latest, given):
    """The same in one pass for long runs of equal packets: each sighting takes the nearest packet still free."""
    free = 0
    for j in range(len(arrived)):
        while free < len(sent) and arrived[j] - sent[free] > latest:
            free += 1
        spare = (len(sent) - free) - (len(arrived) - j)
        while spare > 0 and free + 1 < len(sent):
            here = abs(arrived[j] - sent[free] - delay)
            if arrived[j] - sent[free + 1] < earliest or abs(arrived[j] - sent[free + 1] - delay) >= here:
                break
            free += 1
            spare -= 1
        if free < len(sent) and arrived[j] - sent[free] >= earliest:
            given[j] = free
            free += 1


@inlined
def _extend(of_position, rows, times, last_row, last_at, chosen, delay, earliest, latest, owner, seen, base, position):
    """Give free sightings `rows` to the packets `chosen`; marks what it gave in `of_position`."""
    free = np.empty(len(rows), np.int64)
    count = 0
    for index in range(len(rows)):
        if of_position[index] < 0:
            free[count] = index
            count += 1
    if count == 0 or len(chosen) == 0:
        return
    sent = np.empty(len(chosen), np.int64)
    for index in range(len(chosen)):
        sent[index] = times[last_row[chosen[index]]]
    order = np.argsort(sent, kind="mergesort")
    arrived = np.empty(count, np.int64)
    for index in range(count):
        arrived[index] = times[rows[free[index]]]
    given = np.empty(count, np.int64)
    _assign(sent[order], arrived, delay, earliest, latest, given)
    for index in range(count):
        if given[index] >= 0:
            packet = chosen[order[given[index]]]
            row = rows[free[index]]
            of_position[free[index]] = packet
            owner[row] = base + packet
            seen[base + packet, position] = row
            last_row[packet] = row
            last_at[packet] = position


@inlined
def _place_many(members, first, last, times, points, path, visits, layout, delays, slack, threshold, owner, seen, base):
    """Place one cluster of equal packets; returns how many packets it holds.

    layout: per path (positions, filter input or -1, point of each position...); delays: expected delay from each
    position to each later one, by path; slack: how early a sighting may lie, by path and pair of positions.
    """
    positions = layout[path, 0]
    before_detour = layout[path, 1]
    after_detour = layout[path, 2]
    size = last - first
    last_row = np.empty(size, np.int64)
    last_at = np.empty(size, np.int64)
    packets = 0
    for position in range(positions):
        point = layout[path, 3 + position]
        count = 0
        rows = np.empty(size, np.int64)
        for index in range(first, last):
            row = members[index]
            if points[row] == point and owner[row] < 0:
                rows[count] = row
                count += 1
        rows = rows[:count]
        of_position = np.full(count, -1, np.int64)
        # Nearest origin first: the position before, then over the bypass, then whatever was seen earlier.
        for phase in range(3):
            if phase == 1 and position != after_detour:
                continue
            chosen = np.empty(packets, np.int64)
            number = 0
            origin = position - 1
            for packet in range(packets):
                at = last_at[packet]
                here = at == position - 1
                if phase == 1:
                    here = at == before_detour
                elif phase == 2:
                    here = at < position
                if here:
                    chosen[number] = packet
                    number += 1
                    origin = at
            if number:
                _extend(
                    of_position,
                    rows,
                    times,
                    last_row,
                    last_at,
                    chosen[:number],
                    delays[path, origin, position],
                    -slack[path, origin, position],
                    threshold,
                    owner,
                    seen,
                    base,
                    position,
                )
        second_visit = visits[path, point, 1]
        if second_visit > position:
            # What is left over may be the second visit. At the very first position it begins packets below, as
            # many as half of what was seen, since every packet comes back.
            if packets == 0:
                for index in range((count + 1) // 2):
                    owner[rows[index]] = base + packets
                    seen[base + packets, position] = rows[index]
                    last_row[packets] = rows[index]
                    last_at[packets] = position
                    packets += 1
            continue
        arrivals = 0
        for index in range(count):
            arrivals += 1 if of_position[index] >= 0 else 0
        before = packets
        for index in range(count):
            if of_position[index] >= 0:
                continue
            row = rows[index]
            original = np.int64(-1)
            if arrivals:
                for other in range(index - 1, -1, -1):
                    if of_position[other] >= 0:
                        if times[row] - times[rows[other]] <= threshold:
                            original = of_position[other]
                        break
            if original >= 0:
                owner[row] = base + original
                continue
            owner[row] = base + packets
            seen[base + packets, position] = row
            last_row[packets] = row
            last_at[packets] = position
            packets += 1
        if before == packets:
            continue
    return packets


@kernel
def follow_repeated(
    repeated,
    members,
    times,
    points,
    paths,
    visits,
    layout,
    delays,
    slack,
    threshold,
    owner,
    seen,
    path_of,
    candidates,
    count,
):
    """Place the groups that `exact.follow_unique` left.

    Args:
        repeated: begin and end of each group in `members`; layout, delays, slack: of `follow`; threshold: ns;
        candidates: int32 per trajectory, filled; count: trajectories so far. The rest as for follow_unique.

    Returns:
        (trajectories in all, sightings off their path, packets without a path).
    """
    scratch = np.zeros(visits.shape[1], np.int64)
    off_path = 0
    no_path = 0
    for group in range(0, len(repeated), 2):
        first = repeated[group]
        end = repeated[group + 1]
        while first < end:
            last = first + 1
            while last < end and times[members[last]] - times[members[last - 1]] <= threshold:
                last += 1
            path = group_path(members, first, last, paths)
            if path < 0:
                no_path += last - first
            elif not repeats(members, first, last, points, path, visits, scratch):
                off_path += place_one(members, first, last, times, points, path, visits, owner, seen, count)
                path_of[count] = path
                candidates[count] = 1
                count += 1
            else:
                placed = _place_many(
                    members,
                    first,
                    last,
                    times,
                    points,
                    path,
                    visits,
                    layout,
                    delays,
                    slack,
                    threshold,
                    owner,
                    seen,
                    count,
                )
                for index in range(first, last):
                    off_path += 1 if owner[members[index]] < 0 else 0
                begins = np.empty(placed, np.int64)
                for packet in range(placed):
                    path_of[count + packet] = path
                    earliest = np.int64(1 << 62)
                    for position in range(layout[path, 0]):
                        row = seen[count + packet, position]
                        if row >= 0:
                            earliest = min(earliest, times[row])
                    begins[packet] = earliest
                begins_sorted = np.sort(begins)
                for packet in range(placed):
                    low = np.searchsorted(begins_sorted, begins[packet] - threshold)
                    high = np.searchsorted(begins_sorted, begins[packet] + threshold + 1)
                    candidates[count + packet] = high - low
                count += placed
            first = last
    return count, off_path, no_path
