"""How much memory there is (containers, ulimit, the machine), and what is said where it does not suffice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pktrace import memory
from pktrace.errors import EXIT_USAGE
from pktrace.sizes import as_size, size_of
from tests.conftest import ROOT

GIB = 1 << 30
STAT = "anon 1000\ninactive_file 300\nactive_file 200\n"
STAT_V1 = "cache 9\ninactive_file 7\ntotal_inactive_file 300\ntotal_active_file 200\n"


def _proc(folder: Path, groups: str, mounts: str, free: int = 64 * GIB) -> Path:
    """A /proc of a process of little memory, in these cgroups."""
    own = folder / "proc" / "self"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(groups)
    (own / "mountinfo").write_text(mounts)
    (own / "status").write_text("Name:\tx\nVmSize:\t 1000 kB\nVmData:\t 500 kB\nRssAnon:\t 400 kB\n")
    (folder / "proc" / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {free // 1024} kB\n")
    return folder / "proc"


def _group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def _mount(kind: str, place: Path, root: str = "/", options: str = "rw") -> str:
    return f"30 20 0:25 {root} {place} rw,nosuid shared:4 - {kind} {kind} {options}\n"


@pytest.mark.parametrize("tight", ["", "a", "a/b"])
def test_the_tightest_ancestor_counts_in_cgroup_v2(tmp_path: Path, tight: str) -> None:
    """A limit of the pod holds for the container in it, whose own file says `max`."""
    top = tmp_path / "cgroup"
    for inner in ("", "a", "a/b"):
        limit = str(GIB) if inner == tight else "max"
        _group(top / inner, memory__max=limit, memory__high="max", memory__current="10500", memory__stat=STAT)
    proc = _proc(tmp_path, "0::/a/b\n", _mount("cgroup2", top))
    assert memory.tightest(proc) == memory.Room(GIB - 10_000, "the container's memory limit of 1 GiB")


def test_memory_high_is_a_limit_too(tmp_path: Path) -> None:
    """Above memory.high a process is slowed until it hardly moves."""
    top = tmp_path / "cgroup"
    _group(top / "a", memory__max=str(2 * GIB), memory__high=str(GIB), memory__current="500", memory__stat=STAT)
    assert memory.tightest(_proc(tmp_path, "0::/a\n", _mount("cgroup2", top))).bytes == GIB


def test_cgroup_v1_and_a_mount_that_shows_the_container_only(tmp_path: Path) -> None:
    top = tmp_path / "memory"
    files = {"memory__limit_in_bytes": str(GIB), "memory__usage_in_bytes": "10500", "memory__stat": STAT_V1}
    _group(top, **files)
    groups = "5:cpu:/docker/x\n4:memory:/docker/x\n0::/\n"
    mounts = _mount("cgroup", tmp_path / "cpu", "/docker/x", "rw,cpu") + _mount("cgroup", top, "/docker/x", "rw,memory")
    assert memory.tightest(_proc(tmp_path, groups, mounts)).bytes == GIB - 10_000


def test_no_limit_in_cgroup_v1_is_none(tmp_path: Path) -> None:
    top = tmp_path / "memory"
    _group(top / "x", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="1", memory__stat=STAT_V1)
    proc = _proc(tmp_path, "4:memory:/x\n", _mount("cgroup", top, options="rw,memory"))
    assert memory.tightest(proc) == memory.Room(64 * GIB, "what the machine has free")


def test_a_group_outside_the_mount_falls_back_to_its_top(tmp_path: Path) -> None:
    """In a container with a namespace of its own the path may begin with `/..`."""
    top = tmp_path / "cgroup"
    _group(top, memory__max=str(GIB), memory__current="500", memory__stat=STAT)
    assert memory.tightest(_proc(tmp_path, "0::/../other\n", _mount("cgroup2", top, "/here"))).bytes == GIB


@pytest.mark.parametrize("broken", ["cgroup", "mountinfo", "status"])
def test_files_that_are_missing_or_odd_are_no_limit(tmp_path: Path, broken: str) -> None:
    proc = _proc(tmp_path, "nonsense\n", "nonsense - \n\n")
    (proc / "self" / broken).unlink()
    assert memory.tightest(proc).bytes == 64 * GIB


def test_the_purse_says_how_much_is_needed_and_how_much_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, an analysis took what it could get until the kernel killed it."""
    monkeypatch.setattr(memory, "_numbers", lambda path: {})  # tests before this one may have left much in this process
    purse = memory.Purse(memory.ANALYSIS, 300 << 20)
    purse.check(1000, 0.01)
    with pytest.raises(memory.MemoryShort) as caught:
        purse.check(1_000_000, 0.25)
    said = str(caught.value)
    assert "about 4,000,000 packets (1,000,000 read, 25 % of the captures)" in said
    assert "2.22 GiB" in said
    assert "--max-memory 300 MiB" in said
    assert "editcap" in said
    assert caught.value.exit_code == EXIT_USAGE


_GROWING = """
import os, sys, time
import numpy as np
from pktrace import memory
os.environ.clear()
with memory.unfinished(lambda: os.unlink(sys.argv[1])), memory.watched(300 << 20):
    memory.step("filling arrays")
    held = []
    for _ in range(200):
        held.append(np.ones(1 << 20))
        time.sleep(0.001)
print("went on")
"""


def test_the_watch_stops_the_process_and_removes_what_is_unfinished(tmp_path: Path) -> None:
    """An estimate may be wrong: the process ends itself with a sentence where the kernel would end it without."""
    partial = tmp_path / "half"
    partial.write_text("half")
    done = subprocess.run(
        [sys.executable, "-c", _GROWING, str(partial)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == EXIT_USAGE, done.stderr
    assert "not enough memory while filling arrays" in done.stderr
    assert "went on" not in done.stdout
    assert not partial.exists()


def test_an_allocation_that_fails_is_a_sentence() -> None:
    """Before, the exit code was 70 (internal error) and no number was said."""
    said = memory.short(MemoryError("Unable to allocate 9 EiB"))
    assert "9 EiB" in said
    assert "editcap" in said


@pytest.mark.parametrize(
    ("text", "size"),
    [("64G", 64 * GIB), ("1.5 GiB", 3 * GIB // 2), ("2000000", 2_000_000), ("500m", 500 << 20), ("7B", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "12 apples", "1.2.3", "9" * 20])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        size_of(text)


def test_sizes_are_said_with_three_digits() -> None:
    assert [as_size(n) for n in (7, 1 << 20, 1_500_000_000, 1 << 45)] == ["7 bytes", "1 MiB", "1.4 GiB", "32 TiB"]


def test_available_bytes_is_what_the_machine_has() -> None:
    assert 0 < memory.available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_STOPPED_WHILE_WRITING = """
import os, sys, threading, time
from pathlib import Path
from pktrace import memory
from pktrace.report.exchange import results_folder
with results_folder(Path(sys.argv[1]), True, print) as folder, folder.fresh() as create:
    threading.Timer(0.05, memory._stop, [memory.tightest()]).start()
    while True:
        create("plots/ecdf.svg").close()
        create("summary.json").close()
        for name in ("summary.json", "plots/ecdf.svg"):
            os.unlink(next(Path(sys.argv[1]).parent.glob(".*.partial")) / name)
"""


def test_a_stop_leaves_no_folder_of_unfinished_results(tmp_path: Path) -> None:
    """'A stop by the watch removes what is unfinished': it removed single files, and left the folder of the results."""
    done = subprocess.run(
        [sys.executable, "-c", _STOPPED_WHILE_WRITING, str(tmp_path / "results")],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_USAGE, done.stderr
    assert "not enough memory" in done.stderr
    assert [name for name in os.listdir(tmp_path) if name.endswith(".partial")] == []
