"""Outages: the times in which the capture of a point missed packets, if these times can be bounded.

A capture that provably missed one packet may have missed others. Absence at its point is then no proof: at any time, or
only during outages if these are bounded.

Rule: misses are bounded by

- the packets' own drop counters (epb_dropcount), if they account for all drops that the capture reports, and for no
  fewer than are proven: an outage lasts from the packet before to the packet that counts it;
- proven misses, if they are as many as the drops that the capture reports: it missed nothing else;
- proven misses else, if they are few beside the packets that passed the point: (departures + 1) x runs x 50 <=
  packets, on each path. Departures are packets that this point saw as the last one. No path may end at the point, for
  misses at the end of a path are never proven; and no flow may have a miss in 3 runs and in one of five packets, for a
  capture that leaves out a flow misses it at all times.

A run is a row of certain packets, in order of their sighting before the point, that the point missed without one that
it captured between them. An outage lasts from the 32nd packet that the point captured before a run to the 32nd one
behind it, because a capture under overload misses and captures packets by turns. If the proven misses are all of the
reported drops, an outage lasts from the neighbour before to the neighbour behind.

Bound: a packet that the point missed alone, and that was lost behind it. About departures x runs / packets of them are
expected, at most 1 in 50 for an analysis, as long as losses behind the point and misses have causes of their own. Such
a packet is lost, and its place is one stage too early.
Counter-example: a monitor misses 2 in 100 packets at random, and 10 of 500 packets are lost behind it. One in five such
analyses would name a wrong stage, so all absence there stays doubtful.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.identity import groups_of
from pktrace.trajectories.grouping import counted, looked_up

Array = np.ndarray[Any, Any]
_FEW = 50
_NEIGHBOURS = 32  # captured packets on either side of a run
_LEFT_OUT_RUNS, _LEFT_OUT_SHARE = 3, 5


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
    """Proven misses of a point on one path, run by run.

    `packets`: how many; `few`: they are few beside the packets that passed the point; `earliest`, `latest`: int64 ns a
    run, the first time before the point and the last one behind; `captured`: int64 ns, times of the packets that the
    point captured; `behind`: int64 per run, how many of these come before it in order; `covered`: the time that the
    capture covers.
    """

    packets: int
    few: bool
    earliest: Array
    latest: Array
    captured: Array
    behind: Array
    covered: tuple[int, int]

    def outages(self, neighbours: int) -> tuple[Array, Array]:
        """Begin and end of each outage, int64 ns: so many captured packets before and behind its run."""
        first, last = self.behind - neighbours, self.behind + neighbours - 1
        begin, end = np.full(len(first), self.covered[0]), np.full(len(first), self.covered[1])
        inside = first >= 0
        begin[inside] = np.minimum(self.captured[first[inside]], self.earliest[inside])
        inside = last < len(self.captured)
        end[inside] = np.maximum(self.captured[last[inside]], self.latest[inside])
        return begin, end

    @classmethod
    def of(
        cls, missed: Array, left: Array, at: Array, came: Array, flow: Array, covered: tuple[int, int], departures: int
    ) -> Misses:  # fmt: skip
        """From the certain packets that were seen before and behind a point while it captured.

        Args:
            missed: bool per packet, the point has not seen it; left, at, came: int64 per packet, ns: its last sighting
            before the point, its sighting at the point, and its first sighting behind; flow: uint64 per packet;
            covered: the time that the capture covers; departures: the number of packets that the point saw as the last
            one.
        """
        order = np.lexsort((came, left))
        missed, left, at, came, flow = missed[order], left[order], at[order], came[order], flow[order]
        begins = missed & ~np.append(False, missed[:-1])
        first = np.flatnonzero(begins)
        # An outage of several packets: the last of them to leave need not be the last to come.
        run = np.cumsum(begins)[missed] - 1
        latest = np.full(len(first), covered[0])
        np.maximum.at(latest, run, came[missed])
        captured = np.flatnonzero(~missed)
        few = (departures + 1) * len(first) * _FEW <= len(missed) and not _leaves_out(missed, run, flow)
        return cls(
            int(missed.sum()), bool(few), left[first], latest, at[captured], np.searchsorted(captured, first), covered
        )


def _leaves_out(missed: Array, run: Array, flow: Array) -> bool:
    """True if one of five packets of a flow are missed, in 3 runs and more.

    Args:
        missed: bool per packet, flow: uint64 per packet; run: int64 per missed packet.
    """
    if not missed.any():
        return False
    flows, packets = np.unique(flow, return_counts=True)
    of_run, _ = groups_of(flow[missed], run)
    there, runs = np.unique(flow[missed][of_run], return_counts=True)
    lost = counted(flow[missed], there)
    return bool(((runs >= _LEFT_OUT_RUNS) & (lost * _LEFT_OUT_SHARE >= looked_up(there, flows, packets))).any())


def outages_of(
    misses: list[Misses], dropped: int, all_counted: bool, at_an_end: bool
) -> tuple[Array, Array, bool]:  # fmt: skip
    """Begin and end (int64, ns) of the outages that misses on all paths of a point prove; and True if the point missed
    packets in known outages only.

    Args:
        dropped: packets that the capture reports as dropped, 0 if it reports nothing; all_counted: the packets' own
        counters say when it dropped all of these; at_an_end: some path ends at the point.
    """
    proven = sum(path.packets for path in misses)
    all_proven = dropped == proven
    if dropped and dropped >= proven:
        bounded = all_counted or all_proven
    else:
        bounded = not at_an_end and all(path.few for path in misses if path.packets)
    spans = [path.outages(1 if all_proven else _NEIGHBOURS) for path in misses]
    begin, end = (np.concatenate([span[side] for span in spans]) for side in (0, 1))
    return begin, end, bounded
