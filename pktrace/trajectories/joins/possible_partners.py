"""Departures that may be packets which arrived in another form: such packets are ambiguous, and not lost.

A box may change more than any rule of rules.py allows for: a proxy ends TCP, a relay renumbers RTP, a gateway encrypts.
Packets then depart in one flow, and packets without an explained beginning arrive further on.

Rule: two flows are a possible pair between two positions if one of these holds there:

- known: packets of the one were matched with packets of the other, whose bytes or headers had changed, at least one in
  ten packets of the flow behind is unexplained, and a departure has an arrival of the same length;
- payload: half of the departures, or of the arrivals, of the two flows have a partner with the same payload, 16 bytes
  or more, and two packets at least;
- pace: nearly all packets of both flows depart and arrive there, their numbers of packets differ by a quarter at most,
  and seven of ten arrivals come as long after the departure before them, to a quarter of the time between two packets;
  and they have an address in common, or another protocol. The 64 largest flows on either side with 5 packets or more
  are compared.

For a possible pair, departures are ambiguous if an arrival of the other flow follows within the loss threshold. If the
payload makes one direction of a TCP connection ambiguous, all departures of both directions are.
Bound: a flow that is lost as a whole beside a flow that comes from elsewhere in step with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.identity import among, group_numbers, groups_of, mixed
from pktrace.protocols import TCP
from pktrace.run.model import Run
from pktrace.trajectories.bounds import EARLY_NS, ENOUGH_BYTES
from pktrace.trajectories.capture_evidence import CaptureEvidence
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import flow_of
from pktrace.trajectories.grouping import InOrder, counted, looked_up, tallied
from pktrace.trajectories.joins.join_sets import nearest
from pktrace.trajectories.joins.open_sets import OpenSets, Sightings
from pktrace.trajectories.joins.sole_partners import within
from pktrace.trajectories.meetings import Side, meeting, meeting_alike

Array = np.ndarray[Any, Any]
_UNEXPLAINED = 0.1  # share of a flow's packets that are unexplained: some of its packets are changed on the way
_HALF, _FEWEST = 0.5, 2
_NEARLY_ALL, _AS_MANY, _STEADY, _QUARTER, _FEWEST_PACED = 0.9, 1.25, 0.7, 4, 5
_MOST_FLOWS = 64  # flows on either side, the largest, whose pace is compared


@dataclass(frozen=True)
class Possible:
    """Trajectories that depart where an arrival may continue them, and those with a gap that an arrival may fill."""

    ends: Array
    gaps: Array


def possible_partners(
    run: Run, rows: Fields, at: Sightings, flow: Array, explained: Array, reach: CaptureEvidence
) -> Possible:  # fmt: skip
    """Find possible partners at all stages.

    Args:
        as for `joins.join_sets`; reach: an arrival is explained if points before it missed packets.
    """
    sets = OpenSets(run, at, explained, by_order=True)
    ends, gaps, connections = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for place in nearest(run):
        stage = _Stage.of(run, rows, at, flow, sets, place, reach)
        if stage is None:
            continue
        alike = stage.with_the_same_payload()
        for mine, theirs in (stage.paced_or_known(), alike):
            ends.append(at.owner[mine].astype(np.int64))
            owners = at.owner[theirs].astype(np.int64)
            gaps.append(owners[owners >= 0])
        of_tcp = np.concatenate(alike)
        of_tcp = of_tcp[rows["protocol"][of_tcp] == TCP]
        of_tcp = of_tcp[groups_of(flow[of_tcp])[0]]
        connections += [flow[of_tcp], flow_of(rows.at(of_tcp), answering=True)]
    ends.append(_ends_of(run, at, flow, np.concatenate(connections)))
    return Possible(np.concatenate(ends), np.concatenate(gaps))


def _ends_of(run: Run, at: Sightings, flow: Array, flows: Array) -> Array:
    """Trajectories of some flows that depart before the end of their path."""
    if not len(flows):
        return np.zeros(0, np.int64)
    last = np.array([len(path.points) - 1 for path in run.paths], np.int64)[at.path_of]
    there = at.seen >= 0
    begin = at.seen[np.arange(len(at.seen)), np.argmax(there, axis=1)]
    found: Array = np.flatnonzero(among(flow[begin], flows) & (at.seen[np.arange(len(at.seen)), last] < 0))
    return found


@dataclass(frozen=True)
class _Stage:
    """Departures at one position of a path, and arrivals at another: row numbers; and the facts about the flows there.

    `watched` are arrivals that some point before should have seen; `before` and `behind` are rows of packets that both
    positions have seen, `seen_before` and `seen_behind` the packets of each flow there; `window` is None if times
    cannot be compared.
    """

    rows: Fields
    times: Array
    flow: Array
    ends: Array
    arrivals: Array
    watched: Array
    before: Array
    behind: Array
    seen_before: tuple[Array, Array]
    seen_behind: tuple[Array, Array]
    window: int | None

    @classmethod
    def of(
        cls, run: Run, rows: Fields, at: Sightings, flow: Array, sets: OpenSets, place: tuple[int, int, int],
        reach: CaptureEvidence,
    ) -> _Stage | None:  # fmt: skip
        """None if nothing departs, or nothing arrives."""
        path, i, j = place
        ends, arrivals = sets.rows(path, i, j, True), sets.rows(path, j, i, False)
        ends = ends[(sets.places[path][sets.set_of(ends), i + 1 :] < 0).all(axis=1)]
        # An arrival at the first point of another path needs no origin.
        owner = at.owner[arrivals]
        arrivals = arrivals[(owner < 0) | (at.path_of[owner] == path) | (at.seen[owner, 0] < 0)]
        if not len(ends) or not len(arrivals):
            return None
        points = sets.points(path)
        came, watched = at.times[arrivals], np.zeros(len(arrivals), bool)
        for before in points[:j]:
            watched |= (came >= reach.start[before]) & (came <= reach.end[before]) & ~reach.incomplete[before]
        mine = at.seen[at.path_of == path]
        both = mine[(mine[:, i] >= 0) & (mine[:, j] >= 0)]
        one_clock = at.clock[points[i]] == at.clock[points[j]]
        here, there = (
            tallied(flow[np.flatnonzero((at.points == points[position]) & (at.paths >= -1))]) for position in (i, j)
        )
        return cls(
            rows, at.times, flow, ends, arrivals, arrivals[watched], both[:, i], both[:, j], here, there,
            run.threshold_ns if one_clock else None,
        )  # fmt: skip

    def paced_or_known(self) -> tuple[Array, Array]:
        """Departures that an arrival of a possible flow follows within the threshold, and arrivals that follow."""
        pairs = zip(self._known(), self._paced(), strict=True)
        before, behind = (np.concatenate(side) for side in pairs)
        ends, arrivals = (Side.of(self.flow[side], self.times[side]) for side in (self.ends, self.arrivals))
        followed, follow, _ = meeting((ends, arrivals), before, behind, self.window)
        return self.ends[followed], self.arrivals[follow]

    def _known(self) -> tuple[Array, Array]:
        """Pairs of flows with packets that were matched, if enough arrivals of the flow behind are unexplained."""
        changed = self.rows["identity"][self.before] != self.rows["identity"][self.behind]
        x, y = self.flow[self.before[changed]], self.flow[self.behind[changed]]
        first, _ = groups_of(x, y)
        x, y = x[first], y[first]
        left, right = self.flow[self.ends], self.flow[self.arrivals]
        enough = among(x, left) & (counted(right, y) >= _UNEXPLAINED * looked_up(y, *self.seen_behind))
        x, y = x[enough], y[enough]
        if not len(x):
            return x, y
        ends, arrivals = (
            (flow, mixed(self.rows["payload_length"][at], self.rows["protocol"][at]), self.times[at])
            for flow, at in ((left, self.ends), (right, self.arrivals))
        )
        met = meeting_alike((ends, arrivals), x, y, self.window)
        return x[met], y[met]

    def with_the_same_payload(self) -> tuple[Array, Array]:
        """Departures that an arrival with the same payload follows, and such arrivals, in flows where that is usual."""
        ends, arrivals = (
            side[self.rows["payload_length"][side] >= ENOUGH_BYTES] for side in (self.ends, self.arrivals)
        )
        if not len(ends) or not len(arrivals):
            return ends[:0], arrivals[:0]
        both = self.rows.at(np.concatenate([ends, arrivals]))
        like = group_numbers(both["protocol"], both["payload_length"], both["content"], both["mark"])
        mine, theirs = like[: len(ends)], like[len(ends) :]
        low, high, order = within(
            mine, self.times[ends], theirs, self.times[arrivals], self.window, early=int(EARLY_NS)
        )  # fmt: skip
        some = np.flatnonzero(high > low)
        left, right = ends[some], arrivals[order[low[some]]]
        x, y = self.flow[left], self.flow[right]
        first, number = groups_of(x, y)
        packets = np.bincount(number)
        least = np.minimum(*(counted(self.flow[side], of[first]) for side, of in ((ends, x), (arrivals, y))))
        usual = ((packets >= _FEWEST) & (packets >= _HALF * least))[number]
        return left[usual], right[usual]

    def _paced(self) -> tuple[Array, Array]:
        """Pairs of flows that depart and arrive there as a whole, in step."""
        found = []
        behind = [
            (flow, np.sort(self.times[arrivals]), self.rows.rows[arrivals[0]])
            for flow, arrivals in self._whole(self.watched, self.seen_behind)
        ]
        for flow, ends in self._whole(self.ends, self.seen_before) if behind else ():
            sent, row = np.sort(self.times[ends]), self.rows.rows[ends[0]]
            gap = int(np.median(np.diff(sent)))
            for other, came, arrival in behind:
                if max(len(sent), len(came)) > _AS_MANY * min(len(sent), len(came)) or not _may_be_one(row, arrival):
                    continue
                # Each arrival is measured from the last departure before it, so a lost packet does not shift the delays
                # behind it.
                after = came - sent[np.clip(np.searchsorted(sent, came, "right") - 1, 0, len(sent) - 1)]
                steady = np.abs(after - np.median(after)) <= gap // _QUARTER
                if self.window is None or (steady.mean() >= _STEADY and 0 <= np.median(after) <= self.window):
                    found.append((flow, other))
        before, after = (np.array([pair[side] for pair in found], np.uint64) for side in (0, 1))
        return before, after

    def _whole(self, some: Array, seen: tuple[Array, Array]) -> list[tuple[Any, Array]]:
        """Flows with nearly all of their packets among some rows, the largest ones first; and their rows."""
        first, number = groups_of(self.flow[some])
        in_order = InOrder.of(number, np.zeros(len(some), np.int64), len(first))
        flows, many = self.flow[some[first]], np.diff(in_order.begins)
        fits = np.flatnonzero((many >= _FEWEST_PACED) & (many >= _NEARLY_ALL * looked_up(flows, *seen)))
        fits = fits[np.argsort(-many[fits], kind="stable")][:_MOST_FLOWS]
        return [(flows[at], some[in_order.members[in_order.begins[at] : in_order.begins[at + 1]]]) for at in fits]


def _may_be_one(one: Any, other: Any) -> bool:
    """True if a box may turn a packet of the one flow into one of the other: it leaves an address, or it is a relay, or
    it puts packets into packets of another protocol.
    """
    ends = [(row[f"{side}_high"], row[f"{side}_low"]) for row in (one, other) for side in ("source", "destination")]
    return bool(one["protocol"] != other["protocol"] or ends[0] == ends[2] or ends[1] == ends[3] or ends[1] == ends[2])
