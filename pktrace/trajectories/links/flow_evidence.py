"""Evidence that two flows are one: the packets that depart in the one and arrive in the other, by their invariants.

Rule: a departure (a packet not seen further) and an arrival behind it (seen first there, or fitting no path) may be one
packet if their invariants are equal and the arrival comes within the loss threshold. The nearest position with such an
arrival counts. The very point of the departure counts only if the headers differ (both_sides.py).
Invariants are evidence for a pair of flows if, at that stage, they depart in this flow only and arrive in that flow
only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pktrace.decode.identity import group_numbers, groups_of, mixed
from pktrace.protocols import TCP
from pktrace.run.model import Run
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import answering_flow_of, flow_of, has_its_own_id, side_of, stays_on_its_link
from pktrace.trajectories.grouping import InOrder, each_between, in_order_of
from pktrace.trajectories.invariants import Invariants, of_beginning, of_change
from pktrace.trajectories.links.loose_ends import LooseEnds
from pktrace.trajectories.paths import visits

Array = np.ndarray[Any, Any]
DISAGREE = 10  # so many packets have to agree for each that does not
CONCENTRATED = 10  # delays within one flow fill at most 1/10 of the window that unrelated packets would fill
_SOON = 4  # equal packets have to come within this share of the time between packets
_MANY_KINDS = 8  # or come in order, with as many different invariants
_MOST_STARTS = 8
_MOST_EARLY = 2  # of these, arrivals that were stamped before the departure


@dataclass(frozen=True)
class Candidates:
    """Candidates: departures and arrivals that may be one packet, in order of stage, flow before and flow behind.

    Arrays of equal length. `end` and `start` are numbers of departures and arrivals; `group` numbers equal invariants
    at one stage, which leads from the departure's position to position `at`; `before` and `behind` are flows; `after`
    is arrival - departure, ns, and `timed` is true if their clocks can be compared.
    """

    end: Array
    start: Array
    group: Array
    at: Array
    before: Array
    behind: Array
    after: Array
    timed: Array

    def __len__(self) -> int:
        return len(self.end)

    def chosen(self, which: Array) -> Candidates:
        """The chosen candidates."""
        return Candidates(*(getattr(self, column.name)[which] for column in fields(self)))


def candidates_of(
    found: LooseEnds, run: Run, rows: Fields, times: Array, comparable: Array, remains: Invariants,
    most: int = _MOST_STARTS,
) -> tuple[Candidates, Array]:  # fmt: skip
    """Departures with their candidates, the first `most` arrivals for each; and per departure, if it has any
    candidate.
    """
    end_rows, start_rows = rows.kept(found.end_rows), rows.kept(found.start_rows)
    group = group_numbers(np.concatenate([end_rows.once(remains), start_rows.once(remains)]))
    groups = int(group.max(initial=-1)) + 1
    of_end, of_start = group[: len(end_rows)], group[len(end_rows) :]
    both = np.bincount(of_end, minlength=groups).astype(bool) & np.bincount(of_start, minlength=groups).astype(bool)
    ends = np.flatnonzero(both[of_end])
    starts = np.flatnonzero(both[of_start])
    start_times = times[found.start_rows]
    in_order = InOrder.of(of_start[starts], start_times[starts], groups)
    starts = starts[in_order.members]
    low, high = in_order.begins[of_end[ends]], in_order.begins[of_end[ends] + 1]
    if (comparable == comparable[0]).all():
        # An arrival at the very time of a departure counts as before it here; it is close enough to be missed by none.
        sent = times[found.end_rows[ends]]
        since = [in_order.before(of_end[ends], sent - early, or_equal=True) for early in (0, EARLY_NS)]
        low = np.maximum(low, np.maximum(since[0] - _MOST_EARLY, since[1]))
    # Each departure is paired with the next few arrivals that have its invariants.
    many = np.clip(high - low, 0, most)
    left, right = each_between(low, low + many)
    left = ends[left]
    crowded = np.flatnonzero(high - low > most)
    if len(crowded):
        at = _with_the_same_id(crowded, low + many, high, ends, starts, end_rows["ip_id"], start_rows["ip_id"])
        found_one = at >= 0
        left, right = (np.concatenate(both) for both in ((left, ends[crowded[found_one]]), (right, at[found_one])))
        order = np.lexsort((right, left))
        left, right = left[order], right[order]
    right = starts[right]
    end_row, start_row = found.end_rows[left], found.start_rows[right]
    at = visits(run).max(axis=2)[found.end_path[left], start_rows["point"][right]]
    flows_before, flows_behind = end_rows.once(flow_of), start_rows.once(flow_of)
    fits = at > found.end_position[left]
    if remains is not of_change and remains is not of_beginning:
        # A point that shows both sides of a translator sees a packet depart in one form and arrive in another.
        fits |= (at == found.end_position[left]) & (flows_before[left] != flows_behind[right])
    after = times[start_row] - times[end_row]
    one_clock = comparable[start_rows["point"]][right] == comparable[end_rows["point"]][left]
    fits &= ~one_clock | ((after >= -EARLY_NS) & (after <= run.threshold_ns))
    if remains is of_change:
        # The same first bytes and another length mean a part of the packet: byte ranges match it.
        fits &= end_rows["content"][left] != start_rows["content"][right]
        # Without an IP ID of its own, a TCP segment with another length is another segment.
        unnumbered = (end_rows["protocol"] == TCP) & ~end_rows.once(has_its_own_id)
        fits &= ~unnumbered[left] | (end_rows["payload_length"][left] == start_rows["payload_length"][right])
    fits &= ~(end_rows.once(stays_on_its_link)[left] | start_rows.once(stays_on_its_link)[right])
    # A packet that is echoed back is an answer, and no rewritten form.
    fits &= end_rows.once(answering_flow_of)[left] != flows_behind[right]
    left, right, at = left[fits], right[fits], at[fits]
    doubtful = np.zeros(len(found.end_rows), bool)
    doubtful[left] = True
    # A packet that is rewritten twice fits its last form, too: the nearest position counts.
    before, behind = group_numbers(flows_before)[left], group_numbers(flows_behind)[right]
    width = int(at.max(initial=0)) + 1
    stage = (found.end_path[left] * width + found.end_position[left]) * width
    place = group_numbers(_joined(of_end[left], _joined(before, stage)))
    nearest = np.full(int(place.max(initial=-1)) + 1, width)
    np.minimum.at(nearest, place, at)
    near = at == nearest[place]
    left, right, at, before, behind = left[near], right[near], at[near], before[near], behind[near]
    group = group_numbers(_joined(of_end[left], stage[near] + at))
    order = np.lexsort((behind, _joined(group, before)))
    pairs = Candidates(
        left, right, group, at, flows_before[left], flows_behind[right], after[fits][near], one_clock[fits][near]
    )
    return pairs.chosen(order), doubtful


def _with_the_same_id(
    which: Array, low: Array, high: Array, ends: Array, starts: Array, end_ids: Array, start_ids: Array
) -> Array:
    """Per departure in `which`, the place of the first of starts[low:high] with its IP ID, if that is not 0; else -1.

    A departure that many others with its invariants overtook meets its own arrival there.
    """
    first, last = int(low[which].min()), int(high[which].max())
    codes = start_ids[starts[first:last]].astype(np.int64)
    order = np.argsort(codes, kind="stable")
    key = codes[order] * (last - first) + order
    wanted = end_ids[ends[which]].astype(np.int64)
    place = np.searchsorted(key, wanted * (last - first) + (low[which] - first))
    place = np.minimum(place, len(key) - 1)
    found = order[place] + first
    fits = (codes[order[place]] == wanted) & (found < high[which]) & (found >= low[which])
    fits &= wanted != 0
    chosen: Array = np.where(fits, found, -1)
    return chosen


def _joined(one: Array, other: Array) -> Array:
    """One int64 for both: their numbers are below the number of rows, which is less than 2^31."""
    found: Array = one.astype(np.int64) * (int(other.max(initial=0)) + 1) + other
    return found


@dataclass(frozen=True)
class FlowEvidence:
    """Pairs of flows (hashes), and the evidence for each.

    `packets`: the number of packets that agree; `kinds`: the number of their different invariants; `single`: the number
    of these invariants that each flow has in one packet; `numbered`: an IP ID other than 0 is among them; `same_id`:
    the agreeing packets with equal IP IDs; `by_id`: with equal IP IDs other than 0; `begun`: the number of packets of
    the flow behind that fit one of the flow before; `delay`: the longest time that any invariants took, ns; `usual`:
    the median delay of the packets; `spread`: the range of most delays; `gap`: the mean time between packets before,
    ns; `timed`: times can be compared; `steady`: packets take about as long as each other, or keep their order, as far
    as clocks can show; all packets have a payload or numbers (`told`); `stays`: address and port of one side are the
    same before and behind. `end`, `start`: numbers of two that agree, and `at` the position of the arrival.
    """

    before: Array
    after: Array
    packets: Array
    kinds: Array
    single: Array
    numbered: Array
    same_id: Array
    by_id: Array
    begun: Array
    delay: Array
    usual: Array
    spread: Array
    gap: Array
    timed: Array
    steady: Array
    told: Array
    stays: Array
    end: Array
    start: Array
    at: Array

    def __len__(self) -> int:
        return len(self.before)

    @property
    def ids_kept(self) -> Array:
        """bool per pair: the rewrite from one flow to the other leaves IP IDs alone."""
        found: Array = self.same_id * (DISAGREE + 1) >= self.packets * DISAGREE
        return found

    @property
    def agreed(self) -> Array:
        """bool per pair: among all packets that are evidence for one of its flows, few are evidence for another
        pair.
        """
        best = np.ones(len(self.packets), bool)
        for side in (self.before, self.after):
            place = group_numbers(side)
            total = np.bincount(place, weights=self.packets)
            best &= self.packets * (DISAGREE + 1) >= total[place] * DISAGREE
        return best

    @property
    def come_soon(self) -> Array:
        """bool per pair: packets come before the next one is sent, or very soon, as far as clocks can show."""
        soon: Array = np.maximum(self.usual, self.spread) <= np.maximum(self.gap // _SOON, EARLY_NS)
        return soon | ~self.timed

    def chosen(self, which: Array) -> FlowEvidence:
        """The chosen pairs."""
        return FlowEvidence(*(getattr(self, column.name)[which] for column in fields(self)))


def flow_evidence_of(pairs: Candidates, found: LooseEnds, rows: Fields, times: Array, window: int) -> FlowEvidence:
    """The evidence that the candidates give about their flows.

    Args:
        window: ns, from `window_of`.
    """
    new_pair = _first_of(pairs.group, pairs.before, pairs.behind)
    # Invariants are evidence for a pair of flows if they occur in one flow before and in one flow behind.
    pairs_in = np.bincount(pairs.group[new_pair], minlength=int(pairs.group.max(initial=-1)) + 1)
    fitting = group_numbers(pairs.before, pairs.behind)
    begun = _distinct(fitting, pairs.start, int(fitting.max(initial=-1)) + 1)[fitting]
    clear = pairs_in[pairs.group] == 1
    pairs, begun = pairs.chosen(clear), begun[clear]
    new_pair = _first_of(pairs.group)
    pair = np.cumsum(new_pair) - 1  # numbers invariants, and with them their pair of flows
    new_end = new_pair | _first_of(pairs.end)  # departures are in order within a pair of flows
    clear = np.flatnonzero(new_pair)
    count = len(clear)
    # If several packets have these invariants, as many of them agree as both sides have.
    ends, starts = np.bincount(pair[new_end], minlength=count), _distinct(pair, pairs.start, count)
    agree = np.minimum(ends, starts)
    end_ids, start_ids = rows["ip_id"][found.end_rows[pairs.end]], rows["ip_id"][found.start_rows[pairs.start]]
    equal = end_ids == start_ids
    same_id = _distinct(pair[equal], pairs.start[equal], count)
    equal &= end_ids != 0
    by_id = _distinct(pair[equal], pairs.start[equal], count)
    # A departure takes as long as the soonest arrival that fits it.
    after = _least(np.cumsum(new_end) - 1, pairs.after, int(new_end.sum()))
    sent = times[found.end_rows[pairs.end]]
    end_rows = rows.at(found.end_rows[pairs.end[clear]])
    start_rows = rows.at(found.start_rows[pairs.start[clear]])
    told = (end_rows["payload_length"] > 0) | (end_rows["tcp_seq"] > 0)
    stays = np.zeros(count, bool)
    for side in ("source", "destination"):
        stays |= mixed(*side_of(end_rows, side)) == mixed(*side_of(start_rows, side))
    index, which = groups_of(pairs.before[clear], pairs.behind[clear])
    flows = which[pair]  # numbers pairs of flows
    first, last = _least(flows, sent, len(index)), -_least(flows, -sent, len(index))

    def total(weights: Array) -> Array:
        found: Array = np.bincount(which, weights=weights, minlength=len(index)).astype(np.int64)
        return found

    several = flows[new_end]
    usual, spread = usual_times(several, after, len(index))
    timed = np.bincount(flows, weights=~pairs.timed, minlength=len(index)) == 0
    kinds = total(np.ones(count))
    steady = ~timed | (spread * CONCENTRATED <= window)
    steady |= (kinds >= _MANY_KINDS) & _in_order(several, sent[new_end], after, len(index))
    return FlowEvidence(
        before=pairs.before[clear][index], after=pairs.behind[clear][index],
        packets=total(agree), kinds=kinds, single=total((ends == 1) & (starts == 1)),
        numbered=np.bincount(flows, weights=end_ids != 0, minlength=len(index)) > 0,
        same_id=total(np.minimum(agree, same_id)), by_id=total(np.minimum(agree, by_id)), begun=begun[clear][index],
        delay=-_least(which, -_least(pair[new_end], after, count), len(index)),
        usual=usual, spread=spread, gap=(last - first) // np.maximum(total(ends) - 1, 1), timed=timed, steady=steady,
        told=total(~told) == 0, stays=stays[index],
        end=pairs.end[clear][index], start=pairs.start[clear][index], at=pairs.at[clear][index],
    )  # fmt: skip


def _first_of(*columns: Array) -> Array:
    """bool per row: it differs from the row before."""
    found = np.ones(len(columns[0]), bool)
    if len(found):
        found[1:] = False
    for column in columns:
        found[1:] |= column[1:] != column[:-1]
    return found


def _distinct(pair: Array, member: Array, count: int) -> Array:
    """Distinct members per pair, for `count` pairs."""
    size = int(member.max(initial=0)) + 1
    first, _ = groups_of(pair * size + member)
    return np.bincount(pair[first], minlength=count)


def _least(place: Array, values: Array, count: int) -> Array:
    """The least of the values of each place, for `count` places."""
    found = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(found, place, values)
    return found


def window_of(run: Run, times: Array) -> int:
    """The time, ns, over which unrelated packets are spread: the loss threshold, or the run if it is shorter."""
    return min(run.threshold_ns, int(times.max() - times.min())) if len(times) else 0


def usual_times(place: Array, values: Array, count: int) -> tuple[Array, Array]:
    """(lower median, range of all but the outermost eleventh on either side) of each place, for `count` places."""
    order = in_order_of(place, values)
    many = np.bincount(place, minlength=count)
    first = np.cumsum(many) - many
    median, spread = np.zeros(count, np.int64), np.zeros(count, np.int64)
    there = np.flatnonzero(many > 0)
    first, many, values = first[there], many[there], values[order]
    outside = many // (DISAGREE + 1)
    median[there] = values[first + (many - 1) // 2]
    spread[there] = values[first + many - 1 - outside] - values[first + outside]
    return median, spread


def _in_order(place: Array, sent: Array, after: Array, count: int) -> Array:
    """bool per place, for `count` places: nearly all packets that were sent later came later."""
    order = in_order_of(place, sent)
    place, came = place[order], (sent + after)[order]
    next_one = place[1:] == place[:-1]
    steps = np.bincount(place[1:][next_one], minlength=count)
    back = np.bincount(place[1:][next_one & (came[1:] < came[:-1])], minlength=count)
    found: Array = back * (DISAGREE + 1) <= steps
    return found
