"""Further sightings of a packet at one point, by origin: duplicates by the network, copies by the capture, and retries.

Sightings count as the same packet (RFC 5560 2.5) if their identity is equal: addresses, protocol, IP ID, fragment
position, length, transport header without its checksum, and first payload bytes. For packets that were changed on the
way, the key is equal instead.
A TCP retransmission has another IP ID, or other time stamps, and is a packet of its own. A retransmission with neither
(IPv6 without time stamps) is a packet of its own if the first point of its path saw it.

Bound: a duplicate that is lost or removed before the next point looks like a copy that the capture made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.changeable import RETRIED
from pktrace.decode.identity import groups_of
from pktrace.decode.rows import rows_at
from pktrace.observations.changeable import changeable_of
from pktrace.trajectories.flows import HOSTS, hash_of
from pktrace.trajectories.grouping import counted
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.paths import visits

Array = np.ndarray[Any, Any]
_CLOSE_NS = 1_000_000  # no sender has sent it twice within this time with one IP ID (RFC 6864 4.2)
_OFTEN = 8  # sightings with the same bytes
_LEAST_DOUBLED = 8  # different packets that a point has to show twice before it is taken for one that shows all twice


@dataclass(frozen=True)
class Copies:
    """Further sightings per point of the run.

    `network`: the point before or behind on the path has further sightings, too; `here`: the neighbours have none, and
    the packet went on; `last`: unknown, because this point saw the packet last; `retried`: 802.11 frames with the retry
    bit, whatever else holds for them; `rewritten`: no copies, but egress sightings of packets that are rewritten there.
    """

    network: Array
    here: Array
    last: Array
    retried: Array
    rewritten: Array


def copies_of(trajectories: Trajectories) -> Copies:
    """All further sightings, by the evidence of their origin."""
    observations, run = trajectories.observations, trajectories.run
    rows = observations.rows
    counts = {name: np.zeros(len(run.points), np.int64) for name in ("network", "here", "last", "retried")}
    counts["rewritten"] = np.bincount(rows["point"][trajectories.forms], minlength=len(run.points))
    which = trajectories.further
    if not len(which):
        return Copies(**counts)
    points = rows["point"][which].astype(np.int64)
    if any(observations.wireless):
        wanted = np.zeros(len(rows), bool)
        wanted[which] = np.array(observations.wireless)[rows["capture"][which]]
        again = changeable_of(observations, wanted)["known"][which] & RETRIED != 0
        counts["retried"] = np.bincount(points[again], minlength=len(run.points))
        which, points = which[~again], points[~again]
    some, owner = np.unique(trajectories.owner[which], return_inverse=True)
    owner = owner.ravel()
    position = _positions(trajectories, which, points)
    width = trajectories.seen.shape[1]
    number = np.bincount(owner * width + position, minlength=len(some) * width).reshape(len(some), width)
    seen = trajectories.seen[some] >= 0
    before, behind = _neighbours(number, seen), _neighbours(number[:, ::-1], seen[:, ::-1])[:, ::-1]
    network = np.minimum(number, np.maximum(before, behind))
    goes_on = np.cumsum(seen[:, ::-1], axis=1)[:, ::-1] > seen
    point_at = np.full((len(run.paths), width), -1, np.int64)
    for at, path in enumerate(run.paths):
        point_at[at, : len(path.points)] = path.points
    where = point_at[trajectories.path[some]]
    rest = number - network
    for name, of_kind in (("network", network), ("here", rest * goes_on), ("last", rest * ~goes_on)):
        held = of_kind > 0
        counts[name] = np.bincount(where[held], weights=of_kind[held], minlength=len(run.points)).astype(np.int64)
    return Copies(**counts)


def arrived_again(trajectories: Trajectories) -> Array:
    """int64 per packet: further sightings at the last point of its path (RFC 5560 3.4: arrivals minus 1).

    Only sightings within the loss threshold of the packet's first sighting count, as 2.5 demands for a report beside
    losses.
    """
    found = np.zeros(len(trajectories), np.int64)
    which = trajectories.further
    if len(which):
        owner = trajectories.owner[which]
        last = np.array([len(path.points) - 1 for path in trajectories.run.paths])[trajectories.path[owner]]
        rows = trajectories.observations.rows
        points = rows["point"][which].astype(np.int64)
        clocks = trajectories.clocks
        after = clocks.aligned(rows, which) - clocks.aligned(rows, trajectories.first_row[owner])
        at_end = (_positions(trajectories, which, points) == last) & (after <= trajectories.run.threshold_ns)
        found += np.bincount(owner[at_end], minlength=len(found))
    return found


def _positions(trajectories: Trajectories, which: Array, points: Array) -> Array:
    """The position of each further sighting; if the path visits the point twice, the visit that came before it."""
    table = visits(trajectories.run)[trajectories.path[trajectories.owner[which]], points]
    second = trajectories.seen[trajectories.owner[which], table[:, 1]]
    times = trajectories.observations.rows["ts_ns"]
    later = (table[:, 1] >= 0) & (second >= 0) & (times[np.maximum(second, 0)] <= times[which])
    found: Array = np.where(later, table[:, 1], table[:, 0])
    return found


def _neighbours(number: Array, seen: Array) -> Array:
    """Per packet and position, the value of `number` at the last position before it that saw the packet, 0 for none."""
    found = np.zeros_like(number)
    latest = np.zeros(len(number), number.dtype)
    for position in range(number.shape[1]):
        found[:, position] = latest
        latest = np.where(seen[:, position], number[:, position], latest)
    return found


def maybe_copies(trajectories: Trajectories) -> Array:
    """bool per packet: the first point of its path saw it close behind one with the same bytes, and both may be one
    packet.

    Such packets are doubtful if the IP ID is not 0, which few senders repeat so soon. They are also doubtful at points
    that show most packets twice, or most of those from one host to another (a port that mirrors both directions, an
    interface and its member, a mirror of one VLAN). One of such packets is certain: the one that was seen furthest, the
    first of several.
    """
    found = np.zeros(len(trajectories), bool)
    some = np.flatnonzero((trajectories.candidates > 1) & (trajectories.seen[:, :1] >= 0).all(axis=1))
    if not len(some):
        return found
    seen = trajectories.seen[some]
    rows = rows_at(trajectories.observations.rows, seen[:, 0])
    order = np.lexsort((rows["ts_ns"], rows["identity"], rows["point"]))
    some, seen, rows = some[order], seen[order], rows[order]
    equal = np.zeros(len(some), bool)
    equal[1:] = (rows["point"][1:] == rows["point"][:-1]) & (rows["identity"][1:] == rows["identity"][:-1])
    close = equal.copy()
    close[1:] &= np.diff(rows["ts_ns"]) <= _CLOSE_NS
    cluster = np.cumsum(~close) - 1
    size = np.bincount(cluster)
    # The loop looks for points that show most of their different packets twice; a packet that is sent very often counts
    # as one.
    group = np.cumsum(~equal) - 1
    # Most of a packet's sightings there are pairs; a packet that is sent very often comes in clusters of any size.
    of_cluster = group[~close]
    pairs = np.bincount(of_cluster, weights=size == 2) * 2 > np.bincount(of_cluster)
    begun = trajectories.seen[trajectories.seen[:, 0] >= 0, 0]
    twice = np.zeros(len(some), bool)
    for names in (("point",), ("point", *HOSTS)):
        there, number = groups_of(hash_of(rows, names))
        doubled = np.bincount(number[~equal][pairs], minlength=len(there))
        different = counted(hash_of(trajectories.observations.rows, names, begun), hash_of(rows, names)[there])
        different -= np.bincount(number[equal], minlength=len(there))
        twice |= ((doubled >= _LEAST_DOUBLED) & (2 * doubled >= different))[number]
    # The packet that reached the last position of its cluster is the certain one.
    reached = seen.shape[1] - 1 - np.argmax(seen[:, ::-1] >= 0, axis=1)
    furthest = np.zeros(len(size), np.int64)
    np.maximum.at(furthest, cluster, reached)
    best = np.flatnonzero(reached == furthest[cluster])
    certain = np.zeros(len(some), bool)
    certain[best[np.unique(cluster[best], return_index=True)[1]]] = True
    # An IP ID that comes with the same bytes again and again is no number: its sender gives it to all packets.
    numbered = (rows["has"] & field.HAS_ID != 0) & (rows["ip_id"] != 0) & (np.bincount(group)[group] <= _OFTEN)
    found[some[(size[cluster] > 1) & ~certain & (numbered | twice)]] = True
    return found
