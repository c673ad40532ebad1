"""From observations to trajectories: group by key, align clocks, place unique packets, then equal ones.

The key is the identity of the invariant bytes (decode/identity.py). A round places packets by their keys. The packets
that are left show keys that tie, second looks, and packets that a box has changed. These findings refine the keys, and
the next round begins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from pktrace import memory
from pktrace.decode import rows as field
from pktrace.decode.identity import group_numbers, mixed
from pktrace.decode.packet_ids import keys_by_number
from pktrace.observations.contents import Contents
from pktrace.observations.observe import Observations
from pktrace.observations.payloads import Payloads
from pktrace.run.model import Run
from pktrace.trajectories.both_sides import NO_FORMS, Forms
from pktrace.trajectories.capture_evidence import CaptureEvidence, capture_evidence_of
from pktrace.trajectories.clocks.alignment import Clocks, RewrittenOnce, align_clocks
from pktrace.trajectories.clocks.steps import clock_steps
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.grouping import Groups, grouped, in_order_of
from pktrace.trajectories.joins.open_sets import Sightings
from pktrace.trajectories.joins.rules import ENDINGS, RULES, SAME_HEADERS
from pktrace.trajectories.links.address_translation import Keys
from pktrace.trajectories.links.loose_ends import begins_unseen, loose_ends_of
from pktrace.trajectories.links.sides_at_ends import sides_of_translators
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.outcome.conclusion import Round, trajectories_of
from pktrace.trajectories.paths import NOT_FOLLOWED, parts, visits
from pktrace.trajectories.placing.packet_id import numbered_packets
from pktrace.trajectories.placing.place import Placed, place
from pktrace.trajectories.placing.second_looks import retried_looks, routed_looks, second_looks
from pktrace.trajectories.placing.ties import tell_apart
from pktrace.trajectories.reassembly.byte_ranges import match_ranges

Array = np.ndarray[Any, Any]
# Each round follows a packet through one more stage that rewrites it.
_MOST_ROUNDS = 12


def follow_packets(observations: Observations) -> Trajectories:
    """Follow every packet of a run along its path.

    Args:
        observations: from a run; observations of bare files have no paths and yield no trajectories.

    Returns:
        The trajectories in order of first sighting; their ledger counts the observations without a trajectory.
    """
    run = observations.run
    if run is None:
        raise ValueError("observations of bare files have no run; use load_run and observe")
    memory.check_following(len(observations.rows))
    return _Following(observations, run).trajectories()


class _Following:
    """Rounds of following, until a round learns nothing more."""

    def __init__(self, observations: Observations, run: Run) -> None:
        self._observations, self._run, self._rows = observations, run, observations.rows
        self._columns, self._numbers, self._keys, self._groups = _begin(observations, run)
        self._payloads, self._contents = Payloads(observations), Contents(observations)
        self._steps = clock_steps(run, self._rows, self._columns, self._groups)
        if self._steps is not None:
            self._columns = replace(self._columns, times=self._columns.times - self._steps.correction_ns)
        self._every, self._forms, self._looks, self._sides = self._columns, NO_FORMS, NO_FORMS, NO_FORMS
        self._rewritten = RewrittenOnce(run, self._rows, self._columns)
        # Packets that the capture numbered need no comparison of bytes: the numbers distinguish them.
        known = np.zeros(len(self._rows), bool) if self._numbers is None else self._numbers != 0
        self._compared, self._looked = known, known.copy()

    def trajectories(self) -> Trajectories:
        """All packets of the run."""
        for number in range(_MOST_ROUNDS):
            self._keys.closed = number == _MOST_ROUNDS - 1
            clocks, times, covered, placed = self._placed()
            if self._set_apart(times, placed):
                self._group_again()
                continue
            found = self._opened(clocks, times, covered, placed)
            if not self._learn(found) and not self._set_sides_apart(found):
                break
            self._group_again()
        return trajectories_of(
            found, self._observations, self._run, self._keys, self._numbers, self._looks, self._every, self._payloads
        )

    def _placed(self) -> tuple[Clocks, Array, CaptureEvidence, Placed]:
        """Place all rows by their keys: the clocks, aligned times, capture evidence, and the packets."""
        run, columns, groups = self._run, self._columns, self._groups
        clocks = align_clocks(run, columns, groups, self._rewritten, self._steps)
        times, order = columns.times, np.zeros(0, np.int64)  # rows are in order of (time, point, file, frame)
        if clocks.offset_ns.any() or self._steps is not None:
            times = times - clocks.offset_ns[columns.points]
            order = np.flatnonzero(columns.paths != NOT_FOLLOWED)
            order = order[np.argsort(times[order], kind="stable")]
        covered = capture_evidence_of(run, self._observations.coverage, clocks)
        return clocks, times, covered, place(run, self._rows, columns, groups, times, order, clocks, covered)

    def _opened(self, clocks: Clocks, times: Array, covered: CaptureEvidence, placed: Placed) -> Round:
        """The round so far, with the loose ends."""
        columns = self._columns
        unplaced = _unplaced(placed.owner, columns, times)
        ends = loose_ends_of(self._run, self._rows, unplaced, placed.owner, placed.seen, placed.path_of)
        at = Sightings(
            placed.owner, placed.seen, placed.path_of, placed.candidates, columns.points, times, columns.paths,
            clocks.group,
        )  # fmt: skip
        return Round(columns, self._forms.and_those(self._sides), clocks, times, covered, placed, ends, at, unplaced)

    def _set_apart(self, times: Array, placed: Placed) -> bool:
        """Tell packets with equal keys apart, and set aside second looks; returns True if anything is new."""
        if self._keys.closed:
            return False
        tied = _tied(self._keys, placed, self._columns)
        fresh = tied[~self._compared[tied]]
        if len(fresh):
            self._make_comparable()
            if self._set_aside(retried_looks(self._run, self._observations, times, fresh)):
                return True
            if self._set_aside(routed_looks(self._run, self._rows, times, fresh)):
                return True
            told = tell_apart(
                self._run, self._observations, self._payloads, times, self._keys.keys, fresh
            )  # fmt: skip
            self._compared[told.compared] = True
            if len(told):
                self._keys.tell_apart(told)
                return True
        fresh = tied[~self._looked[tied]]
        self._looked[fresh] = True
        return len(fresh) > 0 and self._set_aside(second_looks(self._run, self._rows, times, fresh))

    def _set_sides_apart(self, found: Round) -> bool:
        """Set aside the other side of translators that the first or the last point sees; returns True if any is new."""
        if self._keys.closed:
            return False
        sides, found.perhaps = sides_of_translators(self._run, self._rows, found.times, found.at, found.unplaced)
        self._sides, self._every = self._sides.and_those(sides), self._every.without(sides.second)
        return len(sides) > 0

    def _set_aside(self, looks: Forms) -> bool:
        if len(looks):
            self._looks, self._every = self._looks.and_those(looks), self._every.without(looks.second)
        return len(looks) > 0

    def _make_comparable(self) -> None:
        self._contents.make_comparable()
        self._keys.fields.forget("content", "icmp_id")

    def _learn(self, found: Round) -> bool:
        """Learn the changes that boxes make, from much evidence to little; returns True if any keys changed."""
        run, rows, keys, ends, placed = self._run, self._rows, self._keys, found.ends, found.placed
        keys.doubtful_changes, keys.doubtful_joins = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if len(ends.start_rows) and len(ends.end_rows):
            memory.check_loose_ends(len(ends.start_rows) + len(ends.end_rows))
            self._make_comparable()
        if keys.learn_rewritten(ends, run, found.times, found.clocks.group):
            return True
        if not len(ends.start_rows):
            return False
        if keys.join(SAME_HEADERS, run, found.at, np.zeros(len(rows), bool), self._payloads):
            return True
        found.loose = np.concatenate([found.unplaced, _begun_late(placed.owner, placed.seen)])
        found.ranges, found.doubtful_parts, found.explained = match_ranges(
            rows, found.times, keys.first_flow, found.loose, placed.seen, placed.path_of, visits(run),
            run.threshold_ns, self._payloads,
        )  # fmt: skip
        left = ends.without(found.ranges.trajectory, np.append(found.ranges.row, found.explained))
        if len(left.end_rows):
            open_rows = left.rows_of(placed.owner, found.unplaced)
            unseen = begins_unseen(left, run, rows, found.times, self._columns.paths, placed.reach)
            if keys.learn_changed(left, run, found.times, found.clocks.group, open_rows, unseen):
                return True
        holding = found.holding_parts
        return any(keys.join(rules, run, found.at, holding, self._payloads) for rules in (RULES, ENDINGS))

    def _group_again(self) -> None:
        """Group by the current keys, without egress sightings."""
        self._forms = self._keys.forms(self._every.points, self._every.times, self._run.threshold_ns)
        self._columns = self._every.without(self._forms.second) if len(self._forms) else self._every
        self._groups = grouped(self._keys.keys, self._columns.paths)


def _begin(observations: Observations, run: Run) -> tuple[Columns, Array | None, Keys, Groups]:
    """The columns for following, the capture's packet numbers if it has some, the first keys and their groups."""
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


def _unplaced(owner: Array, columns: Columns, times: Array) -> Array:
    """Rows without a trajectory, in order of identity and time; identities come in the order of their first
    sighting.
    """
    rows = np.flatnonzero(owner < 0)
    rows = rows[columns.paths[rows] != NOT_FOLLOWED]
    in_order: Array = rows[in_order_of(group_numbers(columns.identities[rows]), times[rows])]
    return in_order


def _tied(keys: Keys, placed: Placed, columns: Columns) -> Array:
    """Rows that were distinguished by order alone or taken for copies, and all other rows with their keys."""
    owner, several = placed.owner, placed.candidates > 1
    if np.count_nonzero(owner >= 0) > np.count_nonzero(placed.seen >= 0):
        rows = np.flatnonzero(owner >= 0)
        several |= np.bincount(owner[rows], minlength=len(several)) > (placed.seen >= 0).sum(axis=1)
    if not several.any():
        return np.zeros(0, np.int64)
    tied = several[owner] & (owner >= 0)
    loose = np.flatnonzero((owner < 0) & (columns.paths != NOT_FOLLOWED))
    tied[loose[np.isin(keys.keys[loose], keys.keys[tied])]] = True
    return np.flatnonzero(tied)


def _begun_late(owner: Array, seen: Array) -> Array:
    """Rows of trajectories that begin behind the first position of their path."""
    late = seen[:, 0] < 0
    rows = np.flatnonzero(late[owner]) if late.any() else np.zeros(0, np.int64)
    return rows[owner[rows] >= 0]
