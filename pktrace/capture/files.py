"""Opens capture files, finds their format, and hands out their packets batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.capture import pcap, pcapng, toollog
from pktrace.capture.index import (
    BROKEN,
    CORRUPT,
    CROWDED,
    CUT,
    EMPTY,
    FULL,
    LARGEST_BLOCK,
    MOST_INTERFACES,
    WHOLE,
    Interface,
    NoBytes,
    Walker,
)
from pktrace.capture.source import Damaged, TooWide, open_regular, open_source, too_wide
from pktrace.errors import CaptureFileError
from pktrace.inputs import Location, NotRegular, Stamp, read_whole
from pktrace.limits import Share
from pktrace.wire import PACKET, SLACK

# A batch and its decoded rows should stay in a processor's second-level cache.
_BUFFER = 1 << 20
_PACKETS = 8192
_HEAD_BYTES = 24
LARGEST_LOG = 64 << 20
_PARSED_OF_LOG = 4 << 20
_FORMATS: tuple[tuple[Callable[[bytes], str | None], Callable[[bytes], Any]], ...] = (
    (pcapng.refusal, pcapng.PcapngWalker),
    (pcap.refusal, pcap.PcapWalker),
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some packets of a file, in order: `packets` (PACKET) index `data`, whose first byte is at `base` in the file.

    Both arrays are used again for the next batch.
    """

    data: np.ndarray[Any, Any]
    base: int
    packets: np.ndarray[Any, Any]


class CaptureReader:
    """One capture file as a stream of batches, in memory that does not grow with the file.

    After the last batch `ended` is WHOLE, CUT (the file ends inside a block or record), CORRUPT (it contradicts
    itself) or EMPTY (0 bytes), and `ended_at` the offset where reading stopped. `stamp` is the file's; it holds for
    every byte that was handed out.

    Args:
        share: the part of the run's limits that the file counts against; None if the file was read before.
        same_as: the stamp of the file when it was read before.
        hashed: make `sha256` of the file as it is on disk, of the very bytes that are read; "" until the last batch.

    Raises:
        CaptureFileError: the file cannot be read or is no capture; the message lists each format's reason.
        CaptureChangedError: the file is another one than before, or changed while it was read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Location,
        name: str,
        share: Share | None = None,
        same_as: Stamp | None = None,
        hashed: bool = False,
    ) -> None:
        self.name = name
        self._share = share
        self.ended = WHOLE
        self.ended_at = 0
        self.sha256 = ""
        self._hashed = hashed
        self._file = open_regular(path, name, same_as, hashed)
        self.stamp = self._file.stamp
        self._source = open_source(self._file, name)
        self._buffer = np.empty(_BUFFER + SLACK, np.uint8)
        self._filled = 0
        self._fault: int | None = None
        try:
            while self._filled < _HEAD_BYTES and self._fill():
                pass
            head = self._buffer[: min(self._filled, _HEAD_BYTES)].tobytes()
            self._walker = self._recognized(head)
        except BaseException:
            self._source.close()
            raise

    def _recognized(self, head: bytes) -> Walker:
        if not head and self._fault is None:
            return NoBytes()
        reasons = []
        for refusal, walker in _FORMATS:
            reason = refusal(head)
            if reason is None:
                found: Walker = walker(head)
                return found
            reasons.append(reason)
        if self._fault is not None:
            reasons.append("its compressed data is damaged")
        raise CaptureFileError(self.name, 0, f"is no capture file ({'; '.join(reasons)})")

    @property
    def interfaces(self) -> list[Interface]:
        """The interfaces met so far."""
        return self._walker.interfaces

    @property
    def unknown_blocks(self) -> int:
        """The number of blocks so far of kinds that pktrace does not read."""
        return self._walker.unknown_blocks

    def is_empty(self) -> bool:
        """True if the file has 0 bytes. The call closes the file, so no batches follow."""
        self._source.close()
        return isinstance(self._walker, NoBytes)

    def batches(self) -> Iterator[Batch]:
        """All packets, in file order; to be called once."""
        packets = np.empty(_PACKETS, PACKET)
        walker = self._walker
        base = 0
        try:
            while True:
                count, stopped = walker.walk(self._buffer, self._filled, packets)
                if count:
                    if self._share is not None:
                        self._share.take(self._source.tell(), 0, count)
                    yield Batch(self._buffer, base, packets[:count])
                if stopped == FULL:
                    continue
                done = walker.position
                if stopped == CROWDED:
                    raise CaptureFileError(
                        self.name,
                        base + done,
                        f"describes more than {MOST_INTERFACES:,} interfaces; split it: `editcap -c 1000000 IN OUT`",
                    )
                if stopped == BROKEN:
                    self.ended, self.ended_at = CORRUPT, base + done
                    self._finish()
                    return
                # An incomplete block moves to the front of the buffer; a block that fills the buffer gets a larger one.
                if done:
                    self._buffer[: self._filled - done] = self._buffer[done : self._filled].copy()
                self._filled -= done
                base += done
                walker.position = 0
                if self._filled >= len(self._buffer) - SLACK:
                    larger = np.empty(min(2 * self._filled, LARGEST_BLOCK + _BUFFER) + SLACK, np.uint8)
                    larger[: self._filled] = self._buffer[: self._filled]
                    self._buffer = larger
                if not self._fill():
                    self.ended_at = base
                    if self._fault is not None:
                        self.ended = self._fault
                    elif self._filled or walker.missing():
                        self.ended = CUT
                    elif isinstance(walker, NoBytes):
                        self.ended = EMPTY
                    self._finish()
                    return
        finally:
            walker.finish()
            self._source.close()

    def _finish(self) -> None:
        """Complete the hash over the whole file, also over the bytes behind a fault."""
        if not self._hashed:
            return
        try:
            self.sha256 = self._file.sha256()
        except OSError as problem:
            raise CaptureFileError(self.name, None, f"cannot be read: {problem.strerror or problem}") from None

    def _fill(self) -> int:
        """Read as many bytes as the buffer has room for. Returns the number of bytes read, 0 at the end."""
        if self._fault is not None:
            return 0
        try:
            got = self._source.readinto(self._buffer.data[self._filled : len(self._buffer) - SLACK])
        except Damaged as damage:
            self._fault = CUT if damage.cut else CORRUPT
            return 0
        except TooWide:
            raise too_wide(self.name) from None
        except OSError as problem:
            raise CaptureFileError(self.name, None, f"cannot be read: {problem.strerror or problem}") from None
        if self._share is not None:
            self._share.take(self._source.tell(), got, 0)
        self._filled += got
        return got


def read_tool_log(log: Location) -> tuple[toollog.ToolCounts, str] | None:
    """The counts in a capture tool's log (`captures/<point>.log`) and its SHA-256; None without such a file.

    Raises:
        NotInside: the log lies outside of its run folder.
        CaptureFileError: the file is too large for a log.
    """
    try:
        found = read_whole(log, LARGEST_LOG)
    except (OSError, NotRegular):
        return None
    if found is None:
        raise CaptureFileError(
            log.name, None, f"has more than {LARGEST_LOG >> 20} MiB, which no capture tool writes; move it away"
        )
    return toollog.parse(found[0][-_PARSED_OF_LOG:].decode("utf-8", "replace")), found[1]
