"""The analysis of a run, step by step, and the results of all steps together."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pktrace.analysis.tallies import RuleTally, tally_rules
from pktrace.latency.stages import StageLatency, differences
from pktrace.ledger import Ledger
from pktrace.observations.observe import Observations, observe_run
from pktrace.rules.expect import Expected, expected_treatment
from pktrace.run.context import Context, read_context
from pktrace.run.model import Run
from pktrace.trajectories.follow import follow_packets
from pktrace.trajectories.model import UNSEEN, Trajectories
from pktrace.trajectories.outcome.changes import Transforms, transforms_of
from pktrace.trajectories.outcome.division import Parts, completed, parts_of
from pktrace.trajectories.outcome.duplicates import copies_of
from pktrace.verdicts.verdicts import Verdicts, judge_trajectories


@dataclass(frozen=True)
class Analysis:
    """All results of a run; `ledger` counts everything that the analysis did not use."""

    run: Run
    observations: Observations
    trajectories: Trajectories
    expected: Expected
    verdicts: Verdicts
    counters: dict[str, int]
    ledger: Ledger
    context: Context = field(default_factory=Context)

    @property
    def inputs(self) -> dict[str, str]:
        """SHA-256 of every input file, over the bytes that the analysis used, by name relative to the run."""
        observations = self.observations
        return {
            self.run.file: self.run.run_toml_sha256,
            **dict(zip(observations.captures, observations.sha256, strict=True)),
            **dict(sorted(log for cover in observations.coverage for log in cover.logs)),
            **self.context.sha256,
        }

    @cached_property
    def latencies(self) -> list[StageLatency]:
        """Latency of every stage of every path, then end to end."""
        return stage_latencies(self.verdicts, self.parts, self.completed)

    @cached_property
    def parts(self) -> Parts:
        """The byte ranges that each frame held, for packets that were split or merged."""
        return parts_of(self.trajectories)

    @cached_property
    def completed(self) -> np.ndarray[Any, Any]:
        """int64 by packet and position: raw time at which the packet was complete there, UNSEEN if unknown."""
        return completed(self.trajectories, self.parts)

    @cached_property
    def transforms(self) -> Transforms:
        """The changes of packets on their way, stage by stage."""
        return transforms_of(self.trajectories, self.parts)

    @cached_property
    def rule_tallies(self) -> list[RuleTally]:
        """How each rule was treated by the filter."""
        return tally_rules(self.verdicts, self.counters)


def analyze_run(run: Run) -> Analysis:
    """Read, follow and judge a whole run."""
    return analyze_observations(observe_run(run))


def analyze_observations(observations: Observations) -> Analysis:
    """Follow and judge observations of a run."""
    return analyze_trajectories(follow_packets(observations))


def analyze_trajectories(trajectories: Trajectories) -> Analysis:
    """Judge trajectories."""
    run = trajectories.run
    expected = expected_treatment(trajectories)
    context = read_context(run)
    counters = context.counters
    verdicts = judge_trajectories(trajectories, expected, counters)
    ledger = trajectories.observations.ledger.merged(trajectories.ledger)
    if run.window is not None and len(trajectories):
        first = trajectories.first_rows["ts_ns"]
        ledger.add("outside_window", int(((first < run.window[0]) | (first > run.window[1])).sum()))
    ledger.add("against_path", int(trajectories.backwards.sum()))
    copies = copies_of(trajectories)
    doubtful = verdicts.copied & verdicts.packets_with("ambiguous")
    first = np.bincount(trajectories.first_rows["point"][doubtful], minlength=len(run.points))
    for number, point in enumerate(run.points):
        for counter, counts in (
            ("copies_network", copies.network), ("copies_here", copies.here), ("copies_last", copies.last),
            ("copies_retried", copies.retried), ("copies_rewritten", copies.rewritten), ("copies_first", first),
        ):  # fmt: skip
            ledger.add(counter, int(counts[number]), point=point.name)
    ledger.add("recording_incomplete", int(context.incomplete))
    ledger.add("context_unread", len(context.unread))
    for rule in run.rules:
        if rule.counter is not None and rule.counter not in counters:
            ledger.add("counter_missing")
    return Analysis(run, trajectories.observations, trajectories, expected, verdicts, counters, ledger, context)


def stage_latencies(verdicts: Verdicts, parts: Parts, complete: np.ndarray[Any, Any]) -> list[StageLatency]:
    """Latencies per path: its stages in order, the bypass if the path has a detour, then end to end.

    Args:
        complete: as `Analysis.completed`.
    """
    trajectories = verdicts.trajectories
    found: list[StageLatency] = []
    nothing = np.zeros(0, np.int64)
    for number, path in enumerate(trajectories.run.paths):
        for stage in path.stage_numbers():
            a, b = path.ends_of(stage)
            same = bool(verdicts.trust.same_clock[number, stage])
            crossed = verdicts.crossed(number, stage)
            crossed = crossed[~trajectories.backwards[crossed]]
            values = differences(trajectories.raw_first_bytes, crossed, a, b) if same else nothing
            last_bytes = differences(complete, crossed, a, b) if same else nothing
            found.append(
                StageLatency(
                    number,
                    stage,
                    path.stage_name(stage),
                    a,
                    b,
                    np.sort(values),
                    len(verdicts.lost_in(number, stage)),
                    int(verdicts.trust.error_ns[number, stage]) if same else None,
                    int((parts.divided[crossed, a] | parts.divided[crossed, b]).sum()),
                    np.sort(last_bytes),
                    _by_order(trajectories, crossed) if same else 0,
                )
            )
        if len(path.points) > 1:
            found.append(_end_to_end(verdicts, number, parts, complete))
    return found


def _end_to_end(verdicts: Verdicts, number: int, parts: Parts, complete: np.ndarray[Any, Any]) -> StageLatency:
    """Latency of the delivered packets from the first to the last point."""
    trajectories = verdicts.trajectories
    path = trajectories.run.paths[number]
    last = len(path.points) - 1
    cover = [trajectories.observations.coverage[path.points[at]] for at in (0, last)]
    clocks = [trajectories.clocks.clock[path.points[at]] for at in (0, last)]
    mine = trajectories.path == number
    delivered = np.flatnonzero(mine & verdicts.packets_with("delivered") & ~trajectories.backwards)
    delivered = delivered[trajectories.raw_first_bytes[delivered, 0] != UNSEEN]
    values = last_bytes = np.zeros(0, np.int64)
    error = None
    if clocks[0] == clocks[1]:
        values = differences(trajectories.raw_first_bytes, delivered, 0, last)
        last_bytes = differences(complete, delivered, 0, last)
        error = cover[0].resolution_ns + cover[1].resolution_ns
    lost = int((mine & verdicts.packets_with("lost")).sum())
    divided = int((parts.divided[delivered, 0] | parts.divided[delivered, last]).sum())
    by_order = _by_order(trajectories, delivered) if error is not None else 0
    return StageLatency(
        number, None, "end to end", 0, last, np.sort(values), lost, error, divided, np.sort(last_bytes), by_order
    )


def _by_order(trajectories: Trajectories, which: np.ndarray[Any, Any]) -> int:
    """The number of packets in `which` that only their order distinguishes from equal packets."""
    return int(np.count_nonzero(trajectories.candidates[which] > 1))
