"""The packet index: where each packet of a capture file lies, when it was seen and on which interface."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

# One row per packet, in file order; row n is frame n + 1 of Wireshark.
#   offset, captured: the captured bytes are data[offset : offset + captured]
#   length: bytes on the wire;  ts: ns since the epoch, NO_TIME where there is none
#   interface: row of `Capture.interfaces`, -1 where the file does not describe it
#   direction: 0 unknown, 1 in, 2 out (epb_flags bits 0-1)
PACKET = np.dtype(
    [
        ("offset", np.int64),
        ("ts", np.int64),
        ("captured", np.uint32),
        ("length", np.uint32),
        ("interface", np.int32),
        ("direction", np.uint8),
    ],
    align=True,
)
NO_TIME = np.int64(-(1 << 63))
OUT_OF_RANGE = np.int64(-(1 << 63) + 1)

# How reading ended.
WHOLE, CUT, CORRUPT = 0, 1, 2


@dataclass
class Interface:
    """An interface of a capture file, with what the file says of its capture.

    `resolution_ns` is the step of its time stamps, rounded up to whole nanoseconds (at least 1).
    Statistics are None where the file does not give them: unknown is not zero.
    """

    link_type: int
    snap_length: int
    name: str | None = None
    description: str | None = None
    capture_filter: str | None = None
    resolution_ns: int = 1
    start_ns: int | None = None
    end_ns: int | None = None
    received: int | None = None
    dropped: int | None = None


@dataclass
class Capture:
    """One capture file: its packets, interfaces, and how reading ended.

    `ended` is WHOLE, CUT (the file ends inside a block or record) or CORRUPT (an impossible length);
    `ended_at` is the offset where reading stopped.
    """

    kind: str
    packets: np.ndarray[Any, Any]
    interfaces: list[Interface]
    ended: int = WHOLE
    ended_at: int = 0
    unknown_blocks: int = 0
    comments: list[str] = field(default_factory=list)
