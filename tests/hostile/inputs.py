"""Attacks on the inputs of an analysis: they change, or lead elsewhere, while it reads them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
import time
from pathlib import Path

from pktrace.analysis.analysis import analyze_run
from pktrace.errors import CaptureChangedError, CaptureFileError, PktraceError
from pktrace.observations.observe import observe_run
from pktrace.run.runfile import load_run
from tests.hostile.attack import Attack
from tests.kit import two_points
from tests.kit.analysed import analyse, inputs_in


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
        analyse(run)
        if inputs_in(run / "results") != before:
            return f"the hashes of an analysis are not those of its inputs: {inputs_in(run / 'results')}"
        data = (run / name).read_bytes()
        (run / name).write_bytes(data + b"#" if name == "run.toml" else data[:-2] + b"7" + data[-1:])
        analyse(run)
        after = inputs_in(run / "results") or {}
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
            # An input that was not there when it was asked for has no hash: nothing of it was used.
            if any(value and good[key] != value for key, value in analysis.inputs.items()):
                return f"{name}: other bytes were read than the run has"
    finally:
        done.set()
        swapper.join()
    return None


ATTACKS: tuple[Attack, ...] = (
    Attack("inputs-change", "A capture grows, is cut, replaced or rewritten at a random moment.", _changes, 8, 200),
    Attack("inputs-change-between-reads", "A capture changes before it is read again.", _changes_between_reads, 6, 12),
    Attack("inputs-tampered", "One byte of any input is changed; the hashes must say so.", _tampered),
    Attack("inputs-swapped", "An input becomes a link to a file outside during analysis.", _swapped_for_a_link, 5, 50),
)  # fmt: skip
