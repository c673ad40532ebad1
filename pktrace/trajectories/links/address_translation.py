"""The matchers `rewritten` and `modified`: a box changed the headers or the payload of a flow on the way.

Rule: departures and arrivals (loose_ends.py) are compared by their invariant fields. If packets with equal invariants
depart in one flow and arrive in one flow, these two flows are taken for one, as long as enough of their packets agree
and hardly any disagrees. Each packet of the two flows then gets a key of the invariants and of the first flow. It is
placed as others are: exactly if the key is unique, by order if it is not.

- rewritten: the invariants are protocol, TCP numbers and flags or ICMP type and sequence, payload length and first
  payload bytes. Addresses, ports, IP ID and options may have changed (RFC 3022, RFC 6864 5.3.1). If several flows have
  the same invariants, IP IDs, one side, or ports are tried beside them.
- modified: the invariants are addresses, ports, IP ID and the numbers above. The payload may have changed.

Bound: a flow is taken for another if ENOUGH packets agree, or one whose invariants hold TCP numbers, and at most one in
DISAGREE disagrees. One packet is enough if a known translator (known_translators.py) makes the one flow of the other,
or if the flows that answer them are known to be one. A false pair of flows needs as many chance matches within the loss
threshold. Flows that are alike are taken together (indistinguishable_flows.py). Departures that fit an arrival without
proof are reported, so that they are not called lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import among, found_among, group_numbers, groups_of, mixed
from pktrace.decode.rows import is_fragment
from pktrace.observations.payloads import Payloads
from pktrace.protocols import TCP, UDP
from pktrace.run.model import Run
from pktrace.trajectories import invariants
from pktrace.trajectories.both_sides import NO_FORMS, Forms, forms_of
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import answering_flow_of, flows_of, has_its_own_id
from pktrace.trajectories.grouping import counted, looked_up, tallied
from pktrace.trajectories.joins.join_sets import join_sets
from pktrace.trajectories.joins.open_sets import Sightings
from pktrace.trajectories.joins.rules import Rule
from pktrace.trajectories.joins.sole_partners import Points
from pktrace.trajectories.links.contradicted_by_time import against_time
from pktrace.trajectories.links.flow_evidence import FlowEvidence, candidates_of, flow_evidence_of, window_of
from pktrace.trajectories.links.indistinguishable_flows import Crowd, crowds_of
from pktrace.trajectories.links.known_translators import ENOUGH, ENOUGH_ALONE, Gateways
from pktrace.trajectories.links.loose_ends import LooseEnds
from pktrace.trajectories.paths import visits
from pktrace.trajectories.placing.ties import Told

Array = np.ndarray[Any, Any]
_MOSTLY = 0.2  # share of a flow's packets that must depart for it to be changed, if headers do not identify packets
_BALANCED = 2  # or half of the departures and of the arrivals has to agree
_MOST_ROUNDS = 8
_WHOLE = 0.8  # share of a flow's packets that must depart for its addresses, ports or IP IDs to be rewritten
_KEPT_BY_HALF = 0.5
_DATAGRAM = ("source_high", "source_low", "destination_high", "destination_low", "protocol", "ip_id")
# Fields that may stay if the invariants alone belong to several flows; each counts only for flows whose packets mostly
# agree.
_KEPT = (
    invariants.of_rewrite_with_id,
    invariants.of_rewritten_source,
    invariants.of_rewritten_destination,
    invariants.of_rewritten_addresses,
)
_SIDE_KEPT = (invariants.of_rewritten_source, invariants.of_rewritten_destination)


class Keys:
    """The keys by which packets are grouped: the identities of rows, until flows turn out to be rewritten."""

    def __init__(self, rows: Array, keys: Array, part: Array) -> None:
        """Rows and their first keys; per point the network component that no packet leaves."""
        self.fields = Fields(rows)
        self._part = part
        self.keys = keys
        self.learned = False
        self.closed = False  # nothing more is learned; known findings are applied
        self.doubtful = np.zeros(0, bool)
        self.doubtful_changes = np.zeros(0, np.int64)
        self.doubtful_joins = np.zeros(0, np.int64)
        self._flow: Array | None = None
        self._seen: tuple[Array, Array] | None = None  # hashes of flow and point, and the number of packets of each
        self._canonical: dict[int, int] = {}
        self._origins_known: tuple[Array, Array] | None = None
        self._gateways = Gateways()
        self._rewritten_at: set[int] = set()
        self._without_id: set[int] = set()
        self._by_header: set[int] = set()
        self.behind_here: set[int] = set()  # hashes of a flow and the point at which other flows became it
        self._open = np.zeros(len(rows), bool)
        self._points = Points(self.fields)
        self.marked = np.zeros(0, np.int64)  # rows that were distinguished from others with equal keys
        self.in_order = np.zeros(0, np.int64)  # rows whose mark was assigned by their order
        self._joined = np.zeros(0, np.int64), np.zeros(0, np.uint64)  # rows of joined sets, and their keys

    @property
    def flow(self) -> Array:
        """The flow of every row."""
        if self._flow is None:
            self._flow = flows_of(self.fields.rows)
        return self._flow

    @property
    def first_flow(self) -> Array:
        """The flow that every row's flow began as."""
        found = self.flow
        if self._canonical:
            flows, first = self._origins()
            found = _origin(found, flows, first)
        return found

    def tell_apart(self, found: Told) -> None:
        """Mark rows with a hash that distinguishes them from others with equal keys."""
        self.fields.rows["mark"][found.rows] = found.marks
        self.fields.forget("mark")
        self.marked = np.union1d(self.marked, found.rows)
        self.in_order = np.union1d(self.in_order, found.rows[found.in_order])
        self.keys = self.keys.copy()
        self.keys[found.rows] = mixed(self.keys[found.rows], found.marks)
        if self.learned:
            self._assign()

    def forms(self, points: Array, times: Array, threshold: int) -> Forms:
        """Egress sightings at points that show both sides of a translator.

        Args:
            points: int32 per row; times: int64, as captured; threshold: ns.
        """
        if not self.behind_here:
            return NO_FORMS
        return forms_of(self.keys, self.flow, points, times, self.behind_here, threshold)

    def _origins(self) -> tuple[Array, Array]:
        """Rewritten flows, and the flow that each began as."""
        if self._origins_known is None:
            first = [self._first_of(flow) for flow in self._canonical]
            self._origins_known = np.array(list(self._canonical), np.uint64), np.array(first, np.uint64)
        return self._origins_known

    def learn_rewritten(self, found: LooseEnds, run: Run, times: Array, comparable: Array) -> bool:
        """Learn flows whose headers are rewritten; returns True if keys changed.

        Otherwise `doubtful` says for each departure if it has a candidate all the same.
        """
        self.doubtful = np.zeros(len(found.end_rows), bool)
        if not len(found.end_rows) or not len(found.start_rows):
            return False
        rows, window = self.fields, window_of(run, times)
        pairs, fits = candidates_of(found, run, rows, times, comparable, invariants.of_rewrite)
        # Departures of flows that are known to be rewritten here are lost: otherwise they would have the key of their
        # new form.
        self.doubtful = fits & ~among(self._stages(found), np.array(list(self._rewritten_at), np.uint64))
        agreement = flow_evidence_of(pairs, found, rows, times, window)
        # If all packets are the same, their IP IDs may still distinguish them: these pairs are looked at first.
        told = (agreement.single > 0) | ~agreement.numbered | agreement.ids_kept

        every = found
        ends, starts = (
            (self.flow[at], rows.kept(at).once(invariants.of_rewrite), times[at], comparable[rows["point"][at]])
            for at in (found.end_rows, found.start_rows)
        )

        def in_time(some: FlowEvidence) -> Array:
            """bool per pair: time does not contradict it, or IP IDs are evidence for it."""
            return some.ids_kept | ~against_time(some.before, some.after, ends, starts, run.threshold_ns)

        if self._learn_whole(agreement, found, run, told, in_time, window):
            return True
        if not self.doubtful.any():
            return self._learn_parts(every, run, times, comparable)
        open_again, found = found, found.only(self.doubtful)
        by_side = {}
        for kept in _KEPT:
            pairs, fits = candidates_of(found, run, rows, times, comparable, kept)
            if kept in _SIDE_KEPT:
                by_side[kept] = pairs
            if kept is invariants.of_rewrite_with_id and fits.sum() < _KEPT_BY_HALF * len(fits):
                continue  # IP IDs that few packets have kept are equal by chance
            finer = flow_evidence_of(pairs, found, rows, times, window)
            eligible = self._mostly_begun(finer, found) & ((finer.single < finer.kinds) | finer.come_soon)
            if self._learn_whole(finer, found, run, eligible, in_time, window):
                return True
        if self._learn_whole(agreement, open_again, run, np.ones(len(agreement), bool), in_time, window):
            return True
        for kept, pairs in by_side.items():
            remains = np.zeros(len(rows), np.uint64)
            for some in (found.end_rows, found.start_rows):
                remains[some] = rows.kept(some).once(kept)
            crowds = list(
                crowds_of(
                    pairs, found, run, rows, times, self.flow, remains,
                    lambda flows: self._share_of_ends(flows, found),
                )
            )  # fmt: skip
            if self._take_crowds(crowds):
                return True
        return self._learn_parts(every, run, times, comparable)

    def _learn_parts(self, found: LooseEnds, run: Run, times: Array, comparable: Array) -> bool:
        """Learn flows from the parts of packets that were split; parts whose headers captures cut off are doubtful."""
        if self._learn_beginnings(found, run, times, comparable):
            return True
        rows = self.fields
        cut = [rows["has"][some] & field.CUT_HEADER != 0 for some in (found.end_rows, found.start_rows)]
        if cut[0].any() or cut[1].any():
            pairs, _ = candidates_of(found, run, rows, times, comparable, invariants.of_cut)
            self.doubtful[pairs.end[cut[0][pairs.end] | cut[1][pairs.start]]] = True
        return False

    def _learn_beginnings(self, found: LooseEnds, run: Run, times: Array, comparable: Array) -> bool:
        """Learn flows whose datagrams were fragmented or segmented at a rewrite, or reassembled there: the beginnings
        of the datagrams are the evidence.
        """
        rows = self.fields
        # TCP has no datagrams, and other fragments cannot be distinguished without an IP ID.
        every = rows.kept(found.end_rows)
        mine = np.flatnonzero(every["protocol"] != TCP)
        if not ((every["ip_id"][mine] != 0) & (every["fragment_offset"][mine] == 0)).any():
            return False
        pairs, _ = candidates_of(found.only(mine), run, rows, times, comparable, invariants.of_beginning)
        pairs = replace(pairs, end=mine[pairs.end])
        ended, begun = rows.at(found.end_rows[pairs.end]), rows.at(found.start_rows[pairs.start])
        fits = (ended["protocol"] == UDP) | (ended["has"] & field.HAS_ECHO != 0)
        fits &= (ended["ip_id"] != 0) & (ended["fragment_offset"] == 0)
        split = begun["payload_length"] < ended["payload_length"]
        fits &= split | ((ended["more_fragments"] != 0) & (begun["payload_length"] > ended["payload_length"]))
        if not fits.any():
            return False
        first = self.first_flow
        fits &= first[found.end_rows[pairs.end]] != first[found.start_rows[pairs.start]]
        pairs = pairs.chosen(fits)
        if not len(pairs):
            return False
        agreement = flow_evidence_of(pairs, found, rows, times, window_of(run, times))
        enough = (agreement.by_id >= ENOUGH) | (agreement.packets >= ENOUGH_ALONE)
        whole = self._end_whole(agreement, found, run)
        if self._take(agreement.chosen(agreement.agreed & enough & whole), by_header=False):
            return True
        self.doubtful[pairs.end] = True
        # The other fragments of these datagrams are doubtful, too.
        parts = rows.at(found.end_rows)
        datagram = mixed(*(parts[name] for name in _DATAGRAM))
        self.doubtful |= is_fragment(parts) & among(datagram, datagram[pairs.end])
        return False

    def _learn_whole(
        self, agreement: FlowEvidence, found: LooseEnds, run: Run, eligible: Array,
        in_time: Callable[[FlowEvidence], Array], window: int,
    ) -> bool:  # fmt: skip
        """Learn flows that depart as a whole: a rewrite of addresses, ports or IP IDs affects all of their packets.

        Options change in some packets: if the flow and IP IDs stay, packets may go on unchanged.

        Args:
            eligible: bool per pair of flows, those that may be learned; in_time: bool per pair, those that time allows;
            window: ns, from `window_of`.
        """
        whole = (agreement.before == agreement.after) & agreement.ids_kept
        whole |= self._end_whole(agreement, found, run)
        agreement = agreement.chosen(whole)
        eligible = eligible[whole] & agreement.agreed
        # Two conditions out of three are needed, because strangers send the same packets, too: several invariants, one
        # side that stays, packets that come soon.
        soon = agreement.come_soon
        alone = ((agreement.kinds >= ENOUGH_ALONE) & (agreement.stays | soon)) | (agreement.stays & soon)
        enough = (agreement.by_id >= ENOUGH) | (alone & agreement.steady & (agreement.packets >= ENOUGH_ALONE))
        enough |= self._hold_numbers(agreement, found) | self._answer_known(agreement, found)
        enough |= self._gateways.supported(agreement, eligible, found, self.fields, window)
        accepted = agreement.chosen(eligible & enough)
        accepted = accepted.chosen(in_time(accepted))
        self._gateways.remember(accepted, found, self.fields)
        self._rewritten_at.update(self._stages(found)[accepted.end].tolist())
        self._note_here(accepted.after, accepted.at, accepted.end, found)
        return self._take(accepted, by_header=False)

    def _note_here(self, behind: Array, at: Array, end: Array, found: LooseEnds) -> None:
        """Remember flows behind that arrive at the very point of the departure."""
        here = at == found.end_position[end]
        if here.any():
            self.behind_here.update(mixed(behind[here], self.fields["point"][found.end_rows[end[here]]]).tolist())

    def _stages(self, found: LooseEnds) -> Array:
        """A hash per departure: its flow, path and position."""
        return mixed(self.flow[found.end_rows], found.end_path, found.end_position)

    def _answer_known(self, agreement: FlowEvidence, found: LooseEnds) -> Array:
        """Pairs of flows whose answering flows are known to be one: answers are translated back the same way."""
        before = answering_flow_of(self.fields.at(found.end_rows[agreement.end]))
        after = answering_flow_of(self.fields.at(found.start_rows[agreement.start]))
        flows, first = self._origins()
        known = among(before, flows)
        return np.asarray(known & (before != after) & (_origin(before, flows, first) == _origin(after, flows, first)))

    def _mostly_begun(self, agreement: FlowEvidence, found: LooseEnds) -> Array:
        """Pairs of flows for which most arrivals of the flow behind agree."""
        flows = self.flow[found.start_rows]
        place = self.fields["point"][found.start_rows]
        starts = counted(mixed(flows, place), mixed(agreement.after, place[agreement.start]))
        return np.asarray(agreement.begun >= _WHOLE * starts)

    def _take_crowds(self, crowds: list[Crowd]) -> bool:
        """Remember indistinguishable flows as flows that began as one."""
        if self.closed:
            return False
        for crowd in crowds:
            flows = [*crowd.before.tolist(), *crowd.behind.tolist()]
            first = self._first_of(int(crowd.before[0]))
            for flow in flows:
                # Flows that a gateway has changed before come along with the flow that they began as.
                self._canonical[self._first_of(flow)] = first
                self._canonical[flow] = first
            if not crowd.ids_kept:
                self._without_id.add(first)
            if crowd.here is not None:
                here = np.full(len(crowd.behind), crowd.here)
                self.behind_here.update(mixed(crowd.behind, here).tolist())
        if crowds:
            self.learned = True
            self._assign()
        return bool(crowds)

    def learn_changed(
        self, found: LooseEnds, run: Run, times: Array, comparable: Array, open_rows: Array, unseen: Array
    ) -> bool:
        """Learn flows whose payload is changed; returns True if keys changed.

        Only packets with a loose end get new keys, because others of the flow may pass unchanged.

        Args:
            open_rows: bool per row, it belongs to such a packet; unseen: bool per arrival, no point before it was
            capturing then.
        """
        if not len(found.end_rows) or not len(found.start_rows):
            return False
        self._open |= open_rows
        rows = self.fields
        pairs, _ = candidates_of(found, run, rows, times, comparable, invariants.of_change)
        # Without IP IDs and numbers any two packets of a flow fit. A good part of the flow then has to depart, or as
        # many have to arrive as depart. Arrivals that no point could have seen before are no evidence then.
        ended = rows.kept(found.end_rows)
        alike = ~ended.once(has_its_own_id) & (ended["protocol"] != TCP) & (ended["has"] & field.HAS_ECHO == 0)
        pairs = pairs.chosen(~(alike[pairs.end] & unseen[pairs.start]))
        fits = np.zeros(len(found.end_rows), bool)
        fits[pairs.end] = True
        agreement = flow_evidence_of(pairs, found, rows, times, window_of(run, times))
        weak = among(agreement.before, self.flow[found.end_rows[alike]])
        balanced = _BALANCED * agreement.packets >= np.maximum(
            counted(self.flow[found.end_rows], agreement.before),
            counted(self.flow[found.start_rows[~unseen]], agreement.after),
        )
        agreement = agreement.chosen(~weak | balanced | (self._share_of_ends(agreement.before, found) >= _MOSTLY))
        sure = self._hold_numbers(agreement, found) & (agreement.same_id > 0)
        enough = (agreement.by_id >= ENOUGH) | (agreement.packets >= ENOUGH_ALONE) | sure
        if self._take(agreement.chosen(agreement.agreed & enough), by_header=True):
            return True
        flows = self.flow[found.end_rows]
        doubtful = fits & among(flows, agreement.before)
        self.doubtful_changes = found.end_trajectories[doubtful]
        return False

    def join(self, rules: tuple[Rule, ...], run: Run, at: Sightings, explained: Array, payloads: Payloads) -> bool:
        """Assign one key to sets of sightings that are one packet; returns True if any keys changed.

        Args:
            explained: bool per row, rows that join nothing.
        """
        if self.closed:
            return False
        rows, keys, doubtful = join_sets(rules, run, self.fields, at, self.flow, explained, payloads, self._points)
        self.doubtful_joins = np.append(self.doubtful_joins, doubtful)
        if not len(rows):
            return False
        before = ~among(self._joined[0], rows)
        self._joined = np.append(self._joined[0][before], rows), np.append(self._joined[1][before], keys)
        self.learned = True
        self._assign()
        return True

    def _end_whole(self, agreement: FlowEvidence, found: LooseEnds, run: Run) -> Array:
        """bool per pair: most packets of the flow before depart, and hardly any go on unchanged at points behind the
        rewrite.

        If a path's last point saw nothing, all packets depart; a few that were lost further up are then no rewrite.
        """
        rows = self.fields
        seen = np.stack([self._sightings(agreement.before, point) for point in range(len(run.points))], axis=1)
        positions = visits(run)[found.end_path[agreement.end]]
        last, at = (column[:, None, None] for column in (found.end_position[agreement.end], agreement.at))
        behind = (positions >= at).any(axis=2) & ~((positions >= 0) & (positions <= last)).any(axis=2)
        goes_on = np.max(seen * behind, axis=1, initial=0)
        here = seen[np.arange(len(seen)), rows["point"][found.end_rows[agreement.end]]]
        goes_on[agreement.before == agreement.after] = 0  # a flow whose IP IDs alone change is the same flow behind
        whole: Array = (self._share_of_ends(agreement.before, found) >= _WHOLE) & (goes_on <= (1 - _WHOLE) * here)
        return whole

    def _sightings(self, flows: Array, points: Array | int) -> Array:
        """The number of packets of each flow that a point has seen."""
        if self._seen is None:
            self._seen = tallied(mixed(self.flow, self.fields["point"]))
        return looked_up(mixed(flows, np.broadcast_to(points, len(flows)).astype(np.int32)), *self._seen)

    def _share_of_ends(self, flows: Array, found: LooseEnds) -> Array:
        """The share of the packets of each flow that departs, among the packets that the points with departures saw."""
        ended, point = self.flow[found.end_rows], self.fields["point"][found.end_rows]
        number = group_numbers(np.append(flows, ended))
        wanted, of_end = number[: len(flows)], number[len(flows) :]
        ends = np.bincount(of_end, minlength=len(number))
        first, _ = groups_of(ended, point)  # (flow, point) with departures
        points = np.bincount(of_end[first], minlength=len(number))
        sightings = np.bincount(
            of_end[first], weights=self._sightings(ended[first], point[first]), minlength=len(number)
        )  # fmt: skip
        known = ends > 0
        share = np.zeros(len(number))
        share[known] = ends[known] / (sightings[known] / points[known])
        return share[wanted]

    def _take(self, accepted: FlowEvidence, by_header: bool) -> bool:
        """Remember pairs of flows that are one; returns True if any is new."""
        if self.closed:
            return False
        news = False
        pairs = (column.tolist() for column in (accepted.before, accepted.after, accepted.ids_kept))
        for flow, after, ids_kept in zip(*pairs, strict=True):
            before, began = self._first_of(flow), self._first_of(after)
            if began not in (before, after):
                continue  # it belongs to another flow already
            known = self._canonical.get(after) == before
            known &= ids_kept or before in self._without_id
            known &= not by_header or before in self._by_header
            if known or (by_header and not ids_kept):
                continue
            news = True
            if began in self._without_id:
                self._without_id.add(before)
            self._canonical[before] = before
            self._canonical[after] = before
            if not ids_kept:
                self._without_id.add(before)
            if by_header:
                self._by_header.add(before)
        if news:
            self.learned = True
            self._assign()
        return news

    def _hold_numbers(self, agreement: FlowEvidence, found: LooseEnds) -> Array:
        """Pairs of TCP flows: sequence and acknowledgment numbers make one packet enough."""
        tcp = self.flow[found.end_rows[self.fields["protocol"][found.end_rows] == TCP]]
        return among(agreement.before, tcp)

    def _first_of(self, flow: int) -> int:
        """The flow that a flow began as."""
        for _ in range(_MOST_ROUNDS):
            known = self._canonical.get(flow, flow)
            if known == flow:
                break
            flow = known
        return flow

    def _assign(self) -> None:
        """Compute new keys for all packets of rewritten flows."""
        self._origins_known = None
        # A copy is needed: these may be the identities, which the matcher `order` compares.
        self.keys = self.keys.copy()
        if self._canonical:
            self._assign_rewritten()
        self.keys[self._joined[0]] = self._joined[1]

    def _assign_rewritten(self) -> None:
        rows = self.fields
        flows, first = self._origins()
        place = found_among(self.flow, flows)
        mine = (place >= 0) & (rows["has"] & field.HAS_IP != 0)
        mine &= self._open | ~among(first, np.array(list(self._by_header), np.uint64))[place]
        mine = np.flatnonzero(mine)
        began, of_origin = first[place[mine]], place[mine]
        chosen = rows.at(mine)
        keep_id = ~among(first, np.array(list(self._without_id), np.uint64))[of_origin]
        identification = np.where(keep_id, chosen["ip_id"], 0)
        by_header = among(first, np.array(list(self._by_header), np.uint64))[of_origin]
        remains = invariants.of_rewrite(chosen)
        if by_header.any():
            remains = np.where(by_header, mixed(*invariants.numbers(chosen)), remains)
        self.keys[mine] = mixed(began, remains, identification, self._part[chosen["point"]])


def _origin(flow: Array, flows: Array, first: Array) -> Array:
    """The flow that each flow began as: its entry in `first`, or the flow itself without one."""
    place = found_among(flow, flows)
    return np.asarray(np.where(place >= 0, first[place], flow)) if len(flows) else flow
