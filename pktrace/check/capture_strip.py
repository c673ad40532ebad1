"""A point's coverage as one line of letters over a time axis that all points share."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.check.silences import Pause

Array = np.ndarray[Any, Any]

LEVELS = "▁▂▃▄▅▆▇█"
OFF, SILENT, PAUSE, DEAF = " ", "·", "-", "×"


def strip(
    times: Array,
    span: tuple[int, int] | None,
    pauses: tuple[Pause, ...],
    axis: tuple[int, int],
    width: int,
    deaf: float,
) -> str:
    """One letter per column of the axis.

    A block: packets; its height is their number against the fullest column (a logarithm, so that one packet is visible
    beside a million). `·`: the capture ran and saw nothing; `-`: it saw nothing for much longer than usual here; `×`:
    it saw nothing, although its neighbours saw at least `deaf` packets that it would have seen, too; a blank: nothing
    shows that the capture ran.

    Args:
        times: int64, sorted, of the packets; span, axis: first and last time, ns; all on one clock.
    """
    start, end = axis
    # Whole numbers: a float does not hold nanoseconds since the epoch.
    length = max(1, end - start + 1)
    columns = (
        np.minimum(width - 1, (times - start) * width // length)
        if _fits(length, width)
        else _coarse(times, axis, width)
    )
    counts = np.bincount(columns, minlength=width)
    most = int(counts.max(initial=0))
    letters = np.full(width, OFF, "U1")

    def column(time: int) -> int:
        return min(width - 1, max(0, (time - start) * width // length))

    if span is not None:
        letters[column(span[0]) : column(span[1]) + 1] = SILENT
    for pause in pauses:
        letters[column(pause.start_ns) : column(pause.end_ns) + 1] = DEAF if pause.expected >= deaf else PAUSE
    for number in np.flatnonzero(counts):
        share = np.log1p(counts[number]) / np.log1p(most)
        letters[number] = LEVELS[min(len(LEVELS) - 1, int(share * len(LEVELS)))]
    for pause in pauses:
        inside = slice(column(pause.start_ns), column(pause.end_ns) + 1)
        if pause.expected >= deaf and not (letters[inside] == DEAF).any():
            letters[inside.start] = DEAF  # too short for a column of its own, and too important to be left out
    return "".join(letters)


def window_strip(window: tuple[int, int], axis: tuple[int, int], width: int) -> str:
    """The window in which all points certainly captured, on the same axis: `├────┤`."""
    start, end = axis
    length = max(1, end - start + 1)
    at = [min(width - 1, max(0, (time - start) * width // length)) for time in window]
    if at[0] == at[1]:
        return " " * at[0] + "│"
    return " " * at[0] + "├" + "─" * (at[1] - at[0] - 1) + "┤"


def _fits(length: int, width: int) -> bool:
    return length * width < 1 << 62


def _coarse(times: Array, axis: tuple[int, int], width: int) -> Array:
    """Columns of an axis so long that whole numbers would overflow: centuries."""
    share = (times.astype(np.float64) - axis[0]) / float(axis[1] - axis[0])
    found: Array = np.clip(share * width, 0, width - 1).astype(np.int64)
    return found
