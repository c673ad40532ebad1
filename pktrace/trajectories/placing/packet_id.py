"""The matcher packet_id: a capture program gave a packet one number at several points (decode/packet_ids.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.packet_ids import packet_numbers
from pktrace.observations.observe import Observations

Array = np.ndarray[Any, Any]


def numbered_packets(observations: Observations) -> Array | None:
    """Packet numbers as from `packet_numbers`, uint64 per row: the files of one declared `session` are one scope.

    None for observations without a run.
    """
    rows = observations.rows
    run = observations.run
    if run is None:
        return None
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
    return packet_numbers(rows, scope)
