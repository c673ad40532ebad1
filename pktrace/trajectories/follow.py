"""From observations to trajectories: group by digest, align clocks, place unique packets, then equal ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace import clocks as clock_arithmetic
from pktrace.decode import rows as field
from pktrace.ledger import Ledger
from pktrace.observations.observe import Observations
from pktrace.run.model import Run
from pktrace.schema import BASES
from pktrace.trajectories.exact import follow_unique
from pktrace.trajectories.model import Clocks, Trajectories
from pktrace.trajectories.paths import NO_PATH, longest, path_of_rows, visits

Array = np.ndarray[Any, Any]
_EARLY_NS = 1_000_000


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
    ledger = Ledger()
    paths = path_of_rows(run, rows)
    followed = rows["has"] & (field.HAS_IP | field.HAS_TIME) == field.HAS_IP | field.HAS_TIME
    members = np.flatnonzero(followed)
    digests = np.ascontiguousarray(rows["digest"])
    # Rows are in order of (time, point, file, frame); a stable sort by digest keeps that within each group.
    members = members[np.argsort(digests[members], kind="stable")]
    clocks = _align(run, rows, digests, members, paths)
    times = rows["ts_ns"] - clocks.offset_ns[rows["point"]]
    if clocks.offset_ns.any():
        members = members[np.lexsort((members, times[members], digests[members]))]
    placed = _place(observations, run, digests, members, times, np.ascontiguousarray(rows["point"]), paths, ledger)
    for point in np.flatnonzero(~clocks.known):
        ledger.add("clock_unknown", point=run.points[point].name)
    return _in_order(observations, run, clocks, ledger, *placed)


def _place(
    observations: Observations,
    run: Run,
    digests: Array,
    members: Array,
    times: Array,
    points: Array,
    paths: Array,
    ledger: Ledger,
) -> tuple[Array, Array, Array, Array]:
    """(owner per row, path, seen, candidates) with trajectories in order of digest."""
    table = visits(run)
    owner = np.full(len(times), -1, np.int64)
    seen = np.full((len(members), longest(run)), -1, np.int64)
    path_of = np.full(len(members), NO_PATH, np.int16)
    candidates = np.ones(len(members), np.int32)
    repeated = np.empty(len(members), np.int64)
    count = 0
    if len(members) and run.paths:
        count, left, off_path, no_path = follow_unique(
            digests, members, times, points, paths, table, owner, seen, path_of, repeated
        )
        if left:
            from pktrace.trajectories.order import follow_repeated  # compiled only where packets repeat

            delays, slack, plausible = _expected_delays(run, times, seen[:count], path_of[:count])
            count, more_off, more_none = follow_repeated(
                repeated[:left], members, times, points, paths, table, _layout(run), delays, slack,
                plausible, _may_miss(observations, run), np.int64(run.threshold_ns), owner, seen,
                path_of, candidates, count,
            )  # fmt: skip
            off_path, no_path = off_path + more_off, no_path + more_none
        ledger.add("off_path", off_path)
        ledger.add("no_path", no_path)
    else:
        ledger.add("no_path", len(members))
    return owner, path_of[:count], seen[:count], candidates[:count]


def _in_order(
    observations: Observations,
    run: Run,
    clocks: Clocks,
    ledger: Ledger,
    owner: Array,
    path: Array,
    seen: Array,
    candidates: Array,
) -> Trajectories:
    """Number the trajectories by their first sighting, and count what each owns."""
    count = len(path)
    first_position = np.argmax(seen >= 0, axis=1) if count else np.zeros(0, np.int64)
    first_row = seen[np.arange(count), first_position]
    order = np.argsort(first_row, kind="stable")
    number = np.empty(count, np.int64)
    number[order] = np.arange(count)
    owned = owner >= 0
    owner = owner.copy()
    owner[owned] = number[owner[owned]]
    points = observations.rows["point"].astype(np.int64)
    sightings = np.bincount(owner[owned], minlength=count).astype(np.int32)
    path, seen = path[order], seen[order]
    duplicates = np.zeros(count, np.int32)
    extra = np.flatnonzero(owned)
    is_sighting = np.zeros(len(owner), bool)
    is_sighting[seen[seen >= 0]] = True
    extra = extra[~is_sighting[extra]]
    if len(extra):
        # Extra copies of a packet: the most that any one point saw beyond its visits (RFC 5560 3.4).
        keys, copies = np.unique(np.stack([owner[extra], points[extra]]), axis=1, return_counts=True)
        np.maximum.at(duplicates, keys[0], copies.astype(np.int32))
    candidates = candidates[order]
    basis = np.where(candidates > 1, BASES.index("order"), BASES.index("exact")).astype(np.uint8)
    return Trajectories(
        observations=observations,
        run=run,
        path=path,
        seen=seen,
        first_row=first_row[order],
        candidates=candidates,
        basis=basis,
        sightings=sightings,
        duplicates=duplicates,
        owner=owner,
        clocks=clocks,
        ledger=ledger,
    )


def _align(run: Run, rows: Array, digests: Array, members: Array, paths: Array) -> Clocks:
    """Offsets between the clocks of the points, from digests that each point saw at most once."""
    names = sorted({point.clock for point in run.points}, key=[p.clock for p in run.points].index)
    clock = np.array([names.index(point.clock) for point in run.points], np.int64)
    if len(names) == 1:
        zeros = np.zeros(len(run.points), np.int64)
        return Clocks(zeros, clock, np.ones(len(run.points), bool))
    keys = digests[members].astype(np.uint64)
    points = rows["point"][members]
    at = {
        number: _once(
            keys[points == number], rows["ts_ns"][members][points == number], paths[members][points == number]
        )
        for number in range(len(run.points))
    }
    forward: dict[tuple[int, int], list[Array]] = {}
    for number, path in enumerate(run.paths):
        for a, b in zip(path.points, path.points[1:], strict=False):
            if clock[a] != clock[b]:
                forward.setdefault((int(clock[a]), int(clock[b])), []).append(_differences(at[a], at[b], number))
        if path.has_detour:
            a, b = path.points[path.filter_input], path.points[path.detour_last + 1]
            if clock[a] != clock[b]:
                forward.setdefault((int(clock[a]), int(clock[b])), []).append(_differences(at[a], at[b], number))
    links: dict[tuple[int, int], int] = {}
    empty = [np.zeros(0, np.int64)]
    for a, b in sorted({(min(pair), max(pair)) for pair in forward}):
        offset = clock_arithmetic.offset_between(
            np.concatenate(forward.get((a, b), empty)), np.concatenate(forward.get((b, a), empty))
        )
        if offset is not None:
            links[a, b] = offset
    offsets = clock_arithmetic.chain(len(names), links)
    return Clocks(
        np.array([offsets[number] or 0 for number in clock], np.int64),
        clock,
        np.array([offsets[number] is not None for number in clock], bool),
    )


def _once(keys: Array, times: Array, paths: Array) -> tuple[Array, Array, Array]:
    """Keys that occur once, in order, with their times and paths."""
    unique, index, counts = np.unique(keys, return_index=True, return_counts=True)
    single = counts == 1
    return unique[single], times[index[single]], paths[index[single]]


def _differences(a: tuple[Array, Array, Array], b: tuple[Array, Array, Array], path: int) -> Array:
    """t_b - t_a of the packets of a path that both points saw exactly once."""
    _, index_a, index_b = np.intersect1d(a[0], b[0], assume_unique=True, return_indices=True)
    mine = (a[2][index_a] == path) & (b[2][index_b] == path)
    difference: Array = b[1][index_b[mine]] - a[1][index_a[mine]]
    return difference


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
    slack = np.full((len(run.paths), width, width), _EARLY_NS, np.int64)
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


def _may_miss(observations: Observations, run: Run) -> Array:
    """bool by path and position: the capture there dropped packets, is damaged, or does not say what it dropped."""
    table = np.zeros((len(run.paths), longest(run)), bool)
    for number, path in enumerate(run.paths):
        for position, point in enumerate(path.points):
            cover = observations.coverage[point]
            table[number, position] = cover.incomplete or cover.cut or cover.dropped is None
    return table
