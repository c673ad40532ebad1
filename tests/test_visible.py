"""Text from outside: one escape form, the same in both packages, and nothing that hides in a name."""

from __future__ import annotations

import io
import json
import sys
import tomllib

import pytest

from capture_scripts.visible import visible as recorder_visible
from pktrace.errors import CallerError
from pktrace.visible import VisibleStream, distinct, is_visible, json_text, toml_text, visible

HIDDEN = {
    "\x1b[31m": "\\x1b[31m",
    "\x00": "\\x00",
    "\r": "\\x0d",
    "\n": "\\x0a",
    "\x7f": "\\x7f",
    "\x9b31m": "\\u009b31m",
    "\u061c": "\\u061c",
    "\u200b": "\\u200b",
    "\u200f": "\\u200f",
    "\u202e": "\\u202e",
    "\u2028": "\\u2028",
    "\u2066": "\\u2066",
    "\ufeff": "\\ufeff",
    "\ufe0f": "\\ufe0f",
    "\u3164": "\\u3164",
    "\U000e0041": "\\U000e0041",
    "\U000e0100": "\\U000e0100",
    "\udcff": "\\xff",
}
SHOWN = ("plain", "µ ü ∞ – … █ 日本", "[red]x[/red]", "$\\frac{1}{0}$", "a\\xff")


@pytest.mark.parametrize("text", HIDDEN)
def test_what_hides_is_shown(text: str) -> None:
    assert visible(text) == HIDDEN[text]
    assert visible(f"a{text}b") == f"a{HIDDEN[text]}b"
    assert is_visible(HIDDEN[text])
    assert not is_visible(text)
    assert HIDDEN[text] in str(CallerError(f"{text}: no such run"))


@pytest.mark.parametrize("text", SHOWN)
def test_what_can_be_seen_stays(text: str) -> None:
    assert visible(text) == text


def test_both_packages_agree_about_every_character() -> None:
    """They share no code: what the recorder prints and what the analysis prints is one form."""
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert visible(every) == recorder_visible(every)


def test_different_names_stay_different_in_data() -> None:
    r"""A file called `a\xff` and one whose name holds the byte 0xff once had one name in a table."""
    parts = ("\\", "x", "u", "\udcff", "\u202e", "\\xff", "\\u202e", "b")
    texts = {a + b + c for a in parts for b in parts for c in parts}
    assert len({distinct(text) for text in texts}) == len(texts)
    assert all(is_visible(distinct(text)) for text in texts)
    assert distinct("plain \\b") == "plain \\b"


def test_json_keeps_the_text_itself() -> None:
    document = {text: [text, "line\nline"] for text in (*HIDDEN, *SHOWN)}
    written = json_text(document)
    assert json.loads(written) == document
    assert all(is_visible(line) for line in written.split("\n"))


def test_toml_keeps_the_text_itself() -> None:
    texts = [
        text for text in (*HIDDEN, *SHOWN) if text.isprintable() or not any("\ud800" <= c <= "\udfff" for c in text)
    ]
    written = toml_text("".join(f"k{n} = {json.dumps(t, ensure_ascii=False)}\n" for n, t in enumerate(texts)))
    assert list(tomllib.loads(written).values()) == texts
    assert all(is_visible(line) for line in written.split("\n"))


def test_a_stream_lets_lines_pass_and_nothing_that_hides() -> None:
    inner = io.StringIO()
    print("one\ntwo\x1b[31m", "\u202e", sep="\t", file=VisibleStream(inner))
    assert inner.getvalue() == "one\ntwo\\x1b[31m\\x09\\u202e\n"
