"""Both sides of a translator, seen by the first or the last point of a path.

A capture on all interfaces of a gateway sees each packet twice, with the addresses of either side. Only one side is
seen beyond that point. The other side would be a departure or an arrival without any possible partner.

Rule: packets with an address on one end are the other side of packets with another address there, if

- none of them is seen at any other point;
- nine of ten have a sole partner within 100 ms, among packets of the same point whose address there does reach other
  points: with the same other end (address, and port), payload, length, TCP numbers and IP ID; and the later one has the
  TTL of the earlier one less one, for a router sent it on, or both have the same TTL and an IP ID other than 0;
- nine of ten packets with the partner's address and that other end have a partner themselves;
- with that address, at least 5 partners have different payloads or TCP numbers.

Packets with a partner by TTL that is not sole, or has another IP ID, may be the other side of a translator, too: they
are ambiguous, and not lost.

Bound: two hosts, one hop apart, that send the same payloads without IP IDs within 100 ms, if all packets of one of them
are lost. Counter-example: a host sends each datagram to two collectors, and one way is down: these packets have one
TTL, and IP IDs of their own or none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import among, group_numbers, groups_of, mixed
from pktrace.decode.rows import rows_at
from pktrace.protocols import TCP, UDP
from pktrace.run.model import Run
from pktrace.trajectories.both_sides import NO_FORMS, Forms
from pktrace.trajectories.bounds import STAMP_NS
from pktrace.trajectories.flows import HOSTS, hash_of
from pktrace.trajectories.joins.open_sets import Sightings
from pktrace.trajectories.joins.sole_partners import mutual, within
from pktrace.trajectories.paths import NOT_FOLLOWED, not_all_along

Array = np.ndarray[Any, Any]
_NEARLY_ALL, _FEWEST = 0.9, 5
_ENDS = ("source", "destination")
_PORTS = ("sport", "dport")
_STEPS = (512, 16)  # steps of samples
_LONGEST_NS = 100_000_000  # that a translator holds a packet


def sides_of_translators(
    run: Run, rows: Array, times: Array, at: Sightings, unplaced: Array
) -> tuple[Forms, Array]:  # fmt: skip
    """Packets that are the other side of packets which the same point saw.

    Args:
        rows: all observations; times: int64 per row; unplaced: int64, rows that belong to no packet.

    Returns:
        As `second` the rows that are seen at this point only, as `first` their partners; and int64, rows that may be
        the other side of some packet.
    """
    found, perhaps = NO_FORMS, [np.zeros(0, np.int64)]
    some = not_all_along(run, at.seen, at.path_of)
    once = some[(at.seen[some] >= 0).sum(axis=1) == 1]
    alone = np.concatenate([at.seen[once].max(axis=1), unplaced])
    if len(alone) < _FEWEST:
        return found, perhaps[0]
    reach = np.ones(len(rows), bool)
    reach[alone] = False
    for point in sorted({path.points[side] for path in run.paths for side in (0, -1)}):
        here = np.flatnonzero((at.points == point) & (at.paths != NOT_FOLLOWED))
        if _few_hosts_end(rows, here, reach):
            continue
        readable = rows["has"][here] & (field.HAS_IP | field.CUT_HEADER) == field.HAS_IP
        here = here[readable]
        some = rows_at(rows, here)
        for side in (0, 1):
            pairs, doubtful = _sides(some, times[here], reach[here], side, min(run.threshold_ns, _LONGEST_NS))
            perhaps.append(here[doubtful])
            if len(pairs):
                found = found.and_those(Forms(here[pairs.second], here[pairs.first]))
                reach[here[pairs.second]] = True
    return found, np.setdiff1d(np.concatenate(perhaps), found.second)


def _few_hosts_end(rows: Array, here: Array, reach: Array) -> bool:
    """True if hardly any packet of a point is between hosts without packets that are seen elsewhere.

    A sample of the others shows it for all but a few of the packets that were lost.
    """
    left = here[~reach[here]]
    for step in _STEPS:
        if len(left) < _FEWEST:
            return True
        others = here[::step]
        others = others[reach[others]]
        left = left[~among(hash_of(rows, HOSTS, left), hash_of(rows, HOSTS, others))]
    return len(left) < _FEWEST


def _sides(some: Array, times: Array, reach: Array, side: int, window: int) -> tuple[Forms, Array]:
    """Pairs of rows of one point whose address differs at one end (0 source, 1 destination); and rows that may have a
    partner.
    """
    mine = group_numbers(hash_of(some, HOSTS))
    goes = np.bincount(mine, weights=reach) > 0  # hosts with packets that are seen elsewhere
    alone, through = np.flatnonzero(~goes[mine]), np.flatnonzero(goes[mine])
    key = _unchanged(some, 1 - side)
    wanted = np.intersect1d(key[alone], key[through])
    alone, through = alone[among(key[alone], wanted)], through[among(key[through], wanted)]
    nothing = np.zeros(0, np.int64)
    if not len(alone):
        return NO_FORMS, nothing
    ttl, numbered = some["ttl"].astype(np.int64), some["ip_id"] != 0
    firsts, seconds, doubtful = [nothing], [nothing], [nothing]
    for hop in (-1, 1, 0):  # the partner's TTL is one lower, for it came later, or one higher
        x, y = (alone, through) if hop else (alone[numbered[alone]], through[numbered[through]])
        of_x, of_y = (mixed(key[rows], ttl[rows] + more) for rows, more in ((x, hop), (y, 0)))
        number = group_numbers(np.append(mixed(of_x, some["ip_id"][x]), mixed(of_y, some["ip_id"][y])))
        of_alone, of_partner = mutual(number[: len(x)], times[x], number[len(x) :], times[y], window)
        second, first = x[of_alone], y[of_partner]
        after = times[first] - times[second]
        right = after * -hop >= -STAMP_NS if hop else np.ones(len(first), bool)
        firsts.append(first[right])
        seconds.append(second[right])
        if hop:
            number = group_numbers(np.append(of_x, of_y))
            low, high, _ = within(number[: len(x)], times[x], number[len(x) :], times[y], window, window)
            doubtful.append(x[high > low])
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    once, _ = groups_of(second)
    first, second = _steady(some, key, mine, side, first[once], second[once])
    order = np.argsort(second)
    return Forms(second[order], first[order]), np.unique(np.concatenate(doubtful))


def _steady(some: Array, key: Array, mine: Array, side: int, first: Array, second: Array) -> tuple[Array, Array]:
    """The pairs that hold for nearly all packets of their hosts, and for five different packets of a translator."""
    translator = group_numbers(some[f"{_ENDS[side]}_high"], some[f"{_ENDS[side]}_low"])
    many = np.bincount(mine)
    # Removing pairs lowers the counts of others, so both tests run until they hold for all that are left.
    while len(second):
        good = np.ones(len(second), bool)
        for rows in (first, second):
            good &= np.bincount(mine[rows], minlength=len(many))[mine[rows]] >= _NEARLY_ALL * many[mine[rows]]
        different = first[groups_of(translator[first], key[first])[0]]
        good &= np.bincount(translator[different], minlength=len(many))[translator[first]] >= _FEWEST
        if good.all():
            break
        first, second = first[good], second[good]
    return first, second


def _unchanged(some: Array, end: int) -> Array:
    """uint64 per row: a hash of the fields that a translator of the one end leaves alone; `end` is the number of the
    other end.
    """
    ported = (some["protocol"] == TCP) | (some["protocol"] == UDP)
    tcp = some["protocol"] == TCP
    return mixed(
        some["protocol"],
        some[f"{_ENDS[end]}_high"],
        some[f"{_ENDS[end]}_low"],
        np.where(ported, some[_PORTS[end]], 0),
        some["content"],
        some["mark"],
        some["payload_length"],
        some["fragment_offset"],
        np.where(tcp, some["tcp_seq"], 0),
        np.where(tcp, some["tcp_ack"], 0),
        np.where(tcp, some["tcp_flags"], 0),
    )
