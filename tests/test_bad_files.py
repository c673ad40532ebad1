"""One bad file among several costs that file, not the call; and the exit code says on stderr why it is not 0."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import SERVICE_CHAIN, CommandLine
from tests.kit.pcap_files import Record, pcap_bytes
from tests.kit.samples import plain_ethernet, udp4

BEGIN_NS = 1_700_000_000_000_000_000
MS = 1_000_000
BAD = {
    "no-capture": b"This is not a capture.\n",
    "short": b"\xd4\xc3\xb2\xa1",
    "damaged-gzip": b"\x1f\x8b\x08\x00garbage",
    "empty": b"",
    "empty-in-gzip": gzip.compress(b""),
}


def packets(count: int, delay_ns: int) -> bytes:
    """A pcap of so many UDP packets, one each millisecond."""
    return pcap_bytes(
        [
            Record(BEGIN_NS + number * MS + delay_ns, plain_ethernet(udp4(b"%06d" % number, ip_id=number)[0]))
            for number in range(count)
        ]
    )


def three_points(folder: Path, files: dict[str, bytes | None]) -> Path:
    """A run over points a, b and c without a window; None: the file is there and cannot be read as one."""
    folder.mkdir()
    points = ""
    for name in ("a", "b", "c"):
        data = files[name]
        if data is not None:
            (folder / f"{name}.pcap").write_bytes(data)
        points += f'[[point]]\nname = "{name}"\ncaptures = ["{name}.pcap"]\n'
    text = f'schema = 1\nname = "three"\n{points}[[path]]\nname = "p"\npoints = ["a", "b", "c"]\n'
    (folder / "run.toml").write_text(text)
    return folder


def fates(run: Path) -> dict[str, int]:
    return dict(pl.read_parquet(run / "results/trajectories.parquet").group_by("fate").len().iter_rows())


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_of_a_run_costs_that_file(pktrace: CommandLine, tmp_path: Path, kind: str) -> None:
    """`analyze` once ended with 2 and no results for any point."""
    run = three_points(tmp_path / "run", {"a": packets(20, 0), "b": packets(20, 1000), "c": BAD[kind]})
    result = pktrace("analyze", run, "--no-plots")
    assert result.returncode == 3, result.stderr
    said = [line for line in result.stderr.splitlines() if "exit code 3" in line]
    assert len(said) == 1
    assert "c.pcap" in said[0]
    assert fates(run) == {"undetermined": 20}
    reasons = pl.read_parquet(run / "results/trajectories.parquet")["reason"]
    assert set(reasons) == {"capture_cut"}
    counter = "capture_empty" if kind.startswith("empty") else "capture_unreadable"
    ledger = pl.read_parquet(run / "results/ledger.parquet").filter(pl.col("counter") == counter)
    assert ledger.select("point", "capture", "severity", "count").rows() == [("c", "c.pcap", "error", 1)]
    assert json.loads((run / "results/summary.json").read_text())["points"]["c"]["lost_file"] is True


@pytest.mark.parametrize("command", ["losses", "latency", "rules", "check"])
def test_every_command_says_why_it_ends_with_3(pktrace: CommandLine, tmp_path: Path, command: str) -> None:
    """`latency` and `rules` once ended with 3 and without a word of a reason."""
    run = three_points(tmp_path / "run", {"a": packets(20, 0), "b": packets(20, 1000), "c": b""})
    for arguments in ([command, run], [command, run, "--json"]):
        result = pktrace(*arguments)
        assert result.returncode == 3, result.stderr
        assert len([line for line in result.stderr.splitlines() if "exit code 3" in line and "c.pcap" in line]) == 1


def test_a_bad_file_beside_a_good_one_of_the_same_point(pktrace: CommandLine, service_chain: Path) -> None:
    """Nobody knows what was in the other file: what is missing at the point may have been, although the good file
    covers the whole window."""
    text = (service_chain / "run.toml").read_text()
    changed = text.replace(
        'captures = ["captures/vnic3.pcapng"]', 'captures = ["captures/vnic3.pcapng", "second.pcap"]'
    )
    (service_chain / "run.toml").write_text(changed)
    (service_chain / "second.pcap").write_bytes(b"")
    result = pktrace("analyze", service_chain, "--no-plots")
    assert result.returncode == 3, result.stderr
    assert "second.pcap" in result.stderr
    stages = pl.read_parquet(service_chain / "results/stages.parquet")
    assert stages.filter((pl.col("to_point") == "vnic3") & (pl.col("verdict") == "lost")).is_empty()


def test_a_run_of_bad_files_only_is_an_error(pktrace: CommandLine, tmp_path: Path) -> None:
    run = three_points(tmp_path / "run", {"a": BAD["no-capture"], "b": b"", "c": BAD["short"]})
    result = pktrace("analyze", run)
    assert result.returncode == 2
    assert "a.pcap" in result.stderr
    assert not (run / "results").exists()


def test_a_valid_capture_without_packets_saw_nothing(pktrace: CommandLine, tmp_path: Path) -> None:
    """Everything was lost before c if it is known that c ran; an empty capture alone does not say when it ran."""
    run = three_points(tmp_path / "run", {"a": packets(20, 0), "b": packets(20, 1000), "c": packets(0, 0)})
    result = pktrace("analyze", run, "--no-plots")
    assert result.returncode == 0, result.stderr
    assert "exit code" not in result.stderr
    assert fates(run) == {"undetermined": 20}
    with (run / "run.toml").open("a") as file:
        file.write("[window]\nstart_ns = 0\nend_ns = 4000000000000000000\n")
    result = pktrace("analyze", run, "--no-plots")
    assert result.returncode == 0, result.stderr
    assert fates(run) == {"lost": 20}
    assert set(pl.read_parquet(run / "results/trajectories.parquet")["lost_stage"]) == {1}


def test_an_empty_point_in_the_middle_missed_what_came_later(pktrace: CommandLine, tmp_path: Path) -> None:
    run = three_points(tmp_path / "run", {"a": packets(20, 0), "b": packets(0, 0), "c": packets(15, 2000)})
    result = pktrace("analyze", run, "--no-plots")
    assert result.returncode == 0, result.stderr
    assert fates(run) == {"delivered": 15, "undetermined": 5}


@pytest.mark.parametrize("kind", [*BAD, "absent"])
def test_a_bad_file_among_those_of_observe(pktrace: CommandLine, tmp_path: Path, kind: str) -> None:
    """`observe` once ended with 2 and wrote nothing of the other files."""
    files = [tmp_path / f"{name}.pcap" for name in ("a", "bad", "c")]
    files[0].write_bytes(packets(20, 0))
    files[2].write_bytes(packets(10, 0))
    if kind != "absent":
        files[1].write_bytes(BAD[kind])
    out = tmp_path / "out.parquet"
    result = pktrace("observe", *files, "-o", out)
    assert result.returncode == 3, result.stderr
    assert len([line for line in result.stderr.splitlines() if "exit code 3" in line and "bad.pcap" in line]) == 1
    assert pl.read_parquet(out)["capture"].value_counts().sort("capture").rows() == [
        (str(files[0]), 20),
        (str(files[2]), 10),
    ]
    again = pktrace("observe", *files, "-o", tmp_path / "json.parquet", "--json")
    assert again.returncode == 3
    assert "exit code 3" in again.stderr
    assert {entry["severity"] for entry in json.loads(again.stdout)["ledger"] if "bad" in entry["capture"]} == {"error"}


def test_bad_files_only_are_an_error_of_observe(pktrace: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "one.pcap").write_bytes(BAD["no-capture"])
    (tmp_path / "two.pcap").write_bytes(b"")
    result = pktrace("observe", tmp_path / "one.pcap", tmp_path / "two.pcap", "-o", tmp_path / "out.parquet")
    assert result.returncode == 2
    assert not (tmp_path / "out.parquet").exists()


def test_a_bad_file_is_left_out_of_a_proposal(pktrace: CommandLine, tmp_path: Path) -> None:
    for name, delay in (("a", 0), ("b", 1000)):
        (tmp_path / f"{name}.pcap").write_bytes(packets(20, delay))
    (tmp_path / "bad.pcap").write_bytes(BAD["no-capture"])
    result = pktrace("init", *sorted(tmp_path.glob("*.pcap")))
    assert result.returncode == 3, result.stderr
    assert "left out" in result.stderr
    assert "bad.pcap" not in result.stdout
    assert "b.pcap" in result.stdout


def test_criteria_say_what_failed(pktrace: CommandLine, service_chain: Path) -> None:
    """`--fail-on` once gave an exit code and no word."""
    result = pktrace("analyze", service_chain, "--no-plots", "--fail-on", "loss")
    assert result.returncode == 1
    said = [line for line in result.stderr.splitlines() if "exit code 1" in line]
    assert len(said) == 1
    truth = json.loads((service_chain / "results/summary.json").read_text())
    lost = sum(path["fates"]["lost"] for path in truth["paths"].values())
    packets_followed = sum(path["trajectories"] for path in truth["paths"].values())
    assert f"criterion loss failed: {lost:,} of {packets_followed:,} packets lost" in said[0]


def test_criteria_say_why_they_cannot_be_decided(pktrace: CommandLine, tmp_path: Path) -> None:
    run = three_points(tmp_path / "run", {"a": packets(20, 0), "b": packets(20, 1000), "c": packets(20, 2000)})
    shutil.rmtree(run / "results", ignore_errors=True)
    result = pktrace("analyze", run, "--no-plots", "--fail-on", "rules")
    assert result.returncode == 3
    assert "criterion rules cannot be decided: no packet came to a filter" in result.stderr
    (run / "c.pcap").write_bytes(b"")
    result = pktrace("analyze", run, "--no-plots", "--fail-on", "loss")
    assert result.returncode == 3
    assert "criterion loss cannot be decided" in result.stderr
    assert "20 capture_cut" in result.stderr


def test_the_recorded_run_ends_without_a_reason(pktrace: CommandLine, tmp_path: Path) -> None:
    result = pktrace("analyze", SERVICE_CHAIN, "--no-plots", "-o", tmp_path / "results")
    assert result.returncode == 0
    assert "exit code" not in result.stderr
