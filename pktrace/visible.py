"""Text from outside with every character visible: names, comments and errors of strangers.

A control character makes a terminal obey, a bidirectional one changes the order in which text is shown, and others show
nothing at all. Such characters never leave the program unescaped. There is one escape form:

* `\\x1b`: a control character of ASCII, or a byte of a name that is not UTF-8 (`\\xff`),
* `\\u202e`, `\\U000e0041`: any other character that cannot be seen.

JSON and TOML have escapes of their own, and keep the text itself (`json_text`, `toml_text`).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any, TextIO

# str.isprintable is false for controls, formats (also the bidirectional ones), surrogates, separators but the space,
# private and unassigned characters. These are printable by that rule and yet show nothing (Default_Ignorable_Code_Point
# of Unicode 16, DerivedCoreProperties.txt).
_SHOWS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def is_visible(text: str) -> bool:
    """True if every character of a text is visible, or a space."""
    return text.isprintable() and (text.isascii() or _SHOWS_NOTHING.search(text) is None)


def visible(text: str) -> str:
    """The text with every character visible; a visible text stays unchanged."""
    return _escaped(text, _escape)


def visible_lines(text: str) -> str:
    """As `visible`, but line ends stay: for output of this program, whose parts from outside have no line ends."""
    return "\n".join(map(visible, text.split("\n")))


def is_plain(text: str) -> bool:
    """True if `distinct` leaves a text unchanged."""
    return is_visible(text) and "\\" not in text


def distinct(text: str) -> str:
    """`visible` for places that hold data: different texts stay different.

    A backslash is doubled if it could be read as the beginning of an escape, so that a file called `a\\xff` and one
    whose name holds the byte 0xff have two names in a table.
    """
    if is_plain(text):
        return text
    shown = []
    for letter, following in zip(text, [*text[1:], ""], strict=True):
        if letter == "\\":
            shown.append("\\\\" if following and (following in "xuU\\" or not is_visible(following)) else letter)
        else:
            shown.append(letter if is_visible(letter) else _escape(letter))
    return "".join(shown)


def json_text(document: Any) -> str:
    """A document as readable JSON, with a JSON escape for every invisible character."""
    return _in_lines(json.dumps(document, indent=2, ensure_ascii=False), _json_escape)


def toml_text(text: str) -> str:
    """A TOML document with a TOML escape for every invisible character; such characters occur in strings only."""
    return _in_lines(text, _toml_escape)


class VisibleStream(io.TextIOBase):
    """A stream of text to a terminal or a pipe that passes visible text and line ends only.

    `inner` is the stream itself, for a writer that makes each of its parts visible and adds colours of its own.
    """

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write a text, made visible."""
        self.inner.write(text if is_visible(text) else visible_lines(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.inner.flush()

    def fileno(self) -> int:
        """Number of the file."""
        return self.inner.fileno()

    def isatty(self) -> bool:
        """True if the stream is a terminal."""
        return self.inner.isatty()

    def writable(self) -> bool:
        """True: the stream accepts text."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the inner stream."""
        return self.inner.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """The error handling of the inner stream."""
        return self.inner.errors


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    if is_visible(text):
        return text
    return "".join(letter if is_visible(letter) else escape(letter) for letter in text)


def _in_lines(text: str, escape: Callable[[str], str]) -> str:
    return "\n".join(_escaped(line, escape) for line in text.split("\n"))


def _escape(letter: str) -> str:
    code = ord(letter)
    if code < 0x80:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8 (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(letter: str) -> str:
    """A JSON escape (RFC 8259 7): a code beyond 16 bits takes two escapes."""
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _toml_escape(letter: str) -> str:
    """A TOML escape (TOML 1.0, String) names a character; a byte that is no character cannot be written in TOML."""
    code = ord(letter)
    if 0xD800 <= code <= 0xDFFF:
        code = 0xFFFD
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
