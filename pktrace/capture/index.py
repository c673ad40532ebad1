"""The results of reading a capture file besides its packets: its interfaces, and how reading ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# How reading ended; EMPTY: the file has 0 bytes, not even a header, UNREADABLE: nothing in it can be used.
WHOLE, CUT, CORRUPT, EMPTY, UNREADABLE = 0, 1, 2, 3, 4

# Why a format's `walk` stopped: it needs more bytes, the packet index is full, the file contradicts itself, or it
# describes more than MOST_INTERFACES.
MORE, FULL, BROKEN, CROWDED = 0, 1, 2, 3

# A larger block is neither a packet (Wireshark's bound) nor of another kind that is read.
LARGEST_PACKET = 262_144
LARGEST_BLOCK = 1 << 20
# An interface takes 20 bytes of a file and some 350 of memory.
MOST_INTERFACES = 1 << 17


@dataclass(slots=True)
class Interface:
    """An interface of a capture file, with the file's statistics and settings of its capture.

    `resolution_ns` is the step of its time stamps, rounded up to whole nanoseconds (at least 1). Statistics are None if
    the file does not give them: unknown is not zero.
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

    `position` is the offset in the present piece at which the walk continues; `interfaces` are the interfaces so far.
    """

    position: int
    interfaces: list[Interface]
    unknown_blocks: int

    def walk(self, data: np.ndarray[Any, Any], size: int, packets: np.ndarray[Any, Any]) -> tuple[int, int]:
        """Index whole packets of data[position:size] into `packets`; returns (packets, MORE or FULL or BROKEN)."""
        ...

    def finish(self) -> None:
        """Enter the file's last statistics into the interfaces; to be called once, after the last packet."""
        ...

    def missing(self) -> bool:
        """True if the end of a skipped block is still to come."""
        ...


class NoBytes:
    """The index of a file of 0 bytes: a capture tool that was killed before its first write leaves such a file."""

    unknown_blocks = 0

    def __init__(self) -> None:
        self.position = 0
        self.interfaces: list[Interface] = []

    def walk(self, data: np.ndarray[Any, Any], size: int, packets: np.ndarray[Any, Any]) -> tuple[int, int]:
        """No packets."""
        return 0, MORE

    def finish(self) -> None:
        """An empty file has no statistics."""

    def missing(self) -> bool:
        """An empty file has no block that could be incomplete."""
        return False
