"""What indexing a capture file yields: its packets, its interfaces, and how reading ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
