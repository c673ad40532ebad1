"""Which datagram a fragment is a part of.

Rule: fragments with the same addresses, protocol and identification are of one datagram (RFC 791 3.2, RFC 8200 4.5).
Only the first has ports, or an ICMP identifier: the others are of its flow, so that a flow that is rewritten where it
is fragmented stays one.
Where several flows share an identification (each host behind one gateway counts on its own, counters wrap), a fragment
belongs to the one datagram of its point that has room for its bytes: begun at most the loss threshold before it, or the
next to begin if it came before its first fragment. Where two of different flows have room for it, its bytes tell, if
just one of the packets that were sent has them; else it cannot be told. What the first point that saw it tells of a
fragment goes for all points that saw the same bytes.
Bound: a datagram that lost its first fragment before the first point with these addresses, while another with the same
identification, within the threshold, lost just what the one still has: the parts of both are taken for one datagram.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.trajectories.bursts import ContentAt
from pktrace.trajectories.exact import EARLY_NS
from pktrace.trajectories.hashing import mixed

Array = np.ndarray[Any, Any]
_MOST_COMPARED = 4096  # fragments whose bytes are looked at, and packets that each is compared with


def datagrams(
    rows: Array, chosen: Array, flows: Array, times: Array, sent: int, threshold: int, content_at: ContentAt
) -> tuple[Array, Array]:
    """The datagrams of packets and fragments.

    Args:
        rows: their numbers; chosen: rows; flows, times: of each; sent: how many of them, the first ones, are packets
        as they were sent; threshold: loss threshold in ns; content_at: of `bursts`.

    Returns:
        uint64 per row, the same for all of one datagram; those numbers of which it cannot be told whether some
        fragment is theirs.
    """
    identity = mixed(
        chosen["source_high"], chosen["source_low"], chosen["destination_high"], chosen["destination_low"],
        chosen["protocol"], chosen["ip_id"],
    )  # fmt: skip
    named = chosen["has"] & (field.HAS_PORTS | field.HAS_ECHO) != 0
    group = np.where(named, mixed(flows, chosen["ip_id"]), identity)
    places = np.flatnonzero(named)
    known, first, which = np.unique(identity[places], return_index=True, return_inverse=True)
    if not len(known):
        return group, np.zeros(0, np.uint64)
    several = np.zeros(len(known), bool)
    several[which[group[places] != group[places[first[which]]]]] = True
    at = np.minimum(np.searchsorted(known, identity), len(known) - 1)
    shared = known[at] == identity
    follows = shared & ~named & ~several[at]
    group[follows] = group[places[first[at[follows]]]]
    contested = shared & several[at]
    followers = np.flatnonzero(contested & ~named)
    if not len(followers):
        return group, np.zeros(0, np.uint64)
    group[followers] = 0
    _by_room(rows, chosen, group, at, times, named, np.flatnonzero(contested), threshold)
    _as_at_the_first_point(rows, chosen, group, times, followers, threshold)
    if _by_content(chosen, group, at, times, np.flatnonzero(contested & named), followers, sent, threshold, content_at):
        _as_at_the_first_point(rows, chosen, group, times, followers, threshold)
    homeless = followers[group[followers] == 0]
    group[homeless] = identity[homeless]
    rivals = _by_time(group, at, times, np.flatnonzero(contested & named), homeless, threshold)
    unclear = homeless[group[homeless] == 0]
    group[unclear] = mixed(unclear, np.full(len(unclear), -1))  # of no datagram that is known
    return group, rivals


def _by_room(
    rows: Array, chosen: Array, group: Array, at: Array, times: Array, named: Array, contested: Array, threshold: int
) -> None:
    """Fill in the groups of fragments that one datagram at their point has room for."""
    from pktrace.trajectories.datagram_kernel import take_fragments  # seldom needed, and slow to load

    fragment = (chosen["fragment_offset"] > 0) | (chosen["more_fragments"] > 0)
    mine = contested[fragment[contested]]
    cells = at[mine] * (int(chosen["point"].max()) + 1) + chosen["point"][mine].astype(np.int64)
    order = np.lexsort((rows[mine], times[mine], cells))
    mine = mine[order]
    parts = chosen[mine]
    begin = parts["fragment_offset"].astype(np.int64)
    home = np.zeros(len(mine), np.int64)
    take_fragments(
        cells[order], group[mine], begin, begin + parts["ip_end"].astype(np.int64) - parts["l4"], named[mine],
        parts["more_fragments"] == 0, times[mine], np.int64(threshold), home,
    )  # fmt: skip
    group[mine[home >= 0]] = group[mine[home[home >= 0]]]


def _by_content(
    chosen: Array, group: Array, at: Array, times: Array, named: Array, followers: Array, sent: int, threshold: int,
    content_at: ContentAt,
) -> bool:  # fmt: skip
    """Fill in the groups of fragments whose bytes just one packet near them was sent with; whether there are any."""
    homeless = followers[group[followers] == 0][:_MOST_COMPARED]
    if not len(homeless):
        return False
    near: dict[int, list[tuple[int, int]]] = {}
    for which, time, number in zip(at[named].tolist(), times[named].tolist(), group[named].tolist(), strict=True):
        insort(near.setdefault(which, []), (time, number))
    senders: dict[int, list[int]] = {}
    for sender in np.flatnonzero(np.isin(group[:sent], group[named])).tolist():
        senders.setdefault(int(group[sender]), []).append(sender)
    told = False
    for one in homeless.tolist():
        here, time = near[int(at[one])], int(times[one])
        low = bisect_left(here, (time - threshold, 0))
        close = here[low : bisect_left(here, (time + threshold + 1, 0))][:_MOST_COMPARED]
        fitting: dict[int, bool] = {}
        for number in {number for _, number in close}:
            for sender in senders.get(number, [])[:_MOST_COMPARED]:
                if -EARLY_NS <= time - int(times[sender]) <= threshold:
                    has = _has_bytes(chosen[sender], chosen[one], content_at)
                    if has is not False:
                        fitting[number] = bool(has) or fitting.get(number, False)
        # What was not captured may be what was sent, but does not show it.
        if len(fitting) == 1 and all(fitting.values()):
            group[one], told = next(iter(fitting)), True
    return told


def _has_bytes(sent: Any, part: Any, content_at: ContentAt) -> bool | None:
    """Whether a packet was sent with the bytes of a fragment; None if they were not captured."""
    size, header = int(part["payload_length"]), int(sent["payload"]) - int(sent["l4"])
    place = int(part["fragment_offset"]) - int(sent["fragment_offset"]) - header
    left = int(sent["payload_length"]) - place - size
    if place < 0 or place >= int(sent["payload_length"]):
        return False
    if not sent["more_fragments"] and (left < 0 if part["more_fragments"] else left != 0):
        return False
    held, sought = content_at(part, 0, size), content_at(sent, place, size)
    return None if held is None or sought is None else held == sought


def _by_time(group: Array, at: Array, times: Array, named: Array, which: Array, threshold: int) -> Array:
    """Fill in the groups of fragments that just one is near in time, at whatever point, 0 for several.

    Returns:
        All groups of those that are near, where they are several.
    """
    from pktrace.trajectories.datagram_kernel import only_group_near

    asking = which[np.lexsort((times[which], at[which]))]
    packets = named[np.lexsort((named, times[named], at[named]))]
    found, rivals = group[asking], np.zeros(len(packets), bool)
    only_group_near(
        at[asking], times[asking], at[packets], group[packets], times[packets], np.int64(threshold), found, rivals
    )
    group[asking] = found
    taken: Array = np.unique(group[packets[rivals]])
    return taken


def _as_at_the_first_point(
    rows: Array, chosen: Array, group: Array, times: Array, followers: Array, threshold: int
) -> None:
    """Give what later points saw of a fragment the group that was told where it was seen first, if it is one."""
    digests, points = chosen["digest"][followers], chosen["point"][followers]
    order = np.lexsort((rows[followers], times[followers], digests))
    mine, digests, points = followers[order], digests[order], points[order]
    begins = np.append(True, digests[1:] != digests[:-1]) | (np.diff(times[mine], prepend=times[mine[0]]) > threshold)
    starts, of = np.flatnonzero(begins), np.cumsum(begins) - 1
    told = (points == points[starts][of]) & (group[mine] != 0)
    least = np.minimum.reduceat(np.where(told, group[mine], np.uint64(0xFFFFFFFFFFFFFFFF)), starts)
    most = np.maximum.reduceat(np.where(told, group[mine], np.uint64(0)), starts)
    one = (least == most)[of]
    group[mine[one]] = least[of][one]
