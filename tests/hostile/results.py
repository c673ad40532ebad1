"""Attacks on the results folder: links that lead writing elsewhere, kills, starts at once, and files that change."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
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

import pyarrow.parquet as pq

from pktrace import schema
from pktrace.errors import CaptureChangedError, CaptureFileError, OutputError, PktraceError
from pktrace.findings.analysis import Analysis, analyze_run
from pktrace.findings.summary import summary
from pktrace.observations.export import ObservationStream
from pktrace.observations.observe import observe_run
from pktrace.report import exchange
from pktrace.report.exchange import results_folder
from pktrace.report.results import write_observations, write_results
from pktrace.run.runfile import load_run
from tests.hostile.attack import Attack
from tests.kit import two_points

_TABLES = [f"{table.name}.parquet" for table in schema.TABLES]
_KEY = "pktrace.input.sha256:"
_VICTIM = b"a file of whoever analyses the run"


def _silent(line: str) -> None:
    """Narration that nobody reads."""


def _analyse(run: Path) -> Analysis:
    analysis = analyze_run(load_run(run))
    with results_folder(run / "results", own=True, say=_silent) as into:
        write_results(analysis, into, summary(analysis, 0))
    return analysis


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pktrace", *map(str, arguments)]


def _inputs_in(results: Path, attempts: int = 50) -> dict[str, str] | None:
    """The inputs that every file of the results names; None where there are no results.

    Raises:
        AssertionError: the files are of different analyses, or some are missing.
    """
    for _ in range(attempts):
        try:
            folder = os.open(results, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:  # by the folder's descriptor, so that an exchange meanwhile makes no mixture
            found = []
            for name in [*_TABLES, "summary.json"]:
                with open(os.open(name, os.O_RDONLY, dir_fd=folder), "rb") as file:
                    data = file.read()
                if name == "summary.json":
                    found.append(json.loads(data)["inputs"])
                    continue
                metadata = pq.read_metadata(io.BytesIO(data)).metadata
                keys = {key.decode(): value.decode() for key, value in metadata.items()}
                found.append({key[len(_KEY) :]: value for key, value in keys.items() if key.startswith(_KEY)})
        except FileNotFoundError:
            # The folder that was opened is the old one, and is being removed; or a file is missing for good.
            continue
        finally:
            os.close(folder)
        assert all(inputs == found[0] for inputs in found), "the results are a mixture of analyses"
        return dict(found[0])
    raise AssertionError("the results lack a file")


def _left_in(run: Path) -> list[str]:
    return [name for name in os.listdir(run) if name.startswith(".")]


def _killed(folder: Path, number: int) -> str | None:
    """Results of version 0; an analysis of version 1 is killed; then one that may end."""
    versions = [two_points.write(folder / "run", version) for version in (1, 0)]
    run, results = folder / "run", folder / "run" / "results"
    chance = random.Random(number)
    _analyse(run)
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
        if _inputs_in(results, 1) not in versions:
            return "after the kill the results are of no whole analysis"
        _analyse(run)
        if _inputs_in(results, 1) != versions[0]:
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
                if _inputs_in(run / "results") not in [*versions, None]:
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
    if _inputs_in(run / "results") not in versions:
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
    for name in [*_TABLES, "summary.json", "plots", "plots/ecdf.svg"]:
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
            _analyse(run)
        if not victim.exists() or victim.read_bytes() != _VICTIM:
            return f"{name}: the file of the user was overwritten or removed"
        if os.listdir(victim.parent) != [victim.name]:
            return f"{name}: something was written beside the user's file"
        results = run / "results"
        if name in ("results", *_TABLES, "summary.json", "plots", "plots/ecdf.svg"):
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
                _analyse(run)
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
                results_folder(Path(name), own=False, say=_silent) as into,
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
    _analyse(run)
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
        _analyse(run)
        return "a full disk was not said"
    except OutputError as problem:
        if "\n" in str(problem):
            return f"more than one line: {problem}"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    if _inputs_in(run / "results") != old or _left_in(run):
        return "a full disk changed the old results"
    with mock.patch.object(exchange, "_rename", busy), contextlib.suppress(OutputError):
        _analyse(run)
        return "a mount point was not said"
    if _inputs_in(run / "results") != old or _left_in(run):
        return "a mount point changed the old results"
    with mock.patch.object(exchange, "_rename", lacking):
        _analyse(run)
    if _inputs_in(run / "results") != new or _left_in(run) or not (run / "results" / "notes.txt").exists():
        return "without exchange the results were not replaced"
    # Killed between the two renames: the results come back, and the user's file with them.
    os.rename(run / "results", run / f".results.{'a' * 32}.partial")
    two_points.write(run, 2, packets=20)
    _analyse(run)
    if _left_in(run) or not (run / "results" / "notes.txt").exists():
        return "what was left between two renames was not put back"
    return None


def _changes(folder: Path, number: int) -> str | None:
    """A capture grows, is cut, replaced or written over while it is analysed: said, or the analysis of one version."""
    run = folder / "run"
    contents = [two_points.capture(3000, 50_000, version) for version in (0, 1)]
    two_points.write(run, 0, packets=3000)
    (run / "b.pcap").write_bytes(contents[0])
    known = [_sha(data) for data in contents]
    chance = random.Random(number)
    way = ("grow", "cut", "replace", "rewrite")[number % 4]

    def change() -> None:
        time.sleep(chance.uniform(0, 0.02))
        target = run / "b.pcap"
        if way == "grow":
            with open(target, "ab") as file:
                file.write(contents[0][24:])
        elif way == "cut":
            os.truncate(target, len(contents[0]) // 3)
        elif way == "replace":
            (run / "next").write_bytes(contents[1])
            os.replace(run / "next", target)
        else:
            with open(target, "r+b") as file:
                file.write(contents[1])

    loaded = load_run(run)
    changer = threading.Thread(target=change)
    changer.start()
    try:
        analysis = analyze_run(loaded)
        _ = analysis.transforms
    except CaptureChangedError as problem:
        return None if "b.pcap" in str(problem) and problem.exit_code == 3 else f"{way}: {problem}"
    except CaptureFileError as problem:
        return None if way == "cut" else f"{way}: {problem}"
    finally:
        changer.join()
    grown, cut = _sha(contents[0] + contents[0][24:]), _sha(contents[0][: len(contents[0]) // 3])
    if analysis.inputs["b.pcap"] not in (*known, grown, cut):
        return f"{way}: analysed bytes that were never the file"
    return None


def _changes_between_reads(folder: Path, number: int) -> str | None:
    """A capture changes after it was decoded and before it is read again: never other verdicts."""
    run = folder / "run"
    two_points.write(run, 0)
    observations = observe_run(load_run(run))
    name = ("a.pcap", "b.pcap")[number % 2]
    if number % 3 == 0:
        os.truncate(run / name, 3000)
    elif number % 3 == 1:
        (run / name).write_bytes(two_points.capture(200, 0, 1))
    else:
        (run / "next").write_bytes((run / name).read_bytes())
        os.replace(run / "next", run / name)
    try:
        for _ in observations.reader(observations.captures.index(name)).batches():
            return "bytes of a changed capture were handed out"
    except CaptureChangedError:
        return None
    return "a changed capture was not said"


def _tampered(folder: Path, number: int) -> str | None:
    """Any input that is changed by one byte changes the hash that every file of the results names."""
    run = folder / "run"
    for name in two_points.INPUTS:
        before = two_points.write(run, packets=10)
        _analyse(run)
        if _inputs_in(run / "results") != before:
            return f"the hashes of an analysis are not those of its inputs: {_inputs_in(run / 'results')}"
        data = (run / name).read_bytes()
        (run / name).write_bytes(data + b"#" if name == "run.toml" else data[:-2] + b"7" + data[-1:])
        _analyse(run)
        after = _inputs_in(run / "results") or {}
        if {key for key in before if before[key] != after.get(key)} != {name} or after[name] != _sha(
            (run / name).read_bytes()
        ):
            return f"{name}: changed, and the hashes do not say so"
    return None


def _swapped_for_a_link(folder: Path, number: int) -> str | None:
    """A capture, its log or a context file becomes a link to a file outside while the run is analysed."""
    run, outside = folder / "run", folder / "outside"
    good = two_points.write(run, 0, packets=500)
    two_points.write(outside, 5, packets=7)
    name = ("a.pcap", "a.log", "context/counters-after.json", "context", "run.toml")[number % 5]
    done = threading.Event()

    def swap() -> None:
        spare = folder / "spare"
        while not done.is_set():
            with contextlib.suppress(OSError):
                os.rename(run / name, spare)
                os.symlink(outside / name, run / name)
                time.sleep(0.0005)
                os.unlink(run / name)
                os.rename(spare, run / name)
            time.sleep(0.0005)

    swapper = threading.Thread(target=swap)
    swapper.start()
    secret = {_sha((outside / other).read_bytes()) for other in two_points.INPUTS}
    try:
        for _ in range(8):
            try:
                analysis = analyze_run(load_run(run))
            except PktraceError:
                continue
            if secret & set(analysis.inputs.values()):
                return f"{name}: a file outside of the run was read"
            if any(good[key] != value for key, value in analysis.inputs.items()):
                return f"{name}: other bytes were read than the run has"
    finally:
        done.set()
        swapper.join()
    return None


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


ATTACKS: tuple[Attack, ...] = (
    Attack("results-links", "Links in place of results, of files in them, of passing names, of the lock.", _linked),
    Attack(
        "results-exchanged-meanwhile",
        "While results are written, links take the place of every name that appears.",
        _exchanged_meanwhile, fast=1, full=20,
    ),
    Attack("observe-links", "`observe -o` to a link, a pipe, a folder, over links in passing names", _observe_to_links),
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
    Attack("inputs-change", "A capture grows, is cut, replaced or rewritten at a random moment.", _changes, 8, 200),
    Attack("inputs-change-between-reads", "A capture changes before it is read again.", _changes_between_reads, 6, 12),
    Attack("inputs-tampered", "One byte of any input is changed; the hashes must say so.", _tampered),
    Attack("inputs-swapped", "An input becomes a link to a file outside during analysis.", _swapped_for_a_link, 5, 50),
)  # fmt: skip
