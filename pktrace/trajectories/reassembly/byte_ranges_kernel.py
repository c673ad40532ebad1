"""The kernel of the matcher `range`: it assigns each byte of an observation to a packet."""

from __future__ import annotations

from typing import Any, NamedTuple

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


class Held(NamedTuple):
    """Byte ranges of senders or arrivals, group by group and in order of time.

    `time` (int64, ns), `begin`, `end` (int64), `ip_id` (int64, -1 where it says nothing), `whole` (bool, not divided
    into fragments), `of` (int64): the trajectory of a sender, the point of an arrival.
    """

    time: np.ndarray[Any, Any]
    begin: np.ndarray[Any, Any]
    end: np.ndarray[Any, Any]
    ip_id: np.ndarray[Any, Any]
    whole: np.ndarray[Any, Any]
    of: np.ndarray[Any, Any]


class Placed(NamedTuple):
    """Trajectories: `path` (int16), `seen` (int64 by position), and `visits` of `paths.visits`."""

    path: np.ndarray[Any, Any]
    seen: np.ndarray[Any, Any]
    visits: np.ndarray[Any, Any]


class Pairs(NamedTuple):
    """Pairs to fill: `pair` (int64 n x 6: trajectory, arrival, position, first, last, first in the group's numbering),
    `heads` (int64 senders x positions, -1) and `links` (int64 n) chain the pairs of a sender at a position.
    """

    pair: np.ndarray[Any, Any]
    heads: np.ndarray[Any, Any]
    links: np.ndarray[Any, Any]


@inlined
def _may_hold(senders, sender, arrivals, arrival, fitting, ahead):
    """True if an arrival may hold bytes of a sender.

    Args:
        fitting: the IP IDs have to fit; ahead: the sender was stamped after the arrival, else before it.
    """
    if (senders.time[sender] > arrivals.time[arrival]) != ahead:
        return False
    # Fragments are compared with fragments, or with a whole packet that does not end before them.
    if senders.whole[sender] and (arrivals.whole[arrival] or arrivals.end[arrival] > senders.end[sender]):
        return False
    if arrivals.whole[arrival] and senders.end[sender] > arrivals.end[arrival]:
        return False
    return not fitting or _ids_fit(
        senders.ip_id[sender], senders.begin[sender], senders.end[sender], arrivals.ip_id[arrival],
        arrivals.begin[arrival], arrivals.end[arrival],
    )  # fmt: skip


@inlined
def _claim(pairs, given, count, sender, base, at, stop, entry):
    """Give an arrival the bytes [at, stop) of a sender that no other one has.

    Args:
        given: pairs before this arrival; count: pairs so far; base: where the sender's bytes begin; entry: trajectory,
        arrival and position of the pairs.

    Returns:
        (pairs, bytes given); -1 pairs where `pair` is too short.
    """
    position, bytes_given = entry[2], np.int64(0)
    while True:
        link = pairs.heads[sender, position]
        at = _free_from(pairs.pair, given, count, link, pairs.links, base, at)
        if at >= stop:
            return count, bytes_given
        until = _free_to(pairs.pair, given, count, link, pairs.links, base, at, stop)
        if count == len(pairs.pair):
            return np.int64(-1), bytes_given
        row = pairs.pair[count]
        row[0], row[1], row[2] = entry
        row[3], row[4], row[5] = at - base, until - base - 1, at
        pairs.links[count] = link
        pairs.heads[sender, position] = count
        count += 1
        bytes_given += until - at
        at = until


@kernel
def match_bytes(begins, senders, arrivals, placed, early, threshold, pairs):
    """Give arrivals to senders, group by group: each byte to the last that was sent with it before.

    Among the packets that were sent with its bytes, packets whose IP ID fits the arrival's go first: a retransmission
    has the bytes of its original, and another ID. Among these, packets stamped before the arrival go first: `early`
    allows for stamps that are taken late.

    Args:
        begins: int64 (groups + 1) x 2, where the senders and the arrivals of each group begin; senders, arrivals: Held;
        placed, pairs: as above; early, threshold: ns. No packet is given more than MOST_PARTS at one point.

    Returns:
        Pairs found, or -1 if `pair` is too short.
    """
    count = np.int64(0)
    parts = np.zeros(pairs.heads.shape, np.int32)
    for group in range(len(begins) - 1):
        first_sender = begins[group, 0]
        for arrival in range(begins[group, 1], begins[group + 1, 1]):
            time = arrivals.time[arrival]
            bottom, top = first_sender, begins[group + 1, 0]
            while bottom < top:  # the last sender that was sent before
                middle = (bottom + top) // 2
                if senders.time[middle] - early <= time:
                    bottom = middle + 1
                else:
                    top = middle
            left = arrivals.end[arrival] - arrivals.begin[arrival]
            given = count
            # Four passes, best evidence first: the IP ID fits and the packet was stamped before; the ID fits and the
            # packet was stamped up to `early` after the arrival; then the same two without the ID. Bytes that one pass
            # assigns are gone for the next.
            for choice in range(4):
                for sender in range(bottom - 1, max(first_sender, bottom - _MOST_LOOKS) - 1, -1):
                    if left <= 0 or time - senders.time[sender] > threshold:
                        break
                    at = max(senders.begin[sender], arrivals.begin[arrival])
                    stop = min(senders.end[sender], arrivals.end[arrival])
                    trajectory = senders.of[sender]
                    position = placed.visits[placed.path[trajectory], arrivals.of[arrival], 0]
                    if at >= stop or position < 1 or placed.seen[trajectory, position] >= 0:
                        continue
                    if parts[sender, position] >= MOST_PARTS:
                        continue
                    if not _may_hold(senders, sender, arrivals, arrival, choice < 2, choice % 2 == 1):
                        continue
                    entry = (trajectory, np.int64(arrival), np.int64(position))
                    before = count
                    count, taken = _claim(pairs, given, count, sender, senders.begin[sender], at, stop, entry)
                    if count < 0:
                        return count
                    parts[sender, position] += count - before
                    left -= taken
    return np.int64(count)
