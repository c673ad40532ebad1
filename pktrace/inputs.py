"""Input files: opened inside their folder without following links, hashed as they are read, the same when read again.

Run folders come from strangers, so a name in one must not lead the reader to another file. Each folder on the way is
opened relative to the one before, and none of them may be a link. A link cannot take a file's place between check and
opening, since both are one step. Only the folder itself, which the user named, may be reached by a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pktrace.errors import CaptureChangedError

# A pipe or a terminal without a partner would make open() wait, so every file is opened without waiting.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A file system records times in steps of up to 10 ms (a tick): two changes within one tick look like one.
_TICK_NS = 20_000_000
_HASHED_AT_ONCE = 1 << 20
_MOST_WAITING = 4


class NotInside(Exception):
    """A name leads out of its folder: absolute, by `..`, or over a link; the text gives the reason."""


class NotRegular(Exception):
    """A name leads to a folder, a pipe, a socket or a device."""


class Stamp(NamedTuple):
    """Attributes that change when a file is replaced or written to. Equal stamps mean the same file with the same
    bytes.

    A write through a memory mapping may leave them unchanged; nobody writes captures in that way.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, descriptor: int) -> Stamp:
        """The present stamp of an open file."""
        found = os.fstat(descriptor)
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class Location:
    """The place of an input: `name` inside `folder`, over no link; without a folder, the user's `name` may lead
    anywhere.
    """

    name: str
    folder: Path | None = None

    def open(self) -> int:
        """Open the regular file at this place, for reading.

        Returns:
            A descriptor, which the caller has to close.

        Raises:
            OSError: there is no file, or it cannot be read.
            NotInside: the name leads out of the folder.
            NotRegular: the name leads to something other than a regular file.
        """
        if self.folder is None:
            return _opened(self.name, None)
        *folders, last = inner_parts(self.name)
        with open_folder(self.folder, folders) as inside:
            return _opened(last, inside)


def inner_parts(name: str) -> list[str]:
    """The parts of a name inside a folder; raises NotInside if it is absolute or holds `..`."""
    if name.startswith("/"):
        raise NotInside("is an absolute name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise NotInside("leads out of the folder by `..`")
    if not parts:
        raise NotInside("names the folder itself")
    return parts


@contextlib.contextmanager
def open_folder(folder: Path, inner: list[str], listed: bool = False) -> Iterator[int]:
    """Descriptor of a folder inside `folder`, over no link; `listed`: for listing its entries.

    Raises:
        OSError: there is no such folder.
        NotInside: a part of the way is a link.
    """
    at = os.open(folder, _LIST if listed and not inner else _ENTER)
    try:
        for number, part in enumerate(inner):
            flags = _LIST if listed and number == len(inner) - 1 else _ENTER
            try:
                next_one = os.open(part, flags | os.O_NOFOLLOW, dir_fd=at)
            except OSError:
                if is_link(part, at):
                    raise NotInside(f"lies behind {'/'.join(inner[: number + 1])!r}, which is a link") from None
                raise
            os.close(at)
            at = next_one
        yield at
    finally:
        os.close(at)


def is_link(name: str, inside: int | None = None) -> bool:
    """True if there is a symbolic link of this name."""
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _opened(name: str, inside: int | None) -> int:
    """Open a regular file; in a folder given by its descriptor no link is followed."""
    follow = inside is None
    kind = os.stat(name, dir_fd=inside, follow_symlinks=follow).st_mode
    if stat.S_ISLNK(kind):
        raise NotInside("is a link")
    if not stat.S_ISREG(kind):
        raise NotRegular
    try:
        found = os.open(name, _READ if follow else _READ | os.O_NOFOLLOW, dir_fd=inside)
    except OSError:
        if not follow and is_link(name, inside):
            raise NotInside("is a link") from None
        raise
    if not stat.S_ISREG(os.fstat(found).st_mode):  # it was exchanged meanwhile
        os.close(found)
        raise NotRegular
    return found


class InputFile(io.FileIO):
    """A regular file for reading, unbuffered; each read checks that the file is still the same.

    Args:
        descriptor: of the open file; it is closed with this.
        name: the file's name in messages.
        same_as: its stamp when it was read before; None for the first time.
        hashed: compute the SHA-256 of the bytes read, which have to be the whole file in order.

    Raises:
        CaptureChangedError: here or in any read, if the file has changed since it was first opened.
    """

    def __init__(self, descriptor: int, name: str, same_as: Stamp | None = None, hashed: bool = False) -> None:
        super().__init__(descriptor, "rb")
        self._shown = name
        self._hash = _Hash() if hashed else None
        try:
            self.stamp = same_as if same_as is not None else _settled(descriptor)
            self.check()
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raises CaptureChangedError if the file has changed."""
        if Stamp.of(self.fileno()) != self.stamp:
            raise CaptureChangedError(self._shown)

    def readinto(self, target: Any, /) -> int:
        got = super().readinto(target) or 0
        self.check()
        if self._hash is not None:
            self._hash.add(memoryview(target)[:got])
        return got

    def read(self, size: int | None = -1, /) -> bytes:
        got = super().read(-1 if size is None else size) or b""
        self.check()
        if self._hash is not None:
            self._hash.add(memoryview(got))
        return got

    def readall(self) -> bytes:
        return self.read(-1)

    def head(self, size: int, at: int = 0) -> bytes:
        """The first bytes, or the bytes from `at` on, without moving the read position."""
        return os.pread(self.fileno(), size, at)

    def sha256(self) -> str:
        """The hash of the whole file; the bytes that nobody read are read now."""
        if self._hash is None:
            raise ValueError("opened without hashing")
        while self.read(_HASHED_AT_ONCE):
            pass
        return self._hash.hexdigest()

    def close(self) -> None:
        hashing = getattr(self, "_hash", None)
        if hashing is not None:
            hashing.close()
        super().close()


class _Hash:
    """SHA-256 in a thread of its own, beside the reader: it takes longer than decoding."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()
        self._small = bytearray()

    def add(self, data: memoryview) -> None:
        self._small += data
        if len(self._small) >= _HASHED_AT_ONCE:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1)
            self._waiting.append(self._thread.submit(self._hash.update, self._small))
            self._small = bytearray()
            if len(self._waiting) > _MOST_WAITING:
                self._waiting.popleft().result()

    def hexdigest(self) -> str:
        while self._waiting:
            self._waiting.popleft().result()
        whole = self._hash.copy()
        whole.update(self._small)
        return whole.hexdigest()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _settled(descriptor: int) -> Stamp:
    """The stamp of a file, a tick after its last change, so that any further change would give it another stamp."""
    found = Stamp.of(descriptor)
    age = time.time_ns() - max(found.modified_ns, found.changed_ns)
    if 0 <= age < _TICK_NS:
        time.sleep((_TICK_NS - age) / 1e9)
        found = Stamp.of(descriptor)
    return found


def read_whole(location: Location, most: int | None = None) -> tuple[bytes, str] | None:
    """A small file's bytes, and their SHA-256.

    Args:
        most: the largest number of bytes; None for any number.

    Returns:
        None if the file has more.

    Raises:
        OSError, NotInside, NotRegular: as `Location.open`.
    """
    with open(location.open(), "rb", buffering=0) as file:
        data = bytearray()
        while piece := file.read(_HASHED_AT_ONCE):
            data += piece
            if most is not None and len(data) > most:
                return None
    return bytes(data), hashlib.sha256(data).hexdigest()
