"""How many starts have an end of their own."""

from __future__ import annotations

from pktrace.compiled import kernel


@kernel
def without_end(ends, starts, within):
    """How many starts have no end of their own at most `within` before; each takes the first that is left.

    With windows of one length, none finds more (earliest deadline first).

    Args:
        ends, starts: int64, in order; within: int64.
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
