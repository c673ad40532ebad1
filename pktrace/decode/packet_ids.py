"""Packet numbers of a capture program (pcapng epb_packetid, draft-ietf-opsawg-pcapng 4.3).

Rule: equal numbers within one scope are one packet, whatever changed in it. A scope is a capture file, or the files of
one recording session. Numbers distinguish packets with equal bytes if every sighting of these bytes has one. If some
point gives no numbers, the bytes of the first sighting go on to identify the packet.
Bound: as right as the capturing application, which has to keep the numbers unique while packets are under way.
Counter-example: two sessions that both count from 1 give one number to different packets, so they need two scopes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import mixed

Array = np.ndarray[Any, Any]


def packet_numbers(rows: Array, scope: Array) -> Array:
    """uint64 per row: equal for rows that the captures declare to be one packet, 0 without a number.

    Args:
        scope: int64 per row, the file or session in which its number counts.
    """
    numbers = np.zeros(len(rows), np.uint64)
    numbered = np.flatnonzero(rows["has"] & field.HAS_PACKET_ID != 0)
    numbers[numbered] = mixed(scope[numbered], rows["packet_id"][numbered]) | np.uint64(1)
    return numbers


def keys_by_number(rows: Array, identities: Array, numbers: Array) -> Array:
    """uint64 per row: keys by numbers and identities, equal for sightings of one packet.

    Args:
        identities: uint64 per row, from the bytes; numbers: as from `packet_numbers`.
    """
    keys = identities.copy()
    mine = np.flatnonzero(numbers)
    order = mine[np.lexsort((rows["ts_ns"][mine], numbers[mine]))]  # equal times keep the order of the rows
    new = np.ones(len(order), bool)
    new[1:] = numbers[order[1:]] != numbers[order[:-1]]
    group = np.cumsum(new) - 1
    first = identities[order[new]]  # the identity of each packet at its first sighting
    # Bytes with which several packets began, or that are seen without a number.
    unique, place, packets = np.unique(first, return_inverse=True, return_counts=True)
    without = np.isin(unique, identities[(numbers == 0) & (rows["has"] & field.HAS_IP != 0)])
    by_number = (packets > 1) & ~without
    keys[order] = np.where(by_number[place][group], numbers[order], first[group])
    return keys
