"""What the tests of the recorder share: two namespaces with a cable between them, and the recorder as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.kit.index import CaptureFile, read_capture
from tests.lab.cable import Wire, cable

RECORD = ROOT / "capture_scripts" / "record"
TOOLS = ("tcpdump", "ip", "ping")


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


def record(*arguments: object, code: int = 0, timeout_s: float = 60, **environment: str) -> str:
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


def wait_for(path: Path, timeout_s: float = 20) -> None:
    """Until a file is there; the recorder writes the first of context/ when every point records."""
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.02)


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
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found
