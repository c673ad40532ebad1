"""Evidence that two flows are one: how many packets that end in the one begin in the other, by what remains of them.

Rule: what ends somewhere on its path (an *end*: a packet not seen further) and what begins behind it (a *start*: seen
first there, or fitting no path) may be one packet if their remains are equal and the start comes within the loss
threshold, at the nearest position where one does: at the very point where it ends only if its headers are others
(both_sides.py). Remains speak for a pair of flows if, at that stage, they end in
this flow only and begin in that flow only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pktrace.decode.identity import group_numbers, groups_of, mixed
from pktrace.run.model import Run
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import answering_flow_of, flow_of, has_its_own_id, side_of, stays_on_its_link
from pktrace.trajectories.grouping import InOrder, each_between, in_order_of
from pktrace.trajectories.invariants import Remains, of_beginning, of_change
from pktrace.trajectories.links.loose_ends import Open
from pktrace.trajectories.paths import visits

Array = np.ndarray[Any, Any]
DISAGREE = 10  # so many packets have to agree for each that does not
CONCENTRATED = 10  # what is of one flow takes times within such a part of those that strangers could take
_TCP = 6
_SOON = 4  # share of the time between packets in which packets that are all the same have to come
_MANY_KINDS = 8  # or comes in order, with as many different remains
_MOST_STARTS = 8
_MOST_EARLY = 2  # of these, starts that were stamped before the end


@dataclass(frozen=True)
class Pairs:
    """Ends and starts that may be one packet, in order of stage, flow before and flow behind; arrays of equal length.

    `end` and `start` are numbers in the ends and starts; `group` numbers equal remains at one stage, which leads from
    the end's position to position `at`; `before` and `behind` are flows; `after` is start - end, ns, and `timed`
    whether their clocks can be compared.
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

    def chosen(self, which: Array) -> Pairs:
        """Some of them."""
        return Pairs(*(getattr(self, column.name)[which] for column in fields(self)))


def pairs_of(
    found: Open, run: Run, rows: Fields, times: Array, comparable: Array, remains: Remains, most: int = _MOST_STARTS
) -> tuple[Pairs, Array]:
    """Ends with the starts that fit them, of each the first `most`; and per end whether some start fits it."""
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
        # A start at the very time of an end counts as before it here, and is close enough to be missed by none.
        sent = times[found.end_rows[ends]]
        since = [in_order.before(of_end[ends], sent - early, or_equal=True) for early in (0, EARLY_NS)]
        low = np.maximum(low, np.maximum(since[0] - _MOST_EARLY, since[1]))
    # Every end with the next few starts of its remains.
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
        # What shows both sides of a gateway sees a packet end in one form and begin in another.
        fits |= (at == found.end_position[left]) & (flows_before[left] != flows_behind[right])
    after = times[start_row] - times[end_row]
    one_clock = comparable[start_rows["point"]][right] == comparable[end_rows["point"]][left]
    fits &= ~one_clock | ((after >= -EARLY_NS) & (after <= run.threshold_ns))
    if remains is of_change:
        # The same first bytes and another length: that is a part of the packet, and a matter of ranges.
        fits &= end_rows["content"][left] != start_rows["content"][right]
        # Without an IP ID of its own, a segment of another length is another segment.
        unnumbered = (end_rows["protocol"] == _TCP) & ~end_rows.once(has_its_own_id)
        fits &= ~unnumbered[left] | (end_rows["payload_length"][left] == start_rows["payload_length"][right])
    fits &= ~(end_rows.once(stays_on_its_link)[left] | start_rows.once(stays_on_its_link)[right])
    # What echoes a packet back answers it, and is no rewritten form of it.
    fits &= end_rows.once(answering_flow_of)[left] != flows_behind[right]
    left, right, at = left[fits], right[fits], at[fits]
    doubtful = np.zeros(len(found.end_rows), bool)
    doubtful[left] = True
    # Where a packet is rewritten twice, it fits its last form, too: the nearest position counts.
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
    pairs = Pairs(
        left, right, group, at, flows_before[left], flows_behind[right], after[fits][near], one_clock[fits][near]
    )
    return pairs.chosen(order), doubtful


def _with_the_same_id(
    which: Array, low: Array, high: Array, ends: Array, starts: Array, end_ids: Array, start_ids: Array
) -> Array:
    """Per end of `which`, the place of the first of starts[low:high] with its IP ID, if that is not 0; else -1.

    An end that so many others overtook, with the same remains, meets its own start there.
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
    """One int64 for both: their numbers are below those of rows, of which there are less than 2^31."""
    found: Array = one.astype(np.int64) * (int(other.max(initial=0)) + 1) + other
    return found


@dataclass(frozen=True)
class Agreement:
    """Pairs of flows (hashes), and what speaks for each.

    `packets`: how many agree; `kinds`: of how many different remains they are; `single`: of how many of which each flow
    has one packet; `numbered`: an IP ID other than 0 is among them; `same_id`: of these packets, those with equal IP
    IDs; `by_id`: with equal IP IDs other than 0; `begun`: how many packets of the flow behind fit one of the flow
    before; `delay`: the longest time that any remains took, ns; `usual`: the median of the packets; `spread`: the range
    of most of them; `gap`: the mean time between packets before, ns; `timed`: that times can be compared; `steady`:
    packets take about as long as each other, or keep their order, as far as clocks can tell; `told`: all of them have a
    payload or numbers; `stays`: address and port of one side are the same before and behind. `end`, `start`: numbers
    of two that agree, and `at` the position where it begins.
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
        """bool per pair: whether what makes one flow of the other leaves IP IDs alone."""
        found: Array = self.same_id * (DISAGREE + 1) >= self.packets * DISAGREE
        return found

    @property
    def agreed(self) -> Array:
        """bool per pair: of all packets that speak for one of its flows, few speak for another pair."""
        best = np.ones(len(self.packets), bool)
        for side in (self.before, self.after):
            place = group_numbers(side)
            total = np.bincount(place, weights=self.packets)
            best &= self.packets * (DISAGREE + 1) >= total[place] * DISAGREE
        return best

    @property
    def come_soon(self) -> Array:
        """bool per pair: packets come before the next one is sent, or very soon, as far as clocks can tell."""
        soon: Array = np.maximum(self.usual, self.spread) <= np.maximum(self.gap // _SOON, EARLY_NS)
        return soon | ~self.timed

    def chosen(self, which: Array) -> Agreement:
        """Some of the pairs."""
        return Agreement(*(getattr(self, column.name)[which] for column in fields(self)))


def agreement_of(pairs: Pairs, found: Open, rows: Fields, times: Array, window: int) -> Agreement:
    """What the pairs of packets tell of their flows.

    Args:
        window: ns, of `window_of`.
    """
    new_pair = _first_of(pairs.group, pairs.before, pairs.behind)
    # Remains speak for a pair of flows if they occur in one flow before and in one behind.
    pairs_in = np.bincount(pairs.group[new_pair], minlength=int(pairs.group.max(initial=-1)) + 1)
    fitting = group_numbers(pairs.before, pairs.behind)
    begun = _distinct(fitting, pairs.start, int(fitting.max(initial=-1)) + 1)[fitting]
    clear = pairs_in[pairs.group] == 1
    pairs, begun = pairs.chosen(clear), begun[clear]
    new_pair = _first_of(pairs.group)
    pair = np.cumsum(new_pair) - 1  # numbers remains, and so their pair of flows
    new_end = new_pair | _first_of(pairs.end)  # ends are in order within a pair of flows
    clear = np.flatnonzero(new_pair)
    count = len(clear)
    # Where several packets have these remains, as many of them agree as both sides have.
    ends, starts = np.bincount(pair[new_end], minlength=count), _distinct(pair, pairs.start, count)
    agree = np.minimum(ends, starts)
    end_ids, start_ids = rows["ip_id"][found.end_rows[pairs.end]], rows["ip_id"][found.start_rows[pairs.start]]
    equal = end_ids == start_ids
    same_id = _distinct(pair[equal], pairs.start[equal], count)
    equal &= end_ids != 0
    by_id = _distinct(pair[equal], pairs.start[equal], count)
    # An end takes as long as the soonest start that fits it.
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
    return Agreement(
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
    """bool per row: it differs from the one before."""
    found = np.ones(len(columns[0]), bool)
    if len(found):
        found[1:] = False
    for column in columns:
        found[1:] |= column[1:] != column[:-1]
    return found


def _distinct(pair: Array, member: Array, count: int) -> Array:
    """Distinct members per pair, of `count` pairs."""
    size = int(member.max(initial=0)) + 1
    first, _ = groups_of(pair * size + member)
    return np.bincount(pair[first], minlength=count)


def _least(place: Array, values: Array, count: int) -> Array:
    """The least of the values of each place, of `count` places."""
    found = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(found, place, values)
    return found


def window_of(run: Run, times: Array) -> int:
    """In which time, ns, packets that have nothing to do with each other are spread: the loss threshold, or the run."""
    return min(run.threshold_ns, int(times.max() - times.min())) if len(times) else 0


def usual_times(place: Array, values: Array, count: int) -> tuple[Array, Array]:
    """(lower median, range of all but the outermost eleventh on either side) of each place, of `count` places."""
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
    """bool per place, of `count`: nearly all that was sent later came later."""
    order = in_order_of(place, sent)
    place, came = place[order], (sent + after)[order]
    next_one = place[1:] == place[:-1]
    steps = np.bincount(place[1:][next_one], minlength=count)
    back = np.bincount(place[1:][next_one & (came[1:] < came[:-1])], minlength=count)
    found: Array = back * (DISAGREE + 1) <= steps
    return found
