"""Second looks: a packet that one point sees again, and that is one packet all the same.

Packets with equal bytes at one point are one, and the later sighting is a copy, if

- it is an 802.11 frame with the retry bit, and the number of a frame before it;
- the TTL is lower: the packet came back from a router (a loop, a one-armed router, a trunk). Without an IP ID all
  packets with these bytes have to meet this condition;
- the point sees nearly everything equally often, the sightings have one IP ID, and the IP IDs of these hosts count
  upwards: no sender gives two packets one number within the loss threshold (RFC 6864 4.2), unless it has sent 30,000
  others meanwhile;
- the point sees nearly everything twice, and the second sightings are much nearer to the first ones than other packets
  are (`-i any`, a mirror of both directions).

Points that a path visits twice are left out: there the second sighting is a visit.
Bound: a host that sends the same bytes again without an IP ID of its own, on a way with one hop more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.changeable import RETRIED, SEQUENCE
from pktrace.decode.identity import among, group_numbers
from pktrace.observations.changeable import changeable_of
from pktrace.observations.observe import Observations
from pktrace.run.model import Run
from pktrace.trajectories.both_sides import NO_FORMS, Forms
from pktrace.trajectories.flows import HOSTS, has_id, hash_of
from pktrace.trajectories.paths import visits

Array = np.ndarray[Any, Any]
_MOST_BETWEEN = 30_000  # packets of two hosts, of 65,536 IP IDs
_COUNTING, _LARGEST_STEP, _FEWEST = 0.8, 2_000, 3
_DOUBLED, _FEWEST_DOUBLED, _MOST_LOOKS = 0.9, 8, 4
_RETRIED_NS = 100_000_000  # a station gives up before, and uses 4,096 numbers in turn
_NEAR_NS, _MUCH_NEARER = 20_000_000, 4


def routed_looks(run: Run, rows: Array, times: Array, tied: Array) -> Forms:
    """Further sightings with a lower TTL, for packets that no other point has seen as often.

    Args:
        times: int64 per row; tied: int64, rows of packets with equal keys.
    """
    found = _looks(run, rows, times, tied, routed=True)
    if not len(found):
        return found
    key = group_numbers(rows["identity"][tied], rows["mark"][tied])
    point = rows["point"][tied].astype(np.int64)
    counts = np.bincount(key * len(run.points) + point, minlength=(int(key.max()) + 1) * len(run.points))
    counts = counts.reshape(-1, len(run.points))
    here = np.searchsorted(tied, found.second)
    mine, at = counts[key[here]], point[here]
    most = mine[np.arange(len(at)), at]
    mine[np.arange(len(at)), at] = 0
    return found.chosen(mine.max(axis=1, initial=0) < most)


def retried_looks(run: Run, observations: Observations, times: Array, tied: Array) -> Forms:
    """802.11 frames that were sent once more: with the retry bit, the bytes and the number of a frame before them.

    Args:
        as for `routed_looks`.
    """
    if not any(observations.wireless):
        return NO_FORMS
    rows = observations.rows
    wanted = np.zeros(len(rows), bool)
    wanted[tied] = np.array(observations.wireless, bool)[rows["capture"][tied]]
    tied = np.flatnonzero(wanted)
    if not len(tied):
        return NO_FORMS
    read = changeable_of(observations, wanted)[tied]
    numbered = read["known"] & SEQUENCE != 0
    tied, read = tied[numbered], read[numbered]
    group = group_numbers(rows["identity"][tied], rows["mark"][tied], rows["point"][tied], read["sequence"])
    order = np.lexsort((tied, times[tied], group))
    tied, group, again = tied[order], group[order], (read["known"][order] & RETRIED) != 0
    follows = np.zeros(len(tied), bool)
    follows[1:] = (group[1:] == group[:-1]) & (np.diff(times[tied]) <= min(run.threshold_ns, _RETRIED_NS))
    second = follows & again
    first = np.maximum.accumulate(np.where(second, 0, np.arange(len(tied))))
    at = np.flatnonzero(second)
    place = np.argsort(tied[at])
    return Forms(tied[at][place], tied[first[at]][place])


def second_looks(run: Run, rows: Array, times: Array, tied: Array) -> Forms:
    """Further sightings among packets with equal keys, and the first sighting of each.

    Args:
        as for `routed_looks`.
    """
    return _looks(run, rows, times, tied, routed=False)


def _looks(run: Run, rows: Array, times: Array, tied: Array, routed: bool) -> Forms:
    again = np.zeros(len(run.points) + 1, bool)
    for table in visits(run):
        again[: len(table)] |= table[: len(again), 1] >= 0
    tied = tied[~again[rows["point"][tied]]]
    point = rows["point"][tied]
    group = group_numbers(rows["identity"][tied], rows["mark"][tied], point)
    order = np.lexsort((tied, times[tied], group))
    tied, group, point = tied[order], group[order], point[order]
    follows = np.zeros(len(tied), bool)  # the row before in this order has the same bytes, at the same point
    follows[1:] = group[1:] == group[:-1]
    after, ttl = np.zeros(len(tied), np.int64), rows["ttl"][tied]
    after[1:] = np.diff(times[tied])
    lower = np.zeros(len(tied), bool)
    lower[1:] = ttl[1:] < ttl[:-1]
    with_id = (rows["has"][tied] & field.HAS_ID != 0) & (rows["ip_id"][tied] != 0)
    always = np.bincount(group, weights=follows & ~lower, minlength=int(group.max(initial=-1)) + 1) == 0
    second = follows & lower & (with_id | always[group])
    if not routed:
        repeated = np.bincount(group)[group] > 1
        nearly_all = np.bincount(point[repeated], minlength=len(again)) >= _DOUBLED * np.bincount(
            rows["point"], minlength=len(again)
        )
        for doubled in np.flatnonzero(nearly_all[:-1]).tolist():
            here = np.flatnonzero(point == doubled)
            if not len(here):
                continue
            often = _often(group[here])
            near = _doubled_within(after[here], follows[here], often)
            close = follows[here] & (after[here] <= near)
            # After so many looks the next one is another packet with the same bytes.
            begins = np.maximum.accumulate(np.where(close, 0, np.arange(len(here))))
            second[here] |= close & ((np.arange(len(here)) - begins) % max(2, often) != 0)
            if near < 0 and often:
                asked = follows[here] & with_id[here]
                second[here] |= _same_number(run, rows, tied[here], asked, after[here])
    # If several looks follow each other, all are looks at the first sighting.
    first = np.maximum.accumulate(np.where(second, 0, np.arange(len(tied))))
    at = np.flatnonzero(second)
    place = np.argsort(tied[at])
    return Forms(tied[at][place], tied[first[at]][place])


def _same_number(run: Run, rows: Array, tied: Array, follows: Array, after: Array) -> Array:
    """bool per row of `tied`: it follows one with its bytes and IP ID, and IP IDs of its hosts count upwards."""
    hosts = hash_of(rows, (*HOSTS, "point"))
    counts = among(hosts[tied], _counting(rows, hosts, np.unique(hosts[tied[follows]])))
    mine = np.flatnonzero(counts)
    rank = np.zeros(len(tied), np.int64)
    rank[mine] = _rank(hosts, tied[mine])
    between = np.zeros(len(tied), np.int64)
    between[1:] = rank[1:] - rank[:-1]
    return np.asarray(follows & counts & (after <= run.threshold_ns) & (between <= _MOST_BETWEEN))


def _counting(rows: Array, hosts: Array, wanted: Array) -> Array:
    """The wanted hosts whose IP IDs count upwards.

    Args:
        hosts: uint64 per row, a hash of protocol, source, destination and point.
    """
    mine = np.flatnonzero(has_id(rows) & among(hosts, wanted))
    number = group_numbers(hosts[mine])
    order = np.argsort(number, kind="stable")  # rows are in order of time
    mine, number = mine[order], number[order]
    step = (rows["ip_id"][mine[1:]] - rows["ip_id"][mine[:-1]]).astype(np.int64) & 0xFFFF
    moves = (number[1:] == number[:-1]) & (step != 0)
    groups = int(number.max(initial=-1)) + 1
    many = np.bincount(number[1:][moves], minlength=groups)
    small = np.bincount(number[1:][moves & (step <= _LARGEST_STEP)], minlength=groups)
    good = (many >= _FEWEST) & (small >= _COUNTING * many)
    found: Array = np.unique(hosts[mine[good[number]]])
    return found


def _rank(hosts: Array, which: Array) -> Array:
    """The number of packets of the same hosts that a point has seen before each of some rows."""
    mine = np.flatnonzero(among(hosts, np.unique(hosts[which])))
    number = group_numbers(hosts[mine])
    order = np.argsort(number, kind="stable")
    rank = np.empty(len(mine), np.int64)
    rank[order] = np.arange(len(mine)) - np.searchsorted(number[order], number[order], "left")
    found: Array = rank[np.searchsorted(mine, which)]
    return found


def _often(group: Array) -> int:
    """The number of sightings that nearly all of many packets have: a few, as no sender repeats itself; else 0."""
    many = np.bincount(np.bincount(group - group.min()), minlength=_MOST_LOOKS + 1)
    rows = many * np.arange(len(many))
    often = int(np.argmax(rows[: _MOST_LOOKS + 1]))
    return often if many[1:].sum() >= _FEWEST_DOUBLED and rows[often] >= _DOUBLED * rows.sum() else 0


def _doubled_within(after: Array, follows: Array, often: int) -> int:
    """The distance of second sightings from the first at a point that sees nearly everything twice, ns; else -1.

    Args:
        after, follows: for its rows with equal bytes; often: from `_often`.
    """
    gaps = np.sort(after[follows])
    if len(after) < 2 * _FEWEST_DOUBLED or not len(gaps):
        return -1
    if often:
        near = int(np.quantile(gaps, 0.99))
        return 2 * near if near <= _NEAR_NS else -1
    # If all packets have the same bytes, every second distance is small: the one from a packet to its copy.
    small, large = int(gaps[int(0.47 * len(gaps))]), int(gaps[min(len(gaps) - 1, int(0.56 * len(gaps)))])
    return 2 * small if small <= _NEAR_NS and _MUCH_NEARER * small <= large else -1
