"""From observations to trajectories: group by key, align clocks, place unique packets, then equal ones.

The key is the identity of the bytes that stay the same (decode/identity.py); where flows turn out to be rewritten on
their way, their packets get keys of what is left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pktrace import memory
from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES
from pktrace.decode.identity import group_numbers, mixed
from pktrace.ledger import Ledger
from pktrace.observations.contents import Contents
from pktrace.observations.observe import Observations
from pktrace.observations.payloads import Payloads
from pktrace.run.model import Run
from pktrace.schema import BASES
from pktrace.trajectories.agreement import begins_unseen, open_ends
from pktrace.trajectories.clock_model import RewrittenOnce, align_clocks
from pktrace.trajectories.clock_steps import clock_steps
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.evidence import ENDINGS, RULES, SAME_HEADERS
from pktrace.trajectories.forms import NO_FORMS, Forms
from pktrace.trajectories.grouping import Groups, grouped
from pktrace.trajectories.looks import routed_looks, second_looks
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.numbering import Followed, in_order, owned
from pktrace.trajectories.open_sets import Sightings
from pktrace.trajectories.packet_id import keys_by_number, numbered_packets
from pktrace.trajectories.paths import NO_PATH, NOT_FOLLOWED, parts, visits
from pktrace.trajectories.placing import Placed, place
from pktrace.trajectories.possible import possible_partners
from pktrace.trajectories.ranges import NO_RANGES, Ranges, copies_of_parts, match_ranges
from pktrace.trajectories.reach import reach_of, with_proven_misses
from pktrace.trajectories.remains import flow_of
from pktrace.trajectories.rewritten import Keys
from pktrace.trajectories.signatures import signed_rows
from pktrace.trajectories.ties import tell_apart

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
    memory.check_following(len(rows))
    columns, numbers, keys, groups = _begin(observations, run)
    payloads = Payloads(observations)
    steps = clock_steps(run, rows, columns, groups)
    if steps is not None:
        columns = replace(columns, times=columns.times - steps.correction_ns)
    every, forms = columns, NO_FORMS
    # Packets that the capture numbered are told apart by their numbers.
    compared = np.zeros(len(rows), bool) if numbers is None else numbers != 0
    rewritten = RewrittenOnce(run, rows, columns)
    looked, looks = compared.copy(), NO_FORMS  # for second sightings of a packet at one point
    contents = Contents(observations)
    for round_number in range(_MOST_ROUNDS):
        keys.closed = round_number == _MOST_ROUNDS - 1
        clocks = align_clocks(run, columns, groups, rewritten, steps)
        times, order = columns.times, np.zeros(0, np.int64)  # rows are in order of (time, point, file, frame)
        if clocks.offset_ns.any() or steps is not None:
            times = times - clocks.offset_ns[columns.points]
            order = np.flatnonzero(columns.paths != NOT_FOLLOWED)
            order = order[np.argsort(times[order], kind="stable")]
        covered = reach_of(run, observations.coverage, clocks)
        placed = place(run, rows, columns, groups, times, order, clocks, covered)
        owner, path_of, seen, candidates = placed.owner, placed.path_of, placed.seen, placed.candidates
        tied = _tied(keys, owner, placed, columns)
        fresh = tied[~compared[tied]]
        if len(fresh):
            contents.make_comparable()
            routed = routed_looks(run, rows, times, fresh)
            if len(routed):
                looks, every = looks.and_those(routed), every.without(routed.second)
                columns, forms, groups = _with_keys(keys, every, run)
                continue
            told = tell_apart(run, observations, payloads, times, keys.keys, fresh)
            compared[told.compared] = True
            if len(told):
                keys.tell_apart(told)
                columns, forms, groups = _with_keys(keys, every, run)
                continue
        fresh = tied[~looked[tied]]
        if len(fresh):
            looked[fresh] = True
            again = second_looks(run, rows, times, fresh)
            if len(again):
                looks, every = looks.and_those(again), every.without(again.second)
                columns, forms, groups = _with_keys(keys, every, run)
                continue
        unplaced = _unplaced(owner, columns, times)
        found = open_ends(run, rows, unplaced, owner, seen, path_of)
        at = Sightings(owner, seen, path_of, candidates, columns.points, times, columns.paths, clocks.group)
        ranges, doubtful_parts, explained = NO_RANGES, np.zeros(0, np.int64), np.zeros(0, np.int64)
        keys.doubtful_changes, keys.doubtful_joins = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if len(found.start_rows) and len(found.end_rows):
            memory.check_loose_ends(len(found.start_rows) + len(found.end_rows))
            contents.make_comparable()
        if keys.learn_rewritten(found, run, times, clocks.group):
            columns, forms, groups = _with_keys(keys, every, run)
            continue
        if not len(found.start_rows):
            break
        if keys.join(SAME_HEADERS, run, at, np.zeros(len(rows), bool), payloads):
            columns, forms, groups = _with_keys(keys, every, run)
            continue
        loose = np.concatenate([unplaced, _begun_late(owner, seen)])
        ranges, doubtful_parts, explained = match_ranges(
            rows, times, keys.first_flow, loose, seen, path_of, visits(run), run.threshold_ns, payloads
        )
        unexplained = found.without(ranges.trajectory, np.append(ranges.row, explained))
        if len(unexplained.end_rows):
            open_rows = unexplained.rows_of(owner, unplaced)
            unseen = begins_unseen(unexplained, run, rows, times, columns.paths, placed.reach)
            if keys.learn_changed(unexplained, run, times, clocks.group, open_rows, unseen):
                columns, forms, groups = _with_keys(keys, every, run)
                continue
        holding = _holding_parts(owner, ranges, explained, doubtful_parts)
        if keys.join(RULES, run, at, holding, payloads) or keys.join(ENDINGS, run, at, holding, payloads):
            columns, forms, groups = _with_keys(keys, every, run)
            continue
        break
    ambiguous = np.zeros(len(path_of), bool)
    ambiguous[found.end_trajectories[keys.doubtful]] = True
    ambiguous[keys.doubtful_changes] = True
    ambiguous[doubtful_parts] = True
    doubtful = owner[keys.doubtful_joins]
    ambiguous[doubtful[doubtful >= 0]] = True
    gaps = np.zeros(0, np.int64)
    if len(found.start_rows) and len(found.end_rows):
        holding = _holding_parts(owner, ranges, explained, doubtful_parts)
        possible = possible_partners(run, rows, at, keys.flow, holding, placed.reach)
        ambiguous[possible.ends] = True
        gaps = possible.gaps
    unsure = np.zeros(len(path_of), bool)
    unsure[gaps] = True
    candidates[doubtful_parts] = np.maximum(candidates[doubtful_parts], 2)
    given = owner[keys.in_order]
    given = given[given >= 0]
    candidates[given] = np.maximum(candidates[given], 2)
    basis = _basis(rows, keys, seen, candidates)
    _name_signatures(basis, rows, keys.marked, owner, payloads)
    if numbers is not None:
        basis[_all_numbered(seen, numbers) & (candidates == 1)] = BASES.index("packet_id")
    followed = Followed(owner, path_of, seen, candidates, basis, ambiguous, unsure, ranges)
    reach, no_path = placed.reach, placed.no_path
    if len(ranges):
        copies = copies_of_parts(rows, times, ranges, loose, run.threshold_ns)
        now = np.union1d(ranges.row, copies[0])
        no_path -= int(np.count_nonzero((owner[now] < 0) & (columns.paths[now] == NO_PATH)))
        followed = _with_ranges(followed, rows, times, copies)
        # What was not seen whole was not missed where its parts were seen.
        certain = followed.candidates == 1
        reach = with_proven_misses(covered, run, times, followed.seen[certain], followed.path[certain])
    followed.owner[looks.second] = followed.owner[looks.first]
    followed = in_order(followed)
    sightings, duplicates = owned(followed, columns.points)
    forms = forms.chosen(followed.owner[forms.first] >= 0)
    followed.owner[forms.second] = followed.owner[forms.first]
    sightings += np.bincount(followed.owner[forms.second], minlength=len(followed)).astype(np.int32)
    ledger = _left_over(followed.owner, every, no_path)
    for point in np.flatnonzero(reach.missed):
        ledger.add("capture_missed", int(reach.missed[point]), point=run.points[point].name)
    for entry in clocks.contradictions:
        ledger.add("clock_contradicted", max(entry.backwards, entry.late), point=run.points[entry.to_point].name)
    for entry in clocks.contradictions:
        if entry.disordered:
            ledger.add("order_contradicted", entry.packets, point=run.points[entry.to_point].name)
    for step in steps.steps if steps is not None else ():
        ledger.add("clock_contradicted", step.packets, point=run.points[step.point].name)
    for point in np.flatnonzero(clocks.group != clocks.group[0]):
        ledger.add("clock_unknown", point=run.points[point].name)
    return Trajectories(
        observations=observations,
        run=run,
        path=followed.path,
        seen=followed.seen,
        first_row=followed.first_row(),
        candidates=followed.candidates,
        basis=followed.basis,
        sightings=sightings,
        duplicates=duplicates,
        owner=followed.owner,
        forms=forms.second,
        ambiguous=followed.ambiguous,
        unsure=followed.unsure,
        ranges=followed.ranges,
        clocks=clocks,
        reach=reach,
        ledger=ledger,
    )


def _begin(observations: Observations, run: Run) -> tuple[Columns, Array | None, Keys, Groups]:
    """The columns to follow by, the packets' numbers if they have some, the first keys and their groups."""
    rows, part = observations.rows, parts(run)
    columns, groups = Columns.of(len(rows)), Groups(len(rows))
    for first, last in columns.read(run, rows):
        if not part.any():
            groups.add(columns.identities, columns.paths, first, last)  # while others are still read
    numbers = numbered_packets(observations) if columns.has & field.HAS_PACKET_ID else None
    first_keys = columns.identities if numbers is None else keys_by_number(rows, columns.identities, numbers)
    if part.any():
        first_keys = mixed(first_keys, part[columns.points])
    if first_keys is not columns.identities:
        groups = grouped(first_keys, columns.paths)
    return columns, numbers, Keys(rows, first_keys, part), groups


def _with_keys(keys: Keys, every: Columns, run: Run) -> tuple[Columns, Forms, Groups]:
    """What is followed by the keys as they are, second forms, which are not, and the groups."""
    forms = keys.forms(every.points, every.times, run.threshold_ns)
    columns = every.without(forms.second) if len(forms) else every
    return columns, forms, grouped(keys.keys, columns.paths)


def _unplaced(owner: Array, columns: Columns, times: Array) -> Array:
    """Rows that belong to no trajectory, in order of identity and time: identities come as they were seen first."""
    rows = np.flatnonzero(owner < 0)
    rows = rows[columns.paths[rows] != NOT_FOLLOWED]
    in_order: Array = rows[np.lexsort((times[rows], group_numbers(columns.identities[rows])))]
    return in_order


def _tied(keys: Keys, owner: Array, placed: Placed, columns: Columns) -> Array:
    """Rows that were told apart by order or taken for copies, with others of their keys."""
    several = placed.candidates > 1
    if np.count_nonzero(owner >= 0) > np.count_nonzero(placed.seen >= 0):
        rows = np.flatnonzero(owner >= 0)
        several |= np.bincount(owner[rows], minlength=len(several)) > (placed.seen >= 0).sum(axis=1)
    if not several.any():
        return np.zeros(0, np.int64)
    tied = several[owner] & (owner >= 0)
    loose = np.flatnonzero((owner < 0) & (columns.paths != NOT_FOLLOWED))
    tied[loose[np.isin(keys.keys[loose], keys.keys[tied])]] = True
    return np.flatnonzero(tied)


def _left_over(owner: Array, columns: Columns, no_path: int) -> Ledger:
    """A ledger of what belongs to no trajectory: on no path, so many at most, or off its own."""
    ledger = Ledger()
    left = int(np.count_nonzero((owner < 0) & (columns.paths != NOT_FOLLOWED)))
    no_path = min(left, no_path)
    ledger.add("no_path", no_path)
    ledger.add("off_path", left - no_path)
    return ledger


def _begun_late(owner: Array, seen: Array) -> Array:
    """Rows of trajectories that begin behind the first position of their path."""
    late = seen[:, 0] < 0
    rows = np.flatnonzero(late[owner]) if late.any() else np.zeros(0, np.int64)
    return rows[owner[rows] >= 0]


def _holding_parts(owner: Array, ranges: Ranges, explained: Array, doubtful: Array) -> Array:
    """bool per row: it is a part of a packet, may be one, or belongs to a packet that was seen in parts."""
    found = np.isin(owner, np.concatenate([ranges.trajectory, doubtful]))
    found[ranges.row] = True
    found[explained] = True
    return found


def _all_numbered(seen: Array, numbers: Array) -> Array:
    """bool per trajectory: seen at several positions, and all sightings have the number of the first."""
    there = seen >= 0
    first = seen[np.arange(len(seen)), np.argmax(there, axis=1)]
    same = numbers[np.maximum(seen, 0)] == numbers[first][:, None]
    found: Array = (same | ~there).all(axis=1) & (numbers[first] != 0) & (there.sum(axis=1) > 1)
    return found


def _with_ranges(found: Followed, rows: Array, times: Array, copies: tuple[Array, Array]) -> Followed:
    """Split and merged packets with their parts entered; trajectories that began as parts of these are left out."""
    ranges, owner, seen, basis = found.ranges, found.owner, found.seen, found.basis
    keep = np.ones(len(found), bool)
    parts = owner[np.concatenate([ranges.row, copies[0]])]
    keep[parts[parts >= 0]] = False
    # Of the parts of a packet at a point, the one with its first byte counts; the earliest where that is missing.
    order = np.lexsort((times[ranges.row], ranges.first, ranges.position, ranges.trajectory))[::-1]
    seen[ranges.trajectory[order], ranges.position[order]] = ranges.row[order]
    owner[owner >= 0] = np.where(keep[owner[owner >= 0]], owner[owner >= 0], -1)
    owner[ranges.row[order]] = ranges.trajectory[order]
    owner[copies[0]] = copies[1]
    whole = ranges.whole(rows, seen[:, 0])
    alone = ranges.chosen(whole)
    sent, held = rows[seen[alone.trajectory, 0]], rows[alone.row]
    header = (flow_of(sent) != flow_of(held)) | (sent["ip_id"] != held["ip_id"])
    basis[alone.trajectory] = BASES.index("modified")
    basis[alone.trajectory[header]] = BASES.index("rewritten")  # at any of its points
    ranges = ranges.chosen(~whole)
    basis[ranges.trajectory] = BASES.index("range")
    return replace(found, ranges=ranges).chosen(np.flatnonzero(keep))


def _name_signatures(basis: Array, rows: Array, marked: Array, owner: Array, payloads: Payloads) -> None:
    """Exact matches that the mark of a test generator has decided."""
    marked = marked[(rows["payload_length"][marked] > PAYLOAD_BYTES) & (owner[marked] >= 0)]
    if len(marked):
        signed = owner[signed_rows(rows, marked, payloads)]
        basis[signed[basis[signed] == BASES.index("exact")]] = BASES.index("signature")


def _basis(rows: Array, keys: Keys, seen: Array, candidates: Array) -> Array:
    """The rung that decided, per trajectory (code of BASES)."""
    found = np.full(len(seen), BASES.index("exact"), np.uint8)
    if keys.learned:
        first = seen[np.arange(len(seen)), np.argmax(seen >= 0, axis=1)]
        for position in range(seen.shape[1]):
            there = np.flatnonzero(seen[:, position] >= 0)
            row, begin = seen[there, position], first[there]
            changed = rows["identity"][row] != rows["identity"][begin]
            header = (keys.flow[row] != keys.flow[begin]) | (rows["ip_id"][row] != rows["ip_id"][begin])
            found[there[changed & ~header & (found[there] == BASES.index("exact"))]] = BASES.index("modified")
            found[there[changed & header]] = BASES.index("rewritten")
    found[candidates > 1] = BASES.index("order")
    return found
