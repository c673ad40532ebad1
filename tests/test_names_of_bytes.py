"""Names of folders and files that are not UTF-8 work from end to end; so do signals that end a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, CommandLine
from tests.test_bad_files import packets, three_points

BYTE = os.fsdecode(b"\xff")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose folder and one of whose captures have names that are not UTF-8; run.toml names that by a pattern."""
    folder = three_points(tmp_path / f"run{BYTE}", {name: packets(20, 1000 * at) for at, name in enumerate("abc")})
    (folder / "c.pcap").rename(folder / f"c{BYTE}.pcap")
    text = (folder / "run.toml").read_text()
    (folder / "run.toml").write_text(text.replace('"c.pcap"', '"c*.pcap"'))
    return folder


def test_results_in_a_folder_of_bytes(pktrace: CommandLine, run: Path) -> None:
    """Arrow takes names as UTF-8 only: `analyze` once ended with 70, and tables showed `c?.pcap`."""
    out = run.parent / f"out{BYTE}"
    result = pktrace("analyze", run, "-o", out)
    assert result.returncode == 0, result.stderr
    assert "out\\xff" in result.stderr
    assert "c\\xff.pcap" in set(pl.read_parquet((out / "observations.parquet").open("rb"))["capture"])
    with (out / "trajectories.parquet").open("rb") as file:
        keys = pq.read_metadata(file).metadata
    assert rb"pktrace.input.sha256:c\xff.pcap" in keys
    assert f"c{BYTE}.pcap" in json.loads((out / "summary.json").read_text())["inputs"]
    assert {file.name for file in (out / "plots").iterdir()} >= {"ecdf.svg", "ecdf.png"}


@pytest.mark.parametrize("arguments", [["latency"], ["rules"], ["losses"], ["check"], ["explain", "3"]])
def test_every_command_reads_it(pktrace: CommandLine, run: Path, arguments: list[str]) -> None:
    command, *rest = arguments
    for more in ([], ["--json"]):
        result = pktrace(command, run, *rest, *more)
        assert result.returncode == 0, result.stderr
    json.loads(result.stdout)


def test_observe_and_init(pktrace: CommandLine, run: Path) -> None:
    captures = [run / "a.pcap", run / f"c{BYTE}.pcap"]
    out = run.parent / f"out{BYTE}.parquet"
    result = pktrace("observe", *captures, "-o", out, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["output"] == str(out)
    assert pl.read_parquet(out.open("rb")).height == 40
    made = run / f"made{BYTE}"
    result = pktrace("init", *captures, "-o", made)
    assert result.returncode == 0, result.stderr
    proposed = tomllib.loads((made / "run.toml").read_text())
    assert "../c?.pcap" in [name for point in proposed["point"] for name in point["captures"]]


def test_init_refuses_a_pattern_that_fits_two_files(pktrace: CommandLine, run: Path) -> None:
    (run / f"c{os.fsdecode(bytes([0xFE]))}.pcap").write_bytes(packets(3, 0))
    result = pktrace("init", run / "a.pcap", run / f"c{BYTE}.pcap")
    assert result.returncode == 2
    assert "c\\xff.pcap" in result.stderr
    assert "rename it" in result.stderr


def started(run: Path, out: Path, stdout: int, *, ignoring: bool = False) -> subprocess.Popen[bytes]:
    """`analyze --json` that has written its results, and waits for a reader of its output."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-m", "pktrace", "analyze", str(run), "-o", str(out), "--no-plots", "--json"],
        stdout=stdout, stderr=subprocess.DEVNULL, cwd=ROOT, preexec_fn=ignore if ignoring else None,
    )  # fmt: skip
    give_up = time.monotonic() + 300
    while not (out / "summary.json").exists() and time.monotonic() < give_up and process.poll() is None:
        time.sleep(0.05)
    return process


def full_pipe() -> tuple[int, int]:
    """A pipe that takes no byte more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    return reader, writer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_hang_up_ends_it_as_a_termination_does(tmp_path: Path, number: int) -> None:
    """SIGHUP once killed it where it stood: helper processes and half-written files stayed."""
    run = three_points(tmp_path / "run", {name: packets(20, 1000 * at) for at, name in enumerate("abc")})
    reader, writer = full_pipe()
    process = started(run, tmp_path / "out", writer)
    os.close(writer)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    os.close(reader)
    assert not [file for file in (tmp_path / "out").iterdir() if "partial" in file.name]


def test_nohup_is_obeyed(tmp_path: Path) -> None:
    run = three_points(tmp_path / "run", {name: packets(20, 1000 * at) for at, name in enumerate("abc")})
    reader, writer = full_pipe()
    process = started(run, tmp_path / "out", writer, ignoring=True)
    os.close(writer)
    process.send_signal(signal.SIGHUP)
    with open(reader, "rb") as file:
        assert b'"exit_code": 0' in file.read()
    assert process.wait(60) == 0
