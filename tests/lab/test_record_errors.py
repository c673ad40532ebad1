"""What goes wrong while recording: a clear sentence, the right exit code, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from capture_scripts import record as recorder
from capture_scripts.processes import run
from capture_scripts.quiet import wait_until
from tests.lab.cable import Wire
from tests.lab.conftest import (
    LONG_S,
    packets,
    processes_about,
    record,
    run_toml,
    running,
    start,
    wait_for,
    wait_until_deserted,
)

lab = pytest.mark.lab


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the recorder says when it does not start; exit code 2."""
    assert recorder.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    return said.err


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_not_root(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in refused(capsys, str(tmp_path / "run"), "--points", "a=lo", "--duration", "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_root")
def test_tcpdump_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ip").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tools))
    said = refused(capsys, str(tmp_path / "run"), "--points", "a=lo", "--duration", "1")
    assert "missing: tcpdump" in said
    assert "apt-get install tcpdump" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--points", "a/b=lo"], "a name has letters"),
        (["--points", "a="], "write NAME=IFACE"),
        (["--points", "a=lo@"], "write NAME=IFACE"),
        (["--duration", "1"], "no point to record at"),
        (["--points", "a=lo", "--snaplen", "9"], "--snaplen takes"),
        (["--points", "a=lo", "--threshold", "0"], "--threshold takes"),
        (["--points", "a=lo", "--buffer", "0"], "--buffer takes"),
        (["--points", "a=lo", "--ring", "9"], "--ring '9'"),
        (["--points", "a=lo", "--ring", "9:2", "--direction"], "--ring does not go with"),
        (["--points", "a=lo", "--any", "--direction"], "leave out --direction"),
        (["--points", "a=lo", "--sentinels", "here"], "--sentinels 'here'"),
        (["--points", "a=lo", "--sentinels", "10.0.0.1", "--snaplen", "96"], "--sentinels needs --snaplen"),
        (["--ssh", "ssh x", "--points", "a=lo", "--tool", "dumpcap"], "--ssh takes neither"),
        (["--lab", "x", "--points", "a=lo"], "--lab brings its own points"),
    ],
)
@pytest.mark.usefixtures("as_root")
def test_a_wrong_call(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert words in refused(capsys, str(tmp_path / "run"), *arguments)
    assert not (tmp_path / "run").exists()


def test_the_target_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    assert "exists already" in refused(capsys, str(tmp_path / "run"), "--points", "a=lo", "--duration", "1")
    assert not list((tmp_path / "run").iterdir())


@lab
def test_what_is_not_there(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    said = record(out, "--points", f"a=eth7@{wire.left}", code=2)
    assert f"there is no interface eth7 in namespace {wire.left}; there are: eth0, lo" in said
    assert "cannot look into namespace nowhere" in record(out, "--points", "a=eth0@nowhere", code=2)
    assert "there is no such command" in record(out, *wire.points(), "--", "no-such-command", code=2)
    assert "there is no point 'b'" in record(out, *wire.points(), "--count", "3@b", code=2)
    paths = tmp_path / "paths.toml"
    paths.write_text('[[path]]\nname = "p"\npoints = ["near", "nowhere"]\n')
    assert "there is no point 'nowhere'" in record(out, *wire.points(), "--paths", paths, code=2)
    paths.write_text("[[path]\n")
    assert "no valid TOML" in record(out, *wire.points(), "--paths", paths, code=2)
    paths.write_text("[loss]\nthreshold = '1s'\n")
    assert "only [[path]], [[rule]] and [[criterion]]" in record(out, *wire.points(), "--paths", paths, code=2)
    said = record(out, *wire.points(), "--filter", "no such filter", "--duration", "1", code=2)
    assert "did not start" in said
    assert "syntax error" in said
    said = record(out, "--ssh", "false", "--points", "a=eth0", "--duration", "1", code=2)
    assert "on false" in said
    assert not out.exists()
    assert processes_about(str(out)) == []


@lab
@pytest.mark.parametrize(("command", "words"), [("exit 7", "exit code 7"), ("kill -9 $$", "signal 9")])
def test_the_command_fails(tmp_path: Path, wire: Wire, command: str, words: str) -> None:
    out = tmp_path / "run"
    shell = f"ping -n -q -c 5 -i 0.01 {wire.right_address}; {command}"
    said = record(out, *wire.points(), "--threshold", 0.1, "--", *wire.in_left("sh", "-c", shell), code=1)
    assert len(said.splitlines()) == 1
    assert words in said
    incomplete(out, words)
    assert packets(out) == {"near": 10, "far": 10}


def incomplete(out: Path, words: str) -> None:
    """The run is sealed and says that it is not complete, and why; nothing of the recorder is left."""
    assert words in (out / "context" / "incomplete.txt").read_text()
    document = run_toml(out)
    assert document["description"].startswith("INCOMPLETE")
    assert "window" not in document
    assert not (out / ".reserve").exists()
    assert processes_about(str(out)) == []


def wait_for_words(process: subprocess.Popen[str], words: str) -> None:
    """Until the recorder has said a line that holds the words on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"it ended and did not say {words!r}")


@lab
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_the_command_runs(tmp_path: Path, wire: Wire, sign: signal.Signals) -> None:
    out = tmp_path / "run"
    sleep = f"sleep 61.{os.getpid()}"  # nobody else's
    shell = f"ping -n -q -c 5 -i 0.01 {wire.right_address}; touch {tmp_path}/sent; exec {sleep}"
    recorder_ = start(out, *wire.points(), "--", *wire.in_left("sh", "-c", shell))
    wait_for(tmp_path / "sent")
    recorder_.send_signal(sign)
    _, said = recorder_.communicate(timeout=LONG_S)
    assert recorder_.returncode == 130
    assert said.strip() == f"record: interrupted ({sign.name}); the packets so far are in {out}"
    incomplete(out, "interrupted")
    assert packets(out) == {"near": 10, "far": 10}
    wait_until(lambda: not processes_about(sleep), "the command ends")
    wait_until_deserted(wire.left)


@lab
def test_interrupted_before_it_records(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    recorder_ = start(out, *wire.points(), "--kernel-drops", "--duration", 30)
    wait_for(out / "captures")
    recorder_.send_signal(signal.SIGINT)
    _, said = recorder_.communicate(timeout=LONG_S)
    assert recorder_.returncode == 130
    assert len([line for line in said.splitlines() if "warning" not in line]) == 1
    assert processes_about(str(out)) == []
    wait_until_deserted(wire.left)


@lab
def test_ctrl_c_is_how_to_end_a_recording_without_a_command(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    recorder_ = start(out, *wire.points(), "--threshold", 0.1)
    wait_for_words(recorder_, "all points record")
    run(wire.ping(20))
    recorder_.send_signal(signal.SIGINT)
    said, errors = recorder_.communicate(timeout=LONG_S)
    assert recorder_.returncode == 0, errors
    assert said == f"{out}\n"
    assert "window" in run_toml(out)
    assert packets(out) == {"near": 40, "far": 40}


@lab
def test_a_second_ctrl_c_does_not_wait_for_the_threshold(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    recorder_ = start(out, *wire.points(), "--threshold", 600)
    wait_for_words(recorder_, "all points record")
    run(wire.ping(5))
    recorder_.send_signal(signal.SIGINT)
    wait_for_words(recorder_, "once more")
    recorder_.send_signal(signal.SIGINT)
    recorder_.communicate(timeout=LONG_S)
    assert recorder_.returncode == 130
    incomplete(out, "interrupted")
    assert packets(out) == {"near": 10, "far": 10}


@lab
def test_a_capture_that_dies(tmp_path: Path, wire: Wire) -> None:
    out = tmp_path / "run"
    recorder_ = start(out, *wire.points(), "--duration", 300)
    wait_for(out / "context" / "ruleset-before.nft")
    run(wire.ping(5))
    (victim,) = [
        number for number, line in running() if line.startswith("tcpdump") and f"{out}/captures/far.pcap" in line
    ]

    def has_read_all() -> bool:
        os.kill(victim, signal.SIGUSR1)
        return "10 packets captured" in (out / "captures/far.log").read_text()

    wait_until(has_read_all, "tcpdump has read the ten packets")
    os.kill(victim, signal.SIGTERM)
    _, said = recorder_.communicate(timeout=LONG_S)
    assert recorder_.returncode == 1
    assert "the capture at far (eth0) ended too early" in said
    incomplete(out, "ended too early")
    assert packets(out) == {"near": 10, "far": 10}


@pytest.fixture
def small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)])
    try:
        yield disk
    finally:
        run(["umount", str(disk)], check=False)


@lab
def test_the_disk_fills_up(wire: Wire, small_disk: Path) -> None:
    """Stopped in time: what was captured is sealed, whole."""
    out = small_disk / "run"
    flood = wire.ping(20000, "-i", "0.002", "-s", "1400")
    said = record(out, *wire.points(), "--snaplen", 0, "--", *flood, code=1)
    assert "nearly full" in said
    incomplete(out, "nearly full")
    seen = packets(out)
    assert min(seen.values()) > 100
    assert not list(out.glob("captures/*.pcap"))
    wait_until_deserted(wire.left)


@lab
def test_the_disk_is_full_at_once(wire: Wire, small_disk: Path) -> None:
    """Somebody else took the rest: what cannot be sealed is left as it is, and named."""
    out = small_disk / "run"
    shell = f"ping -n -q -c 500 -f {wire.right_address}; cat /dev/zero > {small_disk}/fill; sleep 30"
    said = record(out, *wire.points(), "--", *wire.in_left("sh", "-c", shell), code=1)
    assert "nearly full" in said or "ended before" in said
    incomplete(out, "not sealed")
    assert [point["captures"] for point in run_toml(out)["point"]] == [["captures/near.pcap"], ["captures/far.pcap"]]
    wait_until_deserted(wire.left)
