"""The kernel of the matcher `range`: it assigns each byte of an observation to a packet."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel

_MOST_LOOKS = 4096  # packets that are looked at for one observation
MOST_PARTS = 4096  # of a packet at one point: the largest, 512 KiB, has a thousand of the smallest usual size


@inlined
def _free_from(pair, given, count, link, links, base, at):
    """The first byte from `at` on that is free: not yet assigned for this arrival, nor for this packet at this point.

    Args:
        given: the first of the arrival's pairs, up to `count`; link: the first of the packet's pairs, -1 for none;
        base: the place of the packet's first byte.
    """
    moved = True
    while moved:
        moved = False
        for number in range(given, count):
            if pair[number, 5] <= at < pair[number, 5] + pair[number, 4] - pair[number, 3] + 1:
                at = pair[number, 5] + pair[number, 4] - pair[number, 3] + 1
                moved = True
        one = link
        while one >= 0:
            if pair[one, 3] + base <= at <= pair[one, 4] + base:
                at = pair[one, 4] + base + 1
                moved = True
            one = links[one]
    return at


@inlined
def _free_to(pair, given, count, link, links, base, at, end):
    """The byte behind the last free one from `at` on, at most `end`."""
    for number in range(given, count):
        if pair[number, 5] > at:
            end = min(end, pair[number, 5])
    one = link
    while one >= 0:
        if pair[one, 3] + base > at:
            end = min(end, pair[one, 3] + base)
        one = links[one]
    return end


@inlined
def _ids_fit(sent_id, begin, end, arrived_id, low, high):
    """True if the IP IDs of a packet and an arrival differ as their first bytes do.

    Segment i of a split packet has the packet's ID + i, or the packet's ID. A merged frame has the ID of its first
    part. The distance of the first bytes is therefore as many times the length of a segment as the IDs differ. The one
    that begins later holds whole segments, or is the end of the other.
    """
    if sent_id < 0 or arrived_id < 0:
        return False
    steps = (arrived_id - sent_id) & 0xFFFF
    if steps >= 0x8000:
        steps -= 0x10000
    distance = low - begin
    if steps == 0:
        return True
    if distance % steps or distance // steps <= 0:
        return False
    step = distance // steps
    if distance > 0:
        return (high - low) % step == 0 or high >= end
    return (end - begin) % step == 0 or end >= high


@kernel
def match_bytes(
    begins, senders, sent, begin, end, sent_id, whole, arrived, low, high, arrived_id, undivided, point, path_of,
    visits, seen, early, threshold, pair, heads, links,
):  # fmt: skip
    """Assign arrivals to senders, group by group: each byte to the last packet that was sent with it before.

    Among the packets that were sent with its bytes, packets whose IP ID fits the arrival's go first: a retransmission
    has the bytes of its original, and another ID. Among these, packets stamped before the arrival go first: `early`
    allows for stamps that are taken late.

    Args:
        begins: int64 (groups + 1) x 2, the begin of the senders and of the arrivals of each group, both in order of
        time;
        senders: trajectory of each sender, sent: its time, begin, end: its bytes, sent_id: its IP ID, -1 if it says
        nothing, whole: bool, not divided into fragments; arrived, low, high, arrived_id, undivided, point: the same for
        each arrival; path_of, visits, seen: of the trajectories;
        pair: int64 n x 6, filled with (trajectory, arrival, position, first, last, first in the group's numbering);
        heads: int64 senders x positions, -1; links: int64 n. No packet gets more than MOST_PARTS at one point.

    Returns:
        Pairs found, or -1 if `pair` is too short.
    """
    count = np.int64(0)
    parts = np.zeros(heads.shape, np.int32)
    for group in range(len(begins) - 1):
        first_sender = begins[group, 0]
        for arrival in range(begins[group, 1], begins[group + 1, 1]):
            time = arrived[arrival]
            bottom = first_sender
            top = begins[group + 1, 0]
            while bottom < top:  # the last sender that was sent before
                middle = (bottom + top) // 2
                if sent[middle] - early <= time:
                    bottom = middle + 1
                else:
                    top = middle
            left = high[arrival] - low[arrival]
            given = count
            # Four passes, best evidence first: the IP ID fits and the packet was stamped before; the ID fits and the
            # packet was stamped up to `early` after the arrival; then the same two without the ID. Bytes that one pass
            # assigns are gone for the next.
            for choice in range(4):
                fitting, ahead = choice < 2, choice % 2 == 1
                for sender in range(bottom - 1, max(first_sender, bottom - _MOST_LOOKS) - 1, -1):
                    if left <= 0 or time - sent[sender] > threshold:
                        break
                    at = max(begin[sender], low[arrival])
                    stop = min(end[sender], high[arrival])
                    trajectory = senders[sender]
                    position = visits[path_of[trajectory], point[arrival], 0]
                    if at >= stop or position < 1 or seen[trajectory, position] >= 0:
                        continue
                    if (sent[sender] > time) != ahead:
                        continue
                    if parts[sender, position] >= MOST_PARTS:
                        continue
                    # Fragments are compared with fragments, or with a whole packet that does not end before them.
                    if whole[sender] and (undivided[arrival] or high[arrival] > end[sender]):
                        continue
                    if undivided[arrival] and end[sender] > high[arrival]:
                        continue
                    if fitting and not _ids_fit(
                        sent_id[sender], begin[sender], end[sender], arrived_id[arrival], low[arrival], high[arrival]
                    ):
                        continue
                    base = begin[sender]
                    while True:
                        link = heads[sender, position]
                        at = _free_from(pair, given, count, link, links, base, at)
                        if at >= stop:
                            break
                        until = _free_to(pair, given, count, link, links, base, at, stop)
                        if count == len(pair):
                            return np.int64(-1)
                        pair[count, 0] = trajectory
                        pair[count, 1] = arrival
                        pair[count, 2] = position
                        pair[count, 3] = at - base
                        pair[count, 4] = until - base - 1
                        pair[count, 5] = at
                        links[count] = link
                        heads[sender, position] = count
                        parts[sender, position] += 1
                        count += 1
                        left -= until - at
                        at = until
    return np.int64(count)
