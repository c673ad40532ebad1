"""Files of a run folder: opened over no link, hashed as they are read, found by patterns as `glob` finds them."""

from __future__ import annotations

import glob
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktrace.analysis.analysis import analyze_run
from pktrace.analysis.summary import summary
from pktrace.capture.files import CaptureReader
from pktrace.capture.source import open_regular
from pktrace.errors import CaptureChangedError, OutputError
from pktrace.inputs import InputFile, Location, NotInside
from pktrace.report.exchange import results_folder
from pktrace.report.results import write_results
from pktrace.run.captures import CaptureNames
from pktrace.run.runfile import load_run
from tests.kit import two_points
from tests.kit.small_captures import compressed

_FILES = ("a.pcap", "b.pcap", "c/a.pcap", "c/d/a.pcap", "c/d/b", "e/[x]", ".h/a.pcap", "c/.a.pcap", "e/d/f/g.pcap")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for name in _FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


_PARTS = ("*", "**", "?", "a*", "*.pcap", "[a-c]", "c", "d", "e", ".*", "a.pcap")


@given(st.lists(st.sampled_from(_PARTS), min_size=1, max_size=5))
def test_patterns_match_what_glob_matches(tree: Path, parts: list[str]) -> None:
    pattern = "/".join(parts)
    expected = sorted(set(glob.glob(pattern, root_dir=tree, recursive=True)))
    # `a.pcap/**` gives `a.pcap/` there, in some versions of Python: the name of a folder, which it is not.
    expected = [name for name in expected if (tree / name).is_file() and not name.endswith("/")]
    assert CaptureNames(tree).matching(pattern) == expected


def test_a_name_with_the_letters_of_a_pattern_is_that_file(tree: Path) -> None:
    assert CaptureNames(tree).matching("e/[x]") == ["e/[x]"]


@pytest.mark.parametrize("codec", ["", "gzip", "zstd", "lz4"])
def test_the_hash_is_of_the_file_as_it_lies_on_disk(tmp_path: Path, codec: str) -> None:
    """Also where reading stops early, at a fault."""
    whole = two_points.capture(20_000)
    for data in (whole, whole[: len(whole) // 2] + b"\xff" * 100 + whole[len(whole) // 2 :]):
        stored = compressed(codec, data) if codec else data
        (tmp_path / "a").write_bytes(stored)
        reader = CaptureReader(Location("a", tmp_path), "a", hashed=True)
        for _ in reader.batches():
            pass
        assert reader.sha256 == hashlib.sha256(stored).hexdigest()


def test_a_file_that_is_read_again_has_to_be_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    with open_regular(Location("a", tmp_path), "a") as file:
        stamp = file.stamp
    with open_regular(Location("a", tmp_path), "a", stamp) as file:
        assert file.read() == b"one"
        (tmp_path / "a").write_bytes(b"two")
        file.seek(0)
        with pytest.raises(CaptureChangedError, match="a: changed while it was read"):
            file.read()
    with pytest.raises(CaptureChangedError):
        open_regular(Location("a", tmp_path), "a", stamp)


def test_a_change_within_a_tick_of_the_first_stamp_is_seen(tmp_path: Path) -> None:
    """A file system that writes times in steps gives two changes within one step the same time."""
    for number in range(20):
        (tmp_path / "a").write_bytes(b"one")
        descriptor = Location("a", tmp_path).open()
        with InputFile(descriptor, "a") as file:
            (tmp_path / "a").write_bytes(b"tw%d" % (number % 10))
            with pytest.raises(CaptureChangedError):
                file.read()


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", "x/../a", "link", "down/a", "", "."])
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "a").touch()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "a")
    (tmp_path / "run" / "down").symlink_to(tmp_path)
    with pytest.raises(NotInside):
        Location(name, tmp_path / "run").open()


def test_the_users_own_files_stay_in_the_results(tmp_path: Path) -> None:
    """Whatever is no file of an analysis is carried over, folders and links too; what an old version left is not."""
    run, results = tmp_path / "run", tmp_path / "run" / "results"
    two_points.write(run, packets=4)
    for _ in range(2):
        with results_folder(results, own=True, say=print) as into:
            analysis = analyze_run(load_run(run))
            write_results(analysis, into, summary(analysis, 0))
        (results / "plots").mkdir(exist_ok=True)
        (results / "plots" / "mine.svg").write_text("mine")
        (results / "notes").mkdir(exist_ok=True)
        (results / "notes" / "a.txt").write_text("mine")
        if not (results / "link").is_symlink():
            (results / "link").symlink_to("/nowhere")
        (results / ".summary.json.123.partial").touch()
        (results / "plots" / "ecdf.svg").touch()
        os.chmod(results, 0o2770)
    with results_folder(results, own=True, say=print) as into:
        write_results(analysis, into, summary(analysis, 0))
    assert (results / "plots" / "mine.svg").read_text() == (results / "notes" / "a.txt").read_text() == "mine"
    assert (results / "link").is_symlink()
    assert not (results / ".summary.json.123.partial").exists()
    assert not (results / "plots" / "ecdf.svg").exists()
    assert results.stat().st_mode & 0o7777 == 0o2770
    assert [name for name in os.listdir(run) if name.startswith(".")] == []


def test_a_second_analysis_waits_and_says_so_once(tmp_path: Path) -> None:
    two_points.write(tmp_path, packets=4)
    said: list[str] = []
    got: list[bool] = []

    def second() -> None:
        with results_folder(tmp_path / "results", own=True, say=said.append):
            got.append(True)

    waiting = threading.Thread(target=second)
    with results_folder(tmp_path / "results", own=True, say=print):
        waiting.start()
        while not said:
            time.sleep(0.01)
        time.sleep(0.5)
        assert not got
        with (
            pytest.raises(OutputError, match="another analysis"),
            results_folder(tmp_path / "results", own=True, say=print, wait=False),
        ):
            pass
    waiting.join()
    assert got
    assert len(said) == 1
    assert "waiting" in said[0]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
