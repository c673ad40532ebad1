"""Limits on reading captures: bytes of content and packets, by the data present and not by a file's claims.

A compressed file of 33 kB may hold 1 GiB, a file of 4 kB may claim 8 TiB of holes, and either may be 67 million
packets. Therefore a file's share follows from its space on disk, unless the caller sets other limits.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from pktrace.errors import EXIT_USAGE, CaptureFileError, PktraceError
from pktrace.inputs import Location, NotInside, NotRegular
from pktrace.memory import Purse
from pktrace.sizes import as_size

# All captures of a call together, unless the caller sets limits.
MOST_BYTES = 1 << 40
MOST_PACKETS = 2_000_000_000
# Limits of one file: a free number of bytes, and a multiple of the bytes that it takes on disk. gzip packs at most
# 1,032 times; captures of equal payload in superpackets of 64 KiB, packed by zstd, come near 1,500; a bomb packs 32,000
# times.
FREE_BYTES = 1 << 30
BYTES_PER_BYTE = 2000
# A packet takes at least 16 bytes of a file, and 5 to 10 of a compressed one, since time and numbers are noise.
FREE_PACKETS = 4_000_000
PACKETS_PER_BYTE = 4
# The free shares of files in one call's budget, so that a thousand small bombs cannot avoid the limit.
_FREE_SHARES = 16
_MOST_EXTENTS = 10_000


class LimitError(PktraceError):
    """All captures of a call together exceed the limits."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Limits:
    """Limits set by the caller; None stands for the defaults above. `max_memory` as in memory.py."""

    max_bytes: int | None = None
    max_packets: int | None = None
    max_memory: int | None = None


DEFAULT_LIMITS = Limits()


class Budget:
    """The limits for reading the captures of one call. Threads share them; each file has a `Share`.

    Args:
        paths: all files to read; errors of unreadable files are left to their reader.
        purse: checks the memory for further packets; None if rows are not kept.
    """

    def __init__(
        self, paths: Sequence[str | Location], limits: Limits = DEFAULT_LIMITS, purse: Purse | None = None
    ) -> None:
        sizes = [_sizes(path) for path in paths]
        disk = sum(on_disk for _, on_disk in sizes)
        self.limits = limits
        self._purse = purse
        self._lock = threading.Lock()
        self._input = sum(min(size, on_disk) for size, on_disk in sizes)
        self._taken = self._content = self._packets = 0
        self._most_bytes = limits.max_bytes or min(MOST_BYTES, _FREE_SHARES * FREE_BYTES + BYTES_PER_BYTE * disk)
        self._most_packets = limits.max_packets or min(
            MOST_PACKETS, _FREE_SHARES * FREE_PACKETS + PACKETS_PER_BYTE * disk
        )

    def share(self, path: str | os.PathLike[str] | Location, name: str) -> Share:
        """One file's share of the budget.

        Raises:
            CaptureFileError: the file's size exceeds its limit.
        """
        return Share(self, path, name)

    def take(self, consumed: int, content: int, packets: int) -> None:
        """Count the yield of one file: bytes of the file, bytes of content, packets.

        Raises:
            LimitError: all files together exceed the limits.
            MemoryShort: so many rows do not fit into memory.
        """
        with self._lock:
            self._taken += consumed
            self._content += content
            self._packets += packets
            read, rows, total = self._content, self._packets, self._taken
        if read > self._most_bytes:
            raise LimitError(
                f"the captures hold more than {as_size(self._most_bytes)} (uncompressed), the limit for all files of a "
                "call; if that is right, accept it with --max-bytes SIZE, or read fewer files"
            )
        if rows > self._most_packets:
            raise LimitError(
                f"the captures hold more than {self._most_packets:,} packets, the limit for all files of a call; if "
                "that is right, accept it with --max-packets N, or read fewer files"
            )
        if self._purse is not None and packets:
            self._purse.check(rows, min(1.0, total / self._input) if self._input else 1.0)


class Share:
    """The limits of one file, and its yield so far."""

    def __init__(self, budget: Budget, path: str | os.PathLike[str] | Location, name: str) -> None:
        size, on_disk = _sizes(path)
        limits = budget.limits
        self._budget, self._name, self._on_disk = budget, name, on_disk
        self._most_bytes = limits.max_bytes or FREE_BYTES + BYTES_PER_BYTE * on_disk
        self._most_packets = limits.max_packets or FREE_PACKETS + PACKETS_PER_BYTE * on_disk
        self._content = self._packets = self._consumed = 0
        if size > self._most_bytes:
            raise CaptureFileError(
                name,
                None,
                f"claims {as_size(size)} and takes {as_size(on_disk)} on disk: more than {as_size(self._most_bytes)} "
                "is not read; if that is right, accept it with --max-bytes SIZE",
            )

    def take(self, consumed: int, content: int, packets: int) -> None:
        """Count the yield: bytes of the file up to here, bytes of content and packets since the last call.

        Raises:
            CaptureFileError, LimitError, MemoryShort: as in `Budget.take`, or this file exceeds its share.
        """
        step, self._consumed = consumed - self._consumed, consumed
        self._content += content
        self._packets += packets
        if self._content > self._most_bytes:
            raise CaptureFileError(
                self._name,
                None,
                f"holds more than {as_size(self._most_bytes)}, packed into {as_size(self._on_disk)}: reading stops "
                "there; if that is right, accept it with --max-bytes SIZE",
            )
        if self._packets > self._most_packets:
            raise CaptureFileError(
                self._name,
                None,
                f"holds more than {self._most_packets:,} packets in {as_size(self._on_disk)}: reading stops there; if "
                "that is right, accept it with --max-packets N",
            )
        self._budget.take(step, content, packets)


def _sizes(path: str | os.PathLike[str] | Location) -> tuple[int, int]:
    """A file's claimed size, and its bytes outside of holes; 0 for a file that cannot be opened, since its reader
    reports that.
    """
    try:
        file = (path if isinstance(path, Location) else Location(os.fspath(path))).open()
    except (OSError, NotInside, NotRegular):
        return 0, 0
    try:
        status = os.fstat(file)
        if 2 * 512 * status.st_blocks >= status.st_size:
            return status.st_size, status.st_size
        return status.st_size, _data_of(file, status.st_size)
    except OSError:
        return 0, 0
    finally:
        os.close(file)


def _data_of(file: int, size: int) -> int:
    """The bytes of a file outside of holes; bytes behind its first _MOST_EXTENTS pieces are not counted.

    The number of blocks on disk alone is no measure: compressing file systems use few blocks, and ZFS counts them
    seconds later. In a file system without holes all bytes are data (lseek(2), SEEK_DATA).
    """
    found = at = 0
    for _ in range(_MOST_EXTENTS):
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
            at = os.lseek(file, begin, os.SEEK_HOLE)
        except OSError as problem:
            return size if problem.errno == errno.EINVAL else found
        found += at - begin
        if at >= size:
            break
    return found
