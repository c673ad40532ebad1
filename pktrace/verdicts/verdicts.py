"""Verdicts of a run: calls the judging kernel and asks the witnesses of the filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.rules.expect import Expected
from pktrace.run.model import Run
from pktrace.schema import FATES
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.outcome.duplicates import maybe_copies
from pktrace.verdicts.codes import NONE, Verdict
from pktrace.verdicts.coverage import Trust, trust_in_captures
from pktrace.verdicts.doubts import (
    against_the_path,
    changed_on_the_way,
    counted_by_the_filter,
    in_parts,
    reached_filter,
)
from pktrace.verdicts.judge import Judgement, Packets, Paths, judge_packets

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Verdicts:
    """Per packet (codes of the closed lists in schema; NONE without a word): `fate`, `reason`, `lost_stage` (-1 none),
    `last_at` (position), `observed`, `rule_verdict`, `reached` (at the filter's input or later); per packet and stage:
    `stage_verdict` (NONE: no row), `stage_reason`. `trust` is the coverage by captures; `copied` (bool per packet): it
    may be a copy of another packet that the first point of its path saw.
    """

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
    copied: Array

    def packets_with(self, fate: str) -> Array:
        """Mask of the packets with a fate."""
        found: Array = self.fate == FATES.index(fate)
        return found

    @property
    def reached_filter(self) -> Array:
        """bool per packet: as `doubts.reached_filter`."""
        return reached_filter(self.trajectories, self.fate, self.last_at)

    def crossed(self, path: int, stage: int) -> Array:
        """Trajectories of a path that crossed a stage."""
        verdict = self.stage_verdict[:, stage] == Verdict.CROSSED
        return np.flatnonzero((self.trajectories.path == path) & verdict)

    def lost_in(self, path: int, stage: int) -> Array:
        """Trajectories of a path that were lost in a stage."""
        return np.flatnonzero((self.trajectories.path == path) & (self.lost_stage == stage))


def judge_trajectories(
    trajectories: Trajectories, expected: Expected, counters: dict[str, int] | None = None
) -> Verdicts:
    """Judge every packet at every stage of its path.

    Args:
        counters: packets by the data plane's own counters, a witness of the filter's drops.
    """
    run = trajectories.run
    trust = trust_in_captures(trajectories)
    count, width = trajectories.seen.shape
    judgement = Judgement(
        fate=np.full(count, NONE, np.uint8),
        reason=np.zeros(count, np.uint8),
        lost_stage=np.full(count, -1, np.int16),
        last_at=np.zeros(count, np.int64),
        observed=np.full(count, NONE, np.uint8),
        rule_verdict=np.full(count, NONE, np.uint8),
        stage_verdict=np.full((count, width + 1), NONE, np.uint8),
        stage_reason=np.zeros((count, width + 1), np.uint8),
    )
    if count:
        packets = Packets(
            trajectories.times, trajectories.first_rows["ts_ns"].copy(), trajectories.path, expected.action,
            expected.absorbed,
        )  # fmt: skip
        judge_packets(
            packets, Paths(_layout(run), trust.clock_group, trust.wait), trust.captures,
            np.array(trust.window, np.int64), np.int64(run.threshold_ns), judgement,
        )  # fmt: skip
    judgement = in_parts(judgement, trajectories, trust)
    judgement = against_the_path(judgement, trajectories)
    copied = maybe_copies(trajectories)
    judgement = changed_on_the_way(judgement, trajectories, copied)
    judgement = counted_by_the_filter(judgement, trajectories, expected, trust, counters or {})
    return Verdicts(trajectories, expected, trust, *judgement, copied)


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
