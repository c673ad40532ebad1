"""Escape invisible characters in all output of a command, names of interfaces, files and namespaces included.

A control or bidirectional character in a name would control a terminal, or display another name. The rule and the form
(`\\x1b`, `\\u202e`) are the same as in pktrace/visible.py, which this package cannot import; a test compares them.
"""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

_SHOWS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_Main = TypeVar("_Main", bound=Callable[..., Any])


def visible(text: str) -> str:
    """Text with an escape for every invisible character."""
    return "".join(letter if _is_visible(letter) else _escape(letter) for letter in text)


def _is_visible(letter: str) -> bool:
    return letter.isprintable() and _SHOWS_NOTHING.search(letter) is None


def _escape(letter: str) -> str:
    code = ord(letter)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printing_visibly(main: _Main) -> _Main:
    """Decorate the entry of a command: all its output passes `visible`, except line ends."""

    @functools.wraps(main)
    def call(*arguments: Any, **named: Any) -> Any:
        before = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Visible(sys.stdout), _Visible(sys.stderr)
        try:
            return main(*arguments, **named)
        finally:
            sys.stdout, sys.stderr = before

    return call  # type: ignore[return-value]


class _Visible(io.TextIOBase):
    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        self._inner.write("\n".join(map(visible, text.split("\n"))))
        return len(text)

    def flush(self) -> None:
        self._inner.flush()

    def fileno(self) -> int:
        return self._inner.fileno()

    def isatty(self) -> bool:
        return self._inner.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._inner.encoding
