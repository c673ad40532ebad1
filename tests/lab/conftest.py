"""What the tests of the recorder share: two namespaces with a cable between them, and the recorder as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from capture_scripts.processes import run
from capture_scripts.quiet import DEADLINE_S, wait_until
from tests.conftest import ROOT
from tests.kit.index import CaptureFile, read_capture
from tests.lab.cable import Wire, cable

# A script that is started as a file would take the package that is installed before the one that it lies in.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
RECORD = ROOT / "capture_scripts" / "record"
TOOLS = ("tcpdump", "ip", "ping")
# Deadlines guard against hanging, nothing else: a test waits for a condition, and has its truth from counters.
LONG_S = 2.5 * DEADLINE_S


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A cable; nothing but what a test sends runs over it."""
    if os.geteuid() != 0:
        pytest.skip("making network namespaces needs root")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    with cable() as made:
        yield made


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """The recorder, started."""
    return subprocess.Popen(
        [sys.executable, str(RECORD), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def record(*arguments: object, code: int = 0, timeout_s: float = LONG_S, **environment: str) -> str:
    """Run the recorder to its end and return what it said on stderr; its exit code must be ``code``."""
    process = start(*arguments, **environment)
    try:
        _, said = process.communicate(timeout=timeout_s)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == code, said
    assert "Traceback" not in said
    return said


def wait_for(path: Path, timeout_s: float = DEADLINE_S) -> None:
    """Until a file is there; the recorder writes the first of context/ when every point records."""
    wait_until(path.exists, f"{path} appears", timeout_s)


def run_toml(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "run.toml").read_text())


def captures(folder: Path) -> Mapping[str, CaptureFile]:
    """The captures of a run by point, read by the analyser's own reader; one file per point."""
    return {
        point["name"]: read_capture(folder / point["captures"][0], point["captures"][0])
        for point in run_toml(folder)["point"]
    }


def packets(folder: Path) -> dict[str, int]:
    return {name: len(file.capture.packets) for name, file in captures(folder).items()}


def processes_about(text: str) -> list[str]:
    """Command lines that hold ``text``, of processes that run now."""
    return [line for _, line in running() if text in line]


def running() -> list[tuple[int, str]]:
    """(process id, command line) of all other processes; one that ends meanwhile is not there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:  # FileNotFoundError or, once it is open, ProcessLookupError
                continue
            found.append((int(entry.name), line))
    return found


def wait_until_deserted(*namespaces: str) -> None:
    """Until nothing runs in the namespaces: a process that was signalled needs a processor to end on."""
    for namespace in namespaces:
        pids = ["ip", "netns", "pids", namespace]
        wait_until(lambda pids=pids: not run(pids), f"all ends in {namespace}", 30)
