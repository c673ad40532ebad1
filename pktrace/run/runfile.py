"""Reads run.toml and checks it: every mistake is an error that names the file, the key and the fix."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from pktrace.errors import CallerError, RunFileError
from pktrace.inputs import NotInside
from pktrace.run.captures import CaptureNames, TooMany
from pktrace.run.conditions import BadValue, condition_of
from pktrace.run.context import context_files
from pktrace.run.document import read_document, shortened
from pktrace.run.model import Condition, PacketPath, Point, Rule, Run
from pktrace.visible import is_visible

SCHEMA = 1
RUN_FILE = "run.toml"
# Larger numbers need --trust. No recorded run comes near them; they bound the work for each kind of entry.
MOST_POINTS = 1000
MOST_PATHS = 1000
MOST_RULES = 10_000
MOST_PATTERNS = 10_000
_LARGEST_NS = 1 << 62
_LONGEST_NAME = 4000
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
# The words that a key may hold, for messages.
_WORDS = {
    "direction": ("any", "in", "out"),
    "default": ("forward", "drop", "punt"),
    "action": ("forward", "drop", "punt"),
}
_Entry = TypeVar("_Entry", bound=msgspec.Struct)
_Scalars = str | int | list[str | int]
_Texts = str | list[str]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Window(_Strict):
    start_ns: int
    end_ns: int


class _Loss(_Strict):
    threshold: str | int = "2s"


class _Point(_Strict):
    name: str
    captures: list[str]
    interface: str | None = None
    direction: Literal["any", "in", "out"] = "any"
    clock: str = "run"
    session: str | None = None


class _Match(_Strict):
    protocol: _Scalars | None = None
    source: _Texts | None = None
    destination: _Texts | None = None
    sport: _Scalars | None = None
    dport: _Scalars | None = None
    icmp_type: _Scalars | None = None
    vlan: _Scalars | None = None
    tunnel_id: _Scalars | None = None

    def condition(self) -> Condition:
        return condition_of(
            self.protocol, self.source, self.destination, self.sport, self.dport, self.icmp_type, self.vlan,
            self.tunnel_id,
        )  # fmt: skip


class _Path(_Strict):
    name: str
    points: list[str]
    detour: list[str] = []
    stages: list[str] | None = None
    match: _Match = msgspec.field(default_factory=_Match)
    default: Literal["forward", "drop", "punt"] = "forward"


class _Rule(_Match, kw_only=True):
    id: str
    path: str
    action: Literal["forward", "drop", "punt"]
    counter: str | None = None
    stateful: bool = False
    absorbed: bool = False


class _RunFile(_Strict):
    schema: int
    name: str
    description: str = ""
    started: Any = None  # a TOML date-time, or text
    window: dict[str, Any] | None = None
    loss: dict[str, Any] = {}
    point: list[dict[str, Any]] = []
    path: list[dict[str, Any]] = []
    rule: list[dict[str, Any]] = []
    criterion: list[dict[str, Any]] = []  # reserved for certification


def load_run(location: str | os.PathLike[str], trust: bool = False) -> Run:
    """Read and check a run.

    Args:
        location: the run folder, or its run.toml.
        trust: follow links and names that lead out of the run folder, and accept any number of entries.

    Raises:
        CallerError: there is no such run.
        RunFileError: run.toml is wrong, or leads out of its folder; the message names the key and the fix.
    """
    folder, file = _find(Path(location))
    document, digest = read_document(folder, file, trust)
    run = _Checker(folder, file, trust).run(document, digest)
    context_files(run)  # errors of context/ come before anything slow
    return run


def _find(location: Path) -> tuple[Path, Path]:
    try:
        is_folder, exists = location.is_dir(), location.exists()
    except (OSError, ValueError) as problem:
        raise CallerError(f"{location}: no such run: {getattr(problem, 'strerror', None) or problem}") from None
    if is_folder:
        file = location / RUN_FILE
        if not os.path.lexists(file):
            raise CallerError(
                f"{location}: no run here: it has no {RUN_FILE}; name a run folder, or use `pktrace observe FILE...`"
            )
        return location, file
    if exists:
        if location.suffix == ".toml":
            return location.parent, location
        raise CallerError(
            f"{location}: is a file, not a run folder; to decode captures alone use `pktrace observe {location}`"
        )
    raise CallerError(f"{location}: no such run: the folder does not exist")


class _Checker:
    def __init__(self, folder: Path, file: Path, trust: bool = False) -> None:
        self.folder = folder
        self.file = file
        self.trust = trust
        self.names = CaptureNames(folder, trust)

    def wrong(self, key: str, problem: str) -> RunFileError:
        return RunFileError(self.file, shortened(key, 300), shortened(problem, 1000))

    def at_most(self, number: int, most: int, key: str, what: str) -> None:
        if number > most and not self.trust:
            raise self.wrong(key, f"has {number:,} {what}; more than {most:,} need --trust")

    def convert(self, value: Any, kind: type[_Entry], key: str) -> _Entry:
        if isinstance(value, dict):
            known = _keys_of(kind)
            for name in value:
                if name not in known:
                    close = difflib.get_close_matches(name, known, 1)
                    fix = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}"
                    raise self.wrong(f"{key}.{name}" if key else name, f"unknown key; {fix}")
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as problem:
            text, _, place = str(problem).partition(" - at ")
            inner = place.strip("`").lstrip("$").lstrip(".")
            missing = re.match(r"Object missing required field `(\w+)`", text)
            if missing:
                inner = f"{inner}.{missing[1]}" if inner else missing[1]
                text = f"required key is missing; add `{missing[1]} = ...`"
            if text.startswith("Invalid enum value"):
                text += f"; use one of {', '.join(_WORDS.get(inner, ()))}"
            joined = ".".join(part for part in (key, inner) if part)
            raise self.wrong(joined, text[:1].lower() + text[1:]) from None

    def run(self, document: dict[str, Any], digest: str) -> Run:
        if document.get("schema", SCHEMA) != SCHEMA:
            raise self.wrong("schema", f"{document['schema']!r} is not known; this version reads schema {SCHEMA}")
        top = self.convert(document, _RunFile, "")
        self.at_most(len(top.point), MOST_POINTS, "point", "points")
        self.at_most(len(top.path), MOST_PATHS, "path", "paths")
        self.at_most(len(top.rule), MOST_RULES, "rule", "rules")
        if not top.point:
            raise self.wrong("point", "there is no [[point]]; a run needs at least one")
        self.plain_name(top.name, "name")
        points = self.points(top.point)
        index = {point.name: number for number, point in enumerate(points)}
        paths = self.paths(top.path, index)
        rules = self.rules(top.rule, paths)
        self.column_names(points, paths)
        return Run(
            folder=self.folder,
            name=top.name,
            description=top.description,
            points=points,
            paths=paths,
            rules=rules,
            threshold_ns=self.threshold(self.convert(top.loss, _Loss, "loss").threshold),
            window=self.window(top.window),
            run_toml_sha256=digest,
            criteria=len(top.criterion),
            trusted=self.trust,
            file=self.file.name,
        )

    def window(self, table: dict[str, Any] | None) -> tuple[int, int] | None:
        if table is None:
            return None
        window = self.convert(table, _Window, "window")
        if not all(-_LARGEST_NS < time < _LARGEST_NS for time in (window.start_ns, window.end_ns)):
            raise self.wrong("window", "lies outside the times that 64 bit nanoseconds hold")
        if window.start_ns > window.end_ns:
            raise self.wrong("window.end_ns", "lies before start_ns; exchange them")
        return window.start_ns, window.end_ns

    def threshold(self, text: str | int) -> int:
        shown = text if isinstance(text, str) else "a number without a unit"
        found = re.fullmatch(r"\s*([0-9]{1,18}(?:\.[0-9]{1,9})?)\s*([a-z]+)\s*", shown)
        if not found or found[2] not in _UNITS:
            raise self.wrong("loss.threshold", f'{shown!r} is no duration; write it with a unit, such as "2s"')
        whole, _, fraction = found[1].partition(".")
        scale = 10 ** len(fraction)
        nanoseconds: int = int(whole + fraction) * _UNITS[found[2]] // scale
        if not 0 < nanoseconds < _LARGEST_NS // 16:
            raise self.wrong("loss.threshold", f"{shown!r} is out of range; it must be above 0 and below 17 years")
        return nanoseconds

    def points(self, tables: Sequence[dict[str, Any]]) -> tuple[Point, ...]:
        points: list[Point] = []
        taken: set[str] = set()
        self.at_most(sum(len(_list(table.get("captures"))) for table in tables), MOST_PATTERNS, "point", "captures")
        for number, table in enumerate(tables):
            key = _entry("point", number, table.get("name"))
            entry = self.convert(table, _Point, key)
            self.plain_name(entry.name, f"{key}.name")
            if entry.name in taken:
                raise self.wrong(f"{key}.name", "is given twice; every point needs a name of its own")
            taken.add(entry.name)
            points.append(
                Point(
                    entry.name,
                    self.captures(entry.captures, f"{key}.captures"),
                    entry.interface,
                    entry.direction,
                    entry.clock,
                    entry.session,
                )
            )
        return tuple(points)

    def captures(self, patterns: Sequence[str], key: str) -> tuple[str, ...]:
        if not patterns:
            raise self.wrong(key, "is empty; name at least one capture file")
        files: list[str] = []
        for pattern in patterns:
            if "\0" in pattern or len(pattern) > _LONGEST_NAME:
                raise self.wrong(key, "is no name of a file: it holds a NUL character, or is too long")
            try:
                found = self.names.matching(pattern)
            except NotInside as problem:
                raise self.wrong(
                    key, f"{pattern!r} {problem}; put the file itself into the run folder, or use --trust"
                ) from None
            except TooMany as problem:
                raise self.wrong(key, f"{pattern!r} {problem}; name fewer, or use --trust") from None
            if not found:
                raise self.wrong(
                    key, f"no file {pattern!r} in {self.folder}; put the capture there or take the point out"
                )
            files.extend(found)
        taken: set[str] = set()
        for name in files:
            real = os.path.realpath(self.folder / name) if self.trust else name
            if real in taken:
                raise self.wrong(key, f"{name!r} is given twice to this point; name it once")
            taken.add(real)
        return tuple(files)

    def paths(self, tables: Sequence[dict[str, Any]], index: dict[str, int]) -> tuple[PacketPath, ...]:
        paths: list[PacketPath] = []
        taken: set[str] = set()
        for number, table in enumerate(tables):
            key = _entry("path", number, table.get("name"))
            if isinstance(table.get("match"), dict):
                self.convert(table["match"], _Match, f"{key}.match")
            entry = self.convert(table, _Path, key)
            self.plain_name(entry.name, f"{key}.name")
            if entry.name in taken:
                raise self.wrong(f"{key}.name", "is given twice; every path needs a name of its own")
            taken.add(entry.name)
            if not entry.points:
                raise self.wrong(f"{key}.points", "is empty; list the points in the order of the packets")
            paths.append(self.path(entry, key, index))
        return tuple(paths)

    def path(self, entry: _Path, key: str, index: dict[str, int]) -> PacketPath:
        for place, name in [("points", name) for name in entry.points] + [("detour", name) for name in entry.detour]:
            if name not in index:
                raise self.wrong(
                    f"{key}.{place}", f"there is no point {name!r}; add a [[point]], or use one of {', '.join(index)}"
                )
        for name, visits in Counter(entry.points).items():
            if visits > 2:
                raise self.wrong(
                    f"{key}.points", f"{name!r} stands more than twice; a path visits a point at most twice"
                )
        begin, end = self.detour(entry, key)
        if entry.default == "punt" and begin < 0:
            raise self.wrong(f"{key}.default", "is punt, but the path has no detour; add `detour`")
        stages = entry.stages
        if stages is None:
            stages = [f"{a}-{b}" for a, b in zip(entry.points, entry.points[1:], strict=False)]
        if len(stages) != len(entry.points) - 1:
            raise self.wrong(
                f"{key}.stages",
                f"has {len(stages)} names, but {len(entry.points)} points make {len(entry.points) - 1} stages",
            )
        if len(set(stages)) != len(stages) or (begin >= 0 and "bypass" in stages):
            raise self.wrong(f"{key}.stages", "names must differ from each other and from `bypass`")
        for name in stages:
            self.plain_name(name, f"{key}.stages")
        try:
            condition = entry.match.condition()
        except BadValue as problem:
            raise self.wrong(f"{key}.match.{problem.key}", str(problem)) from None
        return PacketPath(
            entry.name,
            tuple(index[name] for name in entry.points),
            tuple(stages),
            condition,
            entry.default,
            begin,
            end,
        )

    def detour(self, entry: _Path, key: str) -> tuple[int, int]:
        """Positions of the first and last detour point; neighbours on the path, a point on each side."""
        if not entry.detour:
            return -1, -1
        length = len(entry.detour)
        for start in range(1, len(entry.points) - length):
            if entry.points[start : start + length] == entry.detour:
                return start, start + length - 1
        raise self.wrong(
            f"{key}.detour",
            f"{entry.detour} must be neighbouring points of the path, in its order, with a point before and after them",
        )

    def rules(self, tables: Sequence[dict[str, Any]], paths: Sequence[PacketPath]) -> tuple[Rule, ...]:
        names = {path.name: number for number, path in enumerate(paths)}
        rules: list[Rule] = []
        taken: set[str] = set()
        for number, table in enumerate(tables):
            key = _entry("rule", number, table.get("id"))
            entry = self.convert(table, _Rule, key)
            self.plain_name(entry.id, f"{key}.id")
            if entry.id in taken:
                raise self.wrong(f"{key}.id", "is given twice; every rule needs an id of its own")
            taken.add(entry.id)
            if entry.path not in names:
                known = ", ".join(names) or "none: add a [[path]]"
                raise self.wrong(f"{key}.path", f"there is no path {entry.path!r}; paths are: {known}")
            if entry.action == "punt" and not paths[names[entry.path]].has_detour:
                raise self.wrong(f"{key}.action", f"punts, but path {entry.path!r} has no detour; add `detour` to it")
            try:
                condition = entry.condition()
            except BadValue as problem:
                raise self.wrong(f"{key}.{problem.key}", str(problem)) from None
            rules.append(
                Rule(
                    entry.id,
                    names[entry.path],
                    condition,
                    entry.action,
                    entry.counter,
                    entry.stateful,
                    entry.absorbed,
                )
            )
        return tuple(rules)

    def plain_name(self, name: str, key: str) -> None:
        if not name or not is_visible(name) or len(name) > 200:
            raise self.wrong(key, f"{name!r} must be 1 to 200 printable characters")

    def column_names(self, points: Sequence[Point], paths: Sequence[PacketPath]) -> None:
        """Each visit of a point has a column `<point>_ns` or `<point>_2_ns`; none may hide another."""
        taken = {"first_ns": "a column of the trajectories table"}
        twice = {point for path in paths for point, visits in Counter(path.points).items() if visits == 2}
        for number, point in enumerate(points):
            for column in [f"{point.name}_ns", *([f"{point.name}_2_ns"] if number in twice else [])]:
                if column in taken:
                    raise self.wrong(
                        _entry("point", number, point.name),
                        f"its time column {column!r} would hide {taken[column]}; rename the point",
                    )
                taken[column] = f"that of point {point.name!r}"


@cache
def _keys_of(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field.name for field in msgspec.structs.fields(kind))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _entry(table: str, number: int, name: object) -> str:
    return f"{table}[{name}]" if isinstance(name, str) and name else f"{table}[{number}]"
