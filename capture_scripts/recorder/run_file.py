"""Write ``run.toml``, schema 1, in the layout of its documentation: one table per point, path and rule."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class PathTable:
    """One ``[[path]]``; ``detour`` and ``default`` are optional."""

    name: str
    points: tuple[str, ...]
    stages: tuple[str, ...]
    match: Mapping[str, tuple[str, ...]]
    detour: tuple[str, ...] = ()
    default: str = ""

    def table(self) -> dict[str, Any]:
        table: dict[str, Any] = {"name": self.name, "points": list(self.points)}
        if self.detour:
            table["detour"] = list(self.detour)
        table["stages"] = list(self.stages)
        table["match"] = {key: list(values) for key, values in self.match.items()}
        if self.default:
            table["default"] = self.default
        return table


@dataclass(frozen=True)
class PointTable:
    """One ``[[point]]``; ``interface`` for a file with several interfaces."""

    name: str
    captures: tuple[str, ...] = ()
    clock: str = "host"
    interface: str = ""

    def table(self) -> dict[str, Any]:
        captures = [f"captures/{file}" for file in self.captures or (f"{self.name}.pcapng",)]
        table: dict[str, Any] = {"name": self.name, "captures": captures}
        if self.interface:
            table["interface"] = self.interface
        return {**table, "clock": self.clock}


@dataclass(frozen=True)
class RunFile:
    """The whole content of ``run.toml``. ``window_ns`` is None when no span is certain.

    ``fragment`` is TOML text with ``[[path]]``, ``[[rule]]`` and ``[[criterion]]`` tables, copied in unchanged.
    """

    name: str
    description: str
    started: datetime
    points: Sequence[PointTable]
    paths: Sequence[PathTable] = ()
    rules: Sequence[Mapping[str, Any]] = ()
    window_ns: tuple[int, int] | None = None
    threshold: str = "2s"
    fragment: str = ""

    def document(self) -> dict[str, Any]:
        """The content, as a TOML reader returns it."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "name": self.name,
            "description": self.description,
            "started": self.started.astimezone(UTC).replace(microsecond=0),
        }
        if self.window_ns is not None:
            document["window"] = {"start_ns": self.window_ns[0], "end_ns": self.window_ns[1]}
        document["loss"] = {"threshold": self.threshold}
        document["point"] = [point.table() for point in self.points]
        for key, tables in (("path", [path.table() for path in self.paths]), ("rule", list(self.rules))):
            if tables:
                document[key] = tables
        return document

    def text(self) -> str:
        """The text of the file, which a TOML reader turns into ``document()``."""
        document = self.document()
        text = render(document)
        if tomllib.loads(text) != document:
            raise AssertionError("run.toml would not read back as intended")
        return f"{text}\n{self.fragment.strip()}\n" if self.fragment.strip() else text


def check_fragment(text: str, points: Sequence[str]) -> None:
    """Raise ValueError, with a message, unless ``text`` fits into a ``run.toml`` with these points."""
    document = tomllib.loads(text)
    unknown = set(document) - {"path", "rule", "criterion"}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: only [[path]], [[rule]] and [[criterion]] tables belong here")
    for key, tables in document.items():
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise ValueError(f"{key}: write it as [[{key}]] tables")
    names = set()
    for path in document.get("path", []):
        names.add(path.get("name"))
        missing = [name for name in [*path.get("points", []), *path.get("detour", [])] if name not in points]
        if missing:
            raise ValueError(
                f"path {path.get('name')!r}: there is no point {missing[0]!r}; the points are {', '.join(points)}"
            )
    for rule in document.get("rule", []):
        if rule.get("path") not in names:
            raise ValueError(f"rule {rule.get('id')!r}: there is no path {rule.get('path')!r}")


def render(document: Mapping[str, Any]) -> str:
    """TOML with tables and arrays of tables one level deep, and inline tables below that."""
    lines = [f"{key} = {_value(value)}" for key, value in document.items() if not _is_table(value)]
    for key, value in document.items():
        if _is_table(value):
            for table in value if isinstance(value, list) else [value]:
                lines += ["", f"[[{key}]]" if isinstance(value, list) else f"[{key}]"]
                lines += [f"{name} = {_value(inner)}" for name, inner in table.items()]
    return "\n".join(lines) + "\n"


def _is_table(value: object) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")  # a JSON string is a TOML basic string but for DEL
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, list):
        return "[" + ", ".join(_value(inner) for inner in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    raise TypeError(f"no TOML for {type(value).__name__}")
