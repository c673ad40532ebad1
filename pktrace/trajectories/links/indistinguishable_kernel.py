"""Count arrivals without a departure of their own."""

from __future__ import annotations

from pktrace.compiled import kernel


@kernel
def without_end(ends, starts, within):
    """Count arrivals that have no departure of their own at most `within` before; each takes the first that is left.

    With windows of one length, no other assignment matches more (earliest deadline first).

    Args:
        ends, starts: int64, in order, departures and arrivals; within: int64.
    """
    left_over = 0
    end = 0
    for start in starts:
        while end < len(ends) and ends[end] < start - within:
            end += 1
        if end < len(ends) and ends[end] <= start:
            end += 1
        else:
            left_over += 1
    return left_over
