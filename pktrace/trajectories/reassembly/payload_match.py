"""The packet in which a part's bytes were sent, as far as captures have them.

Rule: among the packets that were sent at most the loss threshold before a part, and that may have its bytes in their
place by length and identification, just one has its first bytes there. If others may have these bytes, because they
were not captured or are the same, the part stays unassigned.

- A fragment has the protocol and identification of its datagram, whose flow is known to have the fragment's addresses
  there (RFC 791 3.2).
- Segment i of a UDP superpacket has its identification + i, and the bytes from i times the size of a segment on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES
from pktrace.decode.identity import mixed
from pktrace.observations.payloads import Payloads
from pktrace.trajectories.bounds import EARLY_NS

Array = np.ndarray[Any, Any]
_AT_ONCE = 1 << 15  # parts; each has a line of packets


def datagrams_of_fragments(
    chosen: Array, group: Array, flows: Array, named: Array, times: Array, sent: int, asking: Array, threshold: int,
    payloads: Payloads,
) -> Array:  # fmt: skip
    """uint64 per fragment that is `asking`: the group of the packet that was sent with its bytes, 0 if that is
    undecided.

    Args:
        chosen: rows, group, flows, times: of each; named: rows that show their flow; sent: the number of packets as
        they were sent, which come first.
    """
    told = np.zeros(len(asking), np.uint64)
    if not len(asking) or not sent or not len(named):
        return told
    from pktrace.trajectories.reassembly.payload_match_kernel import (
        MOST_SENDERS,
        Keyed,
        Ranges,
        senders_near,
    )  # seldom needed, and slow to load

    key = mixed(chosen["protocol"], chosen["ip_id"], chosen["ip_version"])
    senders = np.flatnonzero(np.isin(key[:sent], key[asking]) & (chosen["has"][:sent] & field.HAS_ID != 0))
    senders = senders[np.lexsort((times[senders], key[senders]))]
    order = np.lexsort((times[asking], key[asking]))
    parts, whole = asking[order], chosen[senders]
    begins = whole["fragment_offset"] + whole["payload"].astype(np.int64) - whole["l4"]
    places, sizes = (chosen[name][parts].astype(np.int64) for name in ("fragment_offset", "payload_length"))
    addresses = mixed(
        chosen["source_high"], chosen["source_low"], chosen["destination_high"], chosen["destination_low"]
    )
    known_there = np.unique(mixed(addresses[named], flows[named]))
    groups, first = np.unique(group[named], return_index=True)
    packets = Keyed(key[senders], times[senders])
    of_packets = Ranges(begins, begins + whole["payload_length"], whole["more_fragments"] == 0)
    for low in range(0, len(parts), _AT_ONCE):
        now = slice(low, low + _AT_ONCE)
        found = np.full((len(parts[now]), MOST_SENDERS), -1, np.int64)
        last = chosen["more_fragments"][parts[now]] == 0
        senders_near(
            Keyed(key[parts[now]], times[parts[now]]), Ranges(places[now], places[now] + sizes[now], last),
            packets, of_packets, EARLY_NS, np.int64(threshold), found,
        )  # fmt: skip
        part, _ = np.nonzero(found >= 0)
        sender = found[found >= 0]
        place = np.minimum(np.searchsorted(groups, group[senders[sender]]), len(groups) - 1)
        became = mixed(addresses[parts[now][part]], flows[named[first[place]]])
        fits = np.isin(became, known_there) & (groups[place] == group[senders[sender]])
        part, sender = part[fits], sender[fits]
        may, known = _compared(payloads, chosen[parts[now][part]], whole[sender], places[now][part] - begins[sender])
        part, of = part[may], group[senders[sender[may]]]
        which, told_of = _only_one(part, of, known[may], found[:, -1] >= 0)
        told[order[now][which]] = told_of
    return told


def packets_of_segments(
    chosen: Array, flows: Array, times: Array, sent: int, some: Array, threshold: int, payloads: Payloads
) -> tuple[Array, Array, Array]:
    """Assign segments of UDP superpackets by their bytes.

    Args:
        chosen: rows, flows, times: of each; sent: the number of packets as they were sent, which come first; some: rows
        that are looked at.

    Returns:
        int64 per row: the packet that was sent with its bytes, and the place of the first of these, -1 if undecided;
        bool per row: some packet may have been sent with these bytes, as far as captures have them.
    """
    from pktrace.trajectories.reassembly.payload_match_kernel import (
        MOST_SUPERPACKETS,
        Keyed,
        Sizes,
        packets_near,
    )  # seldom needed, and slow to load

    packet, place = np.full(len(chosen), -1, np.int64), np.full(len(chosen), -1, np.int64)
    open_to = np.zeros(len(chosen), bool)
    senders, parts = some[some < sent], some[some >= sent]
    senders = senders[np.lexsort((times[senders], flows[senders]))]
    parts = parts[np.lexsort((times[parts], flows[parts]))]
    ids, sizes = chosen["ip_id"].astype(np.int64), chosen["payload_length"].astype(np.int64)
    packets, of_packets = Keyed(flows[senders], times[senders]), Sizes(ids[senders], sizes[senders])
    for first in range(0, len(parts), _AT_ONCE):
        now = parts[first : first + _AT_ONCE]
        found, places = (np.full((len(now), MOST_SUPERPACKETS), -1, np.int64) for _ in range(2))
        packets_near(
            Keyed(flows[now], times[now]), Sizes(ids[now], sizes[now]), packets, of_packets, EARLY_NS,
            np.int64(threshold), found, places,
        )  # fmt: skip
        part, _ = np.nonzero(found >= 0)
        sender, begin = senders[found[found >= 0]], places[found >= 0]
        may, known = _compared(payloads, chosen[now[part]], chosen[sender], begin)
        open_to[now[part[may]]] = True
        open_to[now[found[:, -1] >= 0]] = True  # there are more than were looked at
        part, of = part[may], (sender[may] << 32) + begin[may]
        which, told = _only_one(part, of, known[may], found[:, -1] >= 0)
        packet[now[which]], place[now[which]] = told >> 32, told & 0xFFFFFFFF
    return packet, place, open_to


def _compared(payloads: Payloads, parts: Array, whole: Array, places: Array) -> tuple[Array, Array]:
    """bool per pair of rows: the part's bytes may stand in the whole packet from there on; and that is known.

    The first bytes are compared, and the last ones if captures have them: parts that were merged begin alike.
    """
    sizes = parts["payload_length"].astype(np.int64)
    may, known = np.ones(len(parts), bool), np.zeros(len(parts), bool)
    for skipped in (np.maximum(sizes - PAYLOAD_BYTES, 0), np.zeros(len(parts), np.int64)):
        held, held_known = payloads.contents(parts, skipped, sizes - skipped)
        had, had_known = payloads.contents(whole, places + skipped, sizes - skipped)
        known = held_known & had_known  # at the end of the loop, for the first bytes
        may &= ~known | (held == had)
    return may, known


def _only_one(part: Array, of: Array, known: Array, more: Array) -> tuple[Array, Array]:
    """Parts with exactly one possible owner, known for at least one reason; and these owners.

    Args:
        part (in order), of, known: per pair; more: bool per part, there were more candidates than were looked at.
    """
    if not len(part):
        return part, of
    starts = np.flatnonzero(np.append(True, part[1:] != part[:-1]))
    one = np.minimum.reduceat(of, starts) == np.maximum.reduceat(of, starts)
    one &= np.logical_or.reduceat(known, starts) & ~more[part[starts]]
    return part[starts[one]], of[starts[one]]
