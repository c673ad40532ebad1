"""Whether time speaks against a pair of flows: what was changed cannot be seen before it was.

Rule: among the packets whose remains just one packet of the flow before has, and one of the flow behind, those that
begin earlier than they end (by more than clocks and captures explain) are counted. Traffic that is alike on two links
goes now earlier on the one, now on the other.
Bound: alike traffic that is always later on the same link, and has been given other IP IDs, looks as a gateway does.
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
    """Whether time speaks against pairs of flows.

    Args:
        before, behind: uint64, the flows of each pair; no flow is before, or behind, in two of them;
        ends, starts: of each packet that ends or begins somewhere: its flow, its remains (uint64), time in ns, and
        the group of clocks that can be compared;
        threshold: ns, beyond which equal remains are of another packet.

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
