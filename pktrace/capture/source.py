"""The bytes of a capture file, as a stream: plain, or decompressed (gzip, zstd, lz4)."""

from __future__ import annotations

import os
import zlib
from typing import Any, BinaryIO, Protocol

from pktrace.errors import CaptureFileError
from pktrace.inputs import InputFile, Location, NotInside, NotRegular, Stamp
from pktrace.sizes import as_size

# Bytes read from a compressed file, or requested from a decompressor, at a time. Damage may cost as many bytes.
_PIECE = 1 << 14
# The largest window of a zstd frame, in bytes; `zstd -d` has the same bound (RFC 8878 3.1.1.1.2 asks for 8 MiB).
LARGEST_WINDOW = 1 << 27
_MOST_SKIPPED = 1000


class Damaged(Exception):
    """A compressed stream contradicts itself (`cut` False) or ends in the middle (`cut` True)."""

    def __init__(self, cut: bool) -> None:
        self.cut = cut


class TooWide(Exception):
    """A zstd frame needs a window of more than LARGEST_WINDOW bytes."""


class Source(Protocol):
    """A stream of bytes: `readinto` returns the number of bytes read, 0 at the end; raises OSError, Damaged, TooWide.

    `tell` is the number of bytes that the stream has consumed of the file itself.
    """

    def readinto(self, target: memoryview) -> int: ...

    def tell(self) -> int: ...

    def close(self) -> None: ...


def open_regular(
    path: str | os.PathLike[str] | Location, name: str, same_as: Stamp | None = None, hashed: bool = False
) -> InputFile:
    """Open the raw file on disk, unbuffered.

    Args:
        path: its place; a location inside a run folder is opened over no link.
        same_as: its stamp when it was read before; hashed: compute the SHA-256 of the bytes read.

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
        error = CaptureFileError(name, None, f"{problem}; put the file itself into the run folder, or use --trust")
        error.costs_all = True
        raise error from None
    except OSError as problem:
        raise CaptureFileError(name, None, f"cannot be read: {problem.strerror}") from None


def open_source(file: InputFile, name: str) -> Source:
    """The bytes of an open file as a stream, from its beginning.

    Raises:
        CaptureFileError: it cannot be read; the file is closed.
    """
    try:
        head = file.head(4)
        window = _zstd_window(file)
    except OSError as problem:
        file.close()
        raise CaptureFileError(name, None, f"cannot be read: {problem.strerror}") from None
    if window > LARGEST_WINDOW:
        file.close()
        raise too_wide(name, window)
    if head[:2] == b"\x1f\x8b":
        return _Gzip(file)
    if head == b"\x28\xb5\x2f\xfd" or (head[1:] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return _ByArrow(file, "zstd")
    if head == b"\x04\x22\x4d\x18":
        return _ByArrow(file, "lz4")
    return file


def too_wide(name: str, window: int | None = None) -> CaptureFileError:
    """The error for a zstd frame whose window is larger than LARGEST_WINDOW."""
    asked = as_size(window) if window is not None else f"more than {as_size(LARGEST_WINDOW)}"
    return CaptureFileError(
        name,
        None,
        f"its zstd frame asks for a window of {asked}, and readers give {as_size(LARGEST_WINDOW)}; compress it anew: "
        "`zstd -d --long=31 --stdout IN | zstd > OUT`",
    )


def _zstd_window(file: InputFile) -> int:
    """The window that a file's first zstd frame asks for (RFC 8878 3.1.1.1), 0 without a frame."""
    at = 0
    for _ in range(_MOST_SKIPPED):
        head = file.head(14, at)
        if len(head) >= 8 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
            at += 8 + int.from_bytes(head[4:8], "little")  # a skippable frame (3.1.2)
            continue
        if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
            return 0
        described = head[4]
        if not described & 0x20:
            base = 1 << (10 + (head[5] >> 3))
            return base + base // 8 * (head[5] & 7)
        # A single segment: the window is all of the content, whose size follows the dictionary's number.
        begin, size = 5 + (0, 1, 2, 4)[described & 3], (1, 2, 4, 8)[described >> 6]
        field = file.head(size, at + begin)
        return int.from_bytes(field, "little") + (256 if size == 2 else 0) if len(field) == size else 0
    return 0


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
            before = self._member.copy()  # zlib gives no output of a piece with a fault
            try:
                made = self._member.decompress(self._input, len(target))
            except zlib.error:
                made = self._before_fault(before, len(target))
                self._begun = True  # zeros behind the fault are no padding between members
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
        """The output of the present piece before its fault, at most `room` bytes; input is taken byte by byte."""
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

    def tell(self) -> int:
        return self._file.tell()

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
            except (OSError, ValueError) as problem:
                if made:
                    return made  # the fault is met again at the next call
                if "too much memory" in str(problem):  # libzstd's words for a window; a later frame's, here
                    raise TooWide from None
                raise Damaged(cut=self._file.tell() >= self._size) from None
            if not got:
                break
            target[made : made + len(got)] = got
            made += len(got)
        return made

    def tell(self) -> int:
        position: int = self._file.tell()
        return position

    def close(self) -> None:
        self._stream.close()
        self._file.close()
