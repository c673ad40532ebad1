"""The order rung: packets with equal keys, told apart by order and delay within the loss threshold.

Rule: sightings further apart than the loss threshold belong to different packets. Within it, the sightings at the
next position are given to the packets seen before by an order-preserving assignment: as many as possible, and among
these the assignment with the smallest sum of differences from the delay that certain packets had. What is left over
at a position where packets arrived is a duplicate of the one before it (RFC 5560); elsewhere it begins a packet.
Bound: which of the equal packets was lost may be wrong, how many were lost at a stage is not, unless a loss and a
duplicate among equal packets fall into the same stage within the threshold. A packet is taken to have passed a point
unseen only over the bypass, or where that point's capture may have missed it.

Sorting and searching are written out: numba's own would triple the time that this module takes to compile.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.trajectories.placing.unique import group_path, place_one, several

_FOREVER = np.int64(1 << 61)
_SKIP_COST = np.int64(1 << 45)  # ns: above any difference within a threshold, 2^17 of them fit 63 bits
_LOOK_AHEAD = 256
_SAME_ID = 1_000_000  # ns: 65,536 packets between one pair of hosts take longer, even at 60 million a second
_LARGEST_TABLE = 1 << 25  # cells of the assignment table; beyond it, in order by nearest delay


@inlined
def _sort(values, order):
    """Put `order` into the order of `values[order]`, stable: merge sort, bottom up."""
    size = len(order)
    other = np.empty(size, np.int64)
    width = 1
    while width < size:
        for low in range(0, size, 2 * width):
            middle = min(low + width, size)
            high = min(low + 2 * width, size)
            a = low
            b = middle
            for at in range(low, high):
                if a < middle and (b >= high or values[order[a]] <= values[order[b]]):
                    other[at] = order[a]
                    a += 1
                else:
                    other[at] = order[b]
                    b += 1
        for at in range(size):
            order[at] = other[at]
        width *= 2


@inlined
def assign(due, sent, penalty, arrived, earliest, latest, given):
    """Order-preserving assignment: given[j] becomes the packet of arrived[j], or -1.

    Minimal sum of |arrived - due| + penalty among the assignments with most pairs; pairs need arrived - sent within
    [earliest, latest] of the packet. Dynamic programming over both lists, each in order: of `due`, and of time.
    """
    rows = len(due)
    columns = len(arrived)
    for j in range(columns):
        given[j] = -1
    if rows * columns > _LARGEST_TABLE:
        _assign_nearest(due, sent, penalty, arrived, earliest, latest, given)
        return
    step = np.zeros((rows + 1, columns + 1), np.uint8)
    cost = np.zeros(columns + 1, np.int64)  # of the row above, overwritten from the left by this row's
    for j in range(columns + 1):
        cost[j] = j * _SKIP_COST
    for i in range(1, rows + 1):
        diagonal = cost[0]
        for j in range(1, columns + 1):
            best = cost[j]  # packet i - 1 did not arrive
            taken = 1
            if cost[j - 1] + _SKIP_COST < best:  # sighting j - 1 is of no packet before
                best = cost[j - 1] + _SKIP_COST
                taken = 2
            after = arrived[j - 1] - sent[i - 1]
            pair = diagonal + abs(arrived[j - 1] - due[i - 1]) + penalty[i - 1]
            if after >= earliest[i - 1] and after <= latest and pair <= best:
                best = pair
                taken = 3
            diagonal = cost[j]
            cost[j] = best
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
def _assign_nearest(due, sent, penalty, arrived, earliest, latest, given):
    """The same in linear time, for long runs of equal packets: as many pairs, each sighting with the nearest packet
    that leaves enough for the others.

    The first packets that will do, one after the other, are as many pairs as there can be; so are the last ones, from
    the end on, for the same sightings; and so is whatever lies between, in order.
    """
    free = 0
    for j in range(len(arrived)):
        while free < len(sent) and arrived[j] - sent[free] > latest:
            free += 1
        if free < len(sent) and arrived[j] - sent[free] >= earliest[free]:
            given[j] = free
            free += 1
    last = np.empty(len(arrived), np.int64)
    free = np.int64(len(sent) - 1)
    for j in range(len(arrived) - 1, -1, -1):
        if given[j] >= 0:
            while free > given[j] and arrived[j] - sent[free] < earliest[free]:
                free -= 1
            last[j] = max(free, given[j])
            free = last[j] - 1
    free = np.int64(0)
    for j in range(len(arrived)):
        if given[j] >= 0:
            first = max(free, given[j])
            best = np.int64(-1)
            best_cost = np.int64(1) << np.int64(62)
            for i in range(first, min(first + _LOOK_AHEAD, last[j]) + 1):
                after = arrived[j] - sent[i]
                cost = abs(arrived[j] - due[i]) + penalty[i]
                if after >= earliest[i] and after <= latest and cost < best_cost:
                    best = np.int64(i)
                    best_cost = cost
            given[j] = best
            free = best + 1 if best >= 0 else free


@inlined
def _of(values, which):
    """values[which], which numba takes longer to compile."""
    found = np.empty(len(which), np.int64)
    for index in range(len(which)):
        found[index] = values[which[index]]
    return found


@inlined
def _give(packets, sightings, due_at, sent_at, penalty_of, arrived, earliest_of, latest, packet_of):
    """Assign some packets, in the order in which they are due, to some sightings."""
    given = np.empty(len(sightings), np.int64)
    assign(
        _of(due_at, packets), _of(sent_at, packets), _of(penalty_of, packets), _of(arrived, sightings),
        _of(earliest_of, packets), latest, given,
    )  # fmt: skip
    for index in range(len(sightings)):
        if given[index] >= 0:
            packet_of[sightings[index]] = packets[given[index]]


@inlined
def _duplicate_of(rows, packet_of, index, before, behind, times, began_at, threshold):
    """The packet of which rows[index] is a further copy, -1 where there is none.

    That of the nearest given sighting before it within the threshold, else of the nearest after it, if that packet
    was seen at an earlier position before this copy: this one took another way (a bridge that floods), or was faster.
    `before` and `behind` are the indices of the nearest given sightings, -1 where there is none.
    """
    at = times[rows[index]]
    if before >= 0 and at - times[rows[before]] <= threshold:
        return packet_of[before]
    if behind >= 0:
        packet = packet_of[behind]
        if began_at[packet] <= at and at - began_at[packet] <= threshold:
            return packet
    return np.int64(-1)


@inlined
def _can_come(may_miss, start, end, path, origin, position, left, due, before_detour, after_detour):
    """Whether a packet that left `origin` may come to `position` without being seen between."""
    if origin == before_detour and position == after_detour:
        return True
    unseen = True
    for between in range(origin + 1, position):
        if origin <= before_detour and between > before_detour and between < after_detour <= position:
            continue  # it may have gone over the bypass
        unseen &= may_miss[path, between] or left < start[path, between] or due > end[path, between]
    return unseen


@inlined
def _may_begin(missed, start, end, path, position, time):
    """Whether every point before `position` may have missed a packet seen there: then it is no copy of another."""
    unseen = True
    for before in range(position):
        unseen &= missed[path, before] or time < start[path, before] or time > end[path, before]
    return unseen


@inlined
def _by_identity(
    rows, identities, identity_at, arrived, sent_at, due_at, penalty_of, earliest_of, threshold, packet_of, unchanged,
    known,
):  # fmt: skip
    """Sightings whose identity some packets had where they were seen last are these packets, or copies of them.

    What is the same before and behind was not rewritten between: one of each is certain, of several the order decides.
    `known` tells of sightings whose identity any packet had: they are of no packet that had another.
    """
    count = len(rows)
    both = np.empty(count + len(identity_at), np.uint64)  # of the sightings, then of the packets
    for index in range(count):
        both[index] = identities[rows[index]]
    for index in range(len(identity_at)):
        both[count + index] = identity_at[index]
    order = np.arange(len(both))
    _sort(both.view(np.int64), order)
    first = 0
    while first < len(order):
        middle = first  # the sort is stable: sightings stand before packets
        last = first
        while last < len(order) and both[order[last]] == both[order[first]]:
            middle += 1 if order[last] < count else 0
            last += 1
        seen = order[first:middle]
        packets = order[middle:last]
        if middle > first and last > middle:
            for index in range(len(packets)):
                packets[index] -= count
            for index in seen:
                known[index] = True
            if last - first == 2:
                if arrived[seen[0]] - sent_at[packets[0]] <= threshold:
                    packet_of[seen[0]] = packets[0]
            else:
                _sort(due_at, packets)
                _give(
                    packets, seen, due_at, sent_at, penalty_of, arrived, earliest_of, threshold, packet_of
                )  # fmt: skip
            for index in seen:
                if packet_of[index] >= 0:
                    unchanged[packet_of[index]] = True
        first = last


@inlined
def _given_with(rows, identities, packet_of, index, step):
    """The nearest sighting before (step -1) or after rows[index] (1) that has a packet and its identity, else -1."""
    at = index + step
    while 0 <= at < len(rows) and abs(at - index) <= _LOOK_AHEAD:
        if packet_of[at] >= 0 and identities[rows[at]] == identities[rows[index]]:
            return np.int64(at)
        at += step
    return np.int64(-1)


@inlined
def _place_many(
    members, first, last, times, identities, numbered, points, path, visits, layout, delays, slack, plausible, start,
    end, may_miss, missed, threshold, owner, seen, base,
):  # fmt: skip
    """Place one cluster of equal packets, position by position; returns how many packets it holds."""
    size = last - first
    identity_at = np.empty(size, np.uint64)  # where it was seen last
    varied = False  # rewritten packets have equal keys, and identities that still tell many of them apart
    for index in range(first + 1, last):
        varied |= identities[members[index]] != identities[members[first]]
    last_at = np.empty(size, np.int64)
    sent_at = np.empty(size, np.int64)  # time at the last position where a packet was seen
    began_at = np.empty(size, np.int64)  # and at the first
    packets = 0
    for position in range(layout[path, 0]):
        point = layout[path, 3 + position]
        rows = np.empty(size, np.int64)
        count = 0
        for index in range(first, last):
            row = members[index]
            if points[row] == point and owner[row] < 0:
                rows[count] = row
                count += 1
        rows = rows[:count]
        arrived = np.empty(count, np.int64)
        packet_of = np.empty(count, np.int64)
        for index in range(count):
            arrived[index] = times[rows[index]]
            packet_of[index] = -1
        due_at = np.empty(packets, np.int64)
        earliest_of = np.empty(packets, np.int64)
        penalty_of = np.empty(packets, np.int64)
        for packet in range(packets):
            origin = last_at[packet]
            due_at[packet] = sent_at[packet] + delays[path, origin, position]
            earliest_of[packet] = -slack[path, origin, position]
            # One that must have skipped a point is due as well, but a sighting goes to it only if it is not plausible
            # for those that were seen just before.
            penalty_of[packet] = 0 if origin == position - 1 else plausible[path, position]
        unchanged = np.zeros(packets, np.bool_)
        known = np.zeros(count, np.bool_)
        if varied and packets:
            _by_identity(
                rows, identities, identity_at[:packets], arrived, sent_at, due_at, penalty_of, earliest_of, threshold,
                packet_of, unchanged, known,
            )  # fmt: skip
        # Every packet that can have come here, in the order in which it is due.
        chosen = np.empty(packets, np.int64)
        number = 0
        for packet in range(packets):
            if not unchanged[packet] and _can_come(
                may_miss, start, end, path, last_at[packet], position, sent_at[packet], due_at[packet], layout[path, 1],
                layout[path, 2],
            ):  # fmt: skip
                chosen[number] = packet
                number += 1
        chosen = chosen[:number]
        _sort(due_at, chosen)
        loose = np.empty(count, np.int64)
        left = 0
        for index in range(count):
            if packet_of[index] < 0 and not known[index]:
                loose[left] = index
                left += 1
        loose = loose[:left]
        # A single packet with copies of it is no matter of order: it may be as late as it likes.
        within = threshold if packets > 1 else _FOREVER
        _give(chosen, loose, due_at, sent_at, penalty_of, arrived, earliest_of, within, packet_of)
        # Where the path comes by once more, what is left over may be the second visit. At the first position of all
        # it begins packets, half as many as were seen, since every packet comes back.
        again = visits[path, point, 1] > position
        begins = (count + 1) // 2 if again and packets == 0 else (0 if again else count)
        behind = np.empty(count, np.int64)
        near = np.int64(-1)
        for index in range(count - 1, -1, -1):
            behind[index] = near
            near = index if packet_of[index] >= 0 else near
        before = np.int64(-1)
        copy_of = np.empty(count, np.int64)
        for index in range(count):
            copy_of[index] = -1
            before = index if packet_of[index] >= 0 else before
            is_copy = not _may_begin(missed, start, end, path, position, arrived[index])
            if packet_of[index] < 0 and not again and is_copy:
                nearest, next_one = before, behind[index]
                if varied:
                    alike = _given_with(rows, identities, packet_of, index, -1)
                    alike_behind = _given_with(rows, identities, packet_of, index, 1)
                    if alike >= 0 or alike_behind >= 0:
                        nearest, next_one = alike, alike_behind
                copy_of[index] = _duplicate_of(rows, packet_of, index, nearest, next_one, times, began_at, within)
        for index in range(count):
            row = rows[index]
            packet = max(packet_of[index], copy_of[index])
            if packet < 0 and position > 0 and numbered[row] and not again:
                # Nothing before it was there to see whether it was one packet: its IP ID says so.
                alike = _given_with(rows, identities, packet_of, index, -1)
                if alike < 0 or times[row] - times[rows[alike]] > _SAME_ID:
                    alike = _given_with(rows, identities, packet_of, index, 1)  # where the later copy was given to it
                if alike >= 0 and abs(times[row] - times[rows[alike]]) <= _SAME_ID:
                    packet = copy_of[index] = packet_of[alike]
            if packet < 0 and begins > 0:
                begins -= 1
                packet = packets
                packets += 1
                began_at[packet] = times[row]
                sent_at[packet] = times[row]
                packet_of[index] = packet
            if packet >= 0:
                owner[row] = base + packet
                # Rows are in order of time: the first copy to arrive counts, if it came the way of the path.
                came = packet_of[index] >= 0 or times[row] >= sent_at[packet]
                if came and seen[base + packet, position] < 0:
                    seen[base + packet, position] = row
                    last_at[packet] = position
                    sent_at[packet] = times[row]
                    identity_at[packet] = identities[row]
    return packets


@inlined
def _goes_on(members, last, group_end, times, points, path, layout, start, end, missed, threshold):
    """Whether what comes after a gap is still of the packets before it: the first point, which was capturing and
    missed nothing, saw no new one in it (a packet is what the first point of its path saw)."""
    if missed[path, 0] or times[members[last]] < start[path, 0] or times[members[last]] > end[path, 0]:
        return False
    index = last
    while True:
        if points[members[index]] == layout[path, 3]:
            return False
        index += 1
        if index == group_end or times[members[index]] - times[members[index - 1]] > threshold:
            return True


@inlined
def _count_candidates(seen, base, packets, positions, times, threshold, candidates):
    """How many packets of the cluster begin within the threshold of each, itself included."""
    begins = np.empty(packets, np.int64)
    order = np.empty(packets, np.int64)
    for packet in range(packets):
        begins[packet] = np.int64(1 << 62)
        order[packet] = packet
        for position in range(positions):
            row = seen[base + packet, position]
            if row >= 0:
                begins[packet] = min(begins[packet], times[row])
    _sort(begins, order)
    low = 0
    high = 0
    for packet in order:
        while begins[order[low]] < begins[packet] - threshold:
            low += 1
        while high < packets and begins[order[high]] <= begins[packet] + threshold:
            high += 1
        candidates[base + packet] = high - low


@kernel
def follow_repeated(
    repeated, members, times, identities, numbered, points, paths, visits, clocks, layout, delays, slack, plausible,
    start, end, may_miss, missed, threshold, owner, seen, path_of, candidates, count,
):  # fmt: skip
    """Place the groups that `exact.follow_unique` left.

    Args:
        repeated: begin and end of each group in `members`; threshold: ns; identities: uint64 per row; numbered: bool
        per row, it has an IP ID other than 0; clocks: int64 per point; layout: int64 per path: positions, filter input
        or -1, position after the detour or -1, then the point of each position; delays, slack: int64 by path and pair
        of positions, the median delay of certain packets and how early a sighting may lie; plausible: int64 by path
        and position, 10 x the largest certain delay on the way there, beyond which another packet is the better
        explanation; start, end: int64 by path and position, what the capture covers; may_miss, missed: bool by path
        and position, the capture may have missed packets, or did; candidates: int32 per trajectory, filled; count:
        trajectories so far. The rest as for follow_unique.

    Returns:
        (trajectories in all, rows without a path).
    """
    scratch = np.zeros(visits.shape[1], np.int64)
    no_path = 0
    for group in range(0, len(repeated), 2):
        first = repeated[group]
        group_end = repeated[group + 1]
        while first < group_end:
            last = first + 1
            path = group_path(members, first, group_end, paths)
            while last < group_end and (
                times[members[last]] - times[members[last - 1]] <= threshold
                or (
                    path >= 0
                    and _goes_on(members, last, group_end, times, points, path, layout, start, end, missed, threshold)
                )
            ):
                last += 1
            path = group_path(members, first, last, paths)
            if path < 0:
                no_path += last - first
            elif not several(members, first, last, times, points, path, visits, clocks, threshold, scratch):
                place_one(members, first, last, times, points, path, visits, owner, seen, count)
                path_of[count] = path
                candidates[count] = 1
                count += 1
            else:
                placed = _place_many(
                    members, first, last, times, identities, numbered, points, path, visits, layout, delays, slack,
                    plausible, start, end, may_miss, missed, threshold, owner, seen, count,
                )  # fmt: skip
                for packet in range(placed):
                    path_of[count + packet] = path
                _count_candidates(seen, count, placed, layout[path, 0], times, threshold, candidates)
                count += placed
            first = last
    return count, no_path
