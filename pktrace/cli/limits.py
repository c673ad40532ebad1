"""The options that limit the bytes and packets read, and the memory of an analysis."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pktrace.sizes import size_of

if TYPE_CHECKING:
    from pktrace.limits import Limits

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Size(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has none
    """A number with an optional unit, at least 1."""

    def __init__(self, name: str, base: int) -> None:
        self.name = name
        self._base = base

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = size_of(str(value), self._base)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)
        if number < 1:
            self.fail(f"{value!r} is less than 1", param, ctx)
        return number


_BYTES, _COUNT = _Size("SIZE", 1024), _Size("N", 1000)


def limit_options(command: _Command) -> _Command:
    """Add --max-bytes, --max-packets and --max-memory, passed as `max_bytes`, `max_packets`, `max_memory`."""
    for name, kind, text in (
        ("--max-memory", _BYTES, "Memory to plan with; default: as much as container, ulimit and machine leave."),
        ("--max-packets", _COUNT, "Read at most N packets; default 2G, and 4M + 4 per byte of each file."),
        ("--max-bytes", _BYTES, "Read at most SIZE, uncompressed; default 1T, and 1G + 2000 x each file's bytes."),
    ):
        command = click.option(name, type=kind, help=text)(command)
    return command


def watching(command: Callable[..., int]) -> Callable[..., int]:
    """A command that stops itself, with a sentence, before memory runs out (memory.py)."""

    @functools.wraps(command)
    def watched_command(*args: Any, **options: Any) -> int:
        from pktrace.memory import watched

        with watched(options.get("max_memory")):
            return command(*args, **options)

    return watched_command


def limits_of(options: dict[str, int | None]) -> Limits:
    """The limits that the options set."""
    from pktrace.limits import Limits

    return Limits(**options)
