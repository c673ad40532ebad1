"""The datagram that each fragment belongs to.

Rule: fragments with the same addresses, protocol and identification belong to one datagram (RFC 791 3.2, RFC 8200 4.5).
Only the first has ports, or an ICMP identifier. The others get its flow, so a flow that is rewritten where it is
fragmented stays one. Whole IPv6 packets have no identification: their first bytes identify them.
Several flows may share an identification (each host behind one gateway counts on its own, counters wrap). A fragment
therefore belongs to the packet that was sent with its bytes (payload_match.py). If the bytes do not decide, it belongs
to the one datagram of its point that has room for it: begun at most the loss threshold before it, or the next to begin
if it came before its first fragment. If two datagrams of different flows have room for it, the fragment is ambiguous.
The decision at the first point that saw a fragment holds for all points that saw the same bytes.
Bound: this needs bytes that do not decide (cut off, changed, the same in all), and a datagram that lost its first
fragment before the first point with these addresses. If another datagram with the same identification, within the
threshold, lost just the bytes that the one still has, the parts of both are taken for one datagram. The same holds for
parts that change places on the way there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import mixed
from pktrace.decode.rows import is_fragment
from pktrace.observations.payloads import Payloads
from pktrace.trajectories.reassembly.payload_match import datagrams_of_fragments

Array = np.ndarray[Any, Any]
_WITH_PORTS = (1, 6, 17, 58, 132, 136)  # or an identifier: ICMP, TCP, UDP, ICMPv6, SCTP, UDP-Lite


def datagrams(
    rows: Array, chosen: Array, flows: Array, times: Array, sent: int, threshold: int, payloads: Payloads
) -> tuple[Array, Array]:
    """The datagrams of packets and fragments.

    Args:
        rows: their numbers; chosen: rows; flows, times: of each; sent: the number of packets as they were sent, which
        come first; threshold: loss threshold in ns.

    Returns:
        uint64 per row, the same for all rows of one datagram; the numbers of datagrams that may own an ambiguous
        fragment.
    """
    identity = mixed(
        chosen["source_high"], chosen["source_low"], chosen["destination_high"], chosen["destination_low"],
        chosen["protocol"], chosen["ip_id"],
    )  # fmt: skip
    named = chosen["has"] & (field.HAS_PORTS | field.HAS_ECHO) != 0
    # Without ports in the protocol, all fragments show their flow: it is their addresses.
    named |= ~np.isin(chosen["protocol"], _WITH_PORTS)
    group = np.where(named, mixed(flows, chosen["ip_id"]), identity)
    unclear_wholes = _wholes_by_beginning(chosen, group, flows, times, named, threshold)
    places = np.flatnonzero(named)
    known = np.unique(identity[places])
    at = np.searchsorted(known, identity)
    shared = np.append(known, 0)[at] == identity if len(known) else np.zeros(len(chosen), bool)
    is_part = is_fragment(chosen) & ~named
    followers = np.flatnonzero(shared & is_part)  # whole packets, as ICMP errors are, are no part of another
    group[followers] = 0

    some = np.flatnonzero(shared & (is_part | named))
    _by_room(rows, chosen, group, at, times, named, some[some < sent], threshold)
    asking = is_part & (shared | ~np.isin(identity, identity[:sent]))
    asking[:sent] = False
    asked = np.flatnonzero(asking)
    told = datagrams_of_fragments(chosen, group, flows, places, times, sent, asked, threshold, payloads)
    group[asked[told != 0]] = told[told != 0]
    if not len(followers):
        return group, unclear_wholes
    _by_room(rows, chosen, group, at, times, named, some, threshold)
    _as_at_the_first_point(rows, chosen, group, times, followers, threshold)
    homeless = followers[group[followers] == 0]
    group[homeless] = identity[homeless]
    rivals = _by_time(group, at, times, np.flatnonzero(shared & named), homeless, threshold)
    unclear = homeless[group[homeless] == 0]
    group[unclear] = mixed(unclear, np.full(len(unclear), -1))  # of no known datagram
    return group, np.concatenate([rivals, unclear_wholes])


def _wholes_by_beginning(
    chosen: Array, group: Array, flows: Array, times: Array, named: Array, threshold: int
) -> Array:
    """Fill in the groups of whole IPv6 packets, which have no identification: the group of the one datagram of their
    flow, near them in time, whose first fragment begins with the same bytes.

    Returns:
        The groups of all packets with several such datagrams.
    """
    six = named & (chosen["ip_version"] == 6)
    fragment = is_fragment(chosen)
    first = np.flatnonzero(six & fragment & (chosen["fragment_offset"] == 0))
    if not len(first):
        return np.zeros(0, np.uint64)
    key = mixed(flows, chosen["content"])
    known = np.unique(key[first])
    at = np.searchsorted(known, key)
    whole = np.flatnonzero(six & ~fragment & (np.append(known, 0)[at] == key))
    own = group[whole]
    rivals = _by_time(group, at, times, first, whole, threshold)
    several = group[whole] == 0
    group[whole[several]] = own[several]
    return np.concatenate([rivals, own[several]])


def _by_room(
    rows: Array, chosen: Array, group: Array, at: Array, times: Array, named: Array, some: Array, threshold: int
) -> None:
    """Fill in the groups of fragments for which exactly one datagram at their point has room."""
    from pktrace.trajectories.reassembly.fragments_kernel import take_fragments  # seldom needed, and slow to load

    mine = some[is_fragment(chosen)[some]]
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


def _by_time(group: Array, at: Array, times: Array, named: Array, which: Array, threshold: int) -> Array:
    """Fill in the groups of fragments that are near packets of just one group in time, at any point; 0 for several
    groups.

    Returns:
        The groups near one fragment, if they are several.
    """
    from pktrace.trajectories.reassembly.fragments_kernel import only_group_near

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
    """Copy the group of a fragment from the point that saw it first to later points, if that point found exactly
    one.
    """
    identities, points = chosen["identity"][followers], chosen["point"][followers]
    order = np.lexsort((rows[followers], times[followers], identities))
    mine, identities, points = followers[order], identities[order], points[order]
    begins = np.append(True, identities[1:] != identities[:-1])
    begins |= np.diff(times[mine], prepend=times[mine[0]]) > threshold
    starts, of = np.flatnonzero(begins), np.cumsum(begins) - 1
    told = (points == points[starts][of]) & (group[mine] != 0)
    least = np.minimum.reduceat(np.where(told, group[mine], np.uint64(0xFFFFFFFFFFFFFFFF)), starts)
    most = np.maximum.reduceat(np.where(told, group[mine], np.uint64(0)), starts)
    one = (least == most)[of]
    group[mine[one]] = least[of][one]
