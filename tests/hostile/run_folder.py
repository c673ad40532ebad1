"""Attacks by a run folder: names that lead out of it, files that are none, and work without bounds."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pktrace.analysis.analysis import analyze_run
from pktrace.cli import main
from pktrace.errors import CallerError, PktraceError, RunFileError
from pktrace.run.runfile import load_run
from tests.hostile.attack import Attack
from tests.kit import two_points

_SECRET = "root:$6$secretsecret:19000"
_LONGEST_S = 20.0  # of processor time, which does not depend on what else is running
_WAITED_S = 120.0
Plant = Callable[[Path, Path], None]


def _edited(old: str, new: str) -> Plant:
    def plant(run: Path, outside: Path) -> None:
        text = (run / "run.toml").read_text()
        assert old in text
        (run / "run.toml").write_text(text.replace(old, new.replace("OUTSIDE", str(outside)), 1))

    return plant


def _moved(name: str, as_link: Callable[[Path], object]) -> Plant:
    """The run's own file lies elsewhere, and something else in its place."""

    def plant(run: Path, outside: Path) -> None:
        os.rename(run / name, outside / Path(name).name)
        as_link(run / name)

    return plant


def _ways_out(outside: Path) -> Iterator[tuple[str, Plant, str]]:
    """(name, how it is planted, key that the error names)."""

    def linked_folder(run: Path, outside: Path) -> None:
        (run / "captures").symlink_to(outside)
        _edited('"a.pcap"', '"captures/a.pcap"')(run, outside)

    def linked_deeper(run: Path, outside: Path) -> None:
        (run / "x").mkdir()
        (run / "x" / "y").symlink_to(outside.parent)
        _edited('"a.pcap"', f'"x/y/{outside.name}/a.pcap"')(run, outside)

    def glob_link(run: Path, outside: Path) -> None:
        (run / "a-2.pcap").symlink_to(outside / "a.pcap")
        _edited('"a.pcap"', '"a*.pcap"')(run, outside)

    def glob_folder(run: Path, outside: Path) -> None:
        (run / "captures").symlink_to(outside)
        _edited('"a.pcap"', '"c*/a.pcap"')(run, outside)

    def glob_any(run: Path, outside: Path) -> None:
        (run / "deep").mkdir()
        (run / "deep" / "down").symlink_to(outside)
        _edited('"a.pcap"', '"**/a.pcap"')(run, outside)

    def link(run: Path) -> Callable[[Path], object]:
        return lambda place: place.symlink_to(outside / place.name)

    point = "point[a].captures"
    yield "absolute", _edited('"a.pcap"', '"OUTSIDE/a.pcap"'), point
    yield "parent", _edited('"a.pcap"', '"../outside/a.pcap"'), point
    yield "parent inside", _edited('"a.pcap"', '"context/../a.pcap"'), point
    yield "parent glob", _edited('"a.pcap"', '"../*/a.pcap"'), point
    yield "absolute glob", _edited('"a.pcap"', '"OUTSIDE/*.pcap"'), point
    yield "capture", _moved("a.pcap", link(outside)), point
    yield "folder", linked_folder, point
    yield "deeper folder", linked_deeper, point
    yield "glob of a link", glob_link, point
    yield "glob through a link", glob_folder, point
    yield "glob of any folders", glob_any, point
    yield "log", _moved("a.log", link(outside)), point
    yield "context file", _moved("context/counters-after.json", link(outside)), "context"
    yield "context", _moved("context", link(outside)), "context"
    yield "run.toml", _moved("run.toml", link(outside)), "run.toml"


def _led_out(folder: Path, number: int) -> str | None:
    """Every name and link that leads out is refused, with key and fix; with trust it is read."""
    for name, _, key in _ways_out(folder / "outside"):
        run, outside = folder / name / "run", folder / name / "outside"
        outside.mkdir(parents=True)
        two_points.write(run, packets=4)
        (outside / "a.pcap").write_bytes(two_points.capture(4))
        for _, again, _ in (one for one in _ways_out(outside) if one[0] == name):
            again(run, outside)
        try:
            analyze_run(load_run(run))
            return f"{name}: was read"
        except RunFileError as problem:
            if key not in str(problem) or "--trust" not in str(problem) or "\n" in str(problem):
                return f"{name}: the message does not say key and fix: {problem}"
        if not analyze_run(load_run(run, trust=True)).inputs:
            return f"{name}: was not read with --trust"
    two_points.write(folder / "real", packets=4)
    (folder / "by-link").symlink_to(folder / "real")
    analyze_run(load_run(folder / "by-link"))  # the folder itself may be reached over a link
    return None


def _pipes(folder: Path, number: int) -> str | None:
    """A pipe, a folder or a socket in place of each input: nothing waits for it."""
    import socket

    for name in two_points.INPUTS:
        for kind in ("pipe", "folder", "socket"):
            run = folder / f"{name.replace('/', '-')}-{kind}"
            two_points.write(run, packets=4)
            (run / name).unlink()
            if kind == "pipe":
                os.mkfifo(run / name)
            elif kind == "folder":
                (run / name).mkdir()
            else:
                with socket.socket(socket.AF_UNIX) as listener:
                    here = os.getcwd()
                    os.chdir((run / name).parent)  # the path of a socket has at most 107 bytes
                    try:
                        listener.bind((run / name).name)
                    finally:
                        os.chdir(here)
            begun = time.monotonic()
            try:
                analyze_run(load_run(run))
            except PktraceError as problem:
                if "\n" in str(problem):
                    return f"{name}, {kind}: more than one line"
            if time.monotonic() - begun > _WAITED_S:
                return f"{name}, {kind}: waited"
    return None


def _shown(folder: Path, number: int) -> str | None:
    """Lines of a file that is no capture, no log and no run.toml: no message and no table shows any of them."""
    secret = folder / "shadow.toml"
    secret.write_text(f"{_SECRET}:0:99999:7:::\n[{_SECRET}\n")
    cases: list[tuple[str, list[str]]] = []
    for name in two_points.INPUTS:
        run = folder / f"run-{name.replace('/', '-')}"
        two_points.write(run, packets=4)
        (run / name).unlink()
        (run / name).symlink_to(secret)
        cases += [(name, ["analyze", "--no-plots", str(run)]), (name, ["analyze", "--no-plots", "--trust", str(run)])]
    cases.append(("observe", ["observe", str(secret), "-o", str(folder / "out.parquet")]))
    cases.append(("named", ["losses", str(secret)]))
    run = folder / "copied"
    two_points.write(run, packets=4)
    (run / "run.toml").write_text(secret.read_text())
    cases.append(("copied", ["--debug", "analyze", str(run)]))
    (folder / "short").mkdir()
    (folder / "short" / "run.toml").write_bytes(b"a = 1979-13-45\n\x01secret")
    cases.append(("short", ["analyze", str(folder / "short")]))
    for name, arguments in cases:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            code = main._run(arguments)
        said = shown.getvalue()
        if code not in (0, 2, 3):
            return f"{name}: exit code {code}: {said}"
        for part in ("secret", "726f6f74", "root:", "$6$", "19000"):
            if part in said:
                return f"{name}: shows {part!r} of the file: {said}"
    return None


def _toml(points: str = "", rest: str = "") -> str:
    return f'schema = 1\nname = "n"\n{points or _points(2)}\n[[path]]\nname = "p"\npoints = ["p0", "p1"]\n{rest}'


def _points(count: int, captures: str = '["a.pcap"]') -> str:
    return "".join(f'[[point]]\nname = "p{n}"\ncaptures = {captures}\ninterface = "{n}"\n' for n in range(count))


def _rules(count: int) -> str:
    return "".join(f'[[rule]]\nid = "r{n}"\npath = "p"\naction = "drop"\ndport = {n % 60000}\n' for n in range(count))


def _paths(count: int) -> str:
    return "".join(f'[[path]]\nname = "q{n}"\npoints = ["p0", "p1"]\n' for n in range(count))


def _listed(pattern: str, times: int = 1) -> str:
    return f"[{', '.join([repr(pattern)] * times)}]"


def _long_path(points: int) -> str:
    return f'[[path]]\nname = "q"\npoints = {_listed("p0", points)}\n'


# Text of run.toml, and a word of the error; "" where it may be read.
_WORK: dict[str, tuple[Callable[[], str], str]] = {
    "1,001 points": (lambda: _toml(_points(1001)), "--trust"),
    "1,001 paths": (lambda: _toml(rest=_paths(1000)), "--trust"),
    "10,001 rules": (lambda: _toml(rest=_rules(10_001)), "--trust"),
    "10,000 rules": (lambda: _toml(rest=_rules(10_000)), ""),
    "1,000 points": (lambda: _toml(_points(1000)), ""),
    "10,001 names of captures": (lambda: _toml(_points(11, _listed("a.pcap", 1000))), "--trust"),
    "5 MiB": (lambda: _toml(rest="# " + "x" * (5 << 20)), "--trust"),
    "a key of 100,000 parts": (lambda: "a." * 100_000 + "a = 1\n", "parts"),
    "a table of 100,000 parts": (lambda: f"[{'a.' * 100_000}a]\n", "parts"),
    "a quoted key of 100,000 parts": (lambda: '"a" . ' * 100_000 + "a = 1\n", "parts"),
    "a key of 100,000 parts in a table": (lambda: f"x = {{ {'a.' * 100_000}a = 1 }}\n", "parts"),
    "dotted keys behind an open text": (lambda: "'''\n" + "a." * 100_000 + "a = 1\n", "TOML"),
    "200,000 keys of 4 parts": (lambda: "".join(f"a.a{n}.a.a = 1\n" for n in range(200_000)), ""),
    "a key of 5 parts": (lambda: "a.a.a.a.a = 1\n", "parts"),
    "200,000 tables": (lambda: "".join(f"[t{n}]\n" for n in range(200_000)), "--trust"),
    "dots in a text": (lambda: 'description = "a.b.c.d.e.f.g"\nstarted = 2026-11-23T05:00:00.5Z\n' + _toml(), ""),
    "nested arrays": (lambda: "a = " + "[" * 1_000_000, "nested"),
    "nested tables": (lambda: "a = " + "{a=" * 500_000, "nested"),
    "a number of 1,000,000 digits": (lambda: "a = " + "1" * 1_000_000, "TOML"),
    "a name of 3 MB": (lambda: f"{'a' * 3_000_000} = 1\n", "unknown key"),
    "a value of 3 MB": (lambda: _toml(rest=f'default = "{"a" * 3_000_000}"\n'), "default"),
    "1,000,000 escapes": (lambda: 'description = "' + "\\n" * 1_000_000 + '"\n' + _toml(), ""),
    "escapes behind open texts": (lambda: '"""\n' + '\\"""\n' * 500_000, "TOML"),
    "1,000,000 quotes": (lambda: "'\n" * 1_000_000, "TOML"),
    "a path of 200,000 points": (lambda: _toml(rest=_long_path(200_000)), "twice"),
    "a list of 300,000 ports": (lambda: _toml(rest=_rules(1).replace("dport = 0", f"dport = '{'1,' * 300_000}1'")), ""),
    "a pattern of any folders": (lambda: _toml(_points(2, _listed("**/" * 1000 + "a.pcap"))), ""),
    "1,000 patterns of any names": (lambda: _toml(_points(10, _listed("[!x]*[a-z]*p", 100))), "twice"),
    "a pattern of 3,000 stars": (lambda: _toml(_points(2, _listed("*a" * 1500))), "no file"),
}  # fmt: skip


def _bounded(folder: Path, number: int) -> str | None:
    """A run.toml that is large, deep or repetitive is refused, or read, within seconds and in one line."""
    name = list(_WORK)[number % len(_WORK)]
    text, word = _WORK[name]
    (folder / "a.pcap").write_bytes(two_points.capture(1))
    (folder / "run.toml").write_text(text())
    begun = time.process_time()
    said = ""
    try:
        load_run(folder)
    except (RunFileError, CallerError) as problem:
        said = str(problem)
    if time.process_time() - begun > _LONGEST_S:
        return f"{name}: took {time.process_time() - begun:.0f} s"
    if len(said) > 2000 or "\n" in said:
        return f"{name}: a message of {len(said):,} characters"
    if word not in said:
        return f"{name}: said {said or 'nothing'}"
    return None


def _many_files(folder: Path, number: int) -> str | None:
    """Folders of many files, deep folders and large files: refused, or left out and said, within seconds."""
    run = folder / "run"
    two_points.write(run, packets=4)
    for count in range(1001):
        (run / "context" / f"{count}.txt").touch()
    try:
        load_run(run)
        return "1,001 files in context/ were taken"
    except RunFileError as problem:
        if "--trust" not in str(problem):
            return str(problem)
    analyze_run(load_run(run, trust=True))
    for count in range(1001):
        (run / "context" / f"{count}.txt").unlink()
    for count in range(20):  # sparse: 20 TB that take no room
        with open(run / "context" / f"counters-{count}.json", "wb") as file:
            file.truncate(1 << 40)
    with open(run / "context" / "objects.json", "wb") as file:
        file.write(b"[" + b"{}," * 2_600_000 + b"{}]")
    begun = time.process_time()
    analysis = analyze_run(load_run(run))
    if analysis.ledger.total("context_unread") != 20:
        return "files that were not read were not counted"
    with open(run / "a.log", "wb") as file:
        file.truncate(1 << 40)
    try:
        analyze_run(load_run(run))
        return "a log of 1 TB was taken"
    except PktraceError as problem:
        if "a.log" not in str(problem):
            return str(problem)
    (run / "a.log").unlink()
    inside = os.open(run, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=inside)
        deeper = os.open("d", os.O_RDONLY, dir_fd=inside)
        os.close(inside)
        inside = deeper
    os.close(inside)
    (run / "run.toml").write_text((run / "run.toml").read_text().replace('"a.pcap"', '"**/a.pcap"'))
    try:
        load_run(run)
        return "300 folders deep were searched"
    except RunFileError as problem:
        if "--trust" not in str(problem):
            return str(problem)
    if time.process_time() - begun > _LONGEST_S:
        return f"took {time.process_time() - begun:.0f} s"
    return None


ATTACKS: tuple[Attack, ...] = (
    Attack("run-led-out", "Links, absolute names and `..` in every place where a run names a file.", _led_out),
    Attack("run-pipes", "A pipe, a folder or a socket in place of every input.", _pipes),
    Attack("run-shown", "A file of secrets in place of every input: no message shows any of it.", _shown),
    Attack(
        "run-bounded", "A run.toml that is large, deep, or takes the square of its size.",
        _bounded, fast=len(_WORK), full=len(_WORK),
    ),
    Attack("run-many-files", "Too many, too large and too deep files around a run.", _many_files),
)  # fmt: skip
