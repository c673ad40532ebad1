"""The part of a chain that only some packets visit: the detour through a service that others skip."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import mixed
from pktrace.init.point_order import Chain
from pktrace.init.shared_packets import Sightings

Array = np.ndarray[Any, Any]
_LEAST_SHARE = 0.02  # least share of packets seen on both sides that skip it, and least share that visit it
_BY_FLOW = 0.5


def detour_of(chain: Chain, sightings: Sightings, rows: Array) -> tuple[int, int] | None:
    """First and last position of the detour, None without a detour.

    A detour consists of neighbouring positions, with a position on each side. Packets seen on both sides visited either
    all of these positions or none. A single position may also be a capture that misses packets. There, conversations
    must visit or skip it as a whole, as rules treat them.
    """
    seen: Array = sightings.seen[chain.packets][:, list(chain.columns)]
    found: list[tuple[int, int, int]] = []
    for first in range(1, len(chain.columns) - 1):
        for last in range(first, len(chain.columns) - 1):
            before, after = (np.any(part, axis=1) for part in (seen[:, :first], seen[:, last + 1 :]))
            across: Array = np.asarray(before & after)
            visits = seen[across][:, first : last + 1]
            every, nothing = int(visits.all(axis=1).sum()), int((~visits.any(axis=1)).sum())
            partial = len(visits) - every - nothing
            least = max(1, _LEAST_SHARE * len(visits))
            # Captures miss packets one by one: then more packets skip a part of the positions than all of them.
            if every < least or nothing < max(least, partial):
                continue
            if first == last and not _by_conversation(chain, sightings, rows, across, visits[:, 0]):
                continue
            found.append((nothing, first, last))
    # The longest detour that about as many packets skip as any: packets that one of its points missed seem to skip it.
    most = max((nothing for nothing, _, _ in found), default=0)
    fitting = [(last - first, nothing, first, last) for nothing, first, last in found if 2 * nothing >= most]
    return max(fitting)[2:] if fitting else None


def _by_conversation(chain: Chain, sightings: Sightings, rows: Array, across: Array, visited: Array) -> bool:
    """True if packets of one conversation visit or skip the position alike more often than by chance."""
    row = sightings.row[chain.packets][across].max(axis=1)
    packet = rows[row]
    flow = sightings.flow[chain.packets][across]
    key = mixed(flow, packet["protocol"], packet["sport"], packet["dport"], packet["icmp_type"])
    order = np.argsort(key, kind="stable")
    same = key[order][1:] == key[order][:-1]
    if not same.any():
        return False
    alike = float((visited[order][1:] == visited[order][:-1])[same].mean())
    share = float(visited.mean())
    chance = share**2 + (1 - share) ** 2
    return alike > chance + _BY_FLOW * (1 - chance)
