"""The data plane's own counters in a run's context/, before and after the run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pktrace.errors import RunFileError
from pktrace.inputs import NotInside, NotRegular, inner_parts, open_folder, read_whole
from pktrace.run.model import Run

FOLDER = "context"
MOST_FILES = 1000
LARGEST_FILE = 8 << 20
LARGEST_TOGETHER = 32 << 20
_INCOMPLETE = "incomplete.txt"
_TEXT_COUNTER = re.compile(r"\bcounter\s{1,9}\"?([^\s\"{]{1,200})\"?\s{0,9}\{\s{0,99}packets\s{1,9}(\d{1,18})\b")


@dataclass(frozen=True)
class Context:
    """The contents of context/.

    `counters` are the packets that each named counter counted during the run; `incomplete` is True if the recorder left
    a note that something went wrong (incomplete.txt); `sha256` has the hash of each file that was read; `unread` are
    the files that are too large.
    """

    counters: dict[str, int] = field(default_factory=dict)
    incomplete: bool = False
    sha256: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def read_context(run: Run) -> Context:
    """Read every file in context/.

    Counters are taken from every file that holds them, whatever its name: `nft -j list counters`, `nft -j list
    ruleset`, `nft list counters`; and plain JSON objects of name to packets where the file's name says counter. Counts
    of files with "before" in their name are subtracted; a counter that is smaller after than before was reset in
    between, so its value after the run counts. If several files hold one counter, a file whose name says counter is
    believed, since it is read closer to the end of the run than a rule set.

    Raises:
        RunFileError: context/ or a file in it is a link, or it has too many files.
    """
    parsed: dict[str, dict[str, int]] = {}
    sha256: dict[str, str] = {}
    unread = []
    names = context_files(run)
    room = LARGEST_TOGETHER
    for name in sorted(names, key=_of_counters, reverse=True):  # counters first: not every file may be read
        most = None if run.trusted else min(LARGEST_FILE, room)
        try:
            found = read_whole(run.input(f"{FOLDER}/{name}"), most)
        except NotInside as problem:
            raise _outside(run, name, problem) from None
        except NotRegular:
            continue  # a folder or a pipe
        except OSError:
            unread.append(name)
            continue
        if found is None:
            unread.append(name)
            continue
        data, sha256[f"{FOLDER}/{name}"] = found
        room -= len(data)
        parsed[name] = _counters(name, data.decode("utf-8", "replace"))
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    for name in sorted(sorted(parsed), key=_of_counters):
        (before if "before" in name.lower() else after).update(parsed[name])
    counters = {
        name: packets - before.get(name, 0) if packets >= before.get(name, 0) else packets
        for name, packets in after.items()
    }
    return Context(counters, _INCOMPLETE in names, dict(sorted(sha256.items())), tuple(sorted(unread)))


def _of_counters(name: str) -> bool:
    return "counter" in name.lower()


def context_files(run: Run) -> list[str]:
    """The names in context/, in order; none without such a folder.

    Raises:
        RunFileError: context/ or something in it is a link, or it has too many files.
    """
    try:
        return sorted(_listed(run))
    except NotInside as problem:
        raise _outside(run, "", problem) from None
    except OSError:
        return []


def _listed(run: Run) -> Iterator[str]:
    folder, inner = (run.folder / FOLDER, []) if run.trusted else (run.folder, inner_parts(FOLDER))
    with open_folder(folder, inner, listed=True) as inside, os.scandir(inside) as entries:
        for number, entry in enumerate(entries):
            if run.trusted:
                yield entry.name
                continue
            if entry.is_symlink():
                raise _outside(run, entry.name, NotInside("is a link"))
            if number >= MOST_FILES:
                raise RunFileError(
                    run.folder / run.file,
                    FOLDER,
                    f"has more than {MOST_FILES:,} files; remove files that are no context, or use --trust",
                )
            yield entry.name


def _outside(run: Run, name: str, problem: NotInside) -> RunFileError:
    place = f"{FOLDER}/{name}".rstrip("/")
    return RunFileError(
        run.folder / run.file, FOLDER, f"{place!r} {problem}; put the file itself there, or use --trust"
    )


def _counters(name: str, text: str) -> dict[str, int]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {counter: int(packets) for counter, packets in _TEXT_COUNTER.findall(text)}
    found: dict[str, int] = {}
    if isinstance(document, dict) and isinstance(document.get("nftables"), list):
        for entry in document["nftables"]:
            counter = entry.get("counter") if isinstance(entry, dict) else None
            if isinstance(counter, dict):
                _keep(found, counter.get("name"), counter.get("packets"))
    elif isinstance(document, dict) and "counter" in name.lower():
        for counter, value in document.items():
            _keep(found, counter, value.get("packets") if isinstance(value, dict) else value)
    return found


def _keep(found: dict[str, int], name: Any, packets: Any) -> None:
    if isinstance(name, str) and isinstance(packets, int) and not isinstance(packets, bool) and 0 <= packets < 1 << 62:
        found[name] = packets
