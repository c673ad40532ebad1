"""What the exit code says: damaged input, and the criteria that were asked for with --fail-on."""

from __future__ import annotations

from pktrace.errors import EXIT_CRITERION_FAILED, EXIT_DAMAGED_OR_UNDECIDED, EXIT_DONE
from pktrace.findings.analysis import Analysis

CRITERIA = ("loss", "rules")


def exit_code(analysis: Analysis, fail_on: frozenset[str] = frozenset()) -> int:
    """0 done, 1 a criterion failed, 3 damaged input or a criterion that cannot be decided.

    `loss` fails if a packet was lost, and cannot be decided if none was but the fate of some is undetermined, or if no
    packet was followed. `rules` fails if a rule was violated, and cannot be decided if some rule is undetermined, or if
    no packet came to any filter.
    """
    failed = undecided = False
    if "loss" in fail_on:
        lost = bool(analysis.verdicts.packets_with("lost").any() or analysis.verdicts.packets_with("partial").any())
        doubtful = analysis.verdicts.packets_with("undetermined") | analysis.verdicts.packets_with("ambiguous")
        failed |= lost
        undecided |= not lost and (bool(doubtful.any()) or not len(analysis.trajectories))
    if "rules" in fail_on:
        statuses = [tally.status for tally in analysis.rule_tallies]
        failed |= "violated" in statuses
        exercised = any(tally.matched for tally in analysis.rule_tallies)
        undecided |= "violated" not in statuses and ("undetermined" in statuses or not exercised)
    if failed:
        return EXIT_CRITERION_FAILED
    if undecided or analysis.observations.damaged:
        return EXIT_DAMAGED_OR_UNDECIDED
    return EXIT_DONE
