"""Which packet a fragment's bytes were sent in, as far as captures have them.

Rule: of the packets that were sent with the fragment's protocol and identification, from or to its addresses, at most
the loss threshold before it, and that are long enough, just one flow's has its first bytes in that place. If others may
have them, for they were not captured or are the same, this does not tell.
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
    chosen: Array, group: Array, times: Array, sent: int, asking: Array, threshold: int, payloads: Payloads
) -> Array:
    """uint64 per fragment that is `asking`: the group of what was sent with its bytes, 0 where that is not told.

    Args:
        chosen: rows, group, times: of each; sent: how many of them, the first ones, are packets as they were sent.
    """
    told = np.zeros(len(asking), np.uint64)
    if not len(asking) or not sent:
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
    alike = np.zeros(len(part), bool)
    for side in ("source", "destination"):
        high, low = f"{side}_high", f"{side}_low"
        here, there = chosen[parts[part]], whole[sender]
        alike |= (here[high] == there[high]) & (here[low] == there[low])
    part, sender = part[alike], sender[alike]
    held, held_known = payloads.contents(chosen[parts[part]], np.zeros(len(part), np.int64), sizes[part])
    had, had_known = payloads.contents(whole[sender], places[part] - begins[sender], sizes[part])
    known = held_known & had_known
    may = ~known | (held == had)
    part, known, groups = part[may], known[may], group[senders[sender[may]]]
    if not len(part):
        return told
    starts = np.flatnonzero(np.append(True, part[1:] != part[:-1]))
    one = np.minimum.reduceat(groups, starts) == np.maximum.reduceat(groups, starts)
    one &= np.logical_or.reduceat(known, starts)
    one &= found[part[starts], -1] < 0  # with more of them than were looked at, it may be of yet another
    told[order[part[starts[one]]]] = groups[starts[one]]
    return told
