"""Bad input: each gets one clear line, the right exit code and no traceback, and loses nothing."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import ROOT, CommandLine


def expect_error(result: object, code: int, *words: str) -> None:
    """One line on stderr that holds all the words; nothing on stdout; no traceback."""
    assert result.returncode == code, result.stderr  # type: ignore[attr-defined]
    lines = [line for line in result.stderr.splitlines() if not line.startswith("Compiling")]  # type: ignore[attr-defined]
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    for word in words:
        assert word in lines[0], (word, lines[0])


def edit(run: Path, old: str, new: str) -> None:
    file = run / "run.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_no_such_run(pktrace: CommandLine, tmp_path: Path) -> None:
    expect_error(pktrace("analyze", tmp_path / "absent"), 2, "absent", "no such run")


def test_folder_without_run_toml(pktrace: CommandLine, tmp_path: Path) -> None:
    expect_error(pktrace("analyze", tmp_path), 2, "run.toml")


def test_a_capture_in_place_of_a_run(pktrace: CommandLine, service_chain: Path) -> None:
    expect_error(pktrace("analyze", service_chain / "captures/punt.pcapng"), 2, "pktrace observe")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "uplink"', 'name = "uplink"\nsnaplen = 3', ["point[uplink].snaplen", "unknown key", "known keys"]),
        ('detour = ["punt"', 'detuor = ["punt"', ["path[ingress].detuor", "did you mean `detour`"]),
        (
            'captures = ["captures/punt.pcapng"]',
            'captures = ["captures/gone.pcapng"]',
            ["point[punt].captures", "gone"],
        ),
        ('captures = ["captures/punt.pcapng"]', "captures = []", ["point[punt].captures", "empty"]),
        (
            'captures = ["captures/punt.pcapng"]',
            'captures = ["captures/punt.pcapng", "captures/p*t.pcapng"]',
            ["point[punt].captures", "twice"],
        ),
        ('name = "uplink"', 'name = "punt"', ["punt", "twice"]),
        ("schema = 1", "schema = 9", ["schema", "9"]),
        ("schema = 1", "", ["schema", "missing"]),
        ('points = ["uplink", "vnic3"]', 'points = ["uplink", "vnic9"]', ["path[to-pvm3].points", "vnic9"]),
        ('points = ["uplink", "vnic3"]', "points = []", ["path[to-pvm3].points", "empty"]),
        ('detour = ["punt", "return"]', 'detour = ["return", "punt"]', ["detour", "neighbouring"]),
        ('path = "ingress"', 'path = "inwards"', ["rule[", "inwards", "paths are"]),
        ('dport = "5201"', 'dport = "5201-5200"', ["dport", "5201-5200"]),
        ('protocol = "tcp"', 'protocol = "tpc"', ["protocol", "tpc"]),
        ('threshold = "2s"', 'threshold = "2"', ["loss.threshold", "unit"]),
        ("start_ns = ", "start_ns = 9", ["window"]),
        ("[window]", "[window", ["run.toml", "TOML"]),
        ('action = "drop"', 'action = "reject"', ["action", "reject"]),
        ('path = "ingress"\nprotocol = "tcp"', 'path = "to-pvm3"\nprotocol = "tcp"', []),
    ],
)
def test_wrong_run_toml(pktrace: CommandLine, service_chain: Path, old: str, new: str, words: list[str]) -> None:
    edit(service_chain, old, new)
    result = pktrace("analyze", service_chain, "--no-plots")
    if words:
        expect_error(result, 2, "run.toml", *words)
    else:
        assert result.returncode == 0  # a drop rule may stand on a path without a detour


def test_a_punt_rule_on_a_path_without_a_detour(pktrace: CommandLine, service_chain: Path) -> None:
    with (service_chain / "run.toml").open("a") as file:
        file.write('\n[[rule]]\nid = "late"\npath = "to-pvm3"\naction = "punt"\n')
    expect_error(pktrace("analyze", service_chain), 2, "rule[late].action", "no detour")


def test_a_capture_cut_in_the_middle_of_a_packet(pktrace: CommandLine, service_chain: Path) -> None:
    """Used up to the cut, counted in the ledger, exit 3; what came after the cut is undetermined, never lost."""
    whole = pktrace("analyze", service_chain, "--no-plots", "-o", service_chain / "whole")
    assert whole.returncode == 0
    capture = service_chain / "captures/vnic.pcapng"
    before = pl.read_parquet(service_chain / "whole/observations.parquet").filter(pl.col("point") == "vnic")
    cut = before.sort("frame").to_dicts()[before.height // 2]
    os.truncate(capture, cut["byte_offset"] + 5)
    result = pktrace("analyze", service_chain, "--no-plots")
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert "capture_cut" in result.stdout
    results = service_chain / "results"
    after = pl.read_parquet(results / "observations.parquet").filter(pl.col("point") == "vnic")
    assert after.height == cut["frame"] - 1
    ledger = pl.read_parquet(results / "ledger.parquet").filter(pl.col("counter") == "capture_cut")
    assert ledger["count"].to_list() == [1]
    assert ledger["severity"].to_list() == ["error"]
    fates = [
        dict(pl.read_parquet(folder / "trajectories.parquet").group_by("fate").len().iter_rows())
        for folder in (service_chain / "whole", results)
    ]
    assert fates[1]["lost"] <= fates[0]["lost"]
    assert fates[1]["undetermined"] > 0
    reasons = pl.read_parquet(results / "trajectories.parquet").filter(pl.col("fate") == "undetermined")["reason"]
    assert set(reasons) == {"capture_cut"}


def test_a_cut_after_the_window_does_not_matter(pktrace: CommandLine, service_chain: Path) -> None:
    """Every point still covers the whole window: counted in the ledger, and nothing becomes doubtful."""
    window = tomllib.loads((service_chain / "run.toml").read_text())["window"]
    capture = service_chain / "captures/vnic3.pcapng"
    data = capture.read_bytes()
    late = struct.pack("<IIIIIII", 6, 40, 0, *divmod(window["end_ns"] + 5, 1 << 32), 8, 8)
    statistics = data.rindex(struct.pack("<I", 5) + data[-4:])
    capture.write_bytes(data[:statistics] + late + bytes(8) + struct.pack("<I", 40) + late[:20])
    result = pktrace("analyze", service_chain, "--no-plots")
    assert result.returncode == 0, result.stderr
    assert "capture_cut" in result.stdout


def test_a_file_that_is_no_capture(pktrace: CommandLine, service_chain: Path) -> None:
    """It costs the file, not the run: exit 3 with each format's reason (tests/test_bad_files.py has the rest)."""
    (service_chain / "captures/punt.pcapng").write_text("This is not a capture.\n")
    result = pktrace("analyze", service_chain, "--no-plots")
    assert result.returncode == 3, result.stderr
    said = [line for line in result.stderr.splitlines() if "exit code 3" in line]
    assert len(said) == 1
    for word in ("captures/punt.pcapng", "no capture", "pcapng:", "pcap:"):
        assert word in said[0]


@pytest.mark.parametrize("content", [b"", b"\x0a", b"\xd4\xc3\xb2\xa1", b"\x0a\x0d\x0d\x0a" + bytes(20)])
def test_heads_that_are_too_short(pktrace: CommandLine, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "short.pcap"
    file.write_bytes(content)
    expect_error(pktrace("observe", file, "-o", tmp_path / "out.parquet"), 2, "short.pcap", "no capture")
    assert not (tmp_path / "out.parquet").exists()


def test_an_empty_capture(pktrace: CommandLine, service_chain: Path, tmp_path: Path) -> None:
    """Valid and empty is no error: a point that saw nothing, in a window in which it was capturing."""
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    file = tmp_path / "empty.pcap"
    file.write_bytes(header)
    result = pktrace("observe", file, "-o", tmp_path / "out.parquet")
    assert result.returncode == 0
    assert pl.read_parquet(tmp_path / "out.parquet").height == 0
    (service_chain / "captures/vnic3.pcapng").write_bytes(header)
    result = pktrace("analyze", service_chain)
    assert result.returncode == 0, result.stderr


def test_a_run_whose_captures_are_all_empty(pktrace: CommandLine, tmp_path: Path) -> None:
    run = tmp_path / "empty"
    run.mkdir()
    (run / "a.pcap").write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    (run / "b.pcap").write_bytes(struct.pack(">IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 1))
    (run / "run.toml").write_text(
        'schema = 1\nname = "empty"\n[[point]]\nname = "a"\ncaptures = ["a.pcap"]\n'
        '[[point]]\nname = "b"\ncaptures = ["b.pcap"]\n[[path]]\nname = "p"\npoints = ["a", "b"]\n'
    )
    result = pktrace("analyze", run)
    assert result.returncode == 0, result.stderr
    assert pl.read_parquet(run / "results/trajectories.parquet").height == 0
    expect_error(pktrace("explain", run, 0), 2, "no packet 0", "none")


def test_no_such_packet(pktrace: CommandLine, service_chain: Path) -> None:
    expect_error(pktrace("explain", service_chain, 999999), 2, "999999", "run from 0 to")


def test_unknown_criterion(pktrace: CommandLine, service_chain: Path) -> None:
    result = pktrace("analyze", service_chain, "--fail-on", "luck")
    assert result.returncode == 2
    assert "loss, rules" in result.stderr


def test_fail_on_loss(pktrace: CommandLine, service_chain: Path) -> None:
    assert pktrace("analyze", service_chain, "--no-plots", "--fail-on", "loss").returncode == 1


def test_results_cannot_be_written(pktrace: CommandLine, service_chain: Path) -> None:
    (service_chain / "results").write_text("in the way")
    result = pktrace("analyze", service_chain, "--no-plots")
    assert result.returncode == 2
    assert "cannot write results" in result.stderr
    assert "Traceback" not in result.stderr


def test_names_from_outside_do_not_reach_the_terminal_raw(pktrace: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "bad\x1b[31m\nname.pcap"
    file.write_text("no capture")
    expect_error(pktrace("observe", file, "-o", tmp_path / "out.parquet"), 2, "no capture")
    assert "\x1b" not in pktrace("observe", file, "-o", tmp_path / "out.parquet").stderr


def test_a_reader_that_goes_away_is_no_fault(service_chain: Path) -> None:
    """`pktrace analyze RUN | head` once ended with 1 and wrote no results."""
    command = [sys.executable, "-m", "pktrace", "analyze", str(service_chain), "--no-plots"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(120) == 0
    assert (service_chain / "results/summary.json").exists()


def test_a_full_disk_behind_stdout(service_chain: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "pktrace", "analyze", str(service_chain), "--no-plots"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=120, check=False
        )
    assert done.returncode == 2
    assert "standard output" in done.stderr
    assert "Traceback" not in done.stderr
    assert (service_chain / "results/summary.json").exists()


def test_points_on_different_clocks_are_not_measured(pktrace: CommandLine, service_chain: Path) -> None:
    """Unknown latencies once looked like percentiles that fall on lost packets."""
    edit(service_chain, 'captures = ["captures/vnic3.pcapng"]\nclock = "host"', 'captures = ["captures/vnic3.pcapng"]')
    edit(service_chain, 'captures = ["captures/vnic3.pcapng"]', 'captures = ["captures/vnic3.pcapng"]\nclock = "far"')
    result = pktrace("latency", service_chain)
    assert result.returncode == 0
    table = result.stdout.partition("Latency of to-pvm3")[2].partition("Latency of from-pvm3")[0]
    assert "∞" not in table
    assert "different clocks" in result.stdout


def test_an_incomplete_recording_is_said(pktrace: CommandLine, service_chain: Path) -> None:
    (service_chain / "context/incomplete.txt").write_text("interrupted\n")
    assert "recording_incomplete" in pktrace("losses", service_chain).stdout
