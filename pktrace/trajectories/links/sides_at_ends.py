"""Both sides of a translator, seen by the first or the last point of a path.

A capture on all interfaces of a gateway sees each packet twice, with the addresses of either side. Only one side is
seen beyond that point. The other side would be a departure or an arrival without any possible partner.

Rule: packets with an address on one end are the other side of packets with another address there, if

- none of them is seen at any other point;
- nine of ten have a sole partner within the loss threshold, among packets of the same point whose address there does
  reach other points: with the same other end (address, and port), payload, length and TCP numbers;
- nine of ten packets with the partner's address and that other end have a partner themselves;
- with that address, at least 5 partners have different payloads or TCP numbers.

Bound: a client of a relay at that very point, if the relay sends everything on with the client's TCP numbers.
Counter-example: a resolver's query to several servers has partners with the same payload, and these keep their source;
the other end, the server, differs.
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
from pktrace.trajectories.joins.open_sets import Sightings
from pktrace.trajectories.joins.sole_partners import sole
from pktrace.trajectories.paths import NOT_FOLLOWED, not_all_along

Array = np.ndarray[Any, Any]
_NEARLY_ALL, _FEWEST = 0.9, 5
_ENDS = ("source", "destination")
_PORTS = ("sport", "dport")
_HOSTS = ("protocol", *(f"{end}_{half}" for end in _ENDS for half in ("high", "low")))
_STEPS = (512, 16)  # steps of samples


def sides_of_translators(run: Run, rows: Array, times: Array, at: Sightings, unplaced: Array) -> Forms:
    """Packets that are the other side of packets which the same point saw.

    Args:
        rows: all observations; times: int64 per row; unplaced: int64, rows that belong to no packet.

    Returns:
        As `second` the rows that are seen at this point only, as `first` their partners.
    """
    found = NO_FORMS
    some = not_all_along(run, at.seen, at.path_of)
    once = some[(at.seen[some] >= 0).sum(axis=1) == 1]
    alone = np.concatenate([at.seen[once].max(axis=1), unplaced])
    if len(alone) < _FEWEST:
        return found
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
            pairs = _sides(some, times[here], reach[here], side, run.threshold_ns)
            if len(pairs):
                found = found.and_those(Forms(here[pairs.second], here[pairs.first]))
                reach[here[pairs.second]] = True
    return found


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
        left = left[~among(_hosts(rows, left), _hosts(rows, others))]
    return len(left) < _FEWEST


def _hosts(rows: Array, which: Array) -> Array:
    """uint64 per row of some: a hash of protocol and addresses."""
    return mixed(*(rows[name][which] for name in _HOSTS))


def _sides(some: Array, times: Array, reach: Array, side: int, threshold: int) -> Forms:
    """Pairs of rows of one point whose address differs at one end (0 source, 1 destination)."""
    mine = group_numbers(some["protocol"], *(some[f"{end}_{half}"] for end in _ENDS for half in ("high", "low")))
    goes = np.bincount(mine, weights=reach) > 0  # hosts with packets that are seen elsewhere
    alone, through = np.flatnonzero(~goes[mine]), np.flatnonzero(goes[mine])
    if len(alone) < _FEWEST or not len(through):
        return NO_FORMS
    key = _unchanged(some, 1 - side)
    wanted = np.intersect1d(key[alone], key[through])
    alone, through = alone[among(key[alone], wanted)], through[among(key[through], wanted)]
    if not len(alone):
        return NO_FORMS
    number = group_numbers(np.append(key[alone], key[through]))
    x, y = number[: len(alone)], number[len(alone) :]
    of_alone = sole(x, times[alone], y, times[through], threshold)
    of_through = sole(y, times[through], x, times[alone], threshold)
    mutual = np.flatnonzero(of_alone >= 0)
    mutual = mutual[of_through[of_alone[mutual]] == mutual]
    first, second = through[of_alone[mutual]], alone[mutual]
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
    order = np.argsort(second)
    return Forms(second[order], first[order])


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
