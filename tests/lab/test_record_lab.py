"""The points of a lab, recorded in every way: the analysis says the same of each recording."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from capture_scripts import record as recorder
from capture_scripts.topology import Lab
from tests.conftest import CommandLine
from tests.lab.conftest import record, run_toml

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root to make network namespaces"),
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in recorder.TOOLS), reason="needs the tools of the lab"),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"tl{os.getpid()}")
    lab.up()
    try:
        yield lab
    finally:
        lab.down()


@pytest.mark.parametrize("way", ["", "--any", "--direction", "--tool=dumpcap", "--ring=1:2", "--filter=icmp"])
def test_ways_of_recording_agree(lab: Lab, tmp_path: Path, pktrace: CommandLine, way: str) -> None:
    if "dumpcap" in way and shutil.which("dumpcap") is None:
        pytest.skip("needs dumpcap")
    out = tmp_path / "run"
    ping = ["ip", "netns", "exec", lab.namespace("client"), "ping", "-n", "-q", "-f", "-c", "100", "10.77.0.1"]
    record(out, "--lab", lab.name, *filter(None, [way]), "--threshold", 0.2, "--", *ping)
    assert "window" in run_toml(out)
    result = pktrace("analyze", out, "--no-plots")
    assert result.returncode == 0, result.stderr
    summary = json.loads((out / "results" / "summary.json").read_text())
    for path in ("ingress", "egress"):
        told = summary["paths"][path]
        assert (told["trajectories"], told["fates"]["delivered"]) == (100, 100)
    rules = json.loads(pktrace("rules", out, "--json").stdout)
    hit = {rule["rule"]: rule for rule in rules if rule["matched"]}
    assert hit["punt-echo"]["matched"] == hit["punt-echo"]["counter_packets"] == 100
