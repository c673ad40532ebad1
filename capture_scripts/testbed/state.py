"""The state of a laboratory between two commands: a folder beside its namespaces.

The folder lies in /run, like the names of namespaces (/run/netns): a restart of the machine removes both. It is made
before the first namespace and removed after the last one, so it lists all parts of a lab, also after a crash.

``lab.json``
    namespaces, number of agents, offloads, service of each agent, impairments that are in force
``journal.jsonl``
    all actions on the lab, a line per action, with its time: rules loaded, service swapped, impairments, faults.
    It belongs into the ``context/`` of a recording
``rules<agent>.toml``
    the intended rules, for ``run.toml``, regardless of an installed fault
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..processes import LabError

DEFAULT_FOLDER = Path("/run/pktrace-lab")
FOLDER_VARIABLE = "PKTRACE_LAB_STATE"


class LabState:
    """The folder of one lab."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER) / name

    @property
    def journal(self) -> Path:
        """JSON lines; every line has ``time_ns``, ``time`` (UTC) and ``action``."""
        return self.folder / "journal.jsonl"

    def rules(self, agent: int) -> Path:
        """The intended rules of one agent, with the names of their counters."""
        return self.folder / f"rules{agent}.toml"

    def exists(self) -> bool:
        return self.folder.is_dir()

    def claim(self, content: Mapping[str, Any]) -> None:
        """Make the folder; LabError if it exists: only one ``up`` of a name can succeed."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir()
        except FileExistsError as error:
            raise LabError(
                f"lab {self.name!r} stands already (or partly): run 'lab down --name {self.name}' first"
            ) from error
        except OSError as error:
            raise LabError(f"cannot make {self.folder}: {error.strerror}") from error
        self.write(content)

    def read(self) -> dict[str, Any]:
        """The content of ``lab.json``; empty if there is no such lab, or if the file is incomplete."""
        try:
            content = json.loads((self.folder / "lab.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return content if isinstance(content, dict) else {}

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace ``lab.json`` in one step: a reader never sees half a file."""
        partial = self.folder / "lab.json.partial"
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.folder / "lab.json")

    def update(self, **fields: Any) -> None:
        self.write({**self.read(), **fields})

    def note(self, action: str, **details: Any) -> None:
        """Append one line to the journal."""
        now = time.time_ns()
        moment = datetime.fromtimestamp(now / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = json.dumps({"time_ns": now, "time": moment, "action": action, **details})
        with self.journal.open("a", encoding="utf-8") as journal:
            journal.write(line + "\n")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the lab: one command at a time changes it. LabError if there is no such lab."""
        try:
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise LabError(f"lab {self.name!r} is not up: bring it up with 'lab up --name {self.name}'") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
