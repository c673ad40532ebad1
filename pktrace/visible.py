"""Text from outside with everything visible: names, comments and errors of strangers, as text that shows what is there.

A control character makes a terminal obey, a bidirectional one shows text in another order than it is in, and others
show nothing at all. Such characters never leave the program as they are. There is one escape form:

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
    """Whether every character of a text can be seen, or is a space."""
    return text.isprintable() and (text.isascii() or _SHOWS_NOTHING.search(text) is None)


def visible(text: str) -> str:
    """Text in which every character can be seen; the same text for a text that is visible already."""
    return _escaped(text, _escape)


def visible_lines(text: str) -> str:
    """The same, but for line ends, which stay: output of this program, whose parts from outside have none."""
    return "\n".join(map(visible, text.split("\n")))


def is_plain(text: str) -> bool:
    """Whether `distinct` leaves a text as it is."""
    return is_visible(text) and "\\" not in text


def distinct(text: str) -> str:
    """`visible` for places that hold data: different texts stay different.

    A backslash is doubled where it could be read as the beginning of an escape, so that a file called `a\\xff` and one
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
    """A document as JSON: readable as it is, with an escape of JSON for every character that cannot be seen."""
    return _in_lines(json.dumps(document, indent=2, ensure_ascii=False), _json_escape)


def toml_text(text: str) -> str:
    """A TOML document with an escape of TOML for every character that cannot be seen; they can only be in strings."""
    return _in_lines(text, _toml_escape)


class VisibleStream(io.TextIOBase):
    """A stream of text to a terminal or a pipe, through which only visible text and line ends pass.

    `inner` is the stream itself, for a writer that makes each of its parts visible and adds colours of its own.
    """

    def __init__(self, inner: TextIO) -> None:
        self.inner = inner

    def write(self, text: str) -> int:
        """Write a text, made visible."""
        self.inner.write(text if is_visible(text) else visible_lines(text))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written."""
        self.inner.flush()

    def fileno(self) -> int:
        """Number of the file."""
        return self.inner.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.inner.isatty()

    def writable(self) -> bool:
        """Always."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream itself."""
        return self.inner.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """Of the stream itself."""
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
    """RFC 8259 7: what is beyond 16 bits takes two escapes."""
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def _toml_escape(letter: str) -> str:
    """TOML 1.0, String: an escape names a character; a byte that is none has no place in TOML."""
    code = ord(letter)
    if 0xD800 <= code <= 0xDFFF:
        code = 0xFFFD
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
