"""Capture evidence: for each point the time that its captures cover, and the packets that they missed in that time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pktrace.decode.rows import rows_at
from pktrace.observations.coverage import Coverage
from pktrace.run.model import PacketPath, Run
from pktrace.trajectories.clocks.alignment import Clocks
from pktrace.trajectories.flows import flow_of
from pktrace.trajectories.outages import Misses, Outages, outages_of
from pktrace.trajectories.paths import not_all_along

Array = np.ndarray[Any, Any]
FOREVER = np.int64((1 << 62) - 1)


@dataclass(frozen=True)
class CaptureEvidence:
    """Capture evidence per point; times are aligned (see `Clocks`).

    `start` and `end`: the time that the captures cover; `missed`: certain packets that the point provably missed in
    that time; `incomplete`: the point missed packets, or its captures report drops; `unknown`: the captures report no
    drop count; `dropped`: packets that the captures report as dropped, 0 where unknown, -1 where packets may be missing
    for another reason; `outages`: the times in which the point missed packets.
    """

    start: Array
    end: Array
    missed: Array
    incomplete: Array
    unknown: Array
    dropped: Array
    outages: Outages


def capture_evidence_of(run: Run, coverage: tuple[Coverage, ...], clocks: Clocks) -> CaptureEvidence:
    """The evidence that the captures carry themselves.

    A capture runs from its statistics' start to their end, else from its first to its last packet. The window of
    run.toml widens that span, since every point captured all through the window; a damaged file is the exception.
    A capture without packets saw nothing in that time. Without statistics and window its time is unknown, and it proves
    nothing: a tool with a wrong filter may have written it, or it was started too late. Damaged files alone prove
    nothing.
    """
    start = np.full(len(run.points), FOREVER)
    end = np.full(len(run.points), -FOREVER)
    for point, cover in enumerate(coverage):
        offset = int(clocks.offset_ns[point])
        first = [] if cover.start_ns is None else [cover.start_ns - offset]
        step = 0 if clocks.steps is None else int(clocks.steps.last_ns[point])
        last = [] if cover.end_ns is None else [cover.end_ns - offset - step]
        if run.window is not None:
            first.append(run.window[0])
            last += [] if cover.cut else [run.window[1]]
        if cover.cut and not cover.packets and cover.end_ns is None:
            start[point] = end[point] = -FOREVER  # every time lies behind its end
        elif first and last:
            start[point] = max(-int(FOREVER), min(first))
            end[point] = min(int(FOREVER), max(last))
    return CaptureEvidence(
        start=start,
        end=end,
        missed=np.zeros(len(run.points), np.int64),
        incomplete=np.array([cover.incomplete for cover in coverage], bool),
        unknown=np.array([cover.dropped is None for cover in coverage], bool),
        dropped=np.array([-1 if cover.has_gaps else cover.dropped or 0 for cover in coverage], np.int64),
        outages=_counted(coverage, clocks),
    )


def _counted(coverage: tuple[Coverage, ...], clocks: Clocks) -> Outages:
    """The outages that the packets' own drop counters state, for captures that missed nothing else."""
    outages = Outages.none(len(coverage))
    for point, cover in enumerate(coverage):
        if cover.drop_spans is not None and clocks.steps is None:
            begin, end = cover.drop_spans - clocks.offset_ns[point]
            outages = outages.and_those(point, begin, end, True)
    return outages


def with_proven_misses(
    reach: CaptureEvidence, run: Run, rows: Array, times: Array, seen: Array, path_of: Array
) -> CaptureEvidence:  # fmt: skip
    """The same evidence, with the misses that certain packets prove.

    A packet that was seen before and behind a point, and not at the point, was missed there if the point was capturing
    at that time (RFC 5644 6.2.5). Absence at that point then proves nothing during its outages, or at any time if
    nothing bounds the outages (outages.py).

    Args:
        rows: all observations; times: int64 per row, aligned; seen: rows of certain packets by position, -1 where not
        seen; path_of: int16.
    """
    misses: list[list[Misses]] = [[] for _ in run.points]
    some = not_all_along(run, seen, path_of)
    for number, path in enumerate(run.paths):
        mine = some[path_of[some] == number]
        if len(mine) == 0:
            continue
        for position in range(1, len(path.points) - 1):
            point = path.points[position]
            passage = _Passage.of(path, seen[mine][:, : len(path.points)], times, position)
            if not (passage.missed & passage.covered(reach, point)).any():
                continue
            every = seen[path_of == number][:, : len(path.points)]  # only now, for most runs miss nothing
            misses[point].append(_Passage.of(path, every, times, position).misses(reach, point, rows))
    missed = np.array([sum(path.packets for path in of_point) for of_point in misses], np.int64)
    outages = reach.outages
    for point in np.flatnonzero(missed).tolist():
        of_point, dropped = misses[point], int(reach.dropped[point])
        at_an_end = any(path.points[-1] == point for path in run.paths)
        begin, end, bounded = outages_of(of_point, dropped, bool(reach.outages.bounded[point]), at_an_end)
        outages = outages.and_those(point, begin, end, bounded and dropped >= 0)
    return replace(reach, missed=missed, incomplete=reach.incomplete | (missed > 0), outages=outages)


@dataclass(frozen=True)
class _Passage:
    """Certain packets that passed a position of a path, seen before and behind it.

    `missed` (bool, not seen there); times `left` before it, `at` it and `came` behind it (int64, ns); `departures`: the
    number of packets last seen there; `row` (int64): the first sighting of each.
    """

    missed: Array
    left: Array
    at: Array
    came: Array
    row: Array
    departures: int

    @classmethod
    def of(cls, path: PacketPath, seen: Array, times: Array, position: int) -> _Passage:
        """From the rows of packets by position, -1 where not seen."""
        there = seen >= 0
        here, behind = there[:, position], there[:, position + 1 :].any(axis=1)
        passed = there[:, :position].any(axis=1) & behind
        if path.has_detour and path.detour_first <= position <= path.detour_last:
            # Packets that no point of the detour saw may have taken the bypass.
            passed &= there[:, path.detour_first : path.detour_last + 1].any(axis=1)
        through = np.flatnonzero(passed)
        at, known = times[np.maximum(seen[through], 0)], there[through]
        return cls(
            ~known[:, position],
            np.where(known, at, -FOREVER)[:, :position].max(axis=1),
            at[:, position],
            np.where(known, at, FOREVER)[:, position + 1 :].min(axis=1),
            seen[through, np.argmax(known, axis=1)],
            int((here & ~behind).sum()),
        )

    def covered(self, reach: CaptureEvidence, point: int) -> Array:
        """bool per packet: the captures of a point covered the time in which it passed."""
        found: Array = (self.left >= reach.start[point]) & (self.came <= reach.end[point])
        return found

    def misses(self, reach: CaptureEvidence, point: int, rows: Array) -> Misses:
        """The misses within the time that the captures of a point cover."""
        covered = self.covered(reach, point)
        return Misses.of(
            self.missed[covered], self.left[covered], self.at[covered], self.came[covered],
            flow_of(rows_at(rows, self.row[covered])),
            (int(reach.start[point]), int(reach.end[point])), self.departures,
        )  # fmt: skip
