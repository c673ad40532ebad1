"""A whole capture file by the product's own reader: its bytes, its packet index, its interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pktrace.capture.files import CaptureReader
from pktrace.capture.index import Interface
from pktrace.wire import PACKET


@dataclass(frozen=True)
class Capture:
    """Packets with `offset` counted in the file, interfaces, and how reading ended."""

    packets: np.ndarray[Any, Any]
    interfaces: list[Interface]
    ended: int
    ended_at: int
    unknown_blocks: int


@dataclass(frozen=True)
class CaptureFile:
    """The bytes of an uncompressed capture file, and its index."""

    data: np.ndarray[Any, Any]
    capture: Capture


def read_capture(path: Path, name: str) -> CaptureFile:
    """Read and index one file."""
    reader = CaptureReader(path, name)
    parts = [np.zeros(0, PACKET)]
    for batch in reader.batches():
        packets = batch.packets.copy()
        packets["offset"] += batch.base
        parts.append(packets)
    capture = Capture(np.concatenate(parts), reader.interfaces, reader.ended, reader.ended_at, reader.unknown_blocks)
    return CaptureFile(np.fromfile(path, np.uint8), capture)
