"""The matcher packet_id: a capture program gave a packet one number at several points (pcapng epb_packetid).

Rule: equal numbers within one capture file, or within the files of one declared `session`, are one packet, whatever
changed in it (draft-ietf-opsawg-pcapng 4.3). Numbers distinguish packets with equal bytes if every sighting of these
bytes has one. If some point gives no numbers, the bytes of the first sighting go on to identify the packet.
Bound: as right as the capturing application, which has to keep the numbers unique while packets are under way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import mixed
from pktrace.observations.observe import Observations

Array = np.ndarray[Any, Any]


def numbered_packets(observations: Observations) -> Array | None:
    """uint64 per row: equal for rows that the capture declares to be one packet, 0 without a number; None if no row has
    one.
    """
    rows = observations.rows
    run = observations.run
    if run is None:
        return None
    numbered = rows["has"] & field.HAS_PACKET_ID != 0
    scopes: dict[str, int] = {}
    of_point = [
        None if point.session is None else scopes.setdefault(f"session {point.session}", len(scopes))
        for point in run.points
    ]
    of_capture = np.array([scopes.setdefault(f"file {name}", len(scopes)) for name in observations.captures], np.int64)
    scope = of_capture[rows["capture"]]
    for point, session in enumerate(of_point):
        if session is not None:
            scope[rows["point"] == point] = session
    return np.where(numbered, mixed(scope, rows["packet_id"]) | np.uint64(1), np.uint64(0))


def keys_by_number(rows: Array, identities: Array, numbers: Array) -> Array:
    """The keys by numbers and identities; rows are in order of time."""
    keys = identities.copy()
    mine = np.flatnonzero(numbers)
    order = mine[np.argsort(numbers[mine], kind="stable")]
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
