"""The kernel of the range rung: which packet each byte of an observation belongs to."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import kernel

_MOST_LOOKS = 4096  # packets that are looked at for one observation


@kernel
def match_bytes(
    begins, senders, sent, begin, end, arrived, low, high, point, path_of, visits, seen, early, threshold, pair, heads,
    links,
):  # fmt: skip
    """Give arrivals to senders, group by group.

    Args:
        begins: int64 (groups + 1) x 2, where the senders and the arrivals of each group begin, both in order of time;
        senders: trajectory of each, sent: its time, begin, end: its bytes; arrived, low, high, point: of each arrival;
        path_of, visits, seen: of the trajectories; pair: int64 n x 5, filled with (trajectory, arrival, position,
        first, last); heads: int64 trajectories x positions, -1; links: int64 n.

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
            for sender in range(bottom - 1, max(first_sender, bottom - _MOST_LOOKS) - 1, -1):
                if left <= 0 or time - sent[sender] > threshold:
                    break
                a = max(begin[sender], low[arrival])
                b = min(end[sender], high[arrival])
                trajectory = senders[sender]
                position = visits[path_of[trajectory], point[arrival], 0]
                if a >= b or position < 1 or seen[trajectory, position] >= 0:
                    continue
                taken = False
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
                links[count] = heads[trajectory, position]
                heads[trajectory, position] = count
                count += 1
                left -= b - a
    return np.int64(count)
