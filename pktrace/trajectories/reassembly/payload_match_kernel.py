"""Kernels that find the packets in which the bytes of a part may have been sent."""

from __future__ import annotations

from pktrace.compiled import inlined, kernel

MOST_SENDERS = 8  # whose bytes one fragment is compared with
MOST_SUPERPACKETS = 64  # whose bytes one segment is compared with: IP IDs count on from all that are under way
_MOST_LOOKS = 512  # packets that are looked at for one part
_MOST_SEGMENTS = 128  # of a UDP packet: UDP_MAX_SEGMENTS of Linux


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
def senders_near(
    wanted, asked, begin, end, last, cell, sent, first, behind, divided, early, threshold, found
):  # fmt: skip
    """The packets in which a fragment may have been sent.

    Args:
        wanted, asked: identification and time of each fragment; begin, end: its bytes; last: bool, it is the last;
        cell, sent, first, behind: the same for packets, divided: bool, further fragments follow; both are sorted by
        identification, then by time; found: int64 fragments x MOST_SENDERS, -1, filled with the last ones before it.
    """
    low, high = 0, 0
    for one in range(len(wanted)):
        low, high = near(low, high, wanted[one], asked[one], cell, sent, threshold, early)
        count = 0
        for packet in range(high - 1, max(low, high - _MOST_LOOKS) - 1, -1):
            if begin[one] < first[packet] or begin[one] >= behind[packet] or count == found.shape[1]:
                continue
            if not divided[packet] and (end[one] != behind[packet] if last[one] else end[one] > behind[packet]):
                continue
            found[one, count] = packet
            count += 1


@kernel
def packets_near(wanted, asked, part_id, size, flow, sent, packet_id, length, early, threshold, found, places):
    """The packets that may own each segment.

    Args:
        wanted, asked, part_id, size: flow, time, IP ID and payload bytes of each part; flow, sent, packet_id, length:
        the same for packets; both are sorted by flow, then by time; found, places: int64 parts x MOST_SUPERPACKETS, -1,
        filled with the last packets before it, and the part's first byte in their payload.
    """
    low, high = 0, 0
    for one in range(len(wanted)):
        low, high = near(low, high, wanted[one], asked[one], flow, sent, threshold, early)
        count = 0
        for packet in range(high - 1, max(low, high - _MOST_LOOKS) - 1, -1):
            index = (part_id[one] - packet_id[packet]) & 0xFFFF
            left = length[packet] - size[one]
            if index >= _MOST_SEGMENTS or left <= 0:
                continue
            # The part is as long as all others, or it is the last one, which may be shorter.
            if index * size[one] <= left and count < found.shape[1]:
                found[one, count], places[one, count] = packet, index * size[one]
                count += 1
            # As the last one: all bytes before it divide into `index` equal segments, each longer than the part.
            if index > 0 and left % index == 0 and left // index > size[one] and count < found.shape[1]:
                found[one, count], places[one, count] = packet, left
                count += 1
