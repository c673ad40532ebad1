"""Clock drift: two clocks that run at different speed, found by the packets that two points saw.

Rule: the difference of the time stamps of certain packets follows a line. A queue can make single differences larger,
but none smaller. The line therefore runs through the least difference in each of 16 spans of time; for packets in the
other direction, through the greatest.
The line changes by 20 ms at least over the run if packets of both directions follow it, by 500 ms if they go in one
direction. It changes by no more than 500 millionths of the time, which is more than clocks of hosts drift. It lies
within a tenth of that change of every span.
Bound: a queue that grows so slowly, for so long, and so steadily.
Counter-example: a queue that grows by 500 ms in a minute changes by 8,000 millionths, and is no drift.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_SPANS, _FEWEST = 16, 2
_LEAST_BOTH_NS, _LEAST_NS = 20_000_000, 500_000_000
_FASTEST = 500e-6
_OFF = 0.1


def drift_of(times: Array, difference: Array, there: Array) -> float | None:
    """The gain of one clock on another, ns per ns; None if the clocks keep step.

    Args:
        times: of packets at the first point; difference: their times at the second point less these, ns; there: bool,
        the packet went from the first point to the second.
    """
    ways = [_line(times[way], difference[way], least) for way, least in ((there, True), (~there, False)) if way.any()]
    lines = [line for line in ways if line is not None]
    if not lines or len(lines) < len(ways):
        return None
    span = int(times.max() - times.min())
    slope = float(np.mean([line[0] for line in lines]))
    changed = abs(slope) * span
    apart = max(line[0] for line in lines) - min(line[0] for line in lines)
    least = _LEAST_BOTH_NS if len(lines) > 1 else _LEAST_NS
    if changed < least or abs(slope) > _FASTEST or apart * span > _OFF * changed:
        return None
    return slope if max(line[1] for line in lines) <= _OFF * changed else None


def _line(times: Array, difference: Array, least: bool) -> tuple[float, float] | None:
    """(slope, largest distance of a span from the line, ns) of the least, or greatest, differences; None for too few
    packets.
    """
    begin, end = int(times.min()), int(times.max())
    place = np.minimum((times - begin) * _SPANS // max(1, end - begin), _SPANS - 1)
    many = np.bincount(place, minlength=_SPANS)
    if (many >= _FEWEST).sum() < _SPANS // 2:
        return None
    order = np.lexsort((difference if least else -difference, place))
    first = order[np.flatnonzero(np.append(True, place[order][1:] != place[order][:-1]))]
    first = first[many[place[first]] >= _FEWEST]
    at, value = (times[first] - begin).astype(float), (difference[first] - difference[first[0]]).astype(float)
    slope, level = np.polyfit(at, value, 1)
    return float(slope), float(np.max(np.abs(value - (slope * at + level))))
