"""Kernels that find the packets in which the bytes of a part may have been sent."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pktrace.compiled import inlined, kernel

MOST_SENDERS = 8  # whose bytes one fragment is compared with
MOST_SUPERPACKETS = 64  # whose bytes one segment is compared with: IP IDs count on from all that are under way
_MOST_LOOKS = 512  # packets that are looked at for one part
_MOST_SEGMENTS = 128  # of a UDP packet: UDP_MAX_SEGMENTS of Linux


class Keyed(NamedTuple):
    """Packets or fragments in order of key and time: `key` (uint64), `time` (int64, ns)."""

    key: np.ndarray[Any, Any]
    time: np.ndarray[Any, Any]


class Ranges(NamedTuple):
    """Bytes of each of them: `begin`, `end` (int64), and `last` (bool): nothing of its datagram is behind them."""

    begin: np.ndarray[Any, Any]
    end: np.ndarray[Any, Any]
    last: np.ndarray[Any, Any]


class Sizes(NamedTuple):
    """Of each of them the IP ID and the payload bytes (int64)."""

    ip_id: np.ndarray[Any, Any]
    length: np.ndarray[Any, Any]


@inlined
def near(low, high, cell, time, cells, times, before, behind):
    """The places [low, high) in `cells` with this cell, from `before` ns before this time to `behind` ns after it.

    Args:
        low, high: the result for the previous call; calls and `cells` are sorted by cell, then by time.
    """
    while low < len(cells) and (cells[low] < cell or (cells[low] == cell and time - times[low] > before)):
        low += 1
    high = max(high, low)
    while high < len(cells) and cells[high] == cell and times[high] - time <= behind:
        high += 1
    return low, high


@kernel
def senders_near(fragments, of_fragments, packets, of_packets, early, threshold, found):
    """Find the packets in which a fragment may have been sent.

    Args:
        fragments, packets: Keyed, by identification; of_fragments, of_packets: Ranges; early, threshold: ns; found:
        int64 fragments x MOST_SENDERS, -1, filled with the last packets before each fragment.
    """
    low, high = 0, 0
    for one in range(len(fragments.key)):
        key, time = fragments.key[one], fragments.time[one]
        low, high = near(low, high, key, time, packets.key, packets.time, threshold, early)
        begin, end = of_fragments.begin[one], of_fragments.end[one]
        count = 0
        for packet in range(high - 1, max(low, high - _MOST_LOOKS) - 1, -1):
            behind = of_packets.end[packet]
            if begin < of_packets.begin[packet] or begin >= behind or count == found.shape[1]:
                continue
            if of_packets.last[packet] and (end != behind if of_fragments.last[one] else end > behind):
                continue
            found[one, count] = packet
            count += 1


@kernel
def packets_near(segments, of_segments, packets, of_packets, early, threshold, found, places):
    """Find the packets to which each segment may belong.

    Args:
        segments, packets: Keyed, by flow; of_segments, of_packets: Sizes; early, threshold: ns; found, places: int64
        segments x MOST_SUPERPACKETS, -1, filled with the last packets before each segment, and with the place in their
        payload where the segment begins.
    """
    low, high = 0, 0
    for one in range(len(segments.key)):
        key, time, size = segments.key[one], segments.time[one], of_segments.length[one]
        low, high = near(low, high, key, time, packets.key, packets.time, threshold, early)
        count = 0
        for packet in range(high - 1, max(low, high - _MOST_LOOKS) - 1, -1):
            index = (of_segments.ip_id[one] - of_packets.ip_id[packet]) & 0xFFFF
            left = of_packets.length[packet] - size
            if index >= _MOST_SEGMENTS or left <= 0:
                continue
            # As long as all others, or the last one, which may be shorter.
            if index * size <= left and count < found.shape[1]:
                found[one, count], places[one, count] = packet, index * size
                count += 1
            if index > 0 and left % index == 0 and left // index > size and count < found.shape[1]:
                found[one, count], places[one, count] = packet, left
                count += 1
