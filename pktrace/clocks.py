"""Clocks that disagree: offsets between them from pairs of times. Pure arithmetic, no packets.

The difference of two time stamps of one packet is delay plus clock offset. Where packets go both ways, half the
difference of the two medians is the offset, if the delays are alike (the estimate of NTP, RFC 5905 section 8); where
they go one way only, the median itself is used: it hides the delay, which is enough to align times for matching and
never enough to state a latency (RFC 7679 3.7).
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
        What to subtract from times of B to compare them with times of A; None without any pair.
    """
    there = int(np.median(forward)) if len(forward) else None
    back = int(np.median(backward)) if len(backward) else None
    if there is not None and back is not None:
        return (there - back) // 2
    if there is not None:
        return there
    return None if back is None else -back


def chain(clocks: int, links: dict[tuple[int, int], int]) -> tuple[list[int], list[int]]:
    """Offsets of all clocks, through the links that are known.

    Args:
        links: offset of clock b against clock a, by (a, b).

    Returns:
        (offset per clock, group per clock): clocks of one group can be compared, and their offsets are against the
        group's first clock; between groups nothing is known.
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
