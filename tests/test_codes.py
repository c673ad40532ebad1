"""Codes in kernels are places in the closed lists of the schema."""

from __future__ import annotations

from enum import IntEnum

import pytest

from pktrace import schema
from pktrace.verdicts.codes import NONE, Fate, Reason, RuleVerdict, Treatment, Verdict


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (Fate, schema.FATES),
        (Verdict, schema.VERDICTS),
        (Reason, schema.REASONS),
        (Treatment, schema.TREATMENTS),
        (RuleVerdict, schema.RULE_VERDICTS),
    ],
)
def test_codes_are_places_in_their_lists(codes: type[IntEnum], words: tuple[str | None, ...]) -> None:
    assert [(code.name.lower(), code.value) for code in codes] == [
        (word or "none", place) for place, word in enumerate(words)
    ]
    assert len(words) < NONE
