"""The folder of compiled kernels: code is loaded from it, so only the user and root may be able to write there.

Rule: the folder, every folder above it up to the root, every link on the way to it and everything in it belong to the
user or to root, and nobody else can write there. A folder above it may be writable by others if it has the sticky bit
(`/tmp`): then others can add names there, and neither rename nor replace ours. Each folder is opened below the one
before it, without following links, and checked by its descriptor. The descriptor of the last one stays open, and the
kernels are loaded through it, so a rename meanwhile cannot change the loaded code.

Access control lists of POSIX are covered: their rights for others show in the group bits of the mode. Lists of NFSv4,
and a file server that lies about owners, are not covered.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40
_MARKER = "complete"


class Refused(Exception):
    """A folder where somebody else could put code; the message names the folder and the reason."""


@dataclass(frozen=True)
class KernelCache:
    """The folder of one state of the kernels, and the folder above it with all states, by their descriptors."""

    above: int
    folder: int
    name: str

    @property
    def path(self) -> str:
        """A name that leads to this very folder, wherever it is moved to."""
        path = f"/proc/self/fd/{self.folder}"
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(self.folder)):
                return path
        raise Refused("/proc is not there, so a folder cannot be opened by its descriptor")

    def complete(self) -> bool:
        """True if a whole run has compiled its kernels into the folder."""
        try:
            os.stat(_MARKER, dir_fd=self.folder, follow_symlinks=False)
        except OSError:
            return False
        return True

    def mark_complete(self) -> None:
        """Remember that a whole run has compiled its kernels.

        Raises:
            OSError: the folder cannot be written.
        """
        os.close(os.open(_MARKER, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.folder))

    def remove_older(self, kept: int) -> None:
        """Remove the folders of other states of the kernels, but for the newest ones.

        Raises:
            OSError: they cannot be removed; another process may be removing them.
        """
        others = [name for name in os.listdir(self.above) if name.startswith("kernels-") and name != self.name]
        newest = sorted(
            others,
            key=lambda name: os.stat(name, dir_fd=self.above, follow_symlinks=False).st_mtime_ns,
            reverse=True,
        )
        for name in newest[kept:]:
            shutil.rmtree(name, dir_fd=self.above)

    def clear(self) -> None:
        """Remove all files in the folder, as far as possible."""
        for _, _, files, folder in os.fwalk(".", dir_fd=self.folder):
            for name in files:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)


def kernel_cache(bases: Sequence[tuple[str, str]], name: str) -> KernelCache | None:
    """The first folder `<base>/pktrace/<name>` that can be made and written; None without such a folder.

    Args:
        bases: (folder that has to exist, folder below it that is made if missing), absolute, in order of preference.

    Raises:
        Refused: the first folder that can be made is not for the user alone.
    """
    for there, below in bases:
        try:
            return _opened(there, below, name)
        except OSError:
            continue
    return None


@contextlib.contextmanager
def written_privately(path: str) -> Iterator[object]:
    """A file for writing that gets its name once it is complete; only the user can read and write it."""
    partial = f"{path}.{os.urandom(8).hex()}.partial"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            yield file
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


@contextlib.contextmanager
def private_folders() -> Iterator[None]:
    """Folders made meanwhile are accessible to the user alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _opened(there: str, below: str, name: str) -> KernelCache:
    base = _walk(os.path.join(there, below), len(_parts(there)))
    try:
        above = _own_folder(base, "pktrace", os.path.join(there, below))
        try:
            folder = _own_folder(above, name, os.path.join(there, below, "pktrace"))
        except BaseException:
            os.close(above)
            raise
    finally:
        os.close(base)
    found = KernelCache(above, folder, name)
    try:
        _check_content(folder, os.path.join(there, below, "pktrace", name))
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True):
            raise PermissionError(f"{name} cannot be written")
        found.path  # noqa: B018 - raises if no name leads to the folder
    except BaseException:
        os.close(above)
        os.close(folder)
        raise
    return found


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _walk(path: str, existing: int) -> int:
    """Open a folder from the root on, part by part; the parts after the first `existing` ones are made if missing.

    Links are followed by hand: a link must belong to the user or root, and lie in a checked folder.
    """
    waiting = list(enumerate(_parts(path)))[::-1]
    at, shown, links = os.open("/", _FOLDER_FLAGS | os.O_PATH), "/", 0
    try:
        _check(os.fstat(at), shown, sticky_counts=True)
        while waiting:
            number, part = waiting.pop()
            child = _child(at, part, number >= existing)
            status = os.fstat(child)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                target = os.readlink("", dir_fd=child)
                os.close(child)
                _check_owner(status, os.path.join(shown, part))
                if links > _MOST_LINKS:
                    raise Refused(f"{path} leads through more than {_MOST_LINKS} links")
                waiting += [(-1, name) for name in reversed(_parts(target))]
                if target.startswith("/"):
                    os.close(at)
                    at, shown = os.open("/", _FOLDER_FLAGS | os.O_PATH), "/"
                continue
            os.close(at)
            at, shown = child, os.path.join(shown, part)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(shown)
            _check(status, shown, sticky_counts=True)
    except BaseException:
        os.close(at)
        raise
    return at


def _child(folder: int, name: str, make: bool) -> int:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    return os.open(name, flags, dir_fd=folder)


def _own_folder(folder: int, name: str, shown: str) -> int:
    """Open a folder that is the user's alone; made if missing."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)
    try:
        child = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
    except NotADirectoryError:
        raise Refused(f"{os.path.join(shown, name)} is a link, or no folder") from None
    try:
        _check(os.fstat(child), os.path.join(shown, name), sticky_counts=False)
    except BaseException:
        os.close(child)
        raise
    return child


def _check_content(folder: int, shown: str) -> None:
    """Refuse a folder that holds anything but files and folders of the user's own.

    Nobody else can write into it any more, but others may have put files there while it had another mode.
    """
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        here = os.path.join(shown, name)
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue  # another process is writing its kernels
        if stat.S_ISDIR(status.st_mode):
            child = _own_folder(folder, name, shown)
            try:
                _check_content(child, here)
            finally:
                os.close(child)
        elif not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise Refused(f"{here} is a link, or no file")
        else:
            _check(status, here, sticky_counts=False)


def _check(status: os.stat_result, shown: str, *, sticky_counts: bool) -> None:
    _check_owner(status, shown)
    if status.st_mode & _OTHERS_MAY_WRITE and not (sticky_counts and status.st_mode & stat.S_ISVTX):
        raise Refused(f"other users can write to {shown} (mode {stat.S_IMODE(status.st_mode):o})")


def _check_owner(status: os.stat_result, shown: str) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise Refused(f"{shown} belongs to another user (number {status.st_uid})")
