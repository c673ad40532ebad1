"""Output files: whole or not at all, under names that nobody can know, and never through a link."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pktrace import memory
from pktrace.errors import OutputError

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PARTIAL = re.compile(r"\.pktrace-[0-9a-f]{32}\.partial")


def create(name: str, inside: int) -> BinaryIO:
    """A new file in a folder given by its descriptor; raises FileExistsError if the name is taken."""
    return os.fdopen(os.open(name, _CREATE, 0o666, dir_fd=inside), "wb")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes the place of `path` if all went well, and is removed otherwise.

    Its name is random until then. The file is locked while it is written. The next writer into the folder recognises a
    file of a killed process by its free lock, and removes it.

    Raises:
        OutputError: the path is a link or another kind than a file, such as a device, which would be replaced.
        OSError: the folder cannot be written, or the disk is full.
    """
    folder = os.open(path.parent, _FOLDER)
    try:
        _need_replaceable(path, folder)
        _remove_left_behind(path.parent, folder)
        name, file = _locked(folder)
        try:
            with file, memory.unfinished(lambda: os.unlink(path.parent / name)):
                yield file
                file.flush()
                _need_replaceable(path, folder)
                os.replace(name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
    finally:
        os.close(folder)


def kind_of(name: str, inside: int) -> int | None:
    """The kind of a name in a folder (`stat.S_IFMT`), links not followed; None if the name is free."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


def _need_replaceable(path: Path, folder: int) -> None:
    kind = kind_of(path.name, folder)
    if kind == stat.S_IFLNK:
        raise OutputError(f"{path}: is a link; remove it, or name the file that it leads to")
    if kind not in (None, stat.S_IFREG):
        raise OutputError(f"{path}: is no file; results replace files only")


def _locked(folder: int) -> tuple[str, BinaryIO]:
    """A new file under a random name; locked, if the file system supports locks."""
    while True:
        name = f".pktrace-{secrets.token_hex(16)}.partial"
        file = create(name, folder)
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(file.fileno())):
                return name, file
        file.close()  # another writer removed it as left behind, before it was locked


def _remove_left_behind(place: Path, folder: int) -> None:
    """Remove the files of writers that were killed: files with our pattern of names that nobody has locked."""
    with contextlib.suppress(OSError):
        for name in filter(_PARTIAL.fullmatch, os.listdir(place)):
            with contextlib.suppress(OSError):
                found = os.open(name, _LOOK, dir_fd=folder)
                try:
                    if stat.S_ISREG(os.fstat(found).st_mode):
                        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(name, dir_fd=folder)
                finally:
                    os.close(found)
