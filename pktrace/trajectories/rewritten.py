"""The rungs rewritten and modified: packets whose headers or payload changed on the way.

Rule: what ends somewhere on its path (an *end*: a packet not seen further) and what begins behind it (a *start*: seen
first there, or fitting no path) are compared by what a rewrite leaves alone. Where all packets of equal *remains* end
in one flow and start in one flow, these two flows are taken for one, if enough of their packets agree and hardly any
disagrees; then every packet of the two flows gets a key of the remains and the first of the flows, and is placed as
others are: exactly where the key is unique, by order where it is not.

- rewritten: the remains are protocol, TCP numbers and flags or ICMP type and sequence, payload length and first payload
  bytes; addresses, ports, IP ID and options may have changed (RFC 3022, RFC 6864 5.3.1).
- modified: the remains are addresses, ports, IP ID and the numbers above; the payload may have changed.

Bound: a flow is taken for another only on _ENOUGH agreeing packets, or one whose remains hold TCP numbers, of which at
most one in _DISAGREE disagrees. A false pair of flows needs as many chance matches within the loss threshold, in one
flow each. Ends that fit a start of which this cannot be shown are told, so that they are not called lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.run.model import Run
from pktrace.trajectories.causality import against_time
from pktrace.trajectories.exact import EARLY_NS
from pktrace.trajectories.hashing import mixed
from pktrace.trajectories.paths import visits

Array = np.ndarray[Any, Any]
_ENOUGH = 2  # agreeing packets, where IP IDs are equal and not 0
_ENOUGH_ALONE = 4  # where the remains have to do without
_DISAGREE = 10
_MOSTLY = 0.2  # share of a flow's packets that must end for it to be changed, where headers do not identify packets
_MOST_ROUNDS = 4
_MOST_STARTS = 8
_WHOLE = 0.8  # share of a flow's packets that must end for its addresses, ports or IP IDs to be rewritten
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58


@dataclass(frozen=True)
class Open:
    """Ends and starts: row numbers; of ends also the path and the last position, of starts the point."""

    end_rows: Array
    end_trajectories: Array
    end_path: Array
    end_position: Array
    start_rows: Array

    def rows_of(self, owner: Array, members: Array) -> Array:
        """bool per row: it belongs to a trajectory that ends or starts here, or to none."""
        begun = owner[self.start_rows]
        found: Array = np.isin(owner, np.concatenate([self.end_trajectories, begun[begun >= 0]]))
        found[members[owner[members] < 0]] = True
        return found

    def without(self, trajectories: Array, rows: Array) -> Open:
        """The same without some trajectories' ends and some rows' starts."""
        ends = ~np.isin(self.end_trajectories, trajectories)
        starts = ~np.isin(self.start_rows, rows)
        return Open(
            self.end_rows[ends], self.end_trajectories[ends], self.end_path[ends], self.end_position[ends],
            self.start_rows[starts],
        )  # fmt: skip


def flow_of(rows: Array, answering: bool = False) -> Array:
    """A hash per row of protocol, addresses and ports; of ICMP queries the identifier stands for the ports.

    Args:
        answering: of the flow in the other direction.
    """
    source, destination, sport, dport = "source", "destination", "sport", "dport"
    if answering:
        source, destination, sport, dport = destination, source, dport, sport
    return mixed(
        rows["protocol"], rows[f"{source}_high"], rows[f"{source}_low"], rows[f"{destination}_high"],
        rows[f"{destination}_low"], rows[sport], rows[dport], rows["icmp_id"],
    )  # fmt: skip


def stays_on_its_link(rows: Array) -> Array:
    """bool per row: link-local or multicast, which no router forwards with other addresses (RFC 4291 2.5.6, 3927 7)."""
    six = rows["ip_version"] == 6
    found = np.zeros(len(rows), bool)
    for side in ("source", "destination"):
        high, low = rows[f"{side}_high"], rows[f"{side}_low"]
        found |= six & ((high >> np.uint64(54)) == np.uint64(0xFE80 >> 6))
        found |= ~six & ((low >> np.uint64(16)) == np.uint64(0xA9FE))
    found |= six & ((rows["destination_high"] >> np.uint64(56)) == np.uint64(0xFF))
    found |= ~six & ((rows["destination_low"] >> np.uint64(28)) == np.uint64(0xE))
    return found


def _numbers(rows: Array) -> tuple[Array, ...]:
    kind = rows["protocol"].astype(np.uint64)
    kind[kind == _ICMPV6] = _ICMP
    return (
        kind, rows["tcp_seq"], rows["tcp_ack"], rows["tcp_flags"], rows["icmp_type"], rows["icmp_code"],
        rows["icmp_seq"], rows["fragment_offset"], rows["more_fragments"],
    )  # fmt: skip


def remains_of_rewrite(rows: Array) -> Array:
    """A hash per row of what a rewrite of the headers leaves alone."""
    return mixed(*_numbers(rows), rows["tcp_window"], rows["payload_length"], rows["content"])


def rows_told(rows: Array, flow: Array, which: Array, times: Array, comparable: Array) -> tuple[Array, ...]:
    """Of some rows what `against_time` asks for: flow, remains, time, clocks."""
    chosen = rows[which]
    return flow[which], remains_of_rewrite(chosen), times[which], comparable[chosen["point"]]


def remains_of_change(rows: Array) -> Array:
    """A hash per row of what a change of the payload leaves alone."""
    return mixed(*_numbers(rows), flow_of(rows), rows["ip_id"])


def remains_of_beginning(rows: Array) -> Array:
    """A hash per row of what a datagram has in common with its first fragment or segment, behind a rewrite, too."""
    return mixed(rows["protocol"], rows["ip_id"], rows["fragment_offset"], rows["content"])


def open_ends(run: Run, rows: Array, members: Array, owner: Array, seen: Array, path_of: Array) -> Open:
    """What ends before the end of its path, and what begins elsewhere than at the beginning of one."""
    width = seen.shape[1]
    lengths = np.array([len(path.points) for path in run.paths], np.int64)[path_of]
    there = seen >= 0
    last = width - 1 - np.argmax(there[:, ::-1], axis=1)
    first = np.argmax(there, axis=1)
    ends = np.flatnonzero(last < lengths - 1)
    begun = np.flatnonzero(first > 0)
    unplaced = members[owner[members] < 0]
    # Several rows of one packet: the earliest stands for all (members are in order of digest, then time).
    new = np.ones(len(unplaced), bool)
    new[1:] = rows["digest"][unplaced[1:]] != rows["digest"][unplaced[:-1]]
    return Open(
        end_rows=seen[ends, last[ends]],
        end_trajectories=ends,
        end_path=path_of[ends].astype(np.int64),
        end_position=last[ends],
        start_rows=np.concatenate([seen[begun, first[begun]], unplaced[new]]),
    )


@dataclass(frozen=True)
class _Agreement:
    """Pairs of flows (hashes) with how many packets agree, with equal IP ID and without, in how many remains."""

    before: Array
    after: Array
    packets: Array
    same_id: Array
    by_id: Array  # those with equal IP IDs other than 0

    @property
    def ids_kept(self) -> Array:
        """bool per pair: whether what makes one flow of the other leaves IP IDs alone."""
        found: Array = self.same_id * (_DISAGREE + 1) >= self.packets * _DISAGREE
        return found

    def chosen(self, which: Array) -> _Agreement:
        """Some of the pairs."""
        columns = (self.before, self.after, self.packets, self.same_id, self.by_id)
        return _Agreement(*(column[which] for column in columns))


def _agreements(
    found: Open, run: Run, rows: Array, times: Array, comparable: Array, remains: Any, threshold: int,
    first_flow: Array | None = None,
) -> tuple[_Agreement, Array]:  # fmt: skip
    """Which flows agree in what remains; and per end whether some start fits it.

    Args:
        first_flow: uint64 per row, with remains_of_beginning: flows that are known to be one are left out.
    """
    end_rows, start_rows = rows[found.end_rows], rows[found.start_rows]
    keys = np.concatenate([remains(end_rows), remains(start_rows)])
    _, group = np.unique(keys, return_inverse=True)
    groups = int(group.max(initial=-1)) + 1
    of_end, of_start = group[: len(end_rows)], group[len(end_rows) :]
    both = np.zeros(groups, bool)
    both[of_end] = True
    has_start = np.zeros(groups, bool)
    has_start[of_start] = True
    both &= has_start
    table = visits(run)
    ends = np.flatnonzero(both[of_end])
    starts = np.flatnonzero(both[of_start])
    starts = starts[np.lexsort((times[found.start_rows[starts]], of_start[starts]))]
    low = np.searchsorted(of_start[starts], of_end[ends], "left")
    high = np.searchsorted(of_start[starts], of_end[ends], "right")
    if (comparable == comparable[0]).all():
        end_times, start_times = times[found.end_rows[ends]], times[found.start_rows[starts]]
        low = np.maximum(low, _not_before(end_times, of_end[ends], start_times, of_start[starts]))
    # Every end with the next few starts of its remains.
    many = np.clip(high - low, 0, _MOST_STARTS)
    left = np.repeat(ends, many)
    right = starts[np.repeat(low, many) + (np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many))]
    end_row, start_row = found.end_rows[left], found.start_rows[right]
    at = table[found.end_path[left], rows["point"][start_row]].max(axis=1)
    fits = at > found.end_position[left]
    after = times[start_row] - times[end_row]
    one_clock = comparable[rows["point"][start_row]] == comparable[rows["point"][end_row]]
    fits &= ~one_clock | ((after >= -EARLY_NS) & (after <= threshold))
    if remains is remains_of_change:
        # The same first bytes and another length: that is a part of the packet, and a matter of ranges.
        fits &= rows["content"][end_row] != rows["content"][start_row]
    if first_flow is not None:
        whole, part = rows[end_row], rows[start_row]
        fits &= (whole["protocol"] == _UDP) & (whole["ip_id"] != 0) & (whole["fragment_offset"] == 0)
        fits &= (part["payload_length"] < whole["payload_length"]) & (first_flow[end_row] != first_flow[start_row])
    fits &= ~(stays_on_its_link(end_rows)[left] | stays_on_its_link(start_rows)[right])
    # What echoes a packet back answers it, and is no rewritten form of it.
    fits &= flow_of(end_rows, answering=True)[left] != flow_of(start_rows)[right]
    left, right, at = left[fits], right[fits], at[fits]
    doubtful = np.zeros(len(found.end_rows), bool)
    doubtful[left] = True
    before, behind = flow_of(end_rows)[left], flow_of(start_rows)[right]
    # A packet that is rewritten twice fits its last form, too: where it is first seen changed is what counts. And at
    # each of these stages it has two flows.
    stage = mixed(of_end[left], found.end_path[left], found.end_position[left])
    _, place = np.unique(mixed(stage, before), return_inverse=True)
    nearest = np.full(int(place.max(initial=-1)) + 1, len(table[0]) + int(table.max(initial=0)))
    np.minimum.at(nearest, place, at)
    near = at == nearest[place]
    left, right, before, behind = left[near], right[near], before[near], behind[near]
    _, group = np.unique(mixed(stage[near], at[near]), return_inverse=True)
    # Remains speak for a pair of flows if they occur in one flow before and in one behind.
    order = np.lexsort((behind, before, group))
    group, before, behind = group[order], before[order], behind[order]
    left, right = left[order], right[order]
    new_pair = np.ones(len(group), bool)
    new_pair[1:] = (np.diff(group) != 0) | (before[1:] != before[:-1]) | (behind[1:] != behind[:-1])
    pairs_in = np.bincount(group[new_pair], minlength=int(group.max(initial=-1)) + 1)
    clear = new_pair & (pairs_in[group] == 1)
    pair_code = mixed(before[clear], behind[clear])
    unique, index, inverse = np.unique(pair_code, return_index=True, return_inverse=True)
    # Where several packets have these remains, as many of them agree as both sides have; so it is with their IP IDs.
    pair = np.cumsum(new_pair) - 1
    agree = np.minimum(_distinct(pair, left), _distinct(pair, right))[pair[clear]]
    packets = np.bincount(inverse, weights=agree, minlength=len(unique)).astype(np.int64)
    end_id = rows["ip_id"][found.end_rows[left]]
    equal = end_id == rows["ip_id"][found.start_rows[right]]
    with_id, told = (
        np.bincount(np.unique(np.stack([pair[these], left[these]]), axis=1)[0], minlength=len(new_pair))[pair[clear]]
        for these in (equal, equal & (end_id != 0))
    )
    same_id = np.bincount(inverse, weights=np.minimum(agree, with_id), minlength=len(unique)).astype(np.int64)
    by_id = np.bincount(inverse, weights=np.minimum(agree, told), minlength=len(unique)).astype(np.int64)
    return _Agreement(before[clear][index], behind[clear][index], packets, same_id, by_id), doubtful


def _not_before(end_times: Array, end_groups: Array, start_times: Array, start_groups: Array) -> Array:
    """Per end, the first start of its group that does not lie before it; starts are in order of group and time."""
    group = np.concatenate([start_groups, end_groups])
    time = np.concatenate([start_times, end_times - EARLY_NS])
    is_end = np.arange(len(group)) >= len(start_groups)
    order = np.lexsort((is_end, time, group))
    before = np.cumsum(~is_end[order])
    found = np.empty(len(group), np.int64)
    found[order] = before
    # A start at the very time of an end counts as before it in this order, and is close enough to be missed by none.
    return found[len(start_groups) :]


def _distinct(pair: Array, member: Array) -> Array:
    """Distinct members per pair; pairs are numbered from 0 and in order."""
    both = np.unique(np.stack([pair, member]), axis=1)
    return np.bincount(both[0], minlength=int(pair.max(initial=-1)) + 1)


def _accepted(found: _Agreement, sure: Array) -> Array:
    """Which pairs of flows are one: enough packets agree, and few of either flow agree with another."""
    best = np.ones(len(found.packets), bool)
    for side in (found.before, found.after):
        _, place = np.unique(side, return_inverse=True)
        total = np.bincount(place, weights=found.packets)
        best &= found.packets * (_DISAGREE + 1) >= total[place] * _DISAGREE
    return best & ((found.by_id >= _ENOUGH) | (found.packets >= _ENOUGH_ALONE) | sure)


class Keys:
    """The keys by which packets are grouped: the digests, until flows turn out to be rewritten."""

    def __init__(self, rows: Array, part: Array, keys: Array) -> None:
        """Rows; per row the part of the network it was seen in (no packet crosses what no path joins); first keys."""
        self._rows = rows
        self._part = part
        self.keys = keys
        if part.any():
            self.keys = mixed(self.keys, part)
        self.learned = False
        self.doubtful = np.zeros(0, bool)
        self.doubtful_changes = np.zeros(0, np.int64)
        self._flow: Array | None = None
        self._canonical: dict[int, int] = {}
        self._without_id: set[int] = set()
        self._by_header: set[int] = set()
        self._open = np.zeros(len(rows), bool)

    @property
    def flow(self) -> Array:
        """The flow of every row."""
        if self._flow is None:
            self._flow = flow_of(self._rows)
        return self._flow

    @property
    def first_flow(self) -> Array:
        """The flow that every row's flow began as."""
        found = self.flow
        if self._canonical:
            flows, first = self._origins()
            place = np.minimum(np.searchsorted(flows, found), len(flows) - 1)
            found = np.where(flows[place] == found, first[place], found)
        return found

    def _origins(self) -> tuple[Array, Array]:
        """Rewritten flows, in order, and what each began as."""
        flows = np.array(list(self._canonical), np.uint64)
        first = np.array([self._first_of(int(flow)) for flow in flows], np.uint64)
        order = np.argsort(flows)
        return flows[order], first[order]

    def learn_rewritten(self, found: Open, run: Run, times: Array, comparable: Array) -> bool:
        """Learn flows whose headers are rewritten; returns whether keys changed.

        Else `doubtful` tells of each end whether some start fits it all the same.
        """
        self.doubtful = np.zeros(len(found.end_rows), bool)
        if not len(found.end_rows) or not len(found.start_rows):
            return False
        agreement, self.doubtful = _agreements(
            found, run, self._rows, times, comparable, remains_of_rewrite, run.threshold_ns
        )
        # What replaces addresses, ports or IP IDs does so in all packets of a flow; options change in some.
        whole = ((agreement.before == agreement.after) & agreement.ids_kept) | (
            self._share_of_ends(agreement.before, found) >= _WHOLE
        )
        agreement = agreement.chosen(whole)
        alone = np.flatnonzero(_accepted(agreement, np.zeros(len(whole[whole]), bool)) & ~agreement.ids_kept)
        starts = rows_told(self._rows, self.flow, found.start_rows, times, comparable)
        ends = rows_told(self._rows, self.flow, found.end_rows, times, comparable)
        refused = np.zeros(len(agreement.packets), bool)
        refused[alone] = against_time(agreement.before[alone], agreement.after[alone], ends, starts, run.threshold_ns)
        agreement = agreement.chosen(~refused)
        if self._take(agreement, self._hold_numbers(agreement, found), by_header=False):
            return True
        # Datagrams that became fragments or segments where they were rewritten: their beginnings tell.
        agreement, doubtful = _agreements(
            found, run, self._rows, times, comparable, remains_of_beginning, run.threshold_ns, self.first_flow
        )
        agreement = agreement.chosen(self._share_of_ends(agreement.before, found) >= _WHOLE)
        if self._take(agreement, np.zeros(len(agreement.packets), bool), by_header=False):
            return True
        self.doubtful |= doubtful
        return False

    def learn_changed(self, found: Open, run: Run, times: Array, comparable: Array, open_rows: Array) -> bool:
        """Learn flows whose payload is changed; returns whether keys changed.

        Only packets that end or begin somewhere get new keys, for others of the flow may pass unchanged.

        Args:
            open_rows: bool per row, whether it belongs to such a packet.
        """
        if not len(found.end_rows) or not len(found.start_rows):
            return False
        self._open |= open_rows
        agreement, fits = _agreements(found, run, self._rows, times, comparable, remains_of_change, run.threshold_ns)
        # Where neither IP IDs nor numbers tell packets apart, any two of a flow fit: a good part of it has to end.
        ended = self._rows[found.end_rows]
        alike = (ended["ip_id"] == 0) & (ended["protocol"] != _TCP) & (ended["has"] & field.HAS_ECHO == 0)
        weak = np.isin(agreement.before, self.flow[found.end_rows[alike]])
        agreement = agreement.chosen(~weak | (self._share_of_ends(agreement.before, found) >= _MOSTLY))
        sure = self._hold_numbers(agreement, found) & (agreement.same_id > 0)
        if self._take(agreement, sure, by_header=True):
            return True
        flows = self.flow[found.end_rows]
        self.doubtful_changes = found.end_trajectories[fits & np.isin(flows, agreement.before)]
        return False

    def _share_of_ends(self, flows: Array, found: Open) -> Array:
        """Which share of the packets of each flow ends, of those that the points saw where some end."""
        rows = self._rows
        unique = np.unique(flows)
        ended = self.flow[found.end_rows]
        of_end, ends = np.unique(ended[np.isin(ended, unique)], return_counts=True)
        pair = mixed(ended, rows["point"][found.end_rows])
        places = np.unique(pair)  # (flow, point) where packets end
        mine = np.flatnonzero(np.isin(self.flow, unique))
        at_places = mine[np.isin(mixed(self.flow[mine], rows["point"][mine]), places)]
        of_flow, sightings = np.unique(self.flow[at_places], return_counts=True)
        _, first = np.unique(pair, return_index=True)
        of_place, points = np.unique(ended[first], return_counts=True)
        share = np.zeros(len(unique))
        known = np.searchsorted(unique, of_end)
        per_point = sightings[np.searchsorted(of_flow, of_end)] / points[np.searchsorted(of_place, of_end)]
        share[known] = ends / per_point
        return share[np.searchsorted(unique, flows)]

    def _take(self, agreement: _Agreement, sure: Array, by_header: bool) -> bool:
        """Remember the pairs of flows that are one; returns whether any is new."""
        news = False
        kept = agreement.ids_kept.tolist()
        for number in np.flatnonzero(_accepted(agreement, sure)).tolist():
            before = self._first_of(int(agreement.before[number]))
            after = int(agreement.after[number])
            if self._first_of(after) not in (before, after):
                continue  # it is another flow's already
            ids_kept = kept[number]
            known = self._canonical.get(after) == before
            known &= ids_kept or before in self._without_id
            known &= not by_header or before in self._by_header
            if known or (by_header and not ids_kept):
                continue
            news = True
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

    def _hold_numbers(self, agreement: _Agreement, found: Open) -> Array:
        """Pairs of TCP flows: sequence and acknowledgment numbers make one packet enough."""
        tcp = np.unique(self.flow[found.end_rows[self._rows["protocol"][found.end_rows] == _TCP]])
        return np.isin(agreement.before, tcp)

    def _first_of(self, flow: int) -> int:
        """The flow that a flow began as."""
        for _ in range(_MOST_ROUNDS):
            known = self._canonical.get(flow, flow)
            if known == flow:
                break
            flow = known
        return flow

    def _assign(self) -> None:
        """New keys for all packets of rewritten flows."""
        rows = self._rows
        flows, first = self._origins()
        place = np.minimum(np.searchsorted(flows, self.flow), len(flows) - 1)
        mine = (flows[place] == self.flow) & (rows["has"] & field.HAS_IP != 0)
        mine &= self._open | ~np.isin(first[place], np.array(list(self._by_header), np.uint64))
        began = first[place[mine]]
        chosen = rows[mine]
        keep_id = ~np.isin(began, np.array(list(self._without_id), np.uint64))
        identification = np.where(keep_id, chosen["ip_id"], 0)
        by_header = np.isin(began, np.array(list(self._by_header), np.uint64))
        remains = np.where(by_header, mixed(*_numbers(chosen)), remains_of_rewrite(chosen))
        self.keys = self.keys.copy()  # the first keys are the digests, which the rung order compares later
        self.keys[mine] = mixed(began, remains, identification, self._part[mine])
