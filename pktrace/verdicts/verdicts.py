"""Verdicts of a run: calls the judging kernel and asks the witnesses of the filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.rules.expect import Expected
from pktrace.run.model import Run
from pktrace.schema import FATES, REASONS, RULE_VERDICTS, TREATMENTS, VERDICTS
from pktrace.trajectories.model import Trajectories
from pktrace.verdicts.coverage import Trust, trust_in_captures
from pktrace.verdicts.judge import NONE, R_NONE, judge_packets

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Verdicts:
    """Per packet (codes of the closed lists in schema; NONE where there is none): `fate`, `reason`, `lost_stage`
    (-1 none), `last_at` (position), `observed`, `rule_verdict`, `reached` (at the filter's input or later);
    per packet and stage: `stage_verdict` (NONE: no row), `stage_reason`. `trust` says what the captures cover."""

    trajectories: Trajectories
    expected: Expected
    trust: Trust
    fate: Array
    reason: Array
    lost_stage: Array
    last_at: Array
    observed: Array
    rule_verdict: Array
    stage_verdict: Array
    stage_reason: Array

    def packets_with(self, fate: str) -> Array:
        """Which packets have a fate."""
        found: Array = self.fate == FATES.index(fate)
        return found

    def crossed(self, path: int, stage: int) -> Array:
        """Trajectories of a path that crossed a stage."""
        verdict = self.stage_verdict[:, stage] == VERDICTS.index("crossed")
        return np.flatnonzero((self.trajectories.path == path) & verdict)

    def lost_in(self, path: int, stage: int) -> Array:
        """Trajectories of a path that were lost in a stage."""
        return np.flatnonzero((self.trajectories.path == path) & (self.lost_stage == stage))


def judge_trajectories(
    trajectories: Trajectories, expected: Expected, counters: dict[str, int] | None = None
) -> Verdicts:
    """Judge every packet at every stage of its path.

    Args:
        counters: packets by the data plane's own counters, a witness of what the filter dropped.
    """
    run = trajectories.run
    trust = trust_in_captures(trajectories)
    count, width = trajectories.seen.shape
    fate = np.full(count, NONE, np.uint8)
    reason = np.zeros(count, np.uint8)
    lost_stage = np.full(count, -1, np.int16)
    last_at = np.zeros(count, np.int64)
    observed = np.full(count, NONE, np.uint8)
    rule_verdict = np.full(count, NONE, np.uint8)
    stage_verdict = np.full((count, width + 1), NONE, np.uint8)
    stage_reason = np.zeros((count, width + 1), np.uint8)
    if count:
        judge_packets(
            trajectories.times, trajectories.first_rows["ts_ns"].copy(), trajectories.path, _layout(run),
            trust.clock_group,
            expected.action, expected.absorbed, trust.captures, trust.wait,
            np.array(trust.window, np.int64), np.int64(run.threshold_ns),
            fate, reason, lost_stage, last_at, observed, rule_verdict, stage_verdict, stage_reason,
        )  # fmt: skip
    _judge_parts(trajectories, trust, fate, reason, last_at, stage_verdict, stage_reason)
    _doubt_the_opposite(trajectories, fate, reason, lost_stage, rule_verdict, stage_verdict, stage_reason)
    _doubt_the_rewritten(trajectories, fate, reason, lost_stage, observed, rule_verdict, stage_verdict)
    verdicts = Verdicts(
        trajectories,
        expected,
        trust,
        fate,
        reason,
        lost_stage,
        last_at,
        observed,
        rule_verdict,
        stage_verdict,
        stage_reason,
    )
    _ask_counters(verdicts, counters or {})
    return verdicts


def _judge_parts(
    trajectories: Trajectories, trust: Trust, fate: Array, reason: Array, last_at: Array, stage_verdict: Array,
    stage_reason: Array,
) -> None:  # fmt: skip
    """What arrived only in part is `partial`; where a capture may have missed the rest, that cannot be told."""
    if not len(trajectories.ranges):
        return
    missing = trajectories.missing_bytes
    arrived = fate == FATES.index("delivered")
    part = np.flatnonzero(arrived & (missing[np.arange(len(fate)), last_at] > 0))
    doubted = trust.incomplete[trajectories.path[part], last_at[part]]
    fate[part] = np.where(doubted, FATES.index("undetermined"), FATES.index("partial"))
    reason[part] = np.where(doubted, REASONS.index("capture_drops"), REASONS.index("part_lost"))
    for number, path in enumerate(trajectories.run.paths):
        mine = np.flatnonzero(trajectories.path == number)
        for stage in path.stage_numbers():
            a, b = path.ends_of(stage)
            fewer = mine[(missing[mine, b] > missing[mine, a]) & (trajectories.seen[mine, a] >= 0)]
            fewer = fewer[stage_verdict[fewer, stage] == VERDICTS.index("crossed")]
            stage_reason[fewer, stage] = REASONS.index("part_lost")


def _doubt_the_opposite(
    trajectories: Trajectories, fate: Array, reason: Array, lost_stage: Array, rule_verdict: Array,
    stage_verdict: Array, stage_reason: Array,
) -> None:  # fmt: skip
    """Of what came along its path the other way, or on one with points in the wrong order, stages only tell that it
    crossed them.
    """
    crossed, none = VERDICTS.index("crossed"), NONE
    disordered = {entry.path for entry in trajectories.clocks.contradictions if entry.disordered}
    opposite = np.flatnonzero(trajectories.backwards | np.isin(trajectories.path, list(disordered)))
    rule_verdict[opposite[rule_verdict[opposite] != none]] = RULE_VERDICTS.index("undetermined")
    packet, stage = np.nonzero((stage_verdict[opposite] != crossed) & (stage_verdict[opposite] != none))
    packet = opposite[packet]
    stage_verdict[packet, stage] = VERDICTS.index("undetermined")
    fate[packet], lost_stage[packet] = FATES.index("undetermined"), -1
    stage_reason[packet, stage] = reason[packet] = REASONS.index("against_path")


def _doubt_the_rewritten(
    trajectories: Trajectories, fate: Array, reason: Array, lost_stage: Array, observed: Array, rule_verdict: Array,
    stage_verdict: Array,
) -> None:  # fmt: skip
    """What ends where something begins that it may have become, or may be a copy, did not end for certain.

    It is not shown to be lost; nor, where it may have become something, that the filter dropped it or the service kept
    it as its rule says. What arrived in part is `ambiguous`, too, where other parts may be of several packets.
    """
    # Absence at the detour proves nothing while something stood there that nothing explains.
    passed = trajectories.unsure & (observed == TREATMENTS.index("forward"))
    observed[passed] = NONE
    rule_verdict[passed & (rule_verdict != NONE)] = RULE_VERDICTS.index("undetermined")
    part = trajectories.ambiguous & (fate == FATES.index("partial"))
    fate[part], reason[part] = FATES.index("ambiguous"), R_NONE
    late = reason == REASONS.index("late")
    lost = fate == FATES.index("lost")
    ended = lost | np.isin(fate, [FATES.index(name) for name in ("dropped", "absorbed")])
    doubtful = np.flatnonzero(((trajectories.ambiguous & ended) | (trajectories.copied & lost)) & ~late)
    at_stage = doubtful[lost_stage[doubtful] >= 0]
    stage_verdict[at_stage, lost_stage[at_stage]] = VERDICTS.index("ambiguous")
    dropped = doubtful[fate[doubtful] == FATES.index("dropped")]
    observed[dropped] = NONE
    rule_verdict[dropped] = RULE_VERDICTS.index("undetermined")
    fate[doubtful] = FATES.index("ambiguous")
    lost_stage[doubtful] = -1
    rule_verdict[doubtful[rule_verdict[doubtful] == RULE_VERDICTS.index("unseen")]] = RULE_VERDICTS.index(
        "undetermined"
    )


def reached_filter(verdicts: Verdicts) -> Array:
    """Packets that were seen at the filter's input of their path or after it; injected ones never came to it."""
    trajectories = verdicts.trajectories
    reached = ~verdicts.packets_with("injected")
    for number, path in enumerate(trajectories.run.paths):
        if path.has_detour:
            reached &= (trajectories.path != number) | (verdicts.last_at >= path.filter_input)
    return reached


def _layout(run: Run) -> Array:
    return np.array(
        [
            [
                len(path.points),
                path.detour_first,
                path.detour_last,
                int(
                    len(path.points) > 1 and (path.default == "drop" or any(rule.path == number for rule in run.rules))
                ),
            ]
            for number, path in enumerate(run.paths)
        ]
        or [[0, -1, -1, 0]],
        np.int64,
    )


def _ask_counters(verdicts: Verdicts, counters: dict[str, int]) -> None:
    """Packets that vanished at the filter were dropped by it where its counters say so, all of them.

    Rule: the drop rules of the path counted exactly as many packets more than fit them as vanished there, the rules
    that these fit counted exactly as many less, and no capture up to the filter missed packets, which would be
    another reason for the surplus. Anything else says nothing about single packets, and they stay `unseen`.
    """
    trajectories, expected = verdicts.trajectories, verdicts.expected
    run = trajectories.run
    unseen = verdicts.rule_verdict == RULE_VERDICTS.index("unseen")
    if not unseen.any():
        return
    reached = reached_filter(verdicts)
    for number, path in enumerate(run.paths):
        mine = reached & (trajectories.path == number)
        vanished = unseen & mine
        if verdicts.trust.incomplete[number, : path.filter_input + 1].any() or not vanished.any():
            continue
        surplus, agree = 0, True
        for index, rule in enumerate(run.rules):
            if rule.path != number:
                continue
            told = counters.get(rule.counter) if rule.counter is not None else None
            matched = int((mine & (expected.rule == index)).sum())
            if rule.action == "drop":
                # A counter counts the copies of a packet too.
                copies = trajectories.duplicates[mine & (expected.rule == index)].any()
                agree &= told is not None and not copies
                surplus += (told or 0) - matched
            elif told is not None:
                agree &= told == matched - int((vanished & (expected.rule == index)).sum())
        if agree and surplus == int(vanished.sum()):
            verdicts.rule_verdict[vanished] = RULE_VERDICTS.index("false_drop")
            verdicts.observed[vanished] = TREATMENTS.index("drop")
            verdicts.reason[vanished] = REASONS.index("filter_dropped")
