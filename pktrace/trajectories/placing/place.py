"""One round of following: rows with equal keys become trajectories, unique packets first, then equal ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.run.model import Run
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.capture_evidence import CaptureEvidence, with_proven_misses
from pktrace.trajectories.clocks.alignment import Clocks
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.grouping import Groups
from pktrace.trajectories.paths import NOT_FOLLOWED, longest, visits
from pktrace.trajectories.placing.unique import Packets, Sightings, Ways, place_in_order, settle_unclear

Array = np.ndarray[Any, Any]
_ENOUGH_DELAYS = 1 << 16  # of which the median is taken, over more than one stage


@dataclass(frozen=True)
class Placed:
    """Trajectories of n packets.

    `owner` (int32 per row, -1 for none), `path_of` (int16), `seen` (int64 n x longest path, -1 where not seen),
    `candidates` (int32); `reach` with the misses that certain packets prove; `no_path`, rows that fit no path.
    """

    owner: Array
    path_of: Array
    seen: Array
    candidates: Array
    reach: CaptureEvidence
    no_path: int


def place(
    run: Run, rows: Array, columns: Columns, groups: Groups, times: Array, order: Array, clocks: Clocks,
    reach: CaptureEvidence,
) -> Placed:  # fmt: skip
    """Place the rows of every group.

    Args:
        groups: used up, for their array becomes the owner's; times: int64 per row, aligned; order: the rows that are
        followed in order of these times, or none where the rows are in that order anyhow.
    """
    table, threshold, count = visits(run), np.int64(run.threshold_ns), groups.count
    owner = groups.group
    if not run.paths:
        none = np.zeros(0, np.int64)
        owner[:] = -1
        followed = int(np.count_nonzero(columns.paths != NOT_FOLLOWED))
        return Placed(owner, none.astype(np.int16), np.zeros((0, 1), np.int64), none.astype(np.int32), reach, followed)
    seen = np.empty((count, longest(run)), np.int64)
    path_of, furthest = np.empty(count, np.int16), np.empty(count, np.int16)
    unclear = np.empty(count, bool)
    sightings, ways = Sightings(times, columns.points, columns.paths), Ways(table, clocks.clock)
    place_in_order(order, sightings, table, Packets(owner, seen, path_of, threshold), furthest, unclear)
    members, repeated, no_path = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    if unclear.any():
        repeated = np.empty(2 * int(unclear.sum()), np.int64)
        into = Packets(owner, seen, path_of, threshold)
        members, left, no_path = settle_unclear(order, unclear, sightings, ways, into, repeated)
        repeated = repeated[:left]
        owner, path_of, seen = _without_empty(owner, path_of, seen)
    candidates = np.ones(len(seen), np.int32)
    reach = with_proven_misses(reach, run, rows, times, seen, path_of)
    if not len(repeated):
        return Placed(owner, path_of, seen, candidates, reach, int(no_path))
    # Compiled only where packets repeat.
    from pktrace.trajectories.placing.repeated import Expected, Identities, follow_repeated

    expected = Expected(
        _layout(run), *_expected_delays(run, clocks.clock, times, seen, path_of), *_unseen(run, reach)
    )  # fmt: skip
    certain, most = len(seen), int((repeated[1::2] - repeated[::2]).sum())
    seen = np.concatenate([seen, np.full((most, seen.shape[1]), -1, np.int64)])
    path_of = np.concatenate([path_of, np.full(most, -1, np.int16)])
    candidates = np.concatenate([candidates, np.ones(most, np.int32)])
    same, into = Identities(columns.identities, rows["ip_id"] != 0), Packets(owner, seen, path_of, threshold)
    count, more = follow_repeated(repeated, members, sightings, same, ways, expected, into, candidates, certain)
    return Placed(owner, path_of[:count], seen[:count], candidates[:count], reach, int(no_path + more))


def _without_empty(owner: Array, path_of: Array, seen: Array) -> tuple[Array, Array, Array]:
    """The same without the groups that are no packet, whose path is -1; no row is theirs."""
    keep = path_of >= 0
    number = np.full(len(keep) + 1, -1, np.int32)  # the last is that of rows without owner
    number[:-1][keep] = np.arange(np.count_nonzero(keep), dtype=np.int32)
    return number[owner], path_of[keep], seen[keep]


def _layout(run: Run) -> Array:
    """int64 per path: positions, filter input or -1, position after the detour or -1, then each position's point."""
    table = np.full((len(run.paths), 3 + longest(run)), -1, np.int64)
    for number, path in enumerate(run.paths):
        table[number, 0] = len(path.points)
        if path.has_detour:
            table[number, 1] = path.filter_input
            table[number, 2] = path.detour_last + 1
        table[number, 3 : 3 + len(path.points)] = path.points
    return table


def _expected_delays(run: Run, clock: Array, times: Array, seen: Array, path_of: Array) -> tuple[Array, Array, Array]:
    """The delays between positions, by certain packets.

    Returns:
        By path and pair of positions: the median delay, and how early a sighting may lie (1 ms on one clock, the loss
        threshold on two); by path and position: 10 x the largest delay from the position before, at most the loss
        threshold. Without any certain packet the delay is 0: the nearest sighting after a packet is taken.
    """
    width = longest(run)
    delays = np.zeros((len(run.paths), width, width), np.int64)
    slack = np.full((len(run.paths), width, width), EARLY_NS, np.int64)
    plausible = np.full((len(run.paths), width), run.threshold_ns, np.int64)
    for number, path in enumerate(run.paths):
        mine = seen[path_of == number]
        there = mine >= 0
        at = [times[np.maximum(mine[:, position], 0)] for position in range(len(path.points))]
        for a in range(len(path.points)):
            for b in range(a + 1, len(path.points)):
                both = np.flatnonzero(there[:, a] & there[:, b])
                if path.has_detour and (a, b) == path.ends_of(path.bypass):
                    both = both[~there[both, a + 1 : b].any(axis=1)]
                if b > a + 1:
                    both = both[:: 1 + len(both) // _ENOUGH_DELAYS]
                if len(both):
                    found = at[b][both] - at[a][both]
                    # Packets of the other direction have delays of their own.
                    forward = found[found >= -EARLY_NS] if clock[path.points[a]] == clock[path.points[b]] else found
                    found = forward if len(forward) else found
                    delays[number, a, b] = int(np.median(found))
                    if b == a + 1 and found.max() > 0:
                        plausible[number, b] = min(run.threshold_ns, 10 * int(found.max()))
                if clock[path.points[a]] != clock[path.points[b]]:
                    slack[number, a, b] = run.threshold_ns
    return delays, slack, plausible


def _unseen(run: Run, reach: CaptureEvidence) -> tuple[Array, Array, Array, Array]:
    """By path and position: start and end of the capture there, whether it may have missed packets, whether it did."""
    shape = (len(run.paths), longest(run))
    start, end = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    may, did = np.zeros(shape, bool), np.zeros(shape, bool)
    for number, path in enumerate(run.paths):
        at = list(path.points)
        start[number, : len(at)], end[number, : len(at)] = reach.start[at], reach.end[at]
        did[number, : len(at)] = reach.incomplete[at]
        may[number, : len(at)] = reach.incomplete[at] | reach.unknown[at]
    return start, end, may, did
