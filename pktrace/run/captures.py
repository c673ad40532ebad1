"""The capture files that a pattern of run.toml names: inside the run folder, over no link, in bounded time."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pktrace.inputs import NotInside, inner_parts, open_folder

MOST_FILES = 10_000
# The most comparisons of names with parts of patterns: 1,000 patterns over a folder of 1,000 files.
MOST_COMPARED = 1_000_000
_DEEPEST = 100
_ANY_FOLDERS = "**"
_FILE, _FOLDER, _LINK, _OTHER = "file", "folder", "link", "other"


class TooMany(Exception):
    """A run names more files than pktrace reads without --trust, or its patterns visit too many names."""


@dataclass
class CaptureNames:
    """Finds the captures of one run.

    Inside the run folder a pattern means the same as for `glob`: `*`, `?` and `[...]` within a name, `**` for any
    folders; a name with a leading dot matches only a pattern with one. A link that a pattern meets is an error: a link
    that is silently left out would look like lost packets.
    """

    folder: Path
    trusted: bool = False
    _compared: int = 0
    _found: int = 0
    _listed: dict[tuple[str, ...], list[tuple[str, str]]] = field(default_factory=dict)

    def matching(self, pattern: str) -> list[str]:
        """Names of matching files relative to the folder, in order; possibly none.

        Raises:
            NotInside: the pattern leads out of the folder, by itself or over a link.
            TooMany: there are too many files.
        """
        if self.trusted:
            return self._anywhere(pattern)
        parts = inner_parts(pattern)
        if self._is_file(parts):
            found = [os.path.join(*parts)]
        elif glob.has_magic(pattern):
            found = sorted(set(self._walk((), frozenset({0}), parts)))
        else:
            found = []
        self._found += len(found)
        if self._found > MOST_FILES:
            raise TooMany(f"makes more than {MOST_FILES:,} capture files of this run")
        return found

    def _anywhere(self, pattern: str) -> list[str]:
        place = self.folder / pattern
        names = [pattern]
        if not _is_regular(place):
            names = sorted(glob.glob(pattern, root_dir=self.folder, recursive=True))
        return [os.path.relpath(self.folder / name, self.folder) for name in names if _is_regular(self.folder / name)]

    def _is_file(self, parts: list[str]) -> bool:
        """True if a regular file of this name lies in the folder; raises NotInside if it is a link."""
        *folders, last = parts
        try:
            with open_folder(self.folder, folders) as inside:
                kind = os.stat(last, dir_fd=inside, follow_symlinks=False).st_mode
        except OSError:
            return False
        if stat.S_ISLNK(kind):
            raise NotInside("is a link")
        return stat.S_ISREG(kind)

    def _entries(self, inner: tuple[str, ...]) -> list[tuple[str, str]]:
        """The entries of a folder, as (name, kind), in order; each folder is listed once."""
        if inner not in self._listed:
            if len(inner) > _DEEPEST:
                raise TooMany(f"goes more than {_DEEPEST} folders deep")
            with open_folder(self.folder, list(inner), listed=True) as inside, os.scandir(inside) as entries:
                found = [(entry.name, _kind(entry)) for entry in itertools.islice(entries, MOST_COMPARED + 1)]
            self._listed[inner] = sorted(found)
        return self._listed[inner]

    def _walk(self, inner: tuple[str, ...], at: frozenset[int], parts: list[str]) -> Iterator[str]:
        """Matching files below a folder; `at` are the parts of the pattern that names in it may match.

        All ways to match are followed at once, so that a pattern with many `**` visits each folder once.
        """
        at = _with_skipped(at, parts)
        try:
            entries = self._entries(inner)
        except OSError:
            return
        for name, kind in entries:
            self._compared += len(at)
            if self._compared > MOST_COMPARED:
                raise TooMany(f"makes more than {MOST_COMPARED:,} names that patterns of this run are compared with")
            fits = {number for number in at if _fits(name, parts[number])}
            behind = frozenset(number if parts[number] == _ANY_FOLDERS else number + 1 for number in fits)
            if not behind:
                continue
            if kind == _LINK:
                raise NotInside(f"meets {'/'.join((*inner, name))!r}, which is a link")
            if kind == _FOLDER:
                inside = frozenset(number for number in behind if number < len(parts))
                if inside:
                    yield from self._walk((*inner, name), inside, parts)
            elif kind == _FILE and len(parts) - 1 in fits:
                yield "/".join((*inner, name))


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return _LINK
    if entry.is_dir(follow_symlinks=False):
        return _FOLDER
    return _FILE if entry.is_file(follow_symlinks=False) else _OTHER


def _with_skipped(at: frozenset[int], parts: list[str]) -> frozenset[int]:
    """The parts of a pattern in `at`, and the parts behind each `**`, which may stand for no folder at all."""
    reached = set(at)
    for number in sorted(at):
        while parts[number] == _ANY_FOLDERS and number + 1 < len(parts):
            number += 1
            reached.add(number)
    return frozenset(reached)


def _fits(name: str, part: str) -> bool:
    if part == _ANY_FOLDERS:
        return not name.startswith(".")
    if name.startswith(".") and not part.startswith("."):
        return False
    try:
        return fnmatch.fnmatchcase(name, part)
    except re.error:
        return False


def _is_regular(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
