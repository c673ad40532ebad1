"""A recording that was killed, or whose sealing was: nothing that a tool wrote is lost, and --resume seals it."""

from __future__ import annotations

import os
import signal
import struct
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from capture_scripts import record as recorder
from capture_scripts.own_files import remove_folder
from capture_scripts.processes import CannotStart, Interrupted, LabError, interruptible, shielded
from capture_scripts.recorder import recording, run_folder, sealed_runs
from capture_scripts.recorder.captures import Settings, new_capture
from capture_scripts.recorder.journal import RECORDING, STATE_FILE, STOPPED, Journal, locked
from capture_scripts.recorder.points import Point
from capture_scripts.recorder.recording import Recorded, seal_all
from capture_scripts.recorder.run_folder import (
    RunPlan,
    keeps_packets,
    new_folder,
    new_journal,
    resume,
    write_unfinished,
)
from capture_scripts.recorder.sources import Group, one_per_point, two_per_point
from tests.kit.index import read_capture

START = 1_795_410_000_000_000_000
END = START + 10_000_000_000
POINTS = (Point("near", "eth0"), Point("far", "eth1"))


def pcap(times: Sequence[int], data: bytes = bytes(60)) -> bytes:
    written = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 256, 1)
    for time in times:
        written += struct.pack("<IIII", time // 10**9, time % 10**9, len(data), len(data)) + data
    return written


def log(captured: int, dropped: int = 0) -> str:
    return (
        f"listening on eth0\n{captured} packets captured\n{captured + dropped} packets received by filter\n"
        f"{dropped} packets dropped by kernel\n"
    )


def recorded(folder: Path, phase: str, groups: Sequence[Group] = (), settings: Settings | None = None) -> Journal:
    """A run folder as it is when a recorder is killed: two points, five packets each, logs, and the journal."""
    new_folder(folder)
    (folder / "context").mkdir()
    plan = RunPlan("night", "traffic", POINTS, settings or Settings())
    journal = new_journal(folder, plan, list(groups) or one_per_point(POINTS))
    journal.write()
    write_unfinished(folder, journal)
    captures = []
    for number, source in enumerate(source for group in journal.groups for source in group.sources):
        capture = new_capture(source, folder / "captures", journal.settings)
        capture.raw.write_bytes(pcap([START + 10**9 * k + number for k in range(1, 6)]))
        capture.log.write_text(log(5))
        capture.ready_ns = START
        if phase == STOPPED:
            capture.stopped_ns, capture.shut = END, True
        captures.append(capture)
    journal.note(captures, phase)
    return journal


def packets(folder: Path, name: str) -> int:
    return len(read_capture(folder / "captures" / name, name).capture.packets)


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in (folder / "captures").iterdir() if file.suffix != ".log")


def document(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "run.toml").read_text())


def test_killed_while_it_sealed_it_becomes_a_complete_recording(tmp_path: Path) -> None:
    """False before: a recording is sealed by the process that made it, or not at all."""
    run = tmp_path / "run"
    recorded(run, STOPPED)
    assert resume(run).problems == []
    assert files(run) == ["far.pcapng", "near.pcapng"]
    assert packets(run, "near.pcapng") == packets(run, "far.pcapng") == 5
    assert document(run)["window"] == {"start_ns": START, "end_ns": END}
    assert not document(run)["description"].startswith("INCOMPLETE")
    assert not (run / "context/incomplete.txt").exists()
    assert not (run / "context" / STATE_FILE).exists()


def test_killed_while_it_recorded_it_is_sealed_and_incomplete(tmp_path: Path) -> None:
    run = tmp_path / "run"
    recorded(run, RECORDING)
    assert document(run)["description"].startswith("INCOMPLETE")  # also before it is resumed
    with pytest.raises(LabError, match="its recorder was killed"):
        resume(run)
    assert files(run) == ["far.pcapng", "near.pcapng"]
    assert "window" not in document(run)
    assert "killed" in (run / "context/incomplete.txt").read_text()
    (interface,) = read_capture(run / "captures/near.pcapng", "near").capture.interfaces
    assert (interface.start_ns, interface.end_ns) == (START, None)
    assert (interface.received, interface.dropped) == (5, 0)  # the log's last words agree with the file


def test_counts_that_do_not_agree_with_the_file_are_not_written(tmp_path: Path) -> None:
    """A tool that was killed has said its counts when it was last asked: they say less than its file."""
    run = tmp_path / "run"
    recorded(run, RECORDING)
    (run / "captures/near.log").write_text(log(3, dropped=2))
    with pytest.raises(LabError, match="tcpdump did not say what it received"):
        resume(run)
    (interface,) = read_capture(run / "captures/near.pcapng", "near").capture.interfaces
    assert (interface.received, interface.dropped) == (None, None)


def test_killed_between_two_captures_each_is_sealed_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    journal = recorded(run, STOPPED)
    source = journal.groups[0].sources[0]
    capture = new_capture(source, run / "captures", journal.settings)
    capture.restore(journal.captures["near"])
    journal.note_sealed("near", sealed_runs.seal_group(journal.groups[0], [capture], journal.settings))
    before = (run / "captures/near.pcapng").stat()
    assert "near.pcap" in files(run)
    resume(run)
    assert files(run) == ["far.pcapng", "near.pcapng"]
    after = (run / "captures/near.pcapng").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_half_of_the_raw_files_of_a_sealed_capture_are_not_sealed_anew(tmp_path: Path) -> None:
    """The captures of both directions are in the sealed file; when one raw file is gone, the other alone says less."""
    run = tmp_path / "run"
    journal = recorded(run, STOPPED, two_per_point(POINTS))
    captures = [new_capture(source, run / "captures", journal.settings) for source in journal.groups[0].sources]
    for capture in captures:
        capture.restore(journal.captures[capture.source.stem])
    journal.note_sealed("near", sealed_runs.seal_group(journal.groups[0], captures, journal.settings))
    captures[0].raw.unlink()
    resume(run)
    assert files(run) == ["far.pcapng", "near.pcapng"]
    assert packets(run, "near.pcapng") == 10


def test_a_file_that_ends_inside_a_packet_is_sealed_and_kept(tmp_path: Path) -> None:
    run = tmp_path / "run"
    recorded(run, RECORDING)
    raw = run / "captures/near.pcap"
    raw.write_bytes(raw.read_bytes()[:-7])
    with pytest.raises(LabError, match="ends inside a packet, and is kept"):
        resume(run)
    assert files(run) == ["far.pcapng", "near.pcap", "near.pcapng"]
    assert packets(run, "near.pcapng") == 4
    assert document(run)["point"][0]["captures"] == ["captures/near.pcapng"]


def test_one_capture_that_cannot_be_sealed_does_not_cost_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """False before: whatever goes wrong while one capture is sealed is an OSError or a LabError."""
    run = tmp_path / "run"
    recorded(run, STOPPED)
    sound = sealed_runs.seal

    def fails(parts: Any, sealed: Path, *given: Any, **more: Any) -> Any:
        if "near" in sealed.name:
            raise struct.error("a number that does not fit")
        return sound(parts, sealed, *given, **more)

    monkeypatch.setattr(sealed_runs, "seal", fails)
    with pytest.raises(LabError, match="near: not sealed"):
        resume(run)
    assert files(run) == ["far.pcapng", "near.pcap"]
    assert [point["captures"] for point in document(run)["point"]] == [["captures/near.pcap"], ["captures/far.pcapng"]]
    monkeypatch.undo()
    assert resume(run).problems == []
    assert files(run) == ["far.pcapng", "near.pcapng"]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_two_signals_end_the_sealing_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    """False before: an interruption while it is sealed means that nothing was recorded yet, so the folder goes."""
    run = tmp_path / "run"
    journal = recorded(run, STOPPED)
    sound, signals = sealed_runs.seal, 0

    def interrupted(*given: Any, **more: Any) -> Any:
        nonlocal signals
        signals += 1
        os.kill(os.getpid(), sign)
        os.kill(os.getpid(), sign)
        return sound(*given, **more)

    monkeypatch.setattr(sealed_runs, "seal", interrupted)
    with interruptible(), pytest.raises(Interrupted, match=sign.name):
        resume(run)
    assert signals == 1
    assert files(run) == ["far.pcap", "near.pcap"]
    assert f"record {run} --resume" in run_folder.what_is_left(run)
    assert recorder.main([str(run), "--points", "a=lo"]) == 2
    assert journal.file.exists()
    monkeypatch.undo()
    resume(run)
    assert files(run) == ["far.pcapng", "near.pcapng"]
    assert not document(run)["description"].startswith("INCOMPLETE")


def test_one_signal_does_not_end_the_sealing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    recorded(run, STOPPED)
    sound = sealed_runs.seal

    def once(parts: Any, sealed: Path, *given: Any, **more: Any) -> Any:
        if "near" in sealed.name:
            os.kill(os.getpid(), signal.SIGTERM)
        return sound(parts, sealed, *given, **more)

    monkeypatch.setattr(sealed_runs, "seal", once)
    with interruptible():
        assert resume(run).problems == []
    assert files(run) == ["far.pcapng", "near.pcapng"]


def test_a_raw_file_stays_until_the_journal_says_that_it_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without room for the journal: sealed and raw files lie side by side."""
    run = tmp_path / "run"
    journal = recorded(run, STOPPED)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "note_sealed", full)
    captures = {
        source: new_capture(source, run / "captures", journal.settings)
        for group in journal.groups
        for source in group.sources
    }
    for source, capture in captures.items():
        capture.restore(journal.captures[source.stem])
    found = Recorded(datetime.now(UTC), journal.clocks)
    with shielded() as shield:
        assert seal_all(journal.groups, captures, journal.settings, journal, found, shield) is None
    assert files(run) == ["far.pcap", "far.pcapng", "near.pcap", "near.pcapng"]
    assert any("No space left" in problem for problem in found.problems)


def test_a_recording_that_goes_on_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    recorded(run, RECORDING)
    monkeypatch.setattr(run_folder, "locked", lambda place: locked(place, 0.1))
    with locked(run / "captures", 0), pytest.raises(CannotStart, match="still writing"):
        resume(run)
    assert files(run) == ["far.pcap", "near.pcap"]


def test_there_is_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path / "nowhere", tmp_path):
        assert recorder.main([str(place), "--resume"]) == 2
        assert "nothing to resume" in capsys.readouterr().err
    run = tmp_path / "run"
    recorded(run, STOPPED)
    resume(run)
    assert recorder.main([str(run), "--resume"]) == 2
    assert "nothing to resume" in capsys.readouterr().err
    assert files(run) == ["far.pcapng", "near.pcapng"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"phase": 1}', "\xff"])
def test_a_journal_that_is_none_is_an_error_and_touches_nothing(tmp_path: Path, text: str) -> None:
    run = tmp_path / "run"
    recorded(run, STOPPED)
    (run / "context" / STATE_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(CannotStart, match="cannot be read as the state"):
        resume(run)
    assert files(run) == ["far.pcap", "near.pcap"]


def test_folders_that_others_may_write_to_are_not_resumed(tmp_path: Path) -> None:
    """Root would write where somebody else has laid a link."""
    run = tmp_path / "run"
    recorded(run, STOPPED)
    (run / "captures").chmod(0o777)
    with pytest.raises(CannotStart, match="may write there"):
        resume(run)
    (run / "captures").chmod(0o700)
    (run / "captures").rename(tmp_path / "elsewhere")
    (run / "captures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CannotStart, match="is no folder"):
        resume(run)


def test_what_holds_a_packet_is_not_removed(tmp_path: Path) -> None:
    """False before: as long as not all points record, there is nothing to lose."""
    run = tmp_path / "run"
    recorded(run, RECORDING)
    assert not remove_folder(run, keeps_packets)
    assert len(files(run)) == 2
    for raw in (run / "captures").glob("*.pcap"):
        raw.write_bytes(pcap([]))
    (run / "captures/link").symlink_to(tmp_path)
    assert remove_folder(run, keeps_packets)
    assert tmp_path.is_dir()


def test_a_full_disk_is_foreseen_by_what_sealing_and_the_next_second_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """False before: a sealed file is at most 35 % larger than the tool's, and 1 MiB is room for what still comes."""

    class Growing:
        ended_early = False
        source = two_per_point(POINTS)[0].sources[0]
        name = "near (eth0)"
        running = True
        bytes = 0

        def size(self) -> int:
            return self.bytes

    capture, now = Growing(), 100.0
    monkeypatch.setattr(recording.time, "monotonic", lambda: now)
    watch = recording.Running([capture], tmp_path, keep_raw=False)  # type: ignore[list-item]
    free = 400 << 20
    monkeypatch.setattr(recording.shutil, "disk_usage", lambda _: type("U", (), {"free": free - capture.bytes}))

    def flood() -> None:
        nonlocal now
        for _ in range(100):
            watch.check()
            now += 0.2
            capture.bytes += 10 << 20  # 50 MiB a second

    with pytest.raises(LabError, match="nearly full"):
        flood()
    left = free - capture.bytes
    assert left > 1.65 * capture.bytes  # room for the sealed file beside the raw one
    assert left - 1.65 * capture.bytes > (50 << 20) - (10 << 20)  # and for a second of traffic, less a step
    assert capture.bytes > 60 << 20  # and yet the room was used


def test_the_largest_growth_is_that_of_the_smallest_packets(tmp_path: Path) -> None:
    for size in (42, 54, 60, 100, 1400):
        raw = tmp_path / "near.pcap"
        raw.write_bytes(pcap([START + number for number in range(1000)], bytes(size)))
        for groups, growth in ((one_per_point(POINTS), recording._GROWTH), (two_per_point(POINTS), 0.65)):
            capture = new_capture(groups[0].sources[0], tmp_path, Settings())
            capture.raw = raw
            capture.restore({**capture.times(), "ready_ns": START - 5, "stopped_ns": END})
            sealed = sealed_runs.seal_group(Group("near", (groups[0].sources[0],)), [capture], Settings())
            assert sealed.is_sealed
            grown = (tmp_path / "near.pcapng").stat().st_size - 4096
            assert grown <= (1 + growth) * raw.stat().st_size, (size, growth)
