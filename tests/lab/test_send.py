"""Tailored packets in the lab: what is sent is what was planned, and what is analysed is what was sent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from capture_scripts import marker_run, send
from capture_scripts.filter_rules import Agent, Rule, compile_filter, load_rules
from capture_scripts.marks import SINK_COUNTER
from capture_scripts.processes import LabError, run
from capture_scripts.recorder.surroundings import counters
from capture_scripts.send import End, prepare, send_prepared
from capture_scripts.sender.tailored import make_plan
from capture_scripts.testbed import topology
from tests.conftest import ROOT
from tests.lab.conftest import LONG_S, wait_until_deserted

EVERY_FORM = ROOT / "tests" / "lab" / "rules" / "every-form.toml"
MISSING = [tool for tool in marker_run.TOOLS if shutil.which(tool) is None]

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root to make network namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"the lab needs {', '.join(MISSING)}"),
]


@pytest.fixture
def lab() -> Iterator[topology.Lab]:
    lab = topology.Lab(f"se{os.getpid()}")
    lab.up(EVERY_FORM)
    yield lab
    lab.down()


@pytest.mark.slow
def test_the_marker_run_agrees_with_its_plan_to_the_last_packet(tmp_path: Path) -> None:
    """50,000 packets, five known places of loss each way: captures, counters, kernel and analysis say what the plan
    says (the kernel where bpftrace works).
    """
    out = tmp_path / "marker-run"
    command = [sys.executable, str(ROOT / "capture_scripts" / "marker_run.py"), str(out), "--name", f"sm{os.getpid()}"]
    command.append("--kernel-drops")
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["packets"] == figures["analysis"]["trajectories"] == 50_000
    places = Counter(name.split()[0] for name in figures["losses"])
    assert places == {"ingress": 5, "egress": 5}
    assert min(figures["losses"].values()) > 100
    assert figures["analysis"]["basis"] == {"exact": 50_000}
    if figures["kernel witness"]["recorded"]:
        assert sorted(figures["kernel witness"]["drops"].values()) == sorted(figures["losses"].values())
    for said in figures["sent"].values():
        # At the rate that was asked for, but for the time in which the sender had no processor.
        assert said["sent"] > 0.9 * marker_run.RATE_PPS * (said["seconds"] - said["starved_seconds"])


def test_rules_of_every_form_mean_the_same_to_filter_plan_and_analysis(
    tmp_path: Path,
) -> None:
    figures, faults = marker_run.marker_run(
        tmp_path / "run", f"sf{os.getpid()}", EVERY_FORM, count=6000, rate_pps=6000, seed=2, lost_percent=15
    )
    assert faults == []
    assert len(figures["losses"]) == 10


def test_a_filter_that_does_something_else_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is worth something only if it finds a fault: here the filter forwards what it should punt."""
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nid = "r"\npath = "ingress"\nprotocol = "udp"\ndport = "53"\naction = "punt"\n')

    def faulty(rules: Sequence[Rule], agent: Agent) -> str:
        return compile_filter([replace(rule, action="forward") for rule in rules], agent)

    monkeypatch.setattr(topology, "compile_filter", faulty)
    _, faults = marker_run.marker_run(
        tmp_path / "run", f"sg{os.getpid()}", rules, count=300, rate_pps=3000, seed=2, lost_percent=20
    )
    for witness in ("captures: ", "counters: svm:loss_in_p1", "analysis: "):
        assert any(fault.startswith(witness) for fault in faults), (witness, faults[:5])
    assert any("rule_verdict false_forward, should be hit" in fault for fault in faults)


def test_both_ways_of_sending_send_all_and_provoke_no_answer(
    tmp_path: Path, lab: topology.Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the lab's name and by namespaces: every counter of the filter is as planned, so nobody has answered."""
    rules = load_rules(EVERY_FORM)
    plan = make_plan(rules, 1500, seed=5)
    file = tmp_path / "plan.parquet"
    plan.write(file)
    planned = Counter((packet.case.path, packet.rule) for packet in plan.packets)
    wanted = {rule.counter: planned[rule.path, rule.id] for rule in rules}
    wanted |= {"in1_default": planned["ingress", None], "eg1_default": planned["egress", None]}
    delivered = Counter(packet.case.path for packet in plan.packets if packet.fate == "delivered")
    ends = [lab.namespace(role) for role in ("client", "pvm1")]
    for where in (["--name", lab.name], ["--netns", *ends]):
        for role in topology.ROLES:
            lab.run_in(role, ["nft", "reset", "counters"])
        assert send.main(["run", str(file), "--rate", "3000", *where]) == 0
        told = json.loads(capsys.readouterr().out)
        assert {path: said["sent"] for path, said in told.items()} == Counter(p.case.path for p in plan.packets)
        counted = counters(lab.namespace("host"))
        assert {name: counted[name] for name in wanted} == wanted
        arrived = [counters(end)[SINK_COUNTER] for end in ends]
        assert arrived == ([delivered["egress"], delivered["ingress"]] if where[0] == "--name" else [0, 0])
        for end in ends:
            assert "tailored_sink" not in run(["ip", "netns", "exec", end, "nft", "list", "tables"])


def test_a_lab_that_is_not_there_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_plan(load_rules(EVERY_FORM), 1200).write(tmp_path / "plan.parquet")
    assert send.main(["run", str(tmp_path / "plan.parquet"), "--name", "nosuchlab"]) == 1
    words = capsys.readouterr().err
    assert "is the lab up?" in words
    assert len(words.splitlines()) == 1


def test_a_sender_that_fails_is_no_success(tmp_path: Path, lab: topology.Lab) -> None:
    """A device that goes down while packets are sent: LabError, and no process or file of frames is left."""
    make_plan(load_rules(EVERY_FORM), 1500).write(tmp_path / "plan.parquet")
    ends = [End(lab.namespace(role), "eth0") for role in ("client", "pvm1")]
    prepared = prepare(tmp_path / "plan.parquet", *ends)
    lab.run_in("client", ["ip", "link", "set", "eth0", "down"])
    try:
        with pytest.raises(LabError, match=r"exit 1|not all packets"):
            send_prepared(prepared, 5000)
    finally:
        prepared.close()
    assert not prepared.file("ingress").exists()
    wait_until_deserted(lab.namespace("client"))
