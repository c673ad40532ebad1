"""From the last round of following to trajectories: the basis of each, the doubts, and the rows that belong to none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pktrace.decode.digest import PAYLOAD_BYTES
from pktrace.ledger import Ledger
from pktrace.observations.observe import Observations
from pktrace.observations.payloads import Payloads
from pktrace.run.model import Run
from pktrace.schema import BASES
from pktrace.trajectories.both_sides import Forms
from pktrace.trajectories.capture_evidence import CaptureEvidence, with_proven_misses
from pktrace.trajectories.clocks.alignment import Clocks
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.flows import flow_of
from pktrace.trajectories.joins.open_sets import Sightings
from pktrace.trajectories.joins.possible_partners import possible_partners
from pktrace.trajectories.links.address_translation import Keys
from pktrace.trajectories.links.loose_ends import LooseEnds
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.numbering import Followed, in_order, owned
from pktrace.trajectories.outcome.signatures import signed_rows
from pktrace.trajectories.paths import NO_PATH, NOT_FOLLOWED
from pktrace.trajectories.placing.place import Placed
from pktrace.trajectories.reassembly.byte_ranges import NO_RANGES, Ranges, copies_of_parts

Array = np.ndarray[Any, Any]
_NONE = np.zeros(0, np.int64)


@dataclass
class Round:
    """The findings of one round of following.

    `columns` are those that were followed, without `forms`; `times` are aligned by `clocks`; `covered` is the evidence
    that the captures carry themselves; `ends` are the loose ends; `unplaced` are rows without a packet; `loose` are
    these and packets that begin late; `ranges` are the byte ranges of packets; `doubtful_parts` are packets that may
    own bytes of some frame; `explained` are rows that are, or may be, parts of packets.
    """

    columns: Columns
    forms: Forms
    clocks: Clocks
    times: Array
    covered: CaptureEvidence
    placed: Placed
    ends: LooseEnds
    at: Sightings
    unplaced: Array
    loose: Array = field(default_factory=lambda: _NONE)
    ranges: Ranges = NO_RANGES
    doubtful_parts: Array = field(default_factory=lambda: _NONE)
    explained: Array = field(default_factory=lambda: _NONE)
    perhaps: Array = field(default_factory=lambda: _NONE)

    @property
    def holding_parts(self) -> Array:
        """bool per row: it is a part of a packet, may be one, or belongs to a packet that was seen in parts."""
        found = np.isin(self.placed.owner, np.concatenate([self.ranges.trajectory, self.doubtful_parts]))
        found[self.ranges.row] = True
        found[self.explained] = True
        return found


def trajectories_of(
    last: Round, observations: Observations, run: Run, keys: Keys, numbers: Array | None, looks: Forms, every: Columns,
    payloads: Payloads,
) -> Trajectories:  # fmt: skip
    """The trajectories that the last round has found, in order of first sighting.

    Args:
        numbers: uint64 per row, for packets that the capture numbered; looks: second sightings, which were not
        followed; every: columns of all rows.
    """
    rows, placed, ranges = observations.rows, last.placed, last.ranges
    owner, candidates = placed.owner, placed.candidates
    both_sides = _earlier_side_counts(placed, last.times, last.forms)
    ambiguous, unsure = _in_doubt(last, run, rows, keys)
    candidates[last.doubtful_parts] = np.maximum(candidates[last.doubtful_parts], 2)
    given = owner[keys.in_order]
    given = given[given >= 0]
    candidates[given] = np.maximum(candidates[given], 2)
    basis = _basis(rows, keys, placed.seen, candidates, keys.learned or len(both_sides) > 0)
    _name_signatures(basis, rows, keys.marked, owner, payloads)
    if numbers is not None:
        basis[_all_numbered(placed.seen, numbers) & (candidates == 1)] = BASES.index("packet_id")
    followed = Followed(owner, placed.path_of, placed.seen, candidates, basis, ambiguous, unsure, ranges)
    reach, no_path = placed.reach, placed.no_path
    if len(ranges):
        copies = copies_of_parts(rows, last.times, ranges, last.loose, run.threshold_ns)
        now = np.union1d(ranges.row, copies[0])
        no_path -= int(np.count_nonzero((owner[now] < 0) & (last.columns.paths[now] == NO_PATH)))
        followed = _with_ranges(followed, rows, last.times, copies)
        # A position that saw parts of a packet did not miss it.
        certain = followed.candidates == 1
        reach = with_proven_misses(last.covered, run, rows, last.times, followed.seen[certain], followed.path[certain])
    followed.owner[looks.second] = followed.owner[looks.first]
    followed = in_order(followed)
    sightings, duplicates = owned(followed, last.columns.points)
    forms = both_sides.chosen(followed.owner[both_sides.first] >= 0)
    followed.owner[forms.second] = followed.owner[forms.first]
    sightings += np.bincount(followed.owner[forms.second], minlength=len(followed)).astype(np.int32)
    ledger = _left_over(followed.owner, every, no_path)
    _count_doubts(ledger, run, reach, last.clocks)
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
        clocks=last.clocks,
        reach=reach,
        ledger=ledger,
    )


def _earlier_side_counts(placed: Placed, times: Array, forms: Forms) -> Forms:
    """Enter the earlier of both sides at its position: a packet goes into a translator before it comes out."""
    earlier = np.flatnonzero((times[forms.second] < times[forms.first]) & (placed.owner[forms.first] >= 0))
    if not len(earlier):
        return forms
    came, left = forms.second[earlier], forms.first[earlier]
    trajectory = placed.owner[left]
    for position in range(placed.seen.shape[1]):
        here = placed.seen[trajectory, position] == left
        placed.seen[trajectory[here], position] = came[here]
    placed.owner[came], placed.owner[left] = trajectory, -1
    second, first = forms.second.copy(), forms.first.copy()
    second[earlier], first[earlier] = left, came
    order = np.argsort(second)
    return Forms(second[order], first[order])


def _in_doubt(last: Round, run: Run, rows: Array, keys: Keys) -> tuple[Array, Array]:
    """bool per trajectory: it departs, and an arrival may continue it; it has a gap, and an unexplained frame may fill
    it.
    """
    owner, ends = last.placed.owner, last.ends
    ambiguous, unsure = (np.zeros(len(last.placed.path_of), bool) for _ in range(2))
    ambiguous[ends.end_trajectories[keys.doubtful]] = True
    ambiguous[keys.doubtful_changes] = True
    ambiguous[last.doubtful_parts] = True
    sides = owner[last.perhaps]
    ambiguous[sides[sides >= 0]] = True
    doubtful = owner[keys.doubtful_joins]
    ambiguous[doubtful[doubtful >= 0]] = True
    if len(ends.start_rows) and len(ends.end_rows):
        possible = possible_partners(run, keys.fields, last.at, keys.flow, last.holding_parts, last.placed.reach)
        ambiguous[possible.ends] = True
        unsure[possible.gaps] = True
    return ambiguous, unsure


def _count_doubts(ledger: Ledger, run: Run, reach: CaptureEvidence, clocks: Clocks) -> None:
    """Count the packets that captures missed, and the contradictions of clocks and of the order of points."""
    names = [point.name for point in run.points]
    for point in np.flatnonzero(reach.missed):
        ledger.add("capture_missed", int(reach.missed[point]), point=names[point])
    for entry in clocks.contradictions:
        ledger.add("clock_contradicted", max(entry.backwards, entry.late), point=names[entry.to_point])
        if entry.disordered:
            ledger.add("order_contradicted", entry.packets, point=names[entry.to_point])
    for step in clocks.steps.steps if clocks.steps is not None else ():
        ledger.add("clock_contradicted", step.packets, point=names[step.point])
    for point in np.flatnonzero(clocks.group != clocks.group[0]):
        ledger.add("clock_unknown", point=names[point])


def _left_over(owner: Array, columns: Columns, no_path: int) -> Ledger:
    """A ledger of the rows without a trajectory: on no path (`no_path` at most), or off their own."""
    ledger = Ledger()
    left = int(np.count_nonzero((owner < 0) & (columns.paths != NOT_FOLLOWED)))
    no_path = min(left, no_path)
    ledger.add("no_path", no_path)
    ledger.add("off_path", left - no_path)
    return ledger


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
    # Among the parts of a packet at a point, the one with its first byte counts; the earliest if that part is missing.
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
    """Name the exact matches that the mark of a test generator has decided."""
    marked = marked[(rows["payload_length"][marked] > PAYLOAD_BYTES) & (owner[marked] >= 0)]
    if len(marked):
        signed = owner[signed_rows(rows, marked, payloads)]
        basis[signed[basis[signed] == BASES.index("exact")]] = BASES.index("signature")


def _basis(rows: Array, keys: Keys, seen: Array, candidates: Array, changed_somewhere: bool) -> Array:
    """The matcher that decided, per trajectory (code of BASES)."""
    found = np.full(len(seen), BASES.index("exact"), np.uint8)
    if changed_somewhere:
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
