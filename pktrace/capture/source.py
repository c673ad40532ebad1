"""The bytes of a capture file, as a stream: as they are, or decompressed (gzip, zstd, lz4)."""

from __future__ import annotations

import os
import zlib
from typing import Any, BinaryIO, Protocol

from pktrace.errors import CaptureFileError
from pktrace.inputs import InputFile, Location, NotInside, NotRegular, Stamp

# Bytes taken from a compressed file, or asked of a decompressor, at a time: what is lost where it is damaged.
_PIECE = 1 << 14


class Damaged(Exception):
    """A compressed stream contradicts itself (`cut` False) or ends in the middle (`cut` True)."""

    def __init__(self, cut: bool) -> None:
        self.cut = cut


class Source(Protocol):
    """A stream of bytes: `readinto` returns how many came, 0 at the end; raises OSError, Damaged."""

    def readinto(self, target: memoryview) -> int: ...

    def close(self) -> None: ...


def open_regular(
    path: str | os.PathLike[str] | Location, name: str, same_as: Stamp | None = None, hashed: bool = False
) -> InputFile:
    """Open a file as it is on disk, unbuffered.

    Args:
        path: where it lies; a location inside a run folder is opened over no link.
        same_as: the stamp with which it was read before; hashed: make the SHA-256 of what is read.

    Raises:
        CaptureFileError: it cannot be opened, or is no regular file (opening a pipe would wait for its writer).
        CaptureChangedError: it is not the file that was read before.
    """
    location = path if isinstance(path, Location) else Location(os.fspath(path))
    try:
        return InputFile(location.open(), name, same_as, hashed)
    except NotRegular:
        raise CaptureFileError(name, None, "is no regular file; captures are read from files") from None
    except NotInside as problem:
        raise CaptureFileError(
            name, None, f"{problem}; put the file itself into the run folder, or use --trust"
        ) from None
    except OSError as problem:
        raise CaptureFileError(name, None, f"cannot be read: {problem.strerror}") from None


def open_source(file: InputFile, name: str) -> Source:
    """The bytes of an open file as a stream, from its beginning.

    Raises:
        CaptureFileError: it cannot be read; the file is closed.
    """
    try:
        head = file.head(4)
    except OSError as problem:
        file.close()
        raise CaptureFileError(name, None, f"cannot be read: {problem.strerror}") from None
    if head[:2] == b"\x1f\x8b":
        return _Gzip(file)
    if head == b"\x28\xb5\x2f\xfd" or (head[1:] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return _ByArrow(file, "zstd")
    if head == b"\x04\x22\x4d\x18":
        return _ByArrow(file, "lz4")
    return file


class _Gzip:
    """gzip, any number of members; every byte before a fault is given out."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._member = zlib.decompressobj(wbits=31)
        self._input = b""
        self._begun = False

    def readinto(self, target: memoryview) -> int:
        while True:
            if not self._input:
                self._input = self._file.read(_PIECE)
                if not self._input:
                    if self._begun:
                        raise Damaged(cut=True)
                    return 0
            if not self._begun and not self._input.strip(b"\0"):
                self._input = b""  # tape blocks and some writers pad the file with zeros
                continue
            before = self._member.copy()  # zlib gives out nothing of a piece in which it meets a fault
            try:
                made = self._member.decompress(self._input, len(target))
            except zlib.error:
                made = self._before_fault(before, len(target))
                self._begun = True  # so that zeros behind the fault are not taken for padding between members
                target[: len(made)] = made
                return len(made)
            self._begun = True
            self._input = self._member.unconsumed_tail
            if self._member.eof:
                self._input = self._member.unused_data
                self._member = zlib.decompressobj(wbits=31)
                self._begun = False
            if made:
                target[: len(made)] = made
                return len(made)

    def _before_fault(self, member: Any, room: int) -> bytes:
        """What the present piece gives before its fault, at most `room` bytes: it is taken byte by byte."""
        made = bytearray()
        taken = 0
        while taken < len(self._input) and len(made) < room:
            try:
                made += member.decompress(self._input[taken : taken + 1], room - len(made))
            except zlib.error:
                if not made:
                    raise Damaged(cut=False) from None
                break  # the fault is met again at the next call
            taken += 1
        self._member, self._input = member, member.unconsumed_tail + self._input[taken:]
        return bytes(made)

    def close(self) -> None:
        self._file.close()


class _ByArrow:
    """zstd and lz4 frames, by the codecs that come with pyarrow."""

    def __init__(self, file: Any, codec: Any) -> None:
        import pyarrow as pa

        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._stream: Any = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), codec)

    def readinto(self, target: memoryview) -> int:
        made = 0
        while made < len(target):
            try:
                got = self._stream.read(min(_PIECE, len(target) - made))
            except (OSError, ValueError):
                if made:
                    return made  # the fault is met again at the next call
                raise Damaged(cut=self._file.tell() >= self._size) from None
            if not got:
                break
            target[made : made + len(got)] = got
            made += len(got)
        return made

    def close(self) -> None:
        self._stream.close()
        self._file.close()
