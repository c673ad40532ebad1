"""IPv4 senders: how each one numbers its packets, and how soon a number repeats.

Matching starts with the IP ID, and senders use it differently (RFC 6864 4.1: in packets that need no fragmentation it
may have any value). Each IPv4 source with at least `LEAST_PACKETS` packets is judged at the point that saw most of its
packets, in order of time. Later fragments are left out, since they repeat their packet's ID. Copies (equal digests
within `COPY_NS`) are counted, but have no part in steps and in the repeat time of an ID. A *flow* is (destination,
protocol, ports). A step is *small* if the ID grew by 1 to 1,024 modulo 65,536, or fell by at most 16 (reordering); 1.6
% of the steps of random IDs are small. Kernels add up to a tick per waiting time and one per segment of a superpacket,
which stays below 1,024.

=============== ====================================================================================================
zero            at least 95 % of the IDs are 0
constant        at least 95 % of the steps are 0, and the ID is not
shared counter  at least 90 % of the steps from one flow to another are small (within one destination and protocol, or
                where fewer than 8 such steps exist, between all packets of the sender)
flow counter    at least 90 % of the steps within a flow are small, at most 50 % of those from one flow to another
counter         at least 90 % of the steps within a flow are small, and fewer than 8 steps go from one flow to another
random          at most 10 % of all steps are small
mixed           none of these, or between 10 % and 95 % of the IDs are 0
=============== ====================================================================================================

IDs of 0 are set aside before steps are computed, since SYN-ACK, RST and other answers have ID 0 with every kind of
sender. A counter per destination looks like one per flow if each destination has one flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import mixed

LEAST_PACKETS = 16
COPY_NS = 1_000_000
_LARGEST_STEP = 1024
_REORDERED = 16
_LEAST_STEPS = 8
_NEARLY_ALL = 0.95
_MOST = 0.9
_HALF = 0.5
_FEW = 0.1

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SenderIds:
    """One IPv4 sender: `source` is its address as a number, `point` the index of the point at which it was judged;
    `shortest_repeat_ns` is the least time between two packets of the same source, destination, protocol and ID other
    than 0, None if no ID repeats.
    """

    source: int
    point: int
    packets: int
    flows: int
    zero: int
    behaviour: str
    shortest_repeat_ns: int | None


def sender_ids(rows: Array, times: Array) -> tuple[SenderIds, ...]:
    """Every sender with enough packets, the one with most packets first.

    Args:
        rows: ROW; times: int64 per row, ns, on a clock that the rows of one point share.
    """
    wanted = field.HAS_ID | field.HAS_TIME
    usable = (rows["has"] & wanted == wanted) & (rows["ip_version"] == 4) & (rows["fragment_offset"] == 0)
    members = np.flatnonzero(usable)
    members = members[_at_its_best_point(rows["source_low"][members], rows["point"][members])]
    if not len(members):
        return ()
    sources, sender = np.unique(rows["source_low"][members], return_inverse=True)
    order = np.lexsort((times[members], sender))
    members, sender = members[order], sender[order]
    copies = _copies(rows["identity"][members], times[members], rows["point"][members])
    return _judged(rows[members], times[members], sources, sender, copies)


def _at_its_best_point(source: Array, point: Array) -> Array:
    """bool per row: the sender has enough packets somewhere, and the row is from the point that saw most of them."""
    _, number, total = np.unique(source, return_inverse=True, return_counts=True)
    found: Array = total[number] >= LEAST_PACKETS
    _, sender = np.unique(number[found], return_inverse=True)
    slot = point[found].astype(np.int64) + 1  # -1 for a file without interface names
    width = int(slot.max(initial=0)) + 1
    counts = np.bincount(sender * width + slot, minlength=width * (int(sender.max(initial=-1)) + 1)).reshape(-1, width)
    best, most = counts.argmax(axis=1), counts.max(axis=1)
    found[found] = (slot == best[sender]) & (most[sender] >= LEAST_PACKETS)
    return found


def _copies(digests: Array, times: Array, points: Array) -> Array:
    """bool per row: the same digest was seen at the same point shortly before."""
    order = np.lexsort((times, digests, points))
    again = (digests[order][1:] == digests[order][:-1]) & (points[order][1:] == points[order][:-1])
    again &= times[order][1:] - times[order][:-1] <= COPY_NS
    found = np.zeros(len(digests), bool)
    found[order[1:][again]] = True
    return found


def _judged(rows: Array, times: Array, sources: Array, sender: Array, copies: Array) -> tuple[SenderIds, ...]:
    """The senders of rows in order of (sender, time); copies have no steps."""
    ids = rows["ip_id"].astype(np.int64)
    pair = mixed(rows["source_low"], rows["destination_low"], rows["protocol"])
    flow = mixed(pair, rows["sport"], rows["dport"])
    many = len(sources)
    packets = np.bincount(sender, minlength=many)
    zero = np.bincount(sender[ids == 0], minlength=many)
    flows = np.bincount(sender[np.unique(flow, return_index=True)[1]], minlength=many)

    kept = np.flatnonzero((ids != 0) & ~copies)
    within_flow = _Steps(ids, sender, kept[np.lexsort((kept, flow[kept]))], flow, None, many)
    within_pair = _Steps(ids, sender, kept[np.lexsort((kept, pair[kept]))], pair, flow, many)
    anywhere = _Steps(ids, sender, kept, sender, flow, many)
    everything = _Steps(ids, sender, kept, sender, None, many)

    few_in_pair = within_pair.count < _LEAST_STEPS
    switches = np.where(few_in_pair, anywhere.count, within_pair.count)
    small_switches = np.where(few_in_pair, anywhere.small, within_pair.small)
    told = switches >= _LEAST_STEPS
    counts_in_flow = (within_flow.count >= _LEAST_STEPS) & (within_flow.small >= _MOST * within_flow.count)
    all_steps, all_small = within_flow.count + switches, within_flow.small + small_switches
    behaviour = np.select(
        [
            zero >= _NEARLY_ALL * packets,
            zero > _FEW * packets,
            (everything.count > 0) & (everything.none >= _NEARLY_ALL * everything.count),
            told & (small_switches >= _MOST * switches),
            told & counts_in_flow & (small_switches <= _HALF * switches),
            ~told & counts_in_flow,
            (all_steps >= _LEAST_STEPS) & (all_small <= _FEW * all_steps),
        ],
        ["zero", "mixed", "constant", "shared counter", "flow counter", "counter", "random"],
        "mixed",
    )
    repeat = _shortest_repeat(mixed(pair, ids)[kept], times[kept], sender[kept], many)
    first = np.searchsorted(sender, np.arange(many))
    return tuple(
        SenderIds(
            source=int(sources[number]),
            point=int(rows["point"][first[number]]),
            packets=int(packets[number]),
            flows=int(flows[number]),
            zero=int(zero[number]),
            behaviour=str(behaviour[number]),
            shortest_repeat_ns=int(repeat[number]) if repeat[number] >= 0 else None,
        )
        for number in np.lexsort((sources, -packets))
    )


class _Steps:
    """Steps of the ID between neighbours of `order` with equal `group` (and different `apart`, if it is given): counts
    per sender of all steps, small steps and zero steps.
    """

    def __init__(self, ids: Array, sender: Array, order: Array, group: Array, apart: Array | None, many: int) -> None:
        before, after = order[:-1], order[1:]
        counted = group[before] == group[after]
        if apart is not None:
            counted &= apart[before] != apart[after]
        before, after = before[counted], after[counted]
        step = (ids[after] - ids[before]) & 0xFFFF
        small = ((step >= 1) & (step <= _LARGEST_STEP)) | (step >= 0x10000 - _REORDERED)
        self.count = np.bincount(sender[after], minlength=many)
        self.small = np.bincount(sender[after][small], minlength=many)
        self.none = np.bincount(sender[after][step == 0], minlength=many)


def _shortest_repeat(keys: Array, times: Array, sender: Array, many: int) -> Array:
    """int64 per sender: least time between rows of equal keys, -1 without any."""
    order = np.lexsort((times, keys))
    again = keys[order][1:] == keys[order][:-1]
    gaps = (times[order][1:] - times[order][:-1])[again]
    shortest = np.full(many, np.iinfo(np.int64).max)
    np.minimum.at(shortest, sender[order[1:][again]], gaps)
    found: Array = np.where(shortest == np.iinfo(np.int64).max, -1, shortest)
    return found
