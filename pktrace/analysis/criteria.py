"""The exit code and its reasons: damaged input, and the criteria of --fail-on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pktrace.analysis.analysis import Analysis
from pktrace.analysis.tallies import RuleTally, StageLoss, stage_losses
from pktrace.errors import EXIT_CRITERION_FAILED, EXIT_DAMAGED_OR_UNDECIDED, EXIT_DONE
from pktrace.ledger import Ledger
from pktrace.observations.coverage import damage_matters
from pktrace.schema import REASONS

CRITERIA = ("loss", "rules")
# Ledger counters of files that were not read to their end.
_DAMAGE = ("capture_cut", "capture_corrupt", "capture_empty", "capture_unreadable")
_MOST_LISTED = 3


@dataclass(frozen=True)
class Outcome:
    """An exit code with a clause for each of its reasons, the gravest first. Code 0 has no clause."""

    code: int
    reasons: tuple[str, ...]

    def sentence(self) -> str:
        """One line with the reasons of the exit code."""
        return f"exit code {self.code}: {'; '.join(self.reasons)}"


def exit_code(analysis: Analysis, fail_on: frozenset[str] = frozenset()) -> int:
    """The code of `outcome`."""
    return outcome(analysis, fail_on).code


def outcome(analysis: Analysis, fail_on: frozenset[str] = frozenset()) -> Outcome:
    """0 done, 1 a criterion failed, 3 damaged input or a criterion that cannot be decided.

    `loss` fails if a packet was lost. It cannot be decided if no packet was lost and some fates are undetermined, or if
    no packet was followed. `rules` fails if a rule was violated. It cannot be decided if a rule is undetermined, or if
    no packet came to any filter.
    """
    failed: list[str] = []
    undecided: list[str] = []
    if "loss" in fail_on:
        _ask_loss(analysis, failed, undecided)
    if "rules" in fail_on:
        _ask_rules(analysis, failed, undecided)
    damage = damage_of_run(analysis)
    reasons = (*failed, *undecided, *damage)
    if failed:
        return Outcome(EXIT_CRITERION_FAILED, reasons)
    return Outcome(EXIT_DAMAGED_OR_UNDECIDED if reasons else EXIT_DONE, reasons)


def damage_of_run(analysis: Analysis) -> tuple[str, ...]:
    """Clauses about the damaged files of a run, if the damage may have changed its results."""
    observations = analysis.observations
    if not observations.damaged:
        return ()
    covers = zip(analysis.run.points, observations.coverage, strict=True)
    return damage_of(
        observations.ledger, [point.name for point, cover in covers if damage_matters(analysis.run, cover)]
    )


def damage_of(ledger: Ledger, points: Iterable[str | None]) -> tuple[str, ...]:
    """Clauses about the files of these points that were not read to their end; None stands for files of no point."""
    wanted = set(points)
    found = [
        f"{capture}: {counter.sentence.rstrip('.')}"
        for counter, point, capture, _ in ledger.rows()
        if counter.name in _DAMAGE and point in wanted
    ]
    return ("input is damaged: " + _listed(found),) if found else ()


def _ask_loss(analysis: Analysis, failed: list[str], undecided: list[str]) -> None:
    verdicts, total = analysis.verdicts, len(analysis.trajectories)
    lost, partial = (int(verdicts.packets_with(fate).sum()) for fate in ("lost", "partial"))
    doubtful = verdicts.packets_with("undetermined") | verdicts.packets_with("ambiguous")
    if lost or partial:
        in_part = f", {partial:,} in part" if partial else ""
        stages = sorted((loss for loss in stage_losses(verdicts) if loss.lost or loss.partial), key=_most_lost_first)
        paths = analysis.run.paths
        where = [
            f"{loss.lost + loss.partial:,} at {paths[loss.path].name} {loss.stage} "
                 f"{paths[loss.path].stage_name(loss.stage)}" for loss in stages]  # fmt: skip
        failed.append(f"criterion loss failed: {lost:,} of {total:,} packets lost{in_part} ({_listed(where)})")
    elif not total:
        undecided.append("criterion loss cannot be decided: no packet was followed")
    elif doubtful.any():
        ambiguous = int(verdicts.packets_with("ambiguous").sum())
        codes, counts = np.unique(verdicts.reason[verdicts.packets_with("undetermined")], return_counts=True)
        why = [f"{count:,} {REASONS[code]}" for code, count in zip(codes.tolist(), counts.tolist(), strict=True)]
        why += [f"{ambiguous:,} ambiguous"] if ambiguous else []
        undecided.append(
            f"criterion loss cannot be decided: no packet of {total:,} is shown to be lost, and the fate of "
            f"{int(doubtful.sum()):,} is not known ({', '.join(why)})"
        )


def _most_lost_first(loss: StageLoss) -> int:
    return -(loss.lost + loss.partial)


def _ask_rules(analysis: Analysis, failed: list[str], undecided: list[str]) -> None:
    tallies = analysis.rule_tallies
    violated = [tally for tally in tallies if tally.status == "violated"]
    unsure = [tally for tally in tallies if tally.status == "undetermined"]
    if violated:
        told = _listed([_of_rule(analysis, tally) for tally in violated])
        failed.append(f"criterion rules failed: {len(violated):,} of {len(tallies):,} rules violated ({told})")
    elif unsure:
        told = _listed([_of_rule(analysis, tally) for tally in unsure])
        undecided.append(f"criterion rules cannot be decided: {len(unsure):,} of {len(tallies):,} rules ({told})")
    elif not any(tally.matched for tally in tallies):
        undecided.append("criterion rules cannot be decided: no packet came to a filter")


def _of_rule(analysis: Analysis, tally: RuleTally) -> str:
    """A rule, the number of packets that it matched, and the outcomes other than a hit among them."""
    name = (
        f"default of {analysis.run.paths[tally.path].name}" if tally.rule is None else analysis.run.rules[tally.rule].id
    )
    others = [f"{count:,} {verdict}" for verdict, count in tally.counts.items() if count and verdict != "hit"]
    if not others and tally.counter_packets is not None:
        others = [f"its counter says {tally.counter_packets:,}"]
    return f"{name}: {', '.join(others) or 'no hit'} of {tally.matched:,} packets"


def _listed(parts: list[str]) -> str:
    more = len(parts) - _MOST_LISTED
    return ", ".join(parts[:_MOST_LISTED]) + (f" and {more:,} more" if more > 0 else "")
