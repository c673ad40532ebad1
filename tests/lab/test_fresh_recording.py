"""A run recorded afresh in network namespaces: the analysis agrees with the plan and with every counter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import recorded_truth
from tests.conftest import ROOT, CommandLine
from tests.lab.conftest import LONG_S

_TOOLS = ("tcpdump", "nft", "ip", "ethtool", "ping")

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root to make network namespaces"),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in _TOOLS), reason=f"the lab needs {', '.join(_TOOLS)}"),
]


def test_a_fresh_recording_agrees_with_its_plan_and_counters(tmp_path: Path, pktrace: CommandLine) -> None:
    run = tmp_path / "fresh"
    made = subprocess.run(
        [sys.executable, str(ROOT / "capture_scripts" / "fixture" / "make_fixture.py"), str(run)],
        capture_output=True,
        text=True,
        timeout=LONG_S,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    result = pktrace("analyze", run, "--no-plots")
    assert result.returncode == 0, result.stderr
    recorded_truth.check_all(run, run / "results")
