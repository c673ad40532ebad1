"""The points of a lab, recorded in every way: the analysis says the same of each recording."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from capture_scripts import record as recorder
from capture_scripts.testbed.service_chain import DEVICES, SECOND_DEVICES
from capture_scripts.testbed.topology import Lab
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
    ping = ["ip", "netns", "exec", lab.namespace("client"), "ping", "-n", "-q", "-i", "0.002", "-c", "100", "10.77.0.1"]
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


def test_a_lab_with_two_agents(tmp_path: Path, pktrace: CommandLine) -> None:
    """Points, paths and rules of both; and the journal of what was done to the lab meanwhile."""
    lab = Lab(f"t2{os.getpid()}")
    lab.up(agents=2)
    try:
        out = tmp_path / "run"
        client = lab.namespace("client")
        pings = " && ".join(f"ping -n -q -i 0.002 -c {10 * n} 10.77.0.{n}" for n in (1, 2, 3))
        pings += f" && ip netns exec {lab.namespace('pvm1')} ping -n -q -i 0.002 -c 40 10.77.0.2"
        command = ["sh", "-c", pings.replace("ping -n", f"ip netns exec {client} ping -n", 3)]
        record(out, "--lab", lab.name, "--threshold", 0.2, "--", *command)
    finally:
        lab.down()
    document = run_toml(out)
    assert [point["name"] for point in document["point"]] == [*DEVICES, *SECOND_DEVICES]
    journal = [json.loads(line) for line in (out / "context" / "lab-journal.jsonl").read_text().splitlines()]
    assert journal[0]["action"] == "up"
    result = pktrace("analyze", out, "--no-plots")
    assert result.returncode == 0, result.stderr
    told = json.loads((out / "results" / "summary.json").read_text())["paths"]
    assert {name: path["fates"]["delivered"] for name, path in told.items()} == {
        "ingress": 10, "egress": 10, "ingress2": 20, "egress2": 20, "to-pvm3": 30, "from-pvm3": 30,
        "pvm1-to-pvm2": 40, "pvm2-to-pvm1": 40,
    }  # fmt: skip
    assert all(path["trajectories"] == path["fates"]["delivered"] for path in told.values())
    rules = {rule["rule"]: rule for rule in json.loads(pktrace("rules", out, "--json").stdout)}
    assert (rules["punt-echo"]["matched"], rules["punt-echo-2"]["matched"]) == (10, 20)
    # The second filter also counts the requests of pvm1 to pvm2, which are on a path of their own.
    assert rules["punt-echo-2"]["counter_packets"] == 20 + 40
