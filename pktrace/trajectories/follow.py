"""From observations to trajectories: group by key, align clocks, place unique packets, then equal ones.

The key is the digest; where flows turn out to be rewritten on their way, their packets get keys of what is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.ledger import Ledger
from pktrace.observations.contents import make_contents_comparable
from pktrace.observations.observe import Observations
from pktrace.observations.payloads import Payloads
from pktrace.run.model import Run
from pktrace.schema import BASES
from pktrace.trajectories.agreement import begins_unseen, open_ends
from pktrace.trajectories.clock_model import Clocks, align_clocks
from pktrace.trajectories.exact import EARLY_NS, follow_unique
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.packet_id import keys_by_number, numbered_packets
from pktrace.trajectories.paths import NO_PATH, followed, longest, parts, path_of_rows, visits
from pktrace.trajectories.ranges import NO_RANGES, Ranges, match_ranges
from pktrace.trajectories.reach import Reach, reach_of, with_proven_misses
from pktrace.trajectories.rewritten import Keys
from pktrace.trajectories.sorting import sorted_by_key

Array = np.ndarray[Any, Any]
# A packet that is rewritten at several stages is followed through one more of them in each round.
_MOST_ROUNDS = 12


def follow_packets(observations: Observations) -> Trajectories:
    """Follow every packet of a run along its path.

    Args:
        observations: of a run; those of bare files have no paths and yield no trajectories.

    Returns:
        The trajectories in order of first sighting; what belongs to none is counted in their ledger.
    """
    run = observations.run
    if run is None:
        raise ValueError("observations of bare files have no run; use load_run and observe")
    rows = observations.rows
    paths = path_of_rows(run, rows)
    usable = np.flatnonzero(followed(rows))
    points = np.ascontiguousarray(rows["point"])
    digests = np.ascontiguousarray(rows["digest"])
    payloads = Payloads(observations)
    raw_times = np.ascontiguousarray(rows["ts_ns"])
    numbers = numbered_packets(observations)
    first_keys = digests if numbers is None else keys_by_number(rows, digests, numbers)
    keys = Keys(rows, parts(run)[points], first_keys)
    for round_number in range(_MOST_ROUNDS):
        ledger = Ledger()
        # Rows are in order of (time, point, file, frame); a stable sort by key keeps that within each group.
        members, in_order = sorted_by_key(keys.keys, usable)
        clocks = align_clocks(run, rows, in_order, members, paths)
        times = raw_times
        if clocks.offset_ns.any():
            times = raw_times - clocks.offset_ns[points]
            members, in_order = sorted_by_key(keys.keys, usable[np.argsort(times[usable], kind="stable")])
        reach = reach_of(run, observations.coverage, clocks)
        reach, *placed = _place(
            run, reach, clocks, in_order, digests, rows["ip_id"], members, times, points, paths, ledger
        )
        owner, path_of, seen, candidates = placed
        found = open_ends(run, rows, members, owner, seen, path_of)
        ranges, doubtful_parts = NO_RANGES, np.zeros(0, np.int64)
        if round_number == 0 and len(found.start_rows) and len(found.end_rows):
            make_contents_comparable(observations)
        if keys.learn_rewritten(found, run, times, clocks.group):
            continue
        if len(found.start_rows):
            flows = keys.first_flow
            ranges, doubtful_parts = match_ranges(
                rows, times, flows, members, owner, seen, path_of, visits(run), run.threshold_ns, payloads.content
            )
        unexplained = found.without(ranges.trajectory, ranges.row)
        open_rows = unexplained.rows_of(owner, members)
        unseen = begins_unseen(unexplained, run, rows, times, paths, reach)
        if not keys.learn_changed(unexplained, run, times, clocks.group, open_rows, unseen):
            break
    ambiguous = np.zeros(len(path_of), bool)
    ambiguous[found.end_trajectories[keys.doubtful]] = True
    ambiguous[keys.doubtful_changes] = True
    ambiguous[doubtful_parts] = True
    candidates[doubtful_parts] = np.maximum(candidates[doubtful_parts], 2)
    basis = _basis(rows, keys, seen, candidates)
    if numbers is not None:
        basis[_all_numbered(seen, numbers) & (candidates == 1)] = BASES.index("packet_id")
    keep = _put_ranges(ranges, times, owner, seen, basis)
    if len(ranges):
        # What was not seen whole was not missed where its parts were seen.
        certain = keep & (candidates == 1)
        reach = with_proven_misses(
            reach_of(run, observations.coverage, clocks), run, times, seen[certain], path_of[certain]
        )
    for point in np.flatnonzero(reach.missed):
        ledger.add("capture_missed", int(reach.missed[point]), point=run.points[point].name)
    for point in np.flatnonzero(clocks.group != clocks.group[0]):
        ledger.add("clock_unknown", point=run.points[point].name)
    return _in_order(
        observations, run, clocks, reach, ledger, owner, path_of, seen, candidates, basis, ambiguous, ranges, keep
    )


def _all_numbered(seen: Array, numbers: Array) -> Array:
    """bool per trajectory: seen at several positions, and all sightings have the number of the first."""
    there = seen >= 0
    first = seen[np.arange(len(seen)), np.argmax(there, axis=1)]
    same = numbers[np.maximum(seen, 0)] == numbers[first][:, None]
    found: Array = (same | ~there).all(axis=1) & (numbers[first] != 0) & (there.sum(axis=1) > 1)
    return found


def _put_ranges(ranges: Ranges, times: Array, owner: Array, seen: Array, basis: Array) -> Array:
    """Enter split and merged packets; returns which trajectories stay: others began as parts of these."""
    keep = np.ones(len(seen), bool)
    if not len(ranges):
        return keep
    parts = owner[ranges.row]
    keep[parts[parts >= 0]] = False
    owner[np.isin(owner, np.flatnonzero(~keep))] = -1
    # Of the parts of a packet at a point, the one with its first byte counts; the earliest where that is missing.
    order = np.lexsort((times[ranges.row], ranges.first, ranges.position, ranges.trajectory))[::-1]
    seen[ranges.trajectory[order], ranges.position[order]] = ranges.row[order]
    owner[ranges.row[order]] = ranges.trajectory[order]
    basis[ranges.trajectory] = BASES.index("range")
    return keep


def _basis(rows: Array, keys: Keys, seen: Array, candidates: Array) -> Array:
    """The rung that decided, per trajectory (code of BASES)."""
    found = np.full(len(seen), BASES.index("exact"), np.uint8)
    if keys.learned:
        first = seen[np.arange(len(seen)), np.argmax(seen >= 0, axis=1)]
        for position in range(seen.shape[1]):
            there = np.flatnonzero(seen[:, position] >= 0)
            row, begin = seen[there, position], first[there]
            changed = rows["digest"][row] != rows["digest"][begin]
            header = (keys.flow[row] != keys.flow[begin]) | (rows["ip_id"][row] != rows["ip_id"][begin])
            found[there[changed & ~header & (found[there] == BASES.index("exact"))]] = BASES.index("modified")
            found[there[changed & header]] = BASES.index("rewritten")
    found[candidates > 1] = BASES.index("order")
    return found


def _place(
    run: Run,
    reach: Reach,
    clocks: Clocks,
    keys: Array,
    originals: Array,
    ids: Array,
    members: Array,
    times: Array,
    points: Array,
    paths: Array,
    ledger: Ledger,
) -> tuple[Reach, Array, Array, Array, Array]:
    """(reach with proven misses, owner per row, path, seen, candidates) with trajectories in order of key.

    Args:
        keys: uint64 per member; originals: uint64 per row, the digests; ids: per row, IP IDs.
    """
    table = visits(run)
    owner = np.full(len(times), -1, np.int64)
    # Room for a trajectory per row, of which the part that repeated keys may need is not touched without them.
    seen = np.empty((len(members), longest(run)), np.int64)
    path_of = np.empty(len(members), np.int16)
    candidates = np.empty(len(members), np.int32)
    repeated = np.empty(len(members), np.int64)
    different = min(1, len(members)) + int(np.count_nonzero(keys[1:] != keys[:-1]))
    for array, nothing in ((seen, -1), (path_of, NO_PATH), (candidates, 1)):
        array[:different] = nothing
    count = 0
    if len(members) and run.paths:
        count, left, off_path, no_path = follow_unique(
            keys,
            members,
            times,
            points,
            paths,
            table,
            clocks.clock,
            np.int64(run.threshold_ns),
            owner,
            seen,
            path_of,
            repeated,
        )
        reach = with_proven_misses(reach, run, times, seen[:count], path_of[:count])
        if left:
            from pktrace.trajectories.order import follow_repeated  # compiled only where packets repeat

            for array, nothing in ((seen, -1), (path_of, NO_PATH), (candidates, 1)):
                array[different:] = nothing
            delays, slack, plausible = _expected_delays(run, times, seen[:count], path_of[:count])
            count, more_off, more_none = follow_repeated(
                repeated[:left], members, times, originals, ids != 0, points, paths, table, clocks.clock, _layout(run),
                delays, slack, plausible, *_unseen(run, reach), np.int64(run.threshold_ns), owner, seen,
                path_of, candidates, count,
            )  # fmt: skip
            off_path, no_path = off_path + more_off, no_path + more_none
        ledger.add("off_path", off_path)
        ledger.add("no_path", no_path)
    else:
        ledger.add("no_path", len(members))
    return reach, owner, path_of[:count], seen[:count], candidates[:count]


def _in_order(
    observations: Observations,
    run: Run,
    clocks: Clocks,
    reach: Reach,
    ledger: Ledger,
    owner: Array,
    path: Array,
    seen: Array,
    candidates: Array,
    basis: Array,
    ambiguous: Array,
    ranges: Ranges,
    keep: Array,
) -> Trajectories:
    """Number the trajectories by their first sighting, and count what each owns."""
    if not keep.all():
        number = np.cumsum(keep) - 1
        owner = np.where(owner >= 0, number[np.maximum(owner, 0)], -1)
        ranges = ranges.renumbered(number)
        path, seen, candidates = path[keep], seen[keep], candidates[keep]
        basis, ambiguous = basis[keep], ambiguous[keep]
    count = len(path)
    first_position = np.argmax(seen >= 0, axis=1) if count else np.zeros(0, np.int64)
    first_row = seen[np.arange(count), first_position]
    order = _order_of(first_row, len(owner))
    number = np.empty(count + 1, np.int64)
    number[order] = np.arange(count)
    number[-1] = -1
    owner = number[owner]  # -1 stays: it takes the last
    sightings = np.bincount(owner + 1, minlength=count + 1)[1:].astype(np.int32)
    path, seen = path[order], seen[order]
    duplicates = np.zeros(count, np.int32)
    # Without shared rows of ranges, every sighting is of one trajectory: as many rows owned, no further copies.
    if len(ranges) or sightings.sum() != np.count_nonzero(seen >= 0):
        is_sighting = np.zeros(len(owner), bool)
        is_sighting[seen[seen >= 0]] = True
        is_sighting[ranges.row] = True  # the parts of a split packet are no copies of it
        extra = np.flatnonzero((owner >= 0) & ~is_sighting)
        if len(extra):
            # Extra copies of a packet: the most that any one point saw beyond its visits (RFC 5560 3.4).
            points = observations.rows["point"][extra].astype(np.int64)
            keys, copies = np.unique(np.stack([owner[extra], points]), axis=1, return_counts=True)
            np.maximum.at(duplicates, keys[0], copies.astype(np.int32))
    return Trajectories(
        observations=observations,
        run=run,
        path=path,
        seen=seen,
        first_row=first_row[order],
        candidates=candidates[order],
        basis=basis[order],
        sightings=sightings,
        duplicates=duplicates,
        owner=owner,
        ambiguous=ambiguous[order],
        ranges=ranges.renumbered(number[:count]),
        clocks=clocks,
        reach=reach,
        ledger=ledger,
    )


def _order_of(first_row: Array, rows: int) -> Array:
    """What puts trajectories in order of their first rows, stable; rows are numbers below `rows`."""
    at = np.full(rows, -1, np.int64)
    at[first_row] = np.arange(len(first_row))
    order = at[at >= 0]
    # Two that begin with one row are rare, and want a sort.
    return order if len(order) == len(first_row) else np.argsort(first_row, kind="stable")


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


def _expected_delays(run: Run, times: Array, seen: Array, path_of: Array) -> tuple[Array, Array, Array]:
    """What certain packets tell of the delays between positions.

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
        for a in range(len(path.points)):
            for b in range(a + 1, len(path.points)):
                both = mine[(mine[:, a] >= 0) & (mine[:, b] >= 0)]
                if path.has_detour and (a, b) == path.ends_of(path.bypass):
                    both = both[(both[:, a + 1 : b] < 0).all(axis=1)]
                if len(both):
                    found = times[both[:, b]] - times[both[:, a]]
                    delays[number, a, b] = int(np.median(found))
                    if b == a + 1 and found.max() > 0:
                        plausible[number, b] = min(run.threshold_ns, 10 * int(found.max()))
                if run.points[path.points[a]].clock != run.points[path.points[b]].clock:
                    slack[number, a, b] = run.threshold_ns
    return delays, slack, plausible


def _unseen(run: Run, reach: Reach) -> tuple[Array, Array, Array, Array]:
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
