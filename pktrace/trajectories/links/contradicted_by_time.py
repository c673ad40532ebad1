"""Pairs of flows that time contradicts: a changed packet cannot be seen before its original.

Rule: only invariants that one packet of the flow before and one packet of the flow behind have are counted, within the
loss threshold. Packets that arrive earlier than they depart (by more than EARLY_NS) go backwards. Time contradicts a
pair of flows if more than one packet goes backwards for each ten that go forward. Traffic that is alike on two links is
earlier now on the one link, now on the other.
Bound: alike traffic that is always later on the same link, and has other IP IDs, looks as if a gateway had rewritten
it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import mixed
from pktrace.trajectories.bounds import EARLY_NS

Array = np.ndarray[Any, Any]
_DISAGREE = 10  # so many packets have to agree for each that does not


def against_time(
    before: Array, behind: Array, ends: tuple[Array, ...], starts: tuple[Array, ...], threshold: int
) -> Array:
    """Find the pairs of flows that time contradicts.

    Args:
        before, behind: uint64, the flows of each pair; no flow is before, or behind, in two of them;
        ends, starts: of each departure and each arrival: its flow, its invariants (uint64), time in ns, and the group
        of clocks that can be compared;
        threshold: ns; equal invariants further apart belong to other packets.

    Returns:
        bool per pair.
    """
    sides = []
    for flows, (flow, remains, time, clock) in ((before, ends), (behind, starts)):
        order = np.argsort(flows)
        place = order[np.minimum(np.searchsorted(flows[order], flow), len(flows) - 1)] if len(flows) else flow[:0]
        mine = np.flatnonzero(flows[place] == flow) if len(flows) else np.zeros(0, np.int64)
        key, first, count = np.unique(mixed(remains[mine], place[mine]), return_index=True, return_counts=True)
        single = mine[first[count == 1]]
        sides.append((key[count == 1], place[single], time[single], clock[single]))
    (end_key, pair, ended, end_clock), (start_key, _, began, start_clock) = sides
    _, of_end, of_start = np.intersect1d(end_key, start_key, assume_unique=True, return_indices=True)
    after = began[of_start] - ended[of_end]
    known = (end_clock[of_end] == start_clock[of_start]) & (np.abs(after) <= threshold)
    forward, backward = (
        np.bincount(pair[of_end][known & way], minlength=len(before)) for way in (after >= -EARLY_NS, after < -EARLY_NS)
    )
    found: Array = backward * _DISAGREE > forward
    return found
