"""`pktrace trace` in a lab of its own: the paper's one command, in both modes, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from capture_scripts.quiet import DEADLINE_S
from tests.conftest import ROOT, CommandLine
from tests.lab.conftest import LONG_S, wait_for, wait_until_deserted

_TOOLS = ("tcpdump", "nft", "ip", "ethtool", "ping", "tshark")
_LAB = [sys.executable, str(ROOT / "capture_scripts" / "lab")]

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root to make network namespaces"),
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in _TOOLS), reason=f"these tests need {', '.join(_TOOLS)}"
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    name = f"tt{os.getpid()}"
    subprocess.run([*_LAB, "up", "--name", name], check=True, timeout=DEADLINE_S, capture_output=True, cwd=ROOT)
    yield name
    subprocess.run([*_LAB, "down", "--name", name], check=True, timeout=DEADLINE_S, capture_output=True, cwd=ROOT)


def points(lab: str) -> list[str]:
    named = [
        "--uplink",
        "uplink",
        "--switchport",
        "sp1",
        "--vnicbackend",
        "vnic1",
        "--punt",
        "punt1",
        "--return",
        "ret1",
    ]
    return [*named, "--netns", f"{lab}-host"]


@pytest.fixture
def pings(lab: str) -> Iterator[None]:
    """Echo requests through the lab, ten a second, as long as the test runs."""
    command = ["ip", "netns", "exec", f"{lab}-client", "ping", "-q", "-i", "0.1", "-w", "1800", "10.77.0.1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield
        process.terminate()


def test_mode_0_shows_each_stage_in_both_directions(
    lab: str, pings: None, tmp_path: Path, pktrace: CommandLine
) -> None:
    told = pktrace("trace", "-m", 0, "-c", 8, "--proto", 1, *points(lab), "-o", tmp_path / "run", COLUMNS="80")
    assert told.returncode == 0, told.stderr
    for path in ("ingress", "egress"):
        table = told.stdout.partition(f"Latency of {path}")[2].partition("\n\n")[0]
        assert re.search(r"service +punt +return +\d+ ", table), told.stdout
        assert re.search(r"bypass +\S+ +\S+ +0 ", table)
    trajectories = pl.read_parquet(tmp_path / "run/results/trajectories.parquet")
    assert trajectories.filter(pl.col("path") == "ingress").height >= 4
    assert set(trajectories["protocol"]) == {1}


def test_mode_1_verifies_rules_and_dumps_packets(lab: str, pings: None, tmp_path: Path, pktrace: CommandLine) -> None:
    rules = ROOT / "capture_scripts/rules/service-chain.toml"
    told = pktrace(
        "trace", "-m", 1, "-c", 4, "--proto", "icmp", "--detail", "--rules", rules, *points(lab), "-o", tmp_path / "run"
    )
    assert told.returncode == 0, told.stderr
    assert re.search(r"punt-echo +punt +\d+ +\d+ ", told.stdout)
    found = pl.read_parquet(tmp_path / "run/results/rules.parquet").filter(pl.col("rule") == "punt-echo").to_dicts()[0]
    assert found["hit"] >= 4
    # The pings go on while captures begin and end: those on their way then, and no others, are undetermined.
    assert found["matched"] - found["hit"] == found["undetermined"]
    packets = pl.read_parquet(tmp_path / "run/results/trajectories.parquet").filter(pl.col("rule") == "punt-echo")
    verdicts = packets.sort("first_ns")["rule_verdict"].cast(pl.String).to_list()
    first = verdicts.index("hit")
    assert verdicts[first : first + found["hit"]] == ["hit"] * found["hit"]
    assert "uplink, frame 1:" in told.stdout
    assert "Type: 8 (Echo (ping) request)" in told.stdout
    assert "the same headers" in told.stdout


def test_nothing_passes_in_time(lab: str, tmp_path: Path, pktrace: CommandLine) -> None:
    told = pktrace("trace", "--proto", "tcp", "--timeout", 1, *points(lab), "-o", tmp_path / "run")
    assert told.returncode == 3
    assert "no matching packet passed in time" in told.stderr
    assert (tmp_path / "run/captures/uplink.pcapng").exists()


def test_no_such_interface(lab: str, tmp_path: Path, pktrace: CommandLine) -> None:
    named = [word.replace("sp1", "nosuch") for word in points(lab)]
    told = pktrace("trace", "--timeout", 1, *named, "-o", tmp_path / "run")
    assert told.returncode == 2
    assert "nosuch" in told.stderr
    assert "Traceback" not in told.stderr


def test_an_existing_folder_is_left_alone(lab: str, tmp_path: Path, pktrace: CommandLine) -> None:
    (tmp_path / "note").write_text("mine")
    told = pktrace("trace", "--timeout", 1, *points(lab), "-o", tmp_path)
    assert told.returncode == 2
    assert "exists" in told.stderr
    assert (tmp_path / "note").read_text() == "mine"


def test_terminated_while_recording(lab: str, pings: None, tmp_path: Path) -> None:
    """The recorder seals what it has, and no process stays behind."""
    command = [sys.executable, "-m", "pktrace", "trace", "-c", "100000", *points(lab), "-o", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT) as process:
        wait_for(tmp_path / "run/context/ruleset-before.nft")
        process.terminate()
        process.communicate(timeout=LONG_S)
    assert process.returncode in (130, 143)
    assert (tmp_path / "run/captures/uplink.pcapng").exists()
    wait_until_deserted(f"{lab}-host")


def test_json_is_the_summary(lab: str, pings: None, tmp_path: Path, pktrace: CommandLine) -> None:
    told = pktrace("trace", "-c", 2, "--proto", 1, *points(lab), "-o", tmp_path / "run", "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["paths"]["ingress"]["trajectories"] >= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "1"], "needs --rules"),
        (["-m", "1", "--rules", "absent.toml"], "absent.toml: cannot be read as rules"),
        (["--proto", "1", "--dport", "80"], "has no ports"),
    ],
)
def test_mistakes_are_told_before_anything_is_recorded(
    lab: str, tmp_path: Path, pktrace: CommandLine, arguments: list[str], words: str
) -> None:
    told = pktrace("trace", *arguments, *points(lab), "-o", tmp_path / "run")
    assert told.returncode == 2
    assert words in told.stderr
    assert not (tmp_path / "run").exists()


def test_an_impatient_ctrl_c_leaves_nothing_behind_and_a_run_that_can_be_used(
    lab: str, pings: None, tmp_path: Path, pktrace: CommandLine
) -> None:
    """pktrace once ended before its recorder did, and the run had no paths."""
    command = [sys.executable, "-m", "pktrace", "trace", "-c", "100000", *points(lab), "-o", str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, start_new_session=True
    ) as process:
        wait_for(tmp_path / "run/context/ruleset-before.nft")
        for _ in range(3):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.3)  # pace of an impatient user
        process.communicate(timeout=LONG_S)
    assert process.returncode == 130
    wait_until_deserted(f"{lab}-host")
    assert "[[path]]" in (tmp_path / "run/run.toml").read_text()
    assert pktrace("losses", tmp_path / "run").returncode in (0, 3)
