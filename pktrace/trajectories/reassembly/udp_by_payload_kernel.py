"""The kernel that assigns pieces of frames to equal pieces of packets, in the order in which these were sent."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pktrace.compiled import inlined, kernel

# The certainty of an assignment.
BY_ORDER = 1  # of several packets, all of whose pieces arrived
OF_ONE = 2  # of one packet with several equal pieces, some missing
ALONE = 3  # there is no other


class Runs(NamedTuple):
    """Runs of equal pieces: the senders `firsts` to `lasts`, and the arrivals `begins` to `ends` of each (int64)."""

    firsts: np.ndarray[Any, Any]
    lasts: np.ndarray[Any, Any]
    begins: np.ndarray[Any, Any]
    ends: np.ndarray[Any, Any]


class Senders(NamedTuple):
    """Pieces that were sent, in order of time: `time` (int64, ns), and `packet` (int64), the packet of each."""

    time: np.ndarray[Any, Any]
    packet: np.ndarray[Any, Any]


class Assigned(NamedTuple):
    """The assignment, to fill.

    Per arrival: `sender` (int64, -1), `sure` (uint8, how sure that is), `undecided` (bool, some sender may be its own,
    and nothing shows which), `may` (bool, something was sent in time before it); per sender: `doubted` (bool).
    """

    sender: np.ndarray[Any, Any]
    sure: np.ndarray[Any, Any]
    undecided: np.ndarray[Any, Any]
    may: np.ndarray[Any, Any]
    doubted: np.ndarray[Any, Any]


@inlined
def _close(low, high, lost, begin, end, packet, into):
    """Decide on the arrivals [begin, end) that were assigned to the senders [low, high) in order.

    Args:
        lost: some of the senders have no arrival.
    """
    one = True
    any_given = False
    for sender in range(low + 1, high):
        one &= packet[sender] == packet[low]
    for arrival in range(begin, end):
        any_given |= into.sender[arrival] >= 0
    if not any_given:
        return
    for arrival in range(begin, end):
        if into.sender[arrival] >= 0:
            if not lost:
                into.sure[arrival] = ALONE if high - low == 1 else BY_ORDER
            elif one:
                into.sure[arrival] = OF_ONE
            else:
                into.sender[arrival] = -1
                into.undecided[arrival] = True
    if lost and not one:
        for sender in range(low, high):
            into.doubted[sender] = True


@kernel
def give_in_order(runs, senders, arrived, early, threshold, into):
    """Assign arrivals to senders, one run after the other: the first to the first.

    The assignment is certain where as many arrived as were sent before, each time something was sent. Else all of them
    are left, unless they belong to one packet.

    Args:
        runs, senders, into: as above; arrived: int64 per arrival, ns; early, threshold: ns.
    """
    sent, packet = senders.time, senders.packet
    for run in range(len(runs.firsts)):
        low, following = runs.firsts[run], runs.firsts[run]  # senders that are under way
        begin = runs.begins[run]
        taken = 0  # of these, the first ones that have an arrival, or are too old for it
        lost = False
        for arrival in range(runs.begins[run], runs.ends[run]):
            time = arrived[arrival]
            while following < runs.lasts[run] and sent[following] - early <= time:
                while low + taken < following and sent[following] - sent[low + taken] > threshold + early:
                    # Nothing came while the first was under way: it was lost, and is no rival of the next.
                    low += 1 if taken == 0 else 0
                    lost |= taken > 0
                    taken += 1 if taken > 0 else 0
                if following - low == taken:
                    _close(low, following, lost, begin, arrival, packet, into)
                    low, begin, taken, lost = following, arrival, 0, False
                following += 1
            while low + taken < following and time - sent[low + taken] > threshold:
                low += 1 if taken == 0 else 0
                lost |= taken > 0
                taken += 1 if taken > 0 else 0
            into.may[arrival] = following > runs.firsts[run] and time - sent[following - 1] <= threshold
            if low + taken < following:
                into.sender[arrival] = low + taken
                taken += 1
        lost |= low + taken < following
        _close(low, following, lost, begin, runs.ends[run], packet, into)
