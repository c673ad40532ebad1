"""Behaviour: tests that the pairs of a rule have to pass before two flows are taken for one.

A rule offers pairs of sole partners (join_sets.py). Unique bytes alone are no proof: strangers count alike, and proxies
send the payloads of others. The pairs of two flows join if

- time: at most one in 20 runs backwards on a common clock, from 3 such pairs on (strangers: 26 to 51 in 100);
- order: at least 75 in 100 neighbours of renamed flows keep their order, from 8 pairs on (strangers: about half); not
  asked if IP IDs agree, for a fast flow's packets may overtake each other;
- partner: renamed flows have at least one pair for each 10 packets that either flow is known to send unchanged or as
  another flow, unless some packet is known to have been renamed so;
- delay: a pair takes at most 10 times as long as packets that are known to have come this way, from 20 of these on;
- number: one pair is enough if the IP ID and the payload agree, or both TCP numbers and the payload, or all headers;
  else 3 different packets, and 5 if nothing but the IP ID agrees;
- share: without the IP ID, the pairs hold half of the unexplained arrivals of the flow behind that say enough;
- bound: if neither an address nor the IP ID agrees (rule NP), one of the two sets is seen on both sides of the join, or
  half of the pairs of its flows are so, or 3 packets are known to have been renamed so. Strangers with equal timers
  keep order and run forward for ever.

Bound: a packet that one point alone missed, and a stranger with equal features that the other point alone missed, in
flows whose other packets are not seen at both points, are taken for one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pktrace.decode.identity import groups_of, mixed
from pktrace.trajectories.bounds import EARLY_NS, ENOUGH_BYTES, STAMP_NS
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import has_id, is_numbered, is_opening
from pktrace.trajectories.grouping import counted, in_order_of, looked_up, tallied
from pktrace.trajectories.joins.rules import Rule, Statements

Array = np.ndarray[Any, Any]
_BACKWARDS, _FEWEST_BACKWARDS = 0.05, 3
_NEARLY_ALL = 0.9  # if so many pairs run backwards, the clocks are wrong, and the packets may be the same
_IN_ORDER, _FEWEST_IN_ORDER = 0.75, 8
_ENOUGH = 3
_ENOUGH_IDS = 5  # packets of a flow with nothing but the IP ID in common
_SHARE = 0.5
_PARTNER = 0.1
_SLOWER, _FEWEST_DELAYS = 10, 20


@dataclass(frozen=True)
class Facts:
    """Facts about two positions of a path.

    `times` and `flow` are per row, times aligned; `one_clock`: times at both positions can be compared; `before`,
    `behind`: rows of the packets that were placed at both; `arrivals()`: rows of the present arrivals behind;
    `bounded(x, y)`: bool per pair, one of the sets is seen on both sides of the join; `follow(x, y)`: bool per pair,
    the segments without payload of these TCP connections follow the translation of the pair's numbers (companions.py).
    """

    times: Array
    flow: Array
    one_clock: bool
    before: Array
    behind: Array
    arrivals: Callable[[], Array]
    bounded: Callable[[Array, Array], Array]
    follow: Callable[[Array, Array], Array]

    @cached_property
    def delays(self) -> Array:
        """The delays of packets that were placed at both, ns."""
        found: Array = self.times[self.behind] - self.times[self.before]
        return found

    @cached_property
    def packets(self) -> tuple[tuple[Array, Array], ...]:
        """Flows of these packets before and behind, and the number of packets of each."""
        return tuple(tallied(self.flow[side]) for side in (self.before, self.behind))

    @cached_property
    def partners(self) -> tuple[Array, Array]:
        """Hashes of two flows that packets are known to have before and behind, and the number of these packets."""
        return tallied(mixed(self.flow[self.before], self.flow[self.behind]))


@dataclass(frozen=True)
class Tested:
    """bool per pair: it joins; its flows are refused; it does not join, and may be one packet all the same."""

    joins: Array
    refused: Array
    doubtful: Array


def tested(rule: Rule, rows: Fields, flow: Array, facts: Facts, x: Array, y: Array, between: Array) -> Tested:
    """Test the pairs that a rule offers.

    Args:
        rows, flow: all observations and their flows; x, y: rows of the pairs; between: uint64 per pair, equal for pairs
        of the same two flows.
    """
    first, number = groups_of(between)
    count = len(first)
    total = np.bincount(number, minlength=count)
    renamed = (flow[x] != flow[y])[first]
    after = facts.times[y] - facts.times[x]
    behaves = ~renamed | _mostly_partners(facts, flow, x[first], y[first], total)
    backwards = np.zeros(count, bool)
    if facts.one_clock:
        back = np.bincount(number, weights=after < -_stamp_error(facts), minlength=count)
        forward = (back < _FEWEST_BACKWARDS) | (back <= _BACKWARDS * total)
        backwards = ~forward & (back >= _NEARLY_ALL * total)
        behaves &= forward
    if not rule.asks("I"):
        kept, steps = _neighbours_in_order(number, facts.times[x], facts.times[y], count)
        behaves &= ~renamed | (total < _FEWEST_IN_ORDER) | (kept >= _IN_ORDER * steps)
    enough = _enough(rule, rows, facts, flow, x, y, number, total)
    fits = np.ones(len(x), bool)
    if facts.one_clock:
        fits = (after >= -EARLY_NS) & (after <= _longest(facts))
    if rule.features == "NP":
        bounded = facts.bounded(x, y)
        shown = np.bincount(number, weights=bounded, minlength=count) >= _SHARE * total
        shown |= _known_as(facts, flow, x[first], y[first]) >= _ENOUGH
        fits &= bounded | shown[number]
    joins = behaves[number] & enough & fits
    possible = (after >= -EARLY_NS) | backwards[number] if facts.one_clock else np.ones(len(x), bool)
    return Tested(joins, ~behaves[number], enough & ~joins & possible)


def _mostly_partners(facts: Facts, flow: Array, x: Array, y: Array, total: Array) -> Array:
    """bool per pair of flows: not nearly all known packets of either flow pass unchanged, or become another flow."""
    already = _known_as(facts, flow, x, y)
    found = np.ones(len(x), bool)
    for packets, mine in zip(facts.packets, (x, y), strict=True):
        found &= total >= _PARTNER * (looked_up(flow[mine], *packets) - already)
    # A port is used again: for a time, the two flows were partners.
    return np.asarray(found | (already > 0))


def _known_as(facts: Facts, flow: Array, x: Array, y: Array) -> Array:
    """Per pair of flows, the number of packets of the one flow that are known to be packets of the other behind."""
    return looked_up(mixed(flow[x], flow[y]), *facts.partners)


def _enough(
    rule: Rule, rows: Fields, facts: Facts, flow: Array, x: Array, y: Array, number: Array, total: Array
) -> Array:
    """bool per pair: its own headers are proof, or all pairs of its flows together are."""
    one, other = rows.at(x), rows.at(y)
    sure = has_id(one) & has_id(other) & (one["ip_id"] == other["ip_id"])
    if not rule.asks("P") and not rule.of_ending:
        # The same first bytes and another length mean a part of the packet: byte ranges match it.
        sure &= (one["content"] != other["content"]) | (one["payload_length"] == other["payload_length"])
        if rule.asks("N") or rule.asks("T"):
            return np.asarray(sure)
    if rule.asks("N") or rule.asks("T"):
        # Both TCP numbers are drawn at random (RFC 9293 3.4.1): no stranger has these and the same payload.
        numbered = is_numbered(one)
        sure |= numbered & (one["payload_length"] >= ENOUGH_BYTES)
        if rule.asks("F"):
            partners = (flow[x] == flow[y]) | (_known_as(facts, flow, x, y) > 0)
            sure |= (numbered | is_opening(one)) & partners
    kinds = np.bincount(number[groups_of(number, one["content"], one["tcp_seq"])[0]], minlength=len(total))
    if rule.features not in ("FI", "Ie", "P", "FP") and sure.all():
        return np.asarray(sure)
    arrivals = facts.arrivals()
    arrivals = arrivals[Statements(rows.at(arrivals)).asked(rule)]
    begun = counted(flow[arrivals], flow[y])
    many = (kinds >= _ENOUGH)[number] & (total[number] >= _SHARE * begun)
    if rule.features in ("FI", "Ie"):
        found: Array = sure & many & (total >= _ENOUGH_IDS)[number]
    elif rule.features in ("P", "FP"):
        found = many & facts.follow(x, y)
    else:
        found = sure | many
    return found


def _longest(facts: Facts) -> int:
    """The longest time that a packet may take, ns, by packets that are known to have come this way."""
    if len(facts.before) < _FEWEST_DELAYS:
        return int(np.iinfo(np.int64).max)
    return _SLOWER * int(np.max(facts.delays)) + int(EARLY_NS)


def _stamp_error(facts: Facts) -> int:
    """The apparent backward step of packets that were placed before, between two positions of one clock, ns."""
    if len(facts.before) < _ENOUGH:
        return STAMP_NS
    return int(np.clip(-np.quantile(facts.delays, 0.01), STAMP_NS, EARLY_NS))


def _neighbours_in_order(number: Array, sent: Array, came: Array, count: int) -> tuple[Array, Array]:
    """Per group: the number of packets that come after the one sent before them, and the number of such neighbours."""
    order = in_order_of(number, sent)
    number, came = number[order], came[order]
    neighbours = number[1:] == number[:-1]
    kept = np.bincount(number[1:][neighbours & (came[1:] >= came[:-1])], minlength=count)
    return kept, np.bincount(number[1:][neighbours], minlength=count)
