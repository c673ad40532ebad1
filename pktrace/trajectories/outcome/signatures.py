"""Signatures: marks by which a test generator distinguishes its own packets.

TRex ends the payload of its latency streams with 16 bytes: 0xAB, a number of the flow, a number of the stream (2
bytes), a sequence number (4) and a time (8), in the byte order of x86.

Rule: packets of a flow at a point bear the signature if nearly all compared packets end so, and nearly all sequence
numbers of a stream differ.
Bound: other bytes that count at this place behind a byte 0xAB.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import groups_of
from pktrace.decode.rows import rows_at
from pktrace.observations.payloads import Payloads
from pktrace.trajectories.flows import flow_of

Array = np.ndarray[Any, Any]
_BYTES, _MAGIC = 16, 0xAB
_NEARLY_ALL, _FEWEST = 0.9, 3


def signed_rows(rows: Array, which: Array, payloads: Payloads) -> Array:
    """The rows that bear the signature of a generator.

    Args:
        rows: all observations; which: int64, rows that were distinguished by their payload.
    """
    some = rows_at(rows, which)
    length = some["payload_length"].astype(np.int64)
    last, there = payloads.bytes_at(some, some["payload"] + length - _BYTES, np.where(length < _BYTES, 0, _BYTES))
    bears = (there == _BYTES) & (last[:, 0] == _MAGIC)
    first, number = groups_of(flow_of(some), some["point"])
    many, signed = np.bincount(number), np.bincount(number, weights=bears)
    sequence = last[:, 4:8].copy().view(np.uint32).ravel()
    different, _ = groups_of(number[bears], last[bears, 2], last[bears, 3], sequence[bears])
    kinds = np.bincount(number[bears][different], minlength=len(first))
    good = (many >= _FEWEST) & (signed >= _NEARLY_ALL * many) & (kinds >= _NEARLY_ALL * signed)
    found: Array = which[bears & good[number]]
    return found
