"""Doubts about a judgement: byte ranges, the opposite direction, rewritten packets, counters of the filter.

Each function takes a judgement and returns a new one. The kernel judges each packet by itself (judge.py); these
functions add evidence from other packets and from the data plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.rules.expect import Expected
from pktrace.trajectories.model import Trajectories
from pktrace.verdicts.codes import NONE, Fate, Reason, RuleVerdict, Treatment, Verdict
from pktrace.verdicts.coverage import Trust
from pktrace.verdicts.judge import Judgement

Array = np.ndarray[Any, Any]


def in_parts(judgement: Judgement, trajectories: Trajectories, trust: Trust) -> Judgement:
    """A packet that arrived only in part is `partial`; it is undetermined if a capture may have missed the rest."""
    if not len(trajectories.ranges):
        return judgement
    found = _copied(judgement, "fate", "reason", "stage_reason")
    missing = trajectories.missing_bytes
    arrived = found.fate == Fate.DELIVERED
    part = np.flatnonzero(arrived & (missing[np.arange(len(found.fate)), found.last_at] > 0))
    doubted = trust.incomplete[trajectories.path[part], found.last_at[part]]
    found.fate[part] = np.where(doubted, Fate.UNDETERMINED, Fate.PARTIAL)
    found.reason[part] = np.where(doubted, Reason.CAPTURE_DROPS, Reason.PART_LOST)
    for number, path in enumerate(trajectories.run.paths):
        mine = np.flatnonzero(trajectories.path == number)
        for stage in path.stage_numbers():
            a, b = path.ends_of(stage)
            fewer = mine[(missing[mine, b] > missing[mine, a]) & (trajectories.seen[mine, a] >= 0)]
            fewer = fewer[found.stage_verdict[fewer, stage] == Verdict.CROSSED]
            found.stage_reason[fewer, stage] = Reason.PART_LOST
    return found


def against_the_path(judgement: Judgement, trajectories: Trajectories) -> Judgement:
    """Packets that passed points in the opposite order keep their verdicts `crossed`; every other verdict is
    undetermined.

    Such packets passed their path in the other direction, or run.toml gives its points in the wrong order.
    """
    disordered = {entry.path for entry in trajectories.clocks.contradictions if entry.disordered}
    opposite = np.flatnonzero(trajectories.backwards | np.isin(trajectories.path, list(disordered)))
    if not len(opposite):
        return judgement
    found = _copied(judgement, "fate", "reason", "lost_stage", "rule_verdict", "stage_verdict", "stage_reason")
    found.rule_verdict[opposite[found.rule_verdict[opposite] != NONE]] = RuleVerdict.UNDETERMINED
    verdict = found.stage_verdict[opposite]
    packet, stage = np.nonzero((verdict != Verdict.CROSSED) & (verdict != NONE))
    packet = opposite[packet]
    found.stage_verdict[packet, stage] = Verdict.UNDETERMINED
    found.fate[packet], found.lost_stage[packet] = Fate.UNDETERMINED, -1
    found.stage_reason[packet, stage] = found.reason[packet] = Reason.AGAINST_PATH
    return found


def changed_on_the_way(judgement: Judgement, trajectories: Trajectories, copied: Array) -> Judgement:
    """A departure that an arrival may continue is `ambiguous`, and so is a lost packet that may be a copy.

    Neither is shown to be lost. A departure that may continue in an arrival is not shown to be dropped by the filter or
    absorbed by the service either. A packet that arrived in part is `ambiguous` if other parts may belong to several
    packets. Packets lost as `late` stay lost.

    Args:
        copied: bool per packet, it may be a copy of another one (`duplicates.maybe_copies`).
    """
    if not (trajectories.unsure.any() or trajectories.ambiguous.any() or copied.any()):
        return judgement
    found = _copied(judgement, "fate", "reason", "lost_stage", "observed", "rule_verdict", "stage_verdict")
    # Absence at the detour proves nothing if the detour saw arrivals that no match explains.
    passed = trajectories.unsure & (found.observed == Treatment.FORWARD)
    found.observed[passed] = NONE
    found.rule_verdict[passed & (found.rule_verdict != NONE)] = RuleVerdict.UNDETERMINED
    part = trajectories.ambiguous & (found.fate == Fate.PARTIAL)
    found.fate[part], found.reason[part] = Fate.AMBIGUOUS, Reason.NONE
    lost = found.fate == Fate.LOST
    ended = lost | (found.fate == Fate.DROPPED) | (found.fate == Fate.ABSORBED)
    in_doubt = (trajectories.ambiguous & ended) | (copied & lost)
    doubtful = np.flatnonzero(in_doubt & (found.reason != Reason.LATE))
    at_stage = doubtful[found.lost_stage[doubtful] >= 0]
    found.stage_verdict[at_stage, found.lost_stage[at_stage]] = Verdict.AMBIGUOUS
    dropped = doubtful[found.fate[doubtful] == Fate.DROPPED]
    found.observed[dropped] = NONE
    found.rule_verdict[dropped] = RuleVerdict.UNDETERMINED
    found.fate[doubtful] = Fate.AMBIGUOUS
    found.lost_stage[doubtful] = -1
    unseen = doubtful[found.rule_verdict[doubtful] == RuleVerdict.UNSEEN]
    found.rule_verdict[unseen] = RuleVerdict.UNDETERMINED
    return found


def counted_by_the_filter(
    judgement: Judgement, trajectories: Trajectories, expected: Expected, trust: Trust, counters: dict[str, int]
) -> Judgement:
    """Packets that vanished at the filter become `false_drop` if its counters account for all of them.

    Rule: the surplus of the path's drop counters over the packets of the drop rules equals the number of vanished
    packets. The counters of the rules that the vanished packets fit show exactly that deficit. No capture up to the
    filter missed packets, which would also explain the surplus, and no packet of a drop rule has duplicates. Otherwise
    the counters are no evidence about single packets, and these stay `unseen`.
    """
    run = trajectories.run
    unseen = judgement.rule_verdict == RuleVerdict.UNSEEN
    if not unseen.any():
        return judgement
    found = _copied(judgement, "rule_verdict", "observed", "reason")
    reached = reached_filter(trajectories, judgement.fate, judgement.last_at)
    for number, path in enumerate(run.paths):
        mine = reached & (trajectories.path == number)
        vanished = unseen & mine
        if trust.incomplete[number, : path.filter_input + 1].any() or not vanished.any():
            continue
        surplus, agree = 0, True
        for index, rule in enumerate(run.rules):
            if rule.path != number:
                continue
            counted = counters.get(rule.counter) if rule.counter is not None else None
            matched = int((mine & (expected.rule == index)).sum())
            if rule.action == "drop":
                # A counter counts duplicates of a packet, too.
                copies = trajectories.duplicates[mine & (expected.rule == index)].any()
                agree &= counted is not None and not copies
                surplus += (counted or 0) - matched
            elif counted is not None:
                agree &= counted == matched - int((vanished & (expected.rule == index)).sum())
        if agree and surplus == int(vanished.sum()):
            found.rule_verdict[vanished] = RuleVerdict.FALSE_DROP
            found.observed[vanished] = Treatment.DROP
            found.reason[vanished] = Reason.FILTER_DROPPED
    return found


def reached_filter(trajectories: Trajectories, fate: Array, last_at: Array) -> Array:
    """bool per packet: seen at the filter's input of its path or later; injected packets never came to it."""
    reached: Array = fate != Fate.INJECTED
    for number, path in enumerate(trajectories.run.paths):
        if path.has_detour:
            reached &= (trajectories.path != number) | (last_at >= path.filter_input)
    return reached


def _copied(judgement: Judgement, *names: str) -> Judgement:
    """The judgement with copies of the arrays under these names."""
    return judgement._replace(**{name: getattr(judgement, name).copy() for name in names})
