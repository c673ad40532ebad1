"""Which packet a fragment's bytes were sent in, as far as captures have them.

Rule: of the packets that were sent with the fragment's protocol and identification, at most the loss threshold before
it, that are long enough, and of flows that are known to have the fragment's addresses there, just one has its first
bytes in that place. If others may have them, for they were not captured or are the same, this does not tell.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.observations.payloads import Payloads
from pktrace.trajectories.exact import EARLY_NS
from pktrace.trajectories.hashing import mixed

Array = np.ndarray[Any, Any]


def told_by_bytes(
    chosen: Array, group: Array, flows: Array, named: Array, times: Array, sent: int, asking: Array, threshold: int,
    payloads: Payloads,
) -> Array:  # fmt: skip
    """uint64 per fragment that is `asking`: the group of what was sent with its bytes, 0 where that is not told.

    Args:
        chosen: rows, group, flows, times: of each; named: those that show their flow; sent: how many of them, the first
        ones, are packets as they were sent.
    """
    told = np.zeros(len(asking), np.uint64)
    if not len(asking) or not sent or not len(named):
        return told
    from pktrace.trajectories.datagram_kernel import MOST_SENDERS, senders_near  # seldom needed, and slow to load

    key = mixed(chosen["protocol"], chosen["ip_id"], chosen["ip_version"])
    senders = np.flatnonzero(np.isin(key[:sent], key[asking]) & (chosen["has"][:sent] & field.HAS_ID != 0))
    senders = senders[np.lexsort((times[senders], key[senders]))]
    order = np.lexsort((times[asking], key[asking]))
    parts, whole = asking[order], chosen[senders]
    begins = whole["fragment_offset"] + whole["payload"].astype(np.int64) - whole["l4"]
    places, sizes = (chosen[name][parts].astype(np.int64) for name in ("fragment_offset", "payload_length"))
    found = np.full((len(parts), MOST_SENDERS), -1, np.int64)
    senders_near(
        key[parts], times[parts], places, places + sizes, chosen["more_fragments"][parts] == 0, key[senders],
        times[senders], begins, begins + whole["payload_length"], whole["more_fragments"] != 0, EARLY_NS,
        np.int64(threshold), found,
    )  # fmt: skip
    part, _ = np.nonzero(found >= 0)
    sender = found[found >= 0]
    addresses = mixed(
        chosen["source_high"], chosen["source_low"], chosen["destination_high"], chosen["destination_low"]
    )
    groups, first = np.unique(group[named], return_index=True)
    place = np.minimum(np.searchsorted(groups, group[senders[sender]]), len(groups) - 1)
    became = mixed(addresses[parts[part]], flows[named[first[place]]])
    fits = np.isin(became, mixed(addresses[named], flows[named])) & (groups[place] == group[senders[sender]])
    part, sender = part[fits], sender[fits]
    held, held_known = payloads.contents(chosen[parts[part]], np.zeros(len(part), np.int64), sizes[part])
    had, had_known = payloads.contents(whole[sender], places[part] - begins[sender], sizes[part])
    known = held_known & had_known
    may = ~known | (held == had)
    part, known, of = part[may], known[may], group[senders[sender[may]]]
    if not len(part):
        return told
    starts = np.flatnonzero(np.append(True, part[1:] != part[:-1]))
    one = np.minimum.reduceat(of, starts) == np.maximum.reduceat(of, starts)
    one &= np.logical_or.reduceat(known, starts)
    one &= found[part[starts], -1] < 0  # with more of them than were looked at, it may be of yet another
    told[order[part[starts[one]]]] = of[starts[one]]
    return told
