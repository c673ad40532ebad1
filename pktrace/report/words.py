"""Formats of values for people: durations, counts, times, and text from outside."""

from __future__ import annotations

import datetime

from pktrace.visible import visible

_LONGEST_LINE = 1200
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def microseconds(ns: float | None, digits: int = 2) -> str:
    """A duration in microseconds, such as 195.02; a dash if it is unknown."""
    return "–" if ns is None else f"{ns / 1000:,.{digits}f}"


def count(value: int | None) -> str:
    """A number of packets; a dash if it is unknown, since unknown is not zero."""
    return "–" if value is None else f"{value:,}"


def percent(share: float | None) -> str:
    """A share as percent; a dash if it is undefined; a small share is never shown as 0 %."""
    if share is None:
        return "–"
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def clock_time(ns: int) -> str:
    """Time of day in UTC with all nine digits."""
    return f"{_seconds(ns):%H:%M:%S}.{ns % 10**9:09d}"


def date_time(ns: int) -> str:
    """Date and time in UTC with all nine digits."""
    return f"{_seconds(ns):%Y-%m-%d %H:%M:%S}.{ns % 10**9:09d} UTC"


def _seconds(ns: int) -> datetime.datetime:
    return _EPOCH + datetime.timedelta(seconds=ns // 10**9)


def plural(number: int, word: str) -> str:
    """`1 packet`, `2 packets`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def one_line(text: str) -> str:
    """Text as one line of bounded length: line ends become spaces, invisible characters become escapes."""
    line = visible(" ".join(text.splitlines()))
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE // 2]} ... {line[-_LONGEST_LINE // 4 :]}"
