"""A finding: one limit of the conclusions from a run, and helpers for the words of its sentence."""

from __future__ import annotations

from dataclasses import dataclass

LATENCY, LOSSES, RULES = QUESTIONS = ("latency", "losses", "rules")
YES, PARTLY, NO = "yes", "partly", "no"
WORSE = {YES: 0, PARTLY: 1, NO: 2}


@dataclass(frozen=True)
class Finding:
    """One limit of the conclusions from a run, or a remark (no question limited).

    `sentence` gives the fact and its consequence, `fix` the remedy; `limits` is a tuple of (question, PARTLY or NO),
    `paths` the numbers of the paths concerned, None for all. `unasked` is true if run.toml does not ask the question at
    all; then nothing is wrong.
    """

    sentence: str
    fix: str
    limits: tuple[tuple[str, str], ...] = ()
    paths: tuple[int, ...] | None = None
    unasked: bool = False

    @property
    def rank(self) -> int:
        """2 if the finding prevents a requested answer, 1 if it limits one, else 0."""
        return 0 if self.unasked else max((WORSE[limit] for _, limit in self.limits), default=0)


def limits(limit: str, *questions: str) -> tuple[tuple[str, str], ...]:
    """The same limit for several questions."""
    return tuple((question, limit) for question in questions)


def many(number: int, word: str) -> str:
    """`1 packet`, `1,203 packets`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`; more than six names are cut to the first five."""
    if len(names) > 6:
        names = [*names[:5], f"{len(names) - 5} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def duration(ns: float) -> str:
    """A time span with three digits and its unit: `81 ms`, `2.31 s`, `-12.3 µs`."""
    size = abs(ns)
    for unit, name in ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")):
        if size >= unit:
            value = ns / unit
            digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
            text = f"{value:,.{digits}f}"
            return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {name}"
    return f"{ns:.0f} ns"


def part(share: float) -> str:
    """A share in percent; a small share is never shown as 0 %, and one just below the whole never as 100 %."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    if 0.999 < share < 1:
        return "more than 99.9 %"
    return f"{100 * share:.1f} %"
