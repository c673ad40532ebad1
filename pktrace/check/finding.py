"""A finding: one thing that limits what a run can show, and the words that its sentence is made of."""

from __future__ import annotations

from dataclasses import dataclass

LATENCY, LOSSES, RULES = QUESTIONS = ("latency", "losses", "rules")
YES, PARTLY, NO = "yes", "partly", "no"
WORSE = {YES: 0, PARTLY: 1, NO: 2}


@dataclass(frozen=True)
class Finding:
    """One thing that limits what the run can show, or that is good to know (no question limited).

    `sentence` says what is and what follows from it, `fix` what to do; `limits` is a tuple of (question, PARTLY or
    NO), `paths` the numbers of the paths concerned, None for all. `unasked` says that run.toml does not ask the
    question at all, so that nothing is wrong.
    """

    sentence: str
    fix: str
    limits: tuple[tuple[str, str], ...] = ()
    paths: tuple[int, ...] | None = None
    unasked: bool = False

    @property
    def rank(self) -> int:
        """2 if it prevents an answer that was asked for, 1 if it limits one, else 0."""
        return 0 if self.unasked else max((WORSE[limit] for _, limit in self.limits), default=0)


def limits(limit: str, *questions: str) -> tuple[tuple[str, str], ...]:
    """The same limit for several questions."""
    return tuple((question, limit) for question in questions)


def many(number: int, word: str) -> str:
    """`1 packet`, `1,203 packets`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def listed(names: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`; of more than six the first five."""
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
    """A share in percent; little is not shown as nothing, nor almost all as all."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    if 0.999 < share < 1:
        return "more than 99.9 %"
    return f"{100 * share:.1f} %"
