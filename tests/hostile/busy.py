"""A machine that is short of processors: recordings are late there, and nothing of them may be wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT
from tests.hostile.attack import Attack

LOOPS = 2
# Once each failed beside busy loops: a gateway that changed a port, an overrun, a witness, an upload to a server that
# had given up.
SOME = (
    "tests/lab/test_changed_on_the_wire.py::test_short_flows",
    "tests/lab/test_record_overrun.py",
    "tests/lab/test_record_kernel_drops.py::TestWitness::test_every_drop_is_told_with_its_packet",
)


@contextmanager
def busy_loops(count: int = LOOPS) -> Iterator[None]:
    """Processes that never rest, ``count`` of them, until the block ends."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def _passes(folder: Path, tests: tuple[str, ...]) -> str | None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "lab",
        "-p",
        "no:cacheprovider",
        "--basetemp",
        str(folder / "t"),
    ]
    with busy_loops():
        done = subprocess.run(
            [*command, *tests], cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return None if done.returncode == 0 else f"exit code {done.returncode}: {' '.join(failed) or done.stdout[-300:]}"


def _some(folder: Path, _: int) -> str | None:
    return _passes(folder, SOME)


def _all(folder: Path, _: int) -> str | None:
    return _passes(folder, ("tests/lab",))


ATTACKS = (
    Attack(
        "tests-beside-busy-loops",
        f"{LOOPS} processes that never rest run beside the lab tests that once failed there.",
        _some,
        lab=True,
    ),
    Attack(
        "lab-beside-busy-loops",
        f"{LOOPS} processes that never rest run beside all lab tests.",
        _all,
        fast=0,
        full=5,
        lab=True,
    ),
)
