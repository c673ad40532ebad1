"""The state of a recording in progress: ``context/recording.json``, from which ``record --resume`` seals it.

The file exists from before the first capture until all captures are sealed. It holds the plan, the known times of each
capture, and the sealed captures. Each change replaces the whole file, so it has a valid state at any moment. Recorder
and capture tools hold a lock on the folder of captures: the owner of the lock is the only writer there.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..own_files import write_whole
from ..processes import CannotStart
from .captures import Capture, Counts, Ring, Settings
from .hosts import Host
from .points import Point
from .run_file import PathTable
from .sealed_runs import SealedGroup
from .sources import Group, Source

STATE_FILE = "recording.json"
RECORDING, STOPPED, SEALED = "recording", "stopped", "sealed"
_LARGEST_STATE = 64 << 20
_LOCK_PATIENCE_S = 20.0  # a capture whose recorder was killed writes out its packets


@dataclass
class Journal:
    """The state of one recording. Every method that changes the state writes the file; OSError where that fails.

    ``phase`` is RECORDING until every capture is stopped, then STOPPED, and SEALED when nothing is left to seal.
    ``plan`` has, in JSON form, the content for ``run.toml``.
    """

    file: Path
    started: datetime
    groups: Sequence[Group]
    settings: Settings
    plan: Mapping[str, Any]
    clocks: Mapping[str, str]
    phase: str = RECORDING
    captures: dict[str, dict[str, Any]] = field(default_factory=dict)
    sealed: dict[str, SealedGroup] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, captures: Sequence[Capture], phase: str) -> None:
        """Note the times of the captures, and the phase that has begun."""
        self.phase = phase
        self.captures = {capture.source.stem: capture.times() for capture in captures}
        self.write()

    def note_sealed(self, stem: str, group: SealedGroup) -> None:
        """Note a sealed group: its raw files are not needed any more."""
        self.sealed[stem] = group
        self.write()

    def write(self) -> None:
        """Replace the file by the present state."""
        state = {
            "phase": self.phase,
            "started": self.started.isoformat(),
            "groups": [asdict(group) for group in self.groups],
            "settings": asdict(self.settings),
            "plan": self.plan,
            "clocks": dict(self.clocks),
            "captures": self.captures,
            "sealed": {stem: asdict(group) for stem, group in self.sealed.items()},
            "problems": self.problems,
            "notes": self.notes,
        }
        write_whole(self.file, json.dumps(state, indent=1) + "\n")

    def remove(self) -> None:
        """Remove the file: the recording is over, and nothing is left to seal."""
        self.file.unlink(missing_ok=True)


def read_journal(folder: Path) -> Journal:
    """The journal of a recording that did not end. CannotStart if the file is missing or no journal."""
    file = folder / "context" / STATE_FILE
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as opened:
            state = json.loads(opened.read(_LARGEST_STATE))
        return Journal(
            file=file,
            started=datetime.fromisoformat(state["started"]).astimezone(UTC),
            groups=[_group(group) for group in state["groups"]],
            settings=_settings(state["settings"]),
            plan=dict(state["plan"]),
            clocks=dict(state["clocks"]),
            phase=str(state["phase"]),
            captures=dict(state["captures"]),
            sealed={str(stem): _sealed_group(group) for stem, group in state["sealed"].items()},
            problems=[str(problem) for problem in state["problems"]],
            notes=[str(note) for note in state["notes"]],
        )
    except FileNotFoundError as error:
        raise CannotStart(
            f"{folder}: nothing to resume: no context/{STATE_FILE}, the file of every unsealed recording"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CannotStart(f"{file}: cannot be read as the state of a recording: {error!r}") from error


def _group(state: Mapping[str, Any]) -> Group:
    return Group(state["stem"], tuple(_source(source) for source in state["sources"]))


def _source(state: Mapping[str, Any]) -> Source:
    points = tuple(Point(**{**point, "host": _host(point["host"])}) for point in state["points"])
    source = Source(**{**state, "host": _host(state["host"]), "points": points})
    if "/" in source.stem or source.stem.startswith("."):
        raise ValueError(f"{source.stem!r} is no name of a capture")
    return source


def _host(state: Mapping[str, Any]) -> Host:
    return Host(tuple(state["prefix"]))


def _settings(state: Mapping[str, Any]) -> Settings:
    ring = state["ring"]
    return Settings(**{**state, "ring": None if ring is None else Ring(**ring)})


def _sealed_group(state: Mapping[str, Any]) -> SealedGroup:
    counts = state["counts"]
    return SealedGroup(**{**state, "counts": None if counts is None else Counts(**counts)})


def path_of(state: Mapping[str, Any]) -> PathTable:
    """A path table from JSON."""
    match = {key: tuple(values) for key, values in state["match"].items()}
    return PathTable(
        state["name"], tuple(state["points"]), tuple(state["stages"]), match, tuple(state["detour"]), state["default"]
    )


@contextmanager
def locked(captures: Path, patience_s: float = _LOCK_PATIENCE_S) -> Iterator[int]:
    """Hold the lock of a folder of captures; yields its descriptor, which the capture tools inherit.

    CannotStart when others hold the lock for longer than ``patience_s``, or when the folder is a link.
    """
    try:
        descriptor = os.open(captures, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise CannotStart(f"{captures}: cannot be opened as a folder: {error.strerror}") from error
    try:
        deadline = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise CannotStart(f"{captures}: a recorder or a capture tool is still writing here") from error
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)
