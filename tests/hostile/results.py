"""Attacks on the results folder: links that lead writing elsewhere, kills, starts at once, and files that change."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from pktrace.analysis.analysis import analyze_run
from pktrace.analysis.summary import summary
from pktrace.errors import OutputError, PktraceError
from pktrace.observations.export import ObservationStream
from pktrace.report import exchange
from pktrace.report.exchange import results_folder
from pktrace.report.results import write_observations, write_results
from pktrace.run.runfile import load_run
from tests.hostile.attack import Attack
from tests.kit import two_points
from tests.kit.analysed import TABLES, analyse, inputs_in, silent

_VICTIM = b"a file of whoever analyses the run"


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pktrace", *map(str, arguments)]


def _left_in(run: Path) -> list[str]:
    return [name for name in os.listdir(run) if name.startswith(".")]


def _killed(folder: Path, number: int) -> str | None:
    """Results of version 0; an analysis of version 1 is killed; then one that may end."""
    versions = [two_points.write(folder / "run", version) for version in (1, 0)]
    run, results = folder / "run", folder / "run" / "results"
    chance = random.Random(number)
    analyse(run)
    (results / "notes.txt").write_text("mine")
    two_points.write(run, 1)
    process = subprocess.Popen(
        _command("analyze", run, "--no-plots"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        if number % 3 == 0:
            time.sleep(chance.uniform(0, 3))  # anywhere
        else:  # about where it writes and exchanges
            until = time.monotonic() + 120
            while (
                process.poll() is None
                and time.monotonic() < until
                and not any(name.endswith(".partial") for name in os.listdir(run))
            ):
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, 0.06))
    finally:
        process.kill()
        process.wait()
    try:
        if inputs_in(results, 1) not in versions:
            return "after the kill the results are of no whole analysis"
        analyse(run)
        if inputs_in(results, 1) != versions[0]:
            return "the next analysis did not replace the results"
    except AssertionError as problem:
        return str(problem)
    if _left_in(run):
        return f"left behind after the next analysis: {_left_in(run)}"
    if (results / "notes.txt").read_text() != "mine":
        return "the user's own file is gone"
    return None


def _together(folder: Path, number: int, starts: int) -> str | None:
    """Several analyses start at once, while run.toml and captures are of two versions in turn."""
    run = folder / "run"
    versions = [two_points.write(run, version) for version in (1, 0)]
    done = threading.Event()
    mixtures: list[str] = []

    def look() -> None:
        while not done.is_set():
            try:
                if inputs_in(run / "results") not in [*versions, None]:
                    mixtures.append("a reader saw results of no whole analysis")
            except AssertionError as problem:
                mixtures.append(str(problem))
            time.sleep(0.02)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        processes = [
            subprocess.Popen(
                _command("analyze", run, "--no-plots"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            for _ in range(starts)
        ]
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        done.set()
        reader.join()
    if mixtures:
        return mixtures[0]
    codes = [process.returncode for process in processes]
    if set(codes) != {0}:
        return f"exit codes {codes}: {said}"
    if any(text.count("waiting") > 1 for text in said):
        return "an analysis said more than once that it waits"
    if inputs_in(run / "results") not in versions:
        return "the results are of no whole analysis"
    return f"left behind: {_left_in(run)}" if _left_in(run) else None


def _links(folder: Path) -> Iterator[tuple[str, Callable[[Path, Path], None]]]:
    """Ways to plant links to a victim's file (or folder) in a run."""

    def results(run: Path, victim: Path) -> None:
        (run / "results").symlink_to(victim.parent)

    def inside(name: str) -> Callable[[Path, Path], None]:
        def plant(run: Path, victim: Path) -> None:
            (run / "results" / name).parent.mkdir(parents=True, exist_ok=True)
            (run / "results" / name).symlink_to(victim)

        return plant

    def passing(run: Path, victim: Path) -> None:
        """The names that files had until they were whole, for every process that may come: a 1.1 MB archive."""
        (run / "results").mkdir()
        for process in [os.getpid(), *range(os.getpid() - 20, os.getpid() + 200)]:
            for name in ("summary.json", "observations.parquet", "ledger.parquet"):
                with contextlib.suppress(FileExistsError):
                    (run / "results" / f".{name}.{process}.partial").symlink_to(victim)

    def lock(run: Path, victim: Path) -> None:
        (run / ".results.lock").symlink_to(victim)

    def lock_hard(run: Path, victim: Path) -> None:
        os.link(victim, run / ".results.lock")

    def lock_pipe(run: Path, victim: Path) -> None:
        os.mkfifo(run / ".results.lock")

    def left(run: Path, victim: Path) -> None:
        (run / f".results.{'0' * 32}.partial").symlink_to(victim.parent)

    def left_folder(run: Path, victim: Path) -> None:
        place = run / f".results.{'1' * 32}.partial"
        place.mkdir()
        (place / "plots").symlink_to(victim.parent)
        (place / "summary.json").symlink_to(victim)
        (place / "observations.parquet").symlink_to(victim)

    def recovered(run: Path, victim: Path) -> None:
        place = run / f".results.{'2' * 32}.partial"
        place.mkdir()
        (place / "summary.json").write_text("{}")
        (place / "ledger.parquet").symlink_to(victim)

    yield "results", results
    for name in [*TABLES, "summary.json", "plots", "plots/ecdf.svg"]:
        yield name, inside(name)
    for plant in (passing, lock, lock_hard, lock_pipe, left, left_folder, recovered):
        yield plant.__name__, plant


def _linked(folder: Path, number: int) -> str | None:
    """Each way to plant links: the victim's file and folder stay as they are."""
    for name, plant in _links(folder):
        run = folder / name.replace("/", "-") / "run"
        victim = folder / name.replace("/", "-") / "home" / "ecdf.svg"
        victim.parent.mkdir(parents=True)
        victim.write_bytes(_VICTIM)
        two_points.write(run, packets=4)
        plant(run, victim)
        with contextlib.suppress(PktraceError):
            analyse(run)
        if not victim.exists() or victim.read_bytes() != _VICTIM:
            return f"{name}: the file of the user was overwritten or removed"
        if os.listdir(victim.parent) != [victim.name]:
            return f"{name}: something was written beside the user's file"
        results = run / "results"
        if name in ("results", *TABLES, "summary.json", "plots", "plots/ecdf.svg"):
            refused = results.is_symlink() or (results / name).is_symlink()
            if not refused:
                return f"{name}: a link was not refused"
    return None


def _exchanged_meanwhile(folder: Path, number: int) -> str | None:
    """While results are written, another process puts links in the place of whatever it finds."""
    run, victim = folder / "run", folder / "home" / "summary.json"
    victim.parent.mkdir()
    victim.write_bytes(_VICTIM)
    two_points.write(run, packets=50)
    done = threading.Event()

    def attack() -> None:
        away = 0
        while not done.is_set():
            for name in os.listdir(run):
                if name == "results" or name.endswith((".partial", ".lock")):
                    away += 1
                    with contextlib.suppress(OSError):
                        os.rename(run / name, folder / f"away-{away}")
                        os.symlink(victim.parent, run / name)
            time.sleep(0.001)

    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        for _ in range(3):
            with contextlib.suppress(PktraceError):
                analyse(run)
            for name in os.listdir(run):
                if (run / name).is_symlink():
                    (run / name).unlink()
    finally:
        done.set()
        attacker.join()
    if victim.read_bytes() != _VICTIM or os.listdir(victim.parent) != [victim.name]:
        return "something was written through a link"
    return None


def _observe_to_links(folder: Path, number: int) -> str | None:
    """`observe -o FILE` where FILE, or the name that it has until it is whole, is a link."""
    capture = folder / "a.pcap"
    capture.write_bytes(two_points.capture(4))
    victim = folder / "home" / "file"
    victim.parent.mkdir()
    for target in ("link", "pipe", "folder", "passing"):
        victim.write_bytes(_VICTIM)
        out = folder / target / "out.parquet"
        out.parent.mkdir()
        if target == "link":
            out.symlink_to(victim)
        elif target == "pipe":
            os.mkfifo(out)
        elif target == "folder":
            out.mkdir()
        else:
            (out.parent / f".out.parquet.{os.getpid()}.partial").symlink_to(victim)
            (out.parent / f".pktrace-{'0' * 32}.partial").symlink_to(victim)
        refused = False
        try:
            write_observations(ObservationStream([str(capture)]).tables(), out, dict)
        except OutputError:
            refused = True
        if victim.read_bytes() != _VICTIM:
            return f"{target}: the file of the user was overwritten"
        if refused != (target != "passing"):
            return f"{target}: {'refused' if refused else 'not refused'}"
    left = folder / "passing" / f".pktrace-{'1' * 32}.partial"
    left.write_bytes(b"of a process that was killed")
    write_observations(ObservationStream([str(capture)]).tables(), folder / "passing" / "out.parquet", dict)
    return "a file left behind was not removed" if left.exists() else None


def _named_folder(folder: Path, number: int) -> str | None:
    """`-o DIR` with a folder full of the user's own files, a link, a file, the current folder."""
    two_points.write(folder / "run", packets=4)
    analysis = analyze_run(load_run(folder / "run"))
    (folder / "home" / "deep").mkdir(parents=True)
    (folder / "home" / "letter.txt").write_text("mine")
    (folder / "link").symlink_to(folder / "home")
    (folder / "file").write_text("mine")
    for name in ("home", "link", "file", "."):
        try:
            with (
                contextlib.chdir(folder),
                results_folder(Path(name), own=False, say=silent) as into,
            ):
                write_results(analysis, into, summary(analysis, 0))
            return f"-o {name} was not refused"
        except OutputError as problem:
            if "\n" in str(problem):
                return f"{name}: more than one line: {problem}"
    if (folder / "home" / "letter.txt").read_text() != "mine" or sorted(os.listdir(folder / "home")) != [
        "deep", "letter.txt",
    ]:  # fmt: skip
        return "files of the user are gone"
    return None


def _cannot_write(folder: Path, number: int) -> str | None:
    """A full disk, an exchange that the file system lacks, or that fails: one line, and the old results are whole."""
    run = folder / "run"
    old = two_points.write(run, 0, packets=20)
    analyse(run)
    (run / "results" / "notes.txt").write_text("mine")
    new = two_points.write(run, 1, packets=20)
    real = exchange._rename

    def lacking(a: int, name: str, b: int, other: str, flag: int) -> None:
        if flag == exchange._EXCHANGE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        real(a, name, b, other, flag)

    def busy(a: int, name: str, b: int, other: str, flag: int) -> None:
        if flag == exchange._EXCHANGE:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        real(a, name, b, other, flag)

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))  # as a disk that is full after 5,000 bytes
        analyse(run)
        return "a full disk was not said"
    except OutputError as problem:
        if "\n" in str(problem):
            return f"more than one line: {problem}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    if inputs_in(run / "results") != old or _left_in(run):
        return "a full disk changed the old results"
    with mock.patch.object(exchange, "_rename", busy), contextlib.suppress(OutputError):
        analyse(run)
        return "a mount point was not said"
    if inputs_in(run / "results") != old or _left_in(run):
        return "a mount point changed the old results"
    with mock.patch.object(exchange, "_rename", lacking):
        analyse(run)
    if inputs_in(run / "results") != new or _left_in(run) or not (run / "results" / "notes.txt").exists():
        return "without exchange the results were not replaced"
    # Killed between the two renames: the results come back, and the user's file with them.
    os.rename(run / "results", run / f".results.{'a' * 32}.partial")
    two_points.write(run, 2, packets=20)
    analyse(run)
    if _left_in(run) or not (run / "results" / "notes.txt").exists():
        return "what was left between two renames was not put back"
    return None


ATTACKS: tuple[Attack, ...] = (
    Attack("results-links", "Links in place of results, of files in them, of passing names, of the lock.", _linked),
    Attack(
        "results-exchanged-meanwhile",
        "While results are written, links take the place of every name that appears.",
        _exchanged_meanwhile, fast=1, full=20,
    ),
    Attack(
        "observe-links", "`observe -o` to a link, a pipe, a folder, over links in passing names.",
        _observe_to_links,
    ),
    Attack("results-named-folder", "`analyze -o` to the user's own folder, a link, a file, `.`.", _named_folder),
    Attack("results-cannot-write", "A full disk, a mount point, a file system without exchange.", _cannot_write),
    Attack("results-killed", "SIGKILL at a random moment of `analyze`; then another one.", _killed, fast=1, full=60),
    Attack(
        "results-together-3", "Three analyses of one run at once, and a reader.",
        lambda folder, number: _together(folder, number, 3), fast=1, full=3,
    ),
    Attack(
        "results-together-30", "Thirty analyses of one run at once, and a reader.",
        lambda folder, number: _together(folder, number, 30), fast=0, full=1,
    ),
)  # fmt: skip
