"""Answers about a run from its facts: each finding has a consequence and a fix.

A finding limits (`partly`) or prevents (`no`) the answer to a question (latency, losses, rules) on some paths. The
worst finding of a path decides its answer. The run answers `yes` if all paths with packets do, `no` if none does, else
`partly`. Rules are asked on paths with rules only.
"""

from __future__ import annotations

from dataclasses import dataclass

from pktrace.analysis.criteria import Outcome, damage_of
from pktrace.check import capture_findings as captures
from pktrace.check import matching_findings as matching
from pktrace.check.facts import Suitability
from pktrace.check.finding import NO, PARTLY, QUESTIONS, RULES, WORSE, YES, Finding
from pktrace.errors import EXIT_DAMAGED_OR_UNDECIDED, EXIT_DONE
from pktrace.observations.coverage import damage_matters

# The checks of a run; each yields findings.
_LOOKS = (
    captures.paths, captures.traffic, captures.damage, captures.windows, matching.clocks, matching.order,
    matching.sharing, captures.capture_loss, matching.alike, matching.offloads, captures.pauses,
    matching.identification, captures.counters,
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """The answer to one question, with the places of its limiting findings in the list of findings."""

    question: str
    answer: str
    findings: tuple[int, ...]


def findings_of(facts: Suitability) -> tuple[Finding, ...]:
    """All findings, worst first; findings of equal rank in the order of the checks."""
    found = [finding for look in _LOOKS for finding in look(facts)]
    return tuple(sorted(found, key=lambda finding: (-finding.rank, -len(finding.limits))))


def answers_of(facts: Suitability, findings: tuple[Finding, ...]) -> tuple[Answer, ...]:
    """The verdict on each question."""
    return tuple(_answer(facts, findings, question) for question in QUESTIONS)


def _answer(facts: Suitability, findings: tuple[Finding, ...], question: str) -> Answer:
    run = facts.run
    asked = [path.number for path in facts.paths if path.packets]
    if question == RULES:
        with_rules = {rule.path for rule in run.rules}
        asked = [number for number in asked if number in with_rules]
    saying = [
        place
        for place, finding in enumerate(findings)
        if question in dict(finding.limits) and (finding.paths is None or not asked or set(finding.paths) & set(asked))
    ]
    per_path = []
    for number in asked:
        limits = [
            dict(findings[place].limits)[question]
            for place in saying
            if findings[place].paths is None or number in (findings[place].paths or ())
        ]
        per_path.append(max(limits, key=WORSE.__getitem__, default=YES))
    answer = NO if not per_path or set(per_path) == {NO} else YES if set(per_path) == {YES} else PARTLY
    if answer == NO:
        preventing = [place for place in saying if dict(findings[place].limits)[question] == NO]
        saying = preventing or saying
    return Answer(question, answer, tuple(saying))


def check_outcome(facts: Suitability, answers: tuple[Answer, ...]) -> Outcome:
    """3 if input is damaged, or if there are packets and no question can be answered, else 0."""
    harmed = [point.name for point in facts.points if damage_matters(facts.run, point.cover)] if facts.damaged else []
    reasons = damage_of(facts.ledger, harmed)
    if any(point.cover.packets for point in facts.points) and all(answer.answer == NO for answer in answers):
        reasons += (f"none of {', '.join(answer.question for answer in answers)} can be answered, see the findings",)
    return Outcome(EXIT_DAMAGED_OR_UNDECIDED if reasons else EXIT_DONE, reasons)
