"""What reading a capture file yields besides its packets: its interfaces, and how reading ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# How reading ended; EMPTY: the file has 0 bytes, not even a header, UNREADABLE: nothing in it can be used.
WHOLE, CUT, CORRUPT, EMPTY, UNREADABLE = 0, 1, 2, 3, 4

# Why a format's `walk` stopped: it needs more bytes, the packet index is full, the file contradicts itself, or it
# describes more than MOST_INTERFACES.
MORE, FULL, BROKEN, CROWDED = 0, 1, 2, 3

# What is larger is no packet (Wireshark's bound), and no block of a kind that is looked into.
LARGEST_PACKET = 262_144
LARGEST_BLOCK = 1 << 20
# An interface takes 20 bytes of a file and some 350 of memory.
MOST_INTERFACES = 1 << 17


@dataclass(slots=True)
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


class Walker(Protocol):
    """The index of one file in the making, fed with its bytes piece by piece (one class per format).

    `position` is where in the present piece the walk goes on; `interfaces` those met so far.
    """

    position: int
    interfaces: list[Interface]
    unknown_blocks: int

    def walk(self, data: np.ndarray[Any, Any], size: int, packets: np.ndarray[Any, Any]) -> tuple[int, int]:
        """Index whole packets of data[position:size] into `packets`; returns (how many, MORE or FULL or BROKEN)."""
        ...

    def finish(self) -> None:
        """Enter into the interfaces what the file said of them last; to be called once, after the last packet."""
        ...

    def missing(self) -> bool:
        """Whether bytes of something that is being skipped are still to come."""
        ...


class NoBytes:
    """The index of a file of 0 bytes: what a capture tool leaves that was killed before it wrote anything."""

    unknown_blocks = 0

    def __init__(self) -> None:
        self.position = 0
        self.interfaces: list[Interface] = []

    def walk(self, data: np.ndarray[Any, Any], size: int, packets: np.ndarray[Any, Any]) -> tuple[int, int]:
        """No packets."""
        return 0, MORE

    def finish(self) -> None:
        """Nothing was said."""

    def missing(self) -> bool:
        """Nothing was begun."""
        return False
