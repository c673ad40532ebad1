"""Kernels that assign fragments without ports to the first fragment of their datagram."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.trajectories.reassembly.payload_match_kernel import near

_MOST_LOOKS = 512  # fragments with one identification, around one of them, that are looked at
_NONE, _UNCLEAR = -1, -2


@inlined
def _has_room(datagram, one, begin, end, last, newest, previous):
    """True if a datagram holds none of a fragment's bytes yet, and neither ends before the other.

    Args:
        newest: per datagram the last fragment that it took; previous: per fragment the one taken before it.
    """
    held = newest[datagram]
    while held >= 0:
        if begin[held] < end[one] and begin[one] < end[held]:
            return False
        if last[held] and (last[one] or end[one] > end[held]):
            return False
        if last[one] and end[held] > begin[one]:
            return False
        held = previous[held]
    return True


@kernel
def take_fragments(cell, group, begin, end, first, last, time, threshold, home):
    """Assign to each fragment without ports the first fragment of its datagram.

    Args:
        cell: int64, point and identification, by which the fragments are sorted, and in each cell by time;
        group: uint64, the flow of a first fragment, and of another if it is known, else 0; begin, end: the bytes held;
        first, last: bool, first fragments, and fragments that end their datagram; time: int64;
        home: int64, filled: the first fragment; -1 for none, -2 if several fit.
    """
    count = len(cell)
    newest, previous = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
    home[:] = _NONE
    for one in range(count):
        found = np.int64(_NONE)
        if first[one]:
            home[one] = newest[one] = one
        for other in range(one - 1, max(0, one - _MOST_LOOKS) - 1, -1):
            if cell[other] != cell[one] or time[one] - time[other] > threshold:
                break
            if first[one]:  # the latest of those that came before it
                waits = home[other] == _NONE and not first[other]
                waits = waits and (group[other] == 0 or group[other] == group[one])
                if waits and _has_room(one, other, begin, end, last, newest, previous):
                    home[other], previous[other], newest[one] = one, newest[one], other
            elif not first[other] or (group[one] != 0 and group[other] != group[one]):
                continue
            elif _has_room(other, one, begin, end, last, newest, previous):
                if found == _NONE:
                    found = other
                elif group[found] != group[other]:
                    home[one] = _UNCLEAR
        if home[one] == _NONE and found != _NONE:
            home[one], previous[one], newest[found] = found, newest[found], one
    # If a datagram of another flow nearby has room for the fragment in the end, the fragment may belong to either.
    for one in range(count):
        datagram = home[one]
        if datagram < 0 or first[one] or group[one] != 0:
            continue
        for step in (-1, 1):
            other = one + step
            while 0 <= other < count and abs(other - one) <= _MOST_LOOKS and cell[other] == cell[one]:
                if abs(time[other] - time[one]) > threshold:
                    break
                rival = first[other] and group[other] != group[datagram]
                if rival and _has_room(other, one, begin, end, last, newest, previous):
                    home[one] = _UNCLEAR
                other += step


@kernel
def only_group_near(wanted, asked, cell, group, time, threshold, found, rivals):
    """Groups whose packets are near in time to others with the same identification.

    Args:
        wanted, asked: int64, identification and time of each that asks; cell, group, time: of the packets; both are
        sorted by identification, then by time;
        found: uint64, set to the group if just one is near, to 0 if several are, else left;
        rivals: bool per packet, set for packets of several groups near one that asks.
    """
    low, high, marked = 0, 0, 0
    changes = np.zeros(len(cell), np.int64)
    for one in range(1, len(cell)):
        changes[one] = changes[one - 1] + (group[one] != group[one - 1])
    for one in range(len(wanted)):
        low, high = near(low, high, wanted[one], asked[one], cell, time, threshold, threshold)
        if high > low:
            several = changes[high - 1] > changes[low]
            found[one] = group[low]
            if several:
                found[one] = 0
                marked = max(marked, low)
                rivals[marked:high] = True
                marked = high
