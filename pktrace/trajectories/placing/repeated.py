"""The matcher `order`: packets with equal keys, assigned by order and delay within the loss threshold.

Rule: sightings further apart than the loss threshold belong to different packets. Within it, the sightings at the next
position are assigned to the packets seen before, in order: as many as possible, and among these the assignment with the
smallest sum of differences from the delay that certain packets had. A sighting that is left over at a position where
packets arrived is a duplicate of the one before it (RFC 5560); elsewhere it begins a packet.
Bound: the choice of the lost one among equal packets may be wrong. The number lost at a stage is right, unless a loss
and a duplicate among equal packets fall into the same stage within the threshold. A packet passed a point unseen only
over the bypass, or if that point's capture may have missed it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.trajectories.placing.assignment import LOOK_AHEAD, assign, sort
from pktrace.trajectories.placing.unique import group_path, place_one, several

_FOREVER = np.int64(1 << 61)
_SAME_ID = 1_000_000  # ns: 65,536 packets between one pair of hosts take longer, even at 60 million a second


class Identities(NamedTuple):
    """Fields of all rows that distinguish packets with equal keys.

    `identity`: uint64; `numbered`: bool, the IP ID is not 0.
    """

    identity: np.ndarray[Any, Any]
    numbered: np.ndarray[Any, Any]


class Expected(NamedTuple):
    """Delays and gaps that packets may have.

    `layout`: int64 per path: positions, filter input or -1, position after the detour or -1, then the point of each
    position. By path and pair of positions (int64, ns): `delay`, the median of certain packets, and `slack`, how early
    a sighting may lie. By path and position: `plausible` (int64, ns), 10 x the largest certain delay on the way there,
    beyond which another packet is the better explanation; `start`, `end` (int64, ns), the time that the capture covers;
    `may_miss`, `missed` (bool), the capture may have missed packets, or did.
    """

    layout: np.ndarray[Any, Any]
    delay: np.ndarray[Any, Any]
    slack: np.ndarray[Any, Any]
    plausible: np.ndarray[Any, Any]
    start: np.ndarray[Any, Any]
    end: np.ndarray[Any, Any]
    may_miss: np.ndarray[Any, Any]
    missed: np.ndarray[Any, Any]


class _Cluster(NamedTuple):
    """Packets of one cluster so far: `identity` (uint64) and position (`last`) of the last sighting, `sent` its time,
    `began` the time of the first sighting (int64, ns).
    """

    identity: np.ndarray[Any, Any]
    last: np.ndarray[Any, Any]
    sent: np.ndarray[Any, Any]
    began: np.ndarray[Any, Any]


class _Arrivals(NamedTuple):
    """Sightings of a cluster at one position, in order of time: `row`, time `at` (int64, ns), `packet` (int64, -1 for
    none), `copy_of` (int64, the packet that it duplicates, -1 for none), `known` (bool, some packet had its identity).
    """

    row: np.ndarray[Any, Any]
    at: np.ndarray[Any, Any]
    packet: np.ndarray[Any, Any]
    copy_of: np.ndarray[Any, Any]
    known: np.ndarray[Any, Any]


class _Due(NamedTuple):
    """When packets are due at one position: `at` and `earliest` (int64, ns; the latter after the last sighting),
    `penalty` (int64, ns), and `unchanged` (bool): an arrival with its identity was found already.
    """

    at: np.ndarray[Any, Any]
    earliest: np.ndarray[Any, Any]
    penalty: np.ndarray[Any, Any]
    unchanged: np.ndarray[Any, Any]


@inlined
def _of(values, which):
    """values[which], which numba takes longer to compile."""
    found = np.empty(len(which), np.int64)
    for index in range(len(which)):
        found[index] = values[which[index]]
    return found


@inlined
def _give(packets, sightings, due, sent, arrivals, latest):
    """Assign some packets, in the order in which they are due, to some sightings."""
    given = np.empty(len(sightings), np.int64)
    assign(
        _of(due.at, packets), _of(sent, packets), _of(due.penalty, packets), _of(arrivals.at, sightings),
        _of(due.earliest, packets), latest, given,
    )  # fmt: skip
    for index in range(len(sightings)):
        if given[index] >= 0:
            arrivals.packet[sightings[index]] = packets[given[index]]


@inlined
def _duplicate_of(arrivals, index, before, behind, began, threshold):
    """The packet that an arrival duplicates, -1 where there is none.

    It is the packet of the nearest assigned sighting before it within the threshold; else of the nearest after it, if
    an earlier position saw that packet before this copy: the copy took another way (a bridge that floods), or was
    faster. `before` and `behind` are the indices of the nearest assigned sightings, -1 where there is none.
    """
    at = arrivals.at[index]
    if before >= 0 and at - arrivals.at[before] <= threshold:
        return arrivals.packet[before]
    if behind >= 0:
        packet = arrivals.packet[behind]
        if began[packet] <= at and at - began[packet] <= threshold:
            return packet
    return np.int64(-1)


@inlined
def _can_come(expected, path, origin, position, left, due):
    """True if a packet seen at `origin` may come to `position` though no point between has seen it."""
    before_detour, after_detour = expected.layout[path, 1], expected.layout[path, 2]
    if origin == before_detour and position == after_detour:
        return True
    unseen = True
    for between in range(origin + 1, position):
        if origin <= before_detour and between > before_detour and between < after_detour <= position:
            continue  # it may have gone over the bypass
        outside = left < expected.start[path, between] or due > expected.end[path, between]
        unseen &= expected.may_miss[path, between] or outside
    return unseen


@inlined
def _may_begin(expected, path, position, time):
    """True if every point before `position` may have missed a packet seen there; then it is no copy of another."""
    unseen = True
    for before in range(position):
        outside = time < expected.start[path, before] or time > expected.end[path, before]
        unseen &= expected.missed[path, before] or outside
    return unseen


@inlined
def _by_identity(arrivals, identity, cluster, packets, due, threshold):
    """Arrivals with the identity that some packets had at their last sighting are these packets, or copies of them.

    No box between rewrote what is the same before and behind. One packet of each identity is certain; of several, the
    order decides. An arrival that is `known` belongs to no packet with another identity.
    """
    count = len(arrivals.row)
    both = np.empty(count + packets, np.uint64)  # of the sightings, then of the packets
    for index in range(count):
        both[index] = identity[arrivals.row[index]]
    for index in range(packets):
        both[count + index] = cluster.identity[index]
    order = np.arange(len(both))
    sort(both.view(np.int64), order)
    first = 0
    while first < len(order):
        middle = first  # the sort is stable: sightings stand before packets
        last = first
        while last < len(order) and both[order[last]] == both[order[first]]:
            middle += 1 if order[last] < count else 0
            last += 1
        seen = order[first:middle]
        same = order[middle:last]
        if middle > first and last > middle:
            for index in range(len(same)):
                same[index] -= count
            for index in seen:
                arrivals.known[index] = True
            if last - first == 2:
                if arrivals.at[seen[0]] - cluster.sent[same[0]] <= threshold:
                    arrivals.packet[seen[0]] = same[0]
            else:
                sort(due.at, same)
                _give(same, seen, due, cluster.sent, arrivals, threshold)
            for index in seen:
                if arrivals.packet[index] >= 0:
                    due.unchanged[arrivals.packet[index]] = True
        first = last


@inlined
def _assigned_alike(arrivals, identity, index, step):
    """The nearest arrival before (step -1) or after it (1) that has a packet and the same identity, else -1."""
    at = index + step
    while 0 <= at < len(arrivals.row) and abs(at - index) <= LOOK_AHEAD:
        if arrivals.packet[at] >= 0 and identity[arrivals.row[at]] == identity[arrivals.row[index]]:
            return np.int64(at)
        at += step
    return np.int64(-1)


@inlined
def _arrivals_at(members, first, last, point, sightings, owner):
    """The sightings of a cluster at a point that belong to no packet yet."""
    rows = np.empty(last - first, np.int64)
    count = 0
    for index in range(first, last):
        row = members[index]
        if sightings.points[row] == point and owner[row] < 0:
            rows[count] = row
            count += 1
    arrivals = _Arrivals(
        rows[:count], np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64),
        np.zeros(count, np.bool_),
    )  # fmt: skip
    for index in range(count):
        arrivals.at[index] = sightings.times[rows[index]]
        arrivals.packet[index] = -1
        arrivals.copy_of[index] = -1
    return arrivals


@inlined
def _due_at(cluster, packets, expected, path, position):
    """When each packet of a cluster is due at a position."""
    due = _Due(
        np.empty(packets, np.int64), np.empty(packets, np.int64), np.empty(packets, np.int64),
        np.zeros(packets, np.bool_),
    )  # fmt: skip
    for packet in range(packets):
        origin = cluster.last[packet]
        due.at[packet] = cluster.sent[packet] + expected.delay[path, origin, position]
        due.earliest[packet] = -expected.slack[path, origin, position]
        # A packet that must have skipped a point is due as well, but a sighting goes to it only if it is not plausible
        # for those that were seen just before.
        due.penalty[packet] = 0 if origin == position - 1 else expected.plausible[path, position]
    return due


@inlined
def _assign_arrivals(arrivals, cluster, packets, due, expected, path, position, within):
    """Assign arrivals to the packets that can have come here, in the order in which they are due."""
    chosen = np.empty(packets, np.int64)
    number = 0
    for packet in range(packets):
        came = _can_come(expected, path, cluster.last[packet], position, cluster.sent[packet], due.at[packet])
        if came and not due.unchanged[packet]:
            chosen[number] = packet
            number += 1
    chosen = chosen[:number]
    sort(due.at, chosen)
    loose = np.empty(len(arrivals.row), np.int64)
    left = 0
    for index in range(len(arrivals.row)):
        if arrivals.packet[index] < 0 and not arrivals.known[index]:
            loose[left] = index
            left += 1
    _give(chosen, loose[:left], due, cluster.sent, arrivals, within)


@inlined
def _find_copies(arrivals, cluster, identity, varied, expected, path, position, within):
    """Fill `copy_of` of arrivals that are left over, where no packet can begin."""
    count = len(arrivals.row)
    behind = np.empty(count, np.int64)
    near = np.int64(-1)
    for index in range(count - 1, -1, -1):
        behind[index] = near
        near = index if arrivals.packet[index] >= 0 else near
    before = np.int64(-1)
    for index in range(count):
        before = index if arrivals.packet[index] >= 0 else before
        if arrivals.packet[index] >= 0 or _may_begin(expected, path, position, arrivals.at[index]):
            continue
        nearest, next_one = before, behind[index]
        if varied:
            alike = _assigned_alike(arrivals, identity, index, -1)
            alike_behind = _assigned_alike(arrivals, identity, index, 1)
            if alike >= 0 or alike_behind >= 0:
                nearest, next_one = alike, alike_behind
        arrivals.copy_of[index] = _duplicate_of(arrivals, index, nearest, next_one, cluster.began, within)


@inlined
def _same_ip_id(arrivals, identity, index):
    """The packet of an arrival with the same bytes and IP ID so near that its sender cannot have used the ID again; -1
    else. Nothing before this position was there to see whether both were one packet.
    """
    alike = _assigned_alike(arrivals, identity, index, -1)
    if alike < 0 or arrivals.at[index] - arrivals.at[alike] > _SAME_ID:
        alike = _assigned_alike(arrivals, identity, index, 1)  # where the later copy was assigned
    if alike >= 0 and abs(arrivals.at[index] - arrivals.at[alike]) <= _SAME_ID:
        return arrivals.packet[alike]
    return np.int64(-1)


@inlined
def _enter(arrivals, cluster, packets, begins, position, same, again, into, base):
    """Enter the arrivals into their packets; those that begin packets, at most `begins`, are added. Returns how many
    packets the cluster holds.
    """
    for index in range(len(arrivals.row)):
        row, time = arrivals.row[index], arrivals.at[index]
        packet = max(arrivals.packet[index], arrivals.copy_of[index])
        if packet < 0 and position > 0 and same.numbered[row] and not again:
            packet = arrivals.copy_of[index] = _same_ip_id(arrivals, same.identity, index)
        if packet < 0 and begins > 0:
            begins -= 1
            packet = packets
            packets += 1
            cluster.began[packet] = time
            cluster.sent[packet] = time
            arrivals.packet[index] = packet
        if packet >= 0:
            into.owner[row] = base + packet
            # Rows are in order of time: the first copy to arrive counts, if it came the way of the path.
            came = arrivals.packet[index] >= 0 or time >= cluster.sent[packet]
            if came and into.seen[base + packet, position] < 0:
                into.seen[base + packet, position] = row
                cluster.last[packet] = position
                cluster.sent[packet] = time
                cluster.identity[packet] = same.identity[row]
    return packets


@inlined
def _place_cluster(members, first, last, path, sightings, same, visits, expected, into, base):
    """Place one cluster of equal packets, position by position; returns how many packets it holds.

    `into` has the loss threshold, too.
    """
    size, threshold = last - first, into.threshold
    cluster = _Cluster(
        np.empty(size, np.uint64), np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size, np.int64)
    )
    varied = False  # rewritten packets have equal keys, and identities that still distinguish many of them
    for index in range(first + 1, last):
        varied |= same.identity[members[index]] != same.identity[members[first]]
    packets = 0
    for position in range(expected.layout[path, 0]):
        point = expected.layout[path, 3 + position]
        arrivals = _arrivals_at(members, first, last, point, sightings, into.owner)
        count = len(arrivals.row)
        due = _due_at(cluster, packets, expected, path, position)
        if varied and packets:
            _by_identity(arrivals, same.identity, cluster, packets, due, threshold)
        # A single packet and its duplicates need no ordering, so no time limit applies.
        within = threshold if packets > 1 else _FOREVER
        _assign_arrivals(arrivals, cluster, packets, due, expected, path, position, within)
        # On a path that visits the point again, an arrival that is left over may be the second visit. At the first
        # position, half of the arrivals begin packets, since every packet comes back.
        again = visits[path, point, 1] > position
        begins = (count + 1) // 2 if again and packets == 0 else (0 if again else count)
        if not again:
            _find_copies(arrivals, cluster, same.identity, varied, expected, path, position, within)
        packets = _enter(arrivals, cluster, packets, begins, position, same, again, into, base)
    return packets


@inlined
def _goes_on(members, last, group_end, sightings, path, expected, threshold):
    """True if the sightings behind a gap still belong to the packets before it.

    They do if the first point, which was capturing and missed nothing, saw no new packet behind the gap: a packet is
    what the first point of its path saw.
    """
    time = sightings.times[members[last]]
    if expected.missed[path, 0] or time < expected.start[path, 0] or time > expected.end[path, 0]:
        return False
    index = last
    while True:
        if sightings.points[members[index]] == expected.layout[path, 3]:
            return False
        index += 1
        if index == group_end or sightings.times[members[index]] - sightings.times[members[index - 1]] > threshold:
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
    sort(begins, order)
    low = 0
    high = 0
    for packet in order:
        while begins[order[low]] < begins[packet] - threshold:
            low += 1
        while high < packets and begins[order[high]] <= begins[packet] + threshold:
            high += 1
        candidates[base + packet] = high - low


@kernel
def follow_repeated(repeated, members, sightings, same, ways, expected, into, candidates, count):
    """Place the groups that `settle_unclear` left (unique.py).

    Args:
        repeated: int64, begin and end of each group in `members`; members: int64, rows; sightings, ways, into: of
        unique.py, with room for more packets; same, expected: as above; candidates: int32 per trajectory, filled;
        count: trajectories so far.

    Returns:
        (trajectories in all, rows without a path).
    """
    threshold, times = into.threshold, sightings.times
    scratch = np.zeros(ways.visits.shape[1], np.int64)
    no_path = 0
    for group in range(0, len(repeated), 2):
        first = repeated[group]
        group_end = repeated[group + 1]
        while first < group_end:
            last = first + 1
            path = group_path(members, first, group_end, sightings.paths)
            while last < group_end and (
                times[members[last]] - times[members[last - 1]] <= threshold
                or (path >= 0 and _goes_on(members, last, group_end, sightings, path, expected, threshold))
            ):
                last += 1
            path = group_path(members, first, last, sightings.paths)
            if path < 0:
                no_path += last - first
            elif not several(members, first, last, sightings, path, ways, threshold, scratch):
                place_one(members, first, last, sightings, path, ways.visits, into, count)
                into.path_of[count] = path
                candidates[count] = 1
                count += 1
            else:
                placed = _place_cluster(
                    members, first, last, path, sightings, same, ways.visits, expected, into, count
                )  # fmt: skip
                for packet in range(placed):
                    into.path_of[count + packet] = path
                _count_candidates(into.seen, count, placed, expected.layout[path, 0], times, threshold, candidates)
                count += placed
            first = last
    return count, no_path
