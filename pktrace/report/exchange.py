"""A results folder: written afresh beside the old one, and exchanged with it as a whole, under a lock.

A reader of `results/` sees all of one analysis, or all of the one before. No file is opened through a link: the parent
folder is opened once, and every other file relative to it or to the fresh folder, whose random name nobody can know.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pktrace import memory, schema
from pktrace.errors import OutputError
from pktrace.report.whole import create, kind_of

SUMMARY = "summary.json"
PLOT_FOLDER = "plots"
PLOTS = ("ecdf.svg", "ecdf.png", "waterfall.svg", "waterfall.png")
_TABLES = frozenset(f"{table.name}.parquet" for table in schema.TABLES)
_LONGEST_WAIT_S = 3600
_POLL_S = 0.1
_MOST_RACES = 100

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NO_REPLACE, _EXCHANGE = 1, 2  # renameat2(2)
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
# Before results were exchanged as a whole, a killed analysis left files of these names among them.
_OLD_PARTIAL = re.compile(r"\.(.+)\.\d+\.partial")


class ResultsFolder:
    """A results folder that this process has locked; made by `results_folder`."""

    def __init__(self, path: Path, parent: int) -> None:
        self.path = path
        self._parent = parent
        self._left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{32}}\.partial")

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Callable[[str], BinaryIO]]:
        """A function that makes files of the results by name (`plots/...` too); without an error they become the
        results.

        The user's own files in the old folder are carried over.

        Raises:
            OutputError: the folder cannot be written, or the disk is full. The old results are as they were.
        """
        name = f".{self.path.name}.{secrets.token_hex(16)}.partial"
        try:
            os.mkdir(name, 0o700, dir_fd=self._parent)
            try:
                with _opened(name, self._parent) as inside:
                    with memory.unfinished(lambda: self._clear_while_written(name)):
                        yield lambda file: _create_in(file, inside)
                        self._like_the_old(inside)
                    old = self._put_in_place(name)
                    if not os.path.samestat(os.fstat(inside), self._status()):
                        raise OutputError(f"{self.path}: another program has exchanged the results; analyse again")
                    if old is not None:
                        self._clear(old)
            except BaseException:
                self._clear(name)
                raise
        except OSError as problem:
            raise OutputError(f"{self.path}: cannot write results: {problem.strerror or problem}") from None

    def _clear_while_written(self, name: str) -> None:
        """Remove a fresh folder, with the files that another thread makes in it meanwhile. Files made after the removal
        vanish with the folder.
        """
        for _ in range(_MOST_RACES):
            self._clear(name)
            if kind_of(name, self._parent) is None:
                break

    def prepare(self, own: bool) -> None:
        """Raise an error if the folder must not be replaced, and remove the remains of a killed analysis.

        Args:
            own: the folder is the results folder of a run, and not one that the user named.
        """
        self._recover()
        kind = kind_of(self.path.name, self._parent)
        if kind == stat.S_IFLNK:
            raise OutputError(f"{self.path}: is a link; remove it, or name another folder with -o")
        if kind not in (None, stat.S_IFDIR):
            raise OutputError(f"{self.path}: cannot write results: it is no folder; move it, or name another with -o")
        if kind is not None:
            with _opened(self.path.name, self._parent) as inside:
                for name in _links(inside):
                    raise OutputError(f"{self.path / name}: is a link; remove it, or name another folder with -o")
                if not own and not _are_results(inside):
                    raise OutputError(
                        f"{self.path}: holds files and no results of pktrace; name a folder that is empty or new"
                    )
        for name in self._left_behind():
            self._clear(name)

    def _left_behind(self) -> list[str]:
        with _opened(".", self._parent) as inside:
            return sorted(filter(self._left.fullmatch, os.listdir(inside)))

    def _recover(self) -> None:
        """Complete an exchange that ended between its two renames: the results still have their temporary name."""
        if kind_of(self.path.name, self._parent) is not None:
            return
        for name in self._left_behind():
            with contextlib.suppress(OSError), _opened(name, self._parent) as inside:
                if kind_of(SUMMARY, inside) == stat.S_IFREG:
                    os.rename(name, self.path.name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
                    return

    def _status(self) -> os.stat_result:
        return os.stat(self.path.name, dir_fd=self._parent, follow_symlinks=False)

    def _like_the_old(self, inside: int) -> None:
        """Take owner and mode of the replaced folder, without write access for others; for a new folder take the usual
        mode.
        """
        try:
            old = self._status()
        except FileNotFoundError:
            mask = os.umask(0o077)
            os.umask(mask)
            os.fchmod(inside, 0o777 & ~mask)
            return
        if stat.S_ISDIR(old.st_mode):
            with contextlib.suppress(OSError):
                os.fchown(inside, old.st_uid, old.st_gid)
            os.fchmod(inside, stat.S_IMODE(old.st_mode) & ~0o002)

    def _put_in_place(self, fresh: str) -> str | None:
        """Exchange the folders; returns the present name of the old one, None if there was none."""
        parent, final = self._parent, self.path.name
        try:
            _rename(parent, fresh, parent, final, _NO_REPLACE)
            return None
        except FileExistsError:
            pass
        if kind_of(final, parent) != stat.S_IFDIR:
            raise OutputError(f"{self.path}: is no folder any more; analyse again")
        try:
            _rename(parent, fresh, parent, final, _EXCHANGE)
            return fresh
        except OSError as problem:
            if problem.errno == errno.EBUSY:
                raise OutputError(
                    f"{self.path}: cannot be exchanged, as a mount point; name a folder inside it with -o"
                ) from None
            if problem.errno not in _UNSUPPORTED:
                raise
        # The file system cannot exchange: two renames, between which there are no results for a moment.
        old = f".{final}.{secrets.token_hex(16)}.partial"
        os.rename(final, old, src_dir_fd=parent, dst_dir_fd=parent)
        try:
            os.rename(fresh, final, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            os.rename(old, final, src_dir_fd=parent, dst_dir_fd=parent)
            raise
        return old

    def _clear(self, name: str) -> None:
        """Remove a replaced or unfinished folder; files of others in it move into the results."""
        with contextlib.suppress(OSError):
            with _opened(name, self._parent) as old:
                try:
                    with _opened(self.path.name, self._parent) as new:
                        _carry_over(old, new, _is_ours)
                except FileNotFoundError:
                    _remove(old, _is_ours)
            os.rmdir(name, dir_fd=self._parent)


@contextlib.contextmanager
def results_folder(path: Path, own: bool, say: Callable[[str], None], wait: bool = True) -> Iterator[ResultsFolder]:
    """Lock a results folder, for as long as an analysis takes: a second one waits until the first has ended.

    Args:
        own: the folder is `results` of a run; a folder that the user named must be new, empty, or hold results.
        say: gets one line if another analysis has to be waited for; wait: False gives up instead.

    Raises:
        OutputError: the folder must not be replaced or cannot be written, or another analysis takes too long.
    """
    if path.name in ("", ".."):
        path = Path(os.path.abspath(path))
    if not path.name:
        raise OutputError(f"{path}: cannot be replaced by results; name a folder inside it with -o")
    with contextlib.ExitStack() as held:
        try:
            if not own and path.exists() and os.path.samefile(path, "."):
                raise OutputError(f"{path}: is the current folder; name a folder inside it, such as -o results")
            path.parent.mkdir(parents=True, exist_ok=True)
            parent = held.enter_context(_opened_parent(path.parent))
            held.enter_context(_locked(path, parent, say, wait))
            folder = ResultsFolder(path, parent)
            folder.prepare(own)
        except OSError as problem:
            raise OutputError(f"{path}: cannot write results: {problem.strerror or problem}") from None
        yield folder


@contextlib.contextmanager
def _opened_parent(place: Path) -> Iterator[int]:
    found = os.open(place, _LIST)
    try:
        yield found
    finally:
        os.close(found)


@contextlib.contextmanager
def _opened(name: str, parent: int) -> Iterator[int]:
    """A descriptor of a folder inside another one; raises OSError for a link."""
    found = os.open(name, _LIST | os.O_NOFOLLOW, dir_fd=parent)
    try:
        yield found
    finally:
        os.close(found)


@contextlib.contextmanager
def _locked(path: Path, parent: int, say: Callable[[str], None], wait: bool) -> Iterator[None]:
    """Hold the lock file beside a results folder; its holder removes it, and a killed process releases it."""
    name = f".{path.name}.lock"
    until = time.monotonic() + _LONGEST_WAIT_S
    said = False
    while (lock := _lock(name, path, parent, say)) is None:
        if not wait or time.monotonic() > until:
            raise OutputError(f"{path}: another analysis is writing there; try again when it has ended")
        if not said:
            say(f"{path}: another analysis is writing there; waiting for it (--no-wait gives up instead)")
            said = True
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=parent)
        os.close(lock)


def _lock(name: str, path: Path, parent: int, say: Callable[[str], None]) -> int | None:
    """The lock file, locked; None if another process holds it."""
    for _ in range(_MOST_RACES):
        if kind_of(name, parent) not in (None, stat.S_IFREG):
            raise OutputError(f"{path.parent / name}: is no lock file of pktrace; remove it")
        lock = os.open(name, _LOCK, 0o600, dir_fd=parent)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError as problem:
            if problem.errno not in (*_UNSUPPORTED, errno.ENOLCK):
                os.close(lock)
                raise
            say(f"{path}: cannot be locked on this file system; run one analysis at a time")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), os.fstat(lock)):
                return lock
        os.close(lock)  # its holder removed it before it was locked here
    return None


def _create_in(name: str, inside: int) -> BinaryIO:
    folder, _, file = name.rpartition("/")
    if not folder:
        return create(file, inside)
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder, dir_fd=inside)
    with _opened(folder, inside) as below:
        return create(file, below)


def _is_ours(name: str) -> bool:
    """True if an analysis writes a file of this name."""
    partial = _OLD_PARTIAL.fullmatch(name)
    name = partial[1] if partial else name
    return name in _TABLES or name == SUMMARY


def _links(inside: int) -> list[str]:
    """Links in place of files that an analysis writes."""
    names = [name for name in os.listdir(inside) if _is_ours(name) or name == PLOT_FOLDER]
    found = [name for name in names if kind_of(name, inside) == stat.S_IFLNK]
    if kind_of(PLOT_FOLDER, inside) == stat.S_IFDIR:
        with _opened(PLOT_FOLDER, inside) as plots:
            found += [f"{PLOT_FOLDER}/{name}" for name in PLOTS if kind_of(name, plots) == stat.S_IFLNK]
    return sorted(found)


def _is_plot(name: str) -> bool:
    partial = _OLD_PARTIAL.fullmatch(name)
    return (partial[1] if partial else name) in PLOTS


def _are_results(inside: int) -> bool:
    """True if a folder is empty, or was written by an analysis."""
    names = os.listdir(inside)
    if SUMMARY in names and kind_of(SUMMARY, inside) == stat.S_IFREG:
        found = os.open(SUMMARY, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=inside)
        try:
            return b'"pktrace_version"' in os.read(found, 4096)
        finally:
            os.close(found)
    return all(_is_ours(name) or name == PLOT_FOLDER for name in names)


def _remove(folder: int, ours: Callable[[str], bool]) -> None:
    """Remove our files from a folder: files, and links in their place, but not the targets of links."""
    for name in filter(ours, os.listdir(folder)):
        if kind_of(name, folder) in (stat.S_IFREG, stat.S_IFLNK):
            os.unlink(name, dir_fd=folder)
    if ours is not _is_plot and kind_of(PLOT_FOLDER, folder) == stat.S_IFDIR:
        with _opened(PLOT_FOLDER, folder) as plots:
            _remove(plots, _is_plot)
        with contextlib.suppress(OSError):
            os.rmdir(PLOT_FOLDER, dir_fd=folder)


def _carry_over(old: int, new: int, ours: Callable[[str], bool]) -> None:
    """Remove our files from an old folder, and move the other files into the new one, if their names are free."""
    _remove(old, ours)
    for name in os.listdir(old):
        if name == PLOT_FOLDER and ours is not _is_plot and kind_of(name, old) == stat.S_IFDIR:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=new)
            with _opened(name, old) as plots, _opened(name, new) as into:
                _carry_over(plots, into, _is_plot)
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=old)
        else:
            with contextlib.suppress(OSError):
                _rename(old, name, new, name, _NO_REPLACE)


def _rename(from_folder: int, name: str, to_folder: int, new_name: str, flag: int) -> None:
    """Rename by renameat2(2). If the file system lacks it, a rename onto a free name is a check and a rename.

    Raises:
        OSError: as for the call; FileExistsError if the new name is taken and must not be replaced.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if call is not None:
        if call(from_folder, os.fsencode(name), to_folder, os.fsencode(new_name), flag) == 0:
            return
        code = ctypes.get_errno()
    if flag == _NO_REPLACE and code in _UNSUPPORTED:
        if kind_of(new_name, to_folder) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)
        os.rename(name, new_name, src_dir_fd=from_folder, dst_dir_fd=to_folder)
        return
    raise OSError(code, os.strerror(code), new_name)
