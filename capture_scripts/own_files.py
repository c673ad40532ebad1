"""Write files of a run folder: readable only by the owner, never through a link, and complete or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
PRIVATE_MASK = 0o077


def fresh(path: Path) -> BinaryIO:
    """Make a new file with this name; an older file or link loses the name. OSError if that fails."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
    return os.fdopen(descriptor, "wb")


def write_whole(path: Path, text: str) -> None:
    """Replace a file: at any moment, also after a crash, the file has either the old text or the new one."""
    part = path.with_name(f"{path.name}.part")
    try:
        with fresh(part) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        settle_names(path.parent)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


def settle_names(folder: Path) -> None:
    """Write the names in a folder to the disk: a file that has its name now still has it after a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_regular(path: Path) -> bool:
    """True for a regular file; False for a link or a device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def remove_folder(folder: Path, keeps: Callable[[Path], bool]) -> bool:
    """Remove a folder with its content, unless ``keeps(file)`` is true for a file. False if the folder remains.

    Links are not followed. One file to keep keeps the whole folder.
    """
    files, folders = [], [folder]
    for where, names, here in os.walk(folder):
        folders += [Path(where, name) for name in names if not Path(where, name).is_symlink()]
        files += [Path(where, name) for name in [*here, *(n for n in names if Path(where, n).is_symlink())]]
    if any(keeps(file) for file in files):
        return False
    with suppress(OSError):
        for file in files:
            file.unlink()
        for place in sorted(folders, key=lambda place: len(place.parts), reverse=True):
            place.rmdir()
    return not folder.exists()


def give_to_caller(folder: Path) -> None:
    """Give a folder of root and its content to the user who called sudo: nobody else can read it.

    The owner of a link changes, and the owner of its target does not.
    """
    user, group = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() != 0 or not (user.isdecimal() and group.isdecimal()):
        return
    for where, names, files in os.walk(folder, topdown=False):
        for name in [*names, *files]:
            with suppress(OSError):
                os.chown(Path(where, name), int(user), int(group), follow_symlinks=False)
    with suppress(OSError):
        os.chown(folder, int(user), int(group), follow_symlinks=False)
