"""The kernel of the range rung: which packet each byte of an observation belongs to."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel

_MOST_LOOKS = 4096  # packets that are looked at for one observation


@inlined
def _ids_fit(sent_id, begin, end, arrived_id, low, high):
    """Whether the IP IDs of a packet and an arrival differ as their first bytes do.

    Segment i of a split packet has its ID + i, or its ID; what is merged has that of its first part. So the distance
    of the first bytes is as many times the length of a segment as the IDs differ, and the one that begins later holds
    whole segments, or is the end of the other.
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
    begins, senders, sent, begin, end, sent_id, arrived, low, high, arrived_id, point, path_of, visits, seen, early,
    threshold, pair, heads, links,
):  # fmt: skip
    """Give arrivals to senders, group by group.

    Of the packets that were sent with its bytes, those go first whose IP ID fits the arrival's: a retransmission has
    the bytes of its original, and another ID.

    Args:
        begins: int64 (groups + 1) x 2, where the senders and the arrivals of each group begin, both in order of time;
        senders: trajectory of each, sent: its time, begin, end: its bytes, sent_id: its IP ID, -1 where that says
        nothing; arrived, low, high, arrived_id, point: of each arrival; path_of, visits, seen: of the trajectories;
        pair: int64 n x 6, filled with (trajectory, arrival, position, first, last, first of the group's bytes);
        heads: int64 trajectories x positions, -1; links: int64 n.

    Returns:
        Pairs found, or -1 where `pair` is too short.
    """
    count = 0
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
            for fitting in (True, False):
                for sender in range(bottom - 1, max(first_sender, bottom - _MOST_LOOKS) - 1, -1):
                    if left <= 0 or time - sent[sender] > threshold:
                        break
                    a = max(begin[sender], low[arrival])
                    b = min(end[sender], high[arrival])
                    trajectory = senders[sender]
                    position = visits[path_of[trajectory], point[arrival], 0]
                    if a >= b or position < 1 or seen[trajectory, position] >= 0:
                        continue
                    if fitting and not _ids_fit(
                        sent_id[sender], begin[sender], end[sender], arrived_id[arrival], low[arrival], high[arrival]
                    ):
                        continue
                    # What another packet has been given of this arrival is its.
                    link = count - 1
                    while link >= 0 and pair[link, 1] == arrival:
                        first = pair[link, 5]
                        behind = first + pair[link, 4] - pair[link, 3] + 1
                        if first < b and behind > a:
                            if first <= a:
                                a = min(b, behind)
                            else:
                                b = first
                        link -= 1
                    taken = a >= b
                    link = heads[trajectory, position]
                    while link >= 0 and not taken:
                        taken = pair[link, 3] < b - begin[sender] and pair[link, 4] >= a - begin[sender]
                        link = links[link]
                    if taken:
                        continue
                    if count == len(pair):
                        return np.int64(-1)
                    pair[count, 0] = trajectory
                    pair[count, 1] = arrival
                    pair[count, 2] = position
                    pair[count, 3] = a - begin[sender]
                    pair[count, 4] = b - begin[sender] - 1
                    pair[count, 5] = a
                    links[count] = heads[trajectory, position]
                    heads[trajectory, position] = count
                    count += 1
                    left -= b - a
    return np.int64(count)
