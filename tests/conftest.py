"""What several test modules share: the fixture, and the command line as users start it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVICE_CHAIN = ROOT / "fixtures" / "service-chain"

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]

# `nohup make test` hands an ignored hang-up down to every process that tests start, and some test what one does.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def pktrace() -> CommandLine:
    """Start `pktrace` as a process of its own; returns what it printed and its exit code."""

    def start(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pktrace", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=1200,  # guards against hanging, however busy the machine
            check=False,
            cwd=ROOT,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **environment},
        )

    return start


@pytest.fixture
def service_chain(tmp_path: Path) -> Path:
    """A copy of the recorded run that a test may change; without its truth."""
    copy = tmp_path / "service-chain"
    shutil.copytree(SERVICE_CHAIN, copy, ignore=shutil.ignore_patterns("results", "truth.*"))
    return copy


@pytest.fixture(scope="session")
def analyzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the recorded run, made once."""
    results = tmp_path_factory.mktemp("analyzed") / "results"
    subprocess.run(
        [sys.executable, "-m", "pktrace", "analyze", str(SERVICE_CHAIN), "--no-plots", "-o", str(results)],
        check=True,
        capture_output=True,
        timeout=300,
        cwd=ROOT,
    )
    return results
