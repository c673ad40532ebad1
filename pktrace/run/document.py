"""The text of run.toml as a TOML document: read over no link, in bounded time, without showing its contents."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pktrace.errors import CallerError, RunFileError
from pktrace.inputs import Location, NotInside, NotRegular, read_whole

# 10,000 rules have about 2 MB; the parser takes a second for 4 MiB.
LARGEST_RUN_FILE = 4 << 20
# Keys of run.toml have at most three parts (`rule.match.source`). The parser's work grows with the square of them.
_MOST_KEY_PARTS = 4
# Each table takes 1 KB of memory while the text is parsed; the limits on points, paths and rules allow 13,000.
_MOST_TABLES = 50_000
# Strings and comments, as TOML 1.0 delimits them: dots in them are no parts of a key. A string without an end stops the
# parser, so it reaches to the end of its line or of the text; each character is read once.
_QUOTED = re.compile(
    r'"""(?:[^\\"]|\\.|"(?!""))*+(?:"""|\Z)?'
    r"|'''(?:[^']|'(?!''))*+(?:'''|\Z)?"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'[^'\n]*+'?"
    r"|\#[^\n]*+",
    re.DOTALL,
)
_LONG_KEY = re.compile(rf"(?<![\w\"-])(?:[\w\"-]++[ \t]*+\.[ \t]*+){{{_MOST_KEY_PARTS}}}")
_TABLE = re.compile(r"^[ \t]*+\[", re.MULTILINE)
# The parser's messages quote the file; only their constant part is shown.
_PLACE = re.compile(r"\(at (?:line \d+, column \d+|end of document)\)$")
_CONSTANT = (
    "Cannot declare", "Cannot mutate immutable namespace", "Cannot overwrite a value", "Cannot redefine namespace",
    "Duplicate inline table key", "Escaped character is not a Unicode scalar value",
    "Expected ']' at the end of a table declaration", "Expected ']]' at the end of an array declaration",
    "Expected '=' after a key in a key/value pair", "Expected newline or end of document after a statement",
    "Found invalid character", "Illegal character", "Invalid date or datetime", "Invalid hex value",
    "Invalid initial character for a key part", "Invalid statement", "Invalid value", "Unclosed array",
    "Unclosed inline table", "Unescaped", "Unterminated string",
)  # fmt: skip


def read_document(folder: Path, file: Path, trust: bool) -> tuple[dict[str, Any], str]:
    """A run.toml, parsed, and the SHA-256 of its bytes.

    Raises:
        CallerError: it cannot be read.
        RunFileError: it is a link, too large, or no TOML. Its contents are not shown, since it may be a file that the
            sender of the run must not see.
    """
    location = Location(str(file)) if trust else Location(file.name, folder)
    try:
        found = read_whole(location, None if trust else LARGEST_RUN_FILE)
    except NotInside as problem:
        raise RunFileError(file, "", f"{problem}; put the file itself there, or use --trust") from None
    except NotRegular:
        raise CallerError(f"{file}: is no regular file") from None
    except OSError as problem:
        raise CallerError(f"{file}: cannot be read: {problem.strerror}") from None
    if found is None:
        raise RunFileError(
            file, "", f"has more than {LARGEST_RUN_FILE >> 20} MiB, which no run.toml has; with --trust it is read"
        )
    raw, digest = found
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RunFileError(file, "", "is no valid TOML: it is not UTF-8") from None
    plain = _QUOTED.sub('"', text)
    if not trust and len(_TABLE.findall(plain)) > _MOST_TABLES:
        raise RunFileError(file, "", f"has more than {_MOST_TABLES:,} tables, which need --trust")
    if _LONG_KEY.search(plain):
        raise RunFileError(file, "", f"has a key of more than {_MOST_KEY_PARTS} parts; keys of run.toml have three")
    try:
        return tomllib.loads(text), digest
    except RecursionError:
        raise RunFileError(file, "", "is no valid TOML: values are nested too deeply") from None
    except ValueError as problem:  # also an integer of thousands of digits
        raise RunFileError(file, "", f"is no valid TOML{_reason(str(problem))}") from None


def _reason(message: str) -> str:
    """The parser's reason and place, without its quotes of the file."""
    reason = next((constant for constant in _CONSTANT if message.startswith(constant)), "")
    place = _PLACE.search(message)
    return (f": {reason}" if reason else "") + (f" {place[0]}" if place else "")


def shortened(text: str, most: int) -> str:
    """The text, without its middle if it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 100]} ... {text[-90:]}"
