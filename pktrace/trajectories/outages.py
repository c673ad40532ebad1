"""Outages: the times in which the capture of a point missed packets, if these times can be bounded.

A capture that provably missed one packet may have missed others. Absence at its point is then no proof: at any time, or
only during outages if these are bounded.

Rule: misses are bounded by

- the packets' own drop counters (epb_dropcount), if they account for all drops that the capture reports, and for no
  fewer than are proven: an outage lasts from the packet before to the packet that counts it;
- proven misses, if they are as many as the drops that the capture reports: it missed nothing else;
- proven misses else, if they are few beside the packets that passed the point: (departures + 1) x outages x 50 <=
  packets, on each path. Departures are packets that this point saw as the last one.

An outage is a run of certain packets, in order of their sighting before the point, that the point missed without one
that it captured between them. It lasts from the neighbour before to the neighbour behind.

Bound: a packet that the point missed alone, and that was lost behind it. About departures x outages / packets of them
are expected, at most 1 in 50 for a run. Such a packet is lost, and its place is one stage too early.
Counter-example: a monitor misses 2 in 100 packets at random, and 10 of 500 packets are lost behind it. One in five such
runs would name a wrong stage, so all absence there stays doubtful.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_FEW = 50


@dataclass(frozen=True)
class Outages:
    """Outages of points: `bounded` (bool per point: the point missed packets in its outages only); per outage its
    `point`, its `begin` and its `end` (int64 arrays, ns on the aligned clock).
    """

    bounded: Array
    point: Array
    begin: Array
    end: Array

    @classmethod
    def none(cls, points: int) -> Outages:
        """No outages, and no bound on misses."""
        nothing = np.zeros(0, np.int64)
        return cls(np.zeros(points, bool), nothing, nothing, nothing)

    def of_point(self, point: int) -> tuple[Array, Array]:
        """The begins of the outages of a point, in order, and for each the latest end of the outages that begin no
        later.
        """
        mine = np.flatnonzero(self.point == point)
        mine = mine[np.argsort(self.begin[mine], kind="stable")]
        return self.begin[mine], np.maximum.accumulate(self.end[mine])

    def and_those(self, point: int, begin: Array, end: Array, bounded: bool) -> Outages:
        """The same with more outages of a point; `bounded` says that the point missed nothing else."""
        flags = self.bounded.copy()
        flags[point] = bounded
        return Outages(
            flags,
            np.append(self.point, np.full(len(begin), point)),
            np.append(self.begin, begin),
            np.append(self.end, end),
        )


@dataclass(frozen=True)
class Misses:
    """Proven misses of a point on one path: `packets`, their outages (`begin`, `end`, ns), and `few`, true if they are
    few beside the packets that passed the point.
    """

    packets: int
    begin: Array
    end: Array
    few: bool

    @classmethod
    def of(
        cls, missed: Array, left: Array, at: Array, came: Array, covered: tuple[int, int], departures: int
    ) -> Misses:  # fmt: skip
        """From the certain packets that were seen before and behind a point while it captured.

        Args:
            missed: bool per packet, the point has not seen it; left, at, came: int64 per packet, ns: its last sighting
            before the point, its sighting at the point, and its first sighting behind; covered: the time that the
            capture covers; departures: the number of packets that the point saw as the last one.
        """
        order = np.lexsort((came, left))
        missed, left, at, came = missed[order], left[order], at[order], came[order]
        first = np.flatnonzero(missed & ~np.append(False, missed[:-1]))
        last = np.flatnonzero(missed & ~np.append(missed[1:], False))
        # An outage of several packets: the last of them to leave need not be the last to come.
        run = np.cumsum(missed & ~np.append(False, missed[:-1]))[missed] - 1
        latest = np.full(len(first), covered[0])
        np.maximum.at(latest, run, came[missed])
        begin = np.where(first > 0, np.minimum(at[first - 1], left[first]), covered[0])
        behind = np.minimum(last + 1, len(at) - 1)
        end = np.where(last + 1 < len(at), np.maximum(at[behind], latest), covered[1])
        few = (departures + 1) * len(first) * _FEW <= len(missed)
        return cls(int(missed.sum()), begin, end, bool(few))


def bounded_by(misses: list[Misses], dropped: int, counted: bool) -> bool:
    """True if proven misses on all paths of a point, or drop counters, bound the times in which its capture missed
    packets.

    Args:
        dropped: packets that the capture reports as dropped, 0 if it reports nothing; counted: the packets' own
        counters say when it dropped all of these.
    """
    proven = sum(path.packets for path in misses)
    if dropped and dropped >= proven:
        return counted or dropped == proven
    return all(path.few for path in misses if path.packets)
