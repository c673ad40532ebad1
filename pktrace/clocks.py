"""Offsets between clocks, from pairs of time stamps. Pure arithmetic, no packets.

The difference of two time stamps of one packet is delay plus clock offset. If packets go both ways, the offset is half
the difference of the two medians, provided that the delays are alike (the estimate of NTP, RFC 5905 section 8). If
packets go one way only, the median itself is used. It includes the delay, which is good enough to align times for
matching, and never good enough to state a latency (RFC 7679 3.7).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Times = np.ndarray[Any, np.dtype[np.int64]]


def offset_between(forward: Times, backward: Times) -> int | None:
    """Offset of clock B against clock A.

    Args:
        forward: t_B - t_A in ns of packets that went from A to B; backward: t_A - t_B of those from B to A.

    Returns:
        The number to subtract from times of B to compare them with times of A; None without any pair.
    """
    there = int(np.median(forward)) if len(forward) else None
    back = int(np.median(backward)) if len(backward) else None
    if there is not None and back is not None:
        return (there - back) // 2
    if there is not None:
        return there
    return None if back is None else -back


def chain(clocks: int, links: dict[tuple[int, int], int]) -> tuple[list[int], list[int]]:
    """Offsets of all clocks, by way of the known links.

    Args:
        links: offset of clock b against clock a, by (a, b).

    Returns:
        (offset per clock, group per clock): clocks of one group can be compared, and their offsets are against the
        group's first clock; offsets between groups are unknown.
    """
    offsets = [0] * clocks
    group = list(range(clocks))
    for (a, b), offset in sorted(links.items()):
        if group[a] == group[b]:
            continue
        # Join b's group to a's: shift it so that the link holds.
        shift = offsets[a] + offset - offsets[b]
        joined, kept = group[b], group[a]
        for clock in range(clocks):
            if group[clock] == joined:
                offsets[clock] += shift
                group[clock] = kept
    # The first clock of a group is its reference.
    for number in set(group):
        first = group.index(number)
        base = offsets[first]
        for clock in range(clocks):
            if group[clock] == number:
                offsets[clock] -= base
                group[clock] = -1 - first
    return offsets, [-1 - number for number in group]
