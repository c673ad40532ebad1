"""Trajectories to verdicts per stage, fates and rule verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.reference.clocks import Clocks
from tests.reference.copies import maybe_copies
from tests.reference.follow import Followed
from tests.reference.reach import Coverage
from tests.reference.run import Path_, Rule, Run, covers, fits
from tests.reference.sightings import Sighting, Trajectory


@dataclass
class Judged:
    """One trajectory with everything that is concluded about it."""

    trajectory: Trajectory
    rule: Rule | None
    expected_action: str | None
    observed_action: str | None
    rule_verdict: str | None
    reached_filter: bool
    fate: str
    reason: str | None
    lost_stage: int | None
    stages: list[dict[str, Any]]


class Judge:
    """Design 5 for one run. Positions count the points of a path from 0; stage s leads from position s to s +
    1.
    """

    def __init__(self, run: Run, followed: Followed, coverage: dict[str, Coverage]) -> None:
        self.run = run
        self.clocks: Clocks = followed.clocks
        self.delays = followed.delays
        self.coverage, self.reach = coverage, followed.reach
        self.copied = maybe_copies(followed.trajectories)

    def wait_ns(self, path: Path_, origin: int, target: int) -> int:
        """Waiting: min(threshold, 10 x the largest certain delay of that stage), the threshold if there is
        none.
        """
        largest = max(self.delays.get((path.name, origin, target)) or [0])
        return min(self.run.threshold_ns, 10 * largest) if largest > 0 else self.run.threshold_ns

    def why_not_certain(self, seen: Sighting, path: Path_, origin: int, target: int) -> str | None:
        """Why a packet last seen at ``origin`` may have passed ``target`` all the same; None if it certainly
        did not.

        Lost only if that point's coverage includes the packet's time and runs on for the waiting time, and
        its capture dropped nothing.
        """
        cover = self.coverage[path.points[target]]
        time = self.clocks.translate(seen.ts_ns, seen.clock, self.run.point(path.points[target]).clock)
        if time is None:
            return "clock_offset"
        if cover.start_ns is None or cover.end_ns is None or not cover.start_ns <= time <= cover.end_ns:
            return "outside_window"
        wait = self.wait_ns(path, origin, target)
        if time + wait > cover.end_ns:
            return "waiting_time"
        return "capture_drops" if self.may_have_missed(path.points[target], time, time + wait) else None

    def may_have_missed(self, point: str, since: int, until: int) -> bool:
        """Whether a point may have missed a packet between two times of its own clock."""
        offset = self.clocks.offsets[self.run.point(point).clock]
        return self.reach.may_have_missed_between(point, since - offset, until - offset)

    def next_positions(self, path: Path_, position: int, expected: str | None) -> list[int]:
        """The possible next points: at the filter's input the first detour point and the point after the
        detour.
        """
        if position == path.filter_input and path.enter is not None and path.after_detour is not None:
            if expected == "drop":  # it went no further if it did not come out: every way on leads there
                return [path.after_detour]
            return [path.enter, path.after_detour]
        return [position + 1]

    def why_unsure(self, trajectory: Trajectory, expected: str | None) -> str | None:
        """Why it is not certain that a packet went no further than where it was last seen."""
        path, last = trajectory.path, trajectory.last
        reasons = [
            self.why_not_certain(trajectory.sighting(last), path, last, target)
            for target in self.next_positions(path, last, expected)
        ]
        ranks = ("clock_offset", "outside_window", "waiting_time", "capture_drops")
        return next((reason for reason in ranks if reason in reasons), None)

    def is_blind(
        self, trajectory: Trajectory, position: int, seen_at: int, *, backwards: bool, until: int | None = None
    ) -> bool:
        """A point that did not see the packet proves nothing: drops, or it did not cover the time.

        The packet was at ``position`` some time before (``backwards``) or after it was seen at ``seen_at``:
        coverage is asked for as long as packets are known to take between the two, or until the packet was
        seen at position ``until``.
        """
        path, seen = trajectory.path, trajectory.sighting(seen_at)
        point = path.points[position]
        cover = self.coverage[point]
        time = self.clocks.translate(seen.ts_ns, seen.clock, self.run.point(point).clock)
        if cover.start_ns is None or cover.end_ns is None or time is None:
            return True
        guard = self.wait_ns(path, min(position, seen_at), max(position, seen_at))
        if until is not None:
            guard = max(0, self.clocks.between(seen, trajectory.sighting(until)) or 0)
        since, until = (time - guard, time) if backwards else (time, time + guard)
        covered = cover.start_ns <= since <= until <= cover.end_ns
        return not covered or self.reach.dropped(point)

    def is_injected(self, trajectory: Trajectory) -> bool:
        """First seen at the last detour point or later, and a point up to the filter, which would have seen it, was
        capturing whole at that time. How early it would have passed there is bounded by the waits between.
        """
        path, seen = trajectory.path, trajectory.sighting(trajectory.first)
        if path.leave is None or path.filter_input is None or trajectory.first < path.leave:
            return False
        earlier = sum(self.wait_ns(path, at, at + 1) for at in range(path.filter_input, trajectory.first))
        for position in range(path.filter_input + 1):
            point = path.points[position]
            cover = self.coverage[point]
            time = self.clocks.translate(seen.ts_ns, seen.clock, self.run.point(point).clock)
            if time is None or cover.start_ns is None or cover.end_ns is None:
                continue
            covered = cover.start_ns <= time - earlier and time <= cover.end_ns
            if covered and not self.reach.dropped(point):
                return True
        return False

    def is_foreign(self, trajectory: Trajectory) -> bool:
        """First seen behind the first point, which was capturing whole at that time and would have seen it."""
        path, seen = trajectory.path, trajectory.sighting(trajectory.first)
        point = path.points[0]
        cover = self.coverage[point]
        time = self.clocks.translate(seen.ts_ns, seen.clock, self.run.point(point).clock)
        if not trajectory.first or time is None or cover.start_ns is None or cover.end_ns is None:
            return False
        earlier = time - sum(self.wait_ns(path, at, at + 1) for at in range(trajectory.first))
        return cover.start_ns <= earlier and time <= cover.end_ns and not self.may_have_missed(point, earlier, time)

    def observed(self, trajectory: Trajectory, injected: bool) -> str | None:
        """What the filter did, from sightings alone: punt if seen in the detour; forward if seen after it and
        not in it.

        Not seen in the detour proves something only if one of its points was certainly looking.
        """
        path = trajectory.path
        if injected or path.enter is None or path.leave is None:
            return None
        if any(path.enter <= position <= path.leave for position in trajectory.seen):
            return "punt"
        after = [position for position in trajectory.seen if position > path.leave]
        if not after:
            return None
        for position in range(path.enter, path.leave + 1):
            if path.enter - 1 in trajectory.seen:
                blind = self.is_blind(trajectory, position, path.enter - 1, backwards=False, until=min(after))
            else:
                blind = self.is_blind(trajectory, position, min(after), backwards=True)
            if not blind:
                return "forward"
        return None

    def stage_row(
        self, trajectory: Trajectory, stage: int, origin: int, target: int, verdict: str, reason: str | None
    ) -> dict[str, Any]:
        """One row of stages.parquet; a latency needs both sightings and one clock (else it is null)."""
        path = trajectory.path
        latency = error = None
        if origin in trajectory.first_bytes and target in trajectory.first_bytes:
            a, b = trajectory.sighting(origin), trajectory.sighting(target)
            if a.clock == b.clock:
                latency, error = b.ts_ns - a.ts_ns, a.resolution_ns + b.resolution_ns
        return {
            "path": path.name,
            "stage": stage,
            "stage_name": stage_name(path, stage),
            "from_point": path.points[origin],
            "to_point": path.points[target],
            "verdict": verdict,
            "reason": reason,
            "latency_ns": latency,
            "error_ns": error,
        }

    def crossed_rows(
        self, trajectory: Trajectory, branch: str | None, expected: str | None, injected: bool
    ) -> list[dict[str, Any]]:
        """Rows of the stages up to where the packet was last seen.

        Both ends seen: `crossed`, or `lost` with reason `late` if it took longer than the threshold. An end
        not seen although the packet was seen later: `unobserved` (RFC 5644 6.2.5). An injected packet crossed
        no earlier stage.
        """
        path, threshold = trajectory.path, self.run.threshold_ns
        rows = []
        for stage, origin, target in self.stages_on(path, branch or ("punt" if expected == "punt" else "forward")):
            if target > trajectory.last or (injected and origin < trajectory.first):
                continue
            reason = None
            if origin in trajectory.seen and target in trajectory.seen:
                delay = self.clocks.between(trajectory.sighting(origin), trajectory.sighting(target))
                late = delay is not None and delay > threshold
                verdict, reason = ("lost", "late") if late else ("crossed", None)
            else:
                verdict = "unobserved"
            rows.append(self.stage_row(trajectory, stage, origin, target, verdict, reason))
        return rows

    def stages_on(self, path: Path_, branch: str) -> list[tuple[int, int, int]]:
        """(stage, from, to) in path order for a branch: the detour, or the bypass in its place."""
        straight = [(position, position, position + 1) for position in range(path.last)]
        if path.enter is None or path.leave is None or branch == "punt":
            return straight
        before, after = straight[: path.enter - 1], straight[path.leave + 1 :]
        return [*before, (path.bypass, path.enter - 1, path.leave + 1), *after]

    def stages_before(self, path: Path_, position: int) -> set[int]:
        """Numbers of the stages that begin before a position."""
        both = [*self.stages_on(path, "punt"), *self.stages_on(path, "forward")]
        return {stage for stage, origin, _ in both if origin < position}

    def judge(self, trajectory: Trajectory) -> Judged:
        """Design 5, verdicts and fates. Evidence first: what was seen at the last point is delivered."""
        path = trajectory.path
        headers = trajectory.sighting(trajectory.first).row
        if path.filter_input is not None and path.filter_input in trajectory.seen:
            headers = trajectory.sighting(path.filter_input).row
        has_filter = self.run.has_filter(path)
        rule = next((r for r in self.run.rules_of(path) if fits(r.match, headers)), None)
        expected = rule.action if rule else path.default
        injected = self.is_injected(trajectory)
        foreign = not injected and self.is_foreign(trajectory)
        observed = self.observed(trajectory, injected)
        reached = not injected and path.filter_input is not None and trajectory.last >= path.filter_input
        rows = self.crossed_rows(trajectory, observed, expected, injected)
        if foreign:
            for row in rows:
                if row["verdict"] == "unobserved" and row["stage"] in self.stages_before(path, trajectory.first):
                    row["verdict"], row["reason"] = "undetermined", "first_point_missing"
        fate, reason, lost_stage = "delivered", None, None
        if foreign:
            fate, reason = "undetermined", "first_point_missing"
        late = next((row["stage"] for row in rows if row["reason"] == "late"), None)
        missing: tuple[int, int, int] | None = None
        if injected:
            fate = "injected"
        if trajectory.last < path.last:
            unsure = self.why_unsure(trajectory, expected)
            stages = self.stages_on(path, observed or expected or "forward")
            missing = next((s for s in stages if s[1] == trajectory.last), None)
            at_filter = trajectory.last == path.filter_input
            dropped = expected == "drop" and (at_filter or (path.enter is None and has_filter))
            in_detour = path.enter is not None and path.leave is not None
            swallowed = (
                rule is not None
                and rule.absorbed
                and in_detour
                and (path.enter or 0) <= trajectory.last < (path.leave or 0)
            )
            if dropped or swallowed:
                missing = None
            perhaps_lost = not dropped and not swallowed and not injected
            if unsure:
                verdict, why = "undetermined", unsure
            elif foreign and perhaps_lost:
                verdict, why = "undetermined", "first_point_missing"
            elif trajectory.ambiguous or (trajectory in self.copied and perhaps_lost):
                verdict, why = "ambiguous", None
            else:
                verdict, why = "lost", None
            if missing is not None:
                rows.append(self.stage_row(trajectory, *missing, verdict, why))
            if not injected:
                fate, reason = verdict, why
                if verdict == "lost" and dropped:
                    fate, observed = "dropped", "drop"
                elif verdict == "lost" and swallowed:
                    fate = "absorbed"
                elif verdict == "lost" and missing is not None:
                    lost_stage = missing[0]
        if fate == "delivered" and missing_bytes(trajectory) > 0:
            # Whether the capture missed the rest, or it did not come, only a whole capture tells.
            blind = self.coverage[path.points[path.last]].dropped
            fate, reason = ("undetermined", "capture_drops") if blind else ("partial", None)
            if fate == "partial" and trajectory.ambiguous:
                fate = "ambiguous"
        if late is not None:
            # RFC 7680 2.4: not within Tmax is lost, wherever it turned up afterwards.
            fate, reason, lost_stage = "lost", "late", late
        if trajectory.backwards and any(row["verdict"] != "crossed" for row in rows):
            # It came the other way: of stages it tells no more than that it crossed them.
            fate, reason, lost_stage = "undetermined", "against_path", None
            for row in rows:
                if row["verdict"] != "crossed":
                    row["verdict"], row["reason"] = "undetermined", "against_path"
        verdict_on_rule = self.rule_verdict(trajectory, expected, observed, fate, reached)
        return Judged(trajectory, rule, expected, observed, verdict_on_rule, reached, fate, reason, lost_stage, rows)

    def rule_verdict(
        self, trajectory: Trajectory, expected: str | None, observed: str | None, fate: str, reached: bool
    ) -> str | None:
        """Expected against observed treatment; null where no packet of ours met a filter at a known place.

        The reference has no witness, so it never says `false_drop`.
        """
        path = trajectory.path
        if expected is None or not reached:
            return None
        after_filter = path.filter_input is not None and trajectory.last > path.filter_input
        if expected == "drop" and after_filter:
            return "missed_drop"
        if observed == expected:
            return "hit"
        if observed == "punt":
            return "false_punt"
        if observed == "forward":
            return "false_forward"
        return "unseen" if fate == "lost" and not after_filter else "undetermined"


def missing_bytes(trajectory: Trajectory) -> int:
    """How many bytes of a split packet were not seen where it was seen last.

    Bytes count from the first of the transport payload; of fragments, and of packets that became some, from the first
    of the transport header.
    """
    parts = [part for part in trajectory.ranges if part.position == trajectory.last]
    if not parts:
        return 0
    first = trajectory.sighting(trajectory.first).row
    rows = [first, *(part.sighting.row for part in trajectory.ranges)]
    fragments = any(row["fragment_offset"] or row["more_fragments"] for row in rows)
    whole = first["_segment_length"] if fragments else first["payload_length"]
    return int(whole) - sum(part.last - part.first + 1 for part in parts)


def stage_name(path: Path_, stage: int) -> str:
    return "bypass" if stage == path.bypass else path.stages[stage]


MISSES = ("false_punt", "false_forward", "missed_drop", "false_drop")


def rule_rows(run: Run, judged: list[Judged]) -> list[dict[str, Any]]:
    """Design 5, rules: one row per rule of a path with a filter, and one (rule null) for packets that hit no
    rule.

    status: `shadowed` if a single earlier rule takes everything it could match; `not_exercised` if nothing
    matched; `violated` if the filter did otherwise even once; `verified` if all were hits; else
    `undetermined`.
    """
    rows = []
    for path in run.paths:
        if not run.has_filter(path):
            continue
        rules: list[Rule | None] = [*run.rules_of(path), None]
        for number, rule in enumerate(rules):
            mine = [j for j in judged if j.trajectory.path is path and j.rule is rule and j.reached_filter]
            row: dict[str, Any] = {
                "path": path.name,
                "rule": rule.id if rule else None,
                "action": rule.action if rule else path.default,
                "matched": len(mine),
            }
            for verdict in ("hit", *MISSES, "unseen", "undetermined"):
                row[verdict] = sum(j.rule_verdict == verdict for j in mine)
            row["counter"] = rule.counter if rule else None
            row["counter_packets"] = run.counters.get(rule.counter) if rule and rule.counter else None
            earlier = [r for r in rules[:number] if r is not None]
            if rule is not None and any(covers(r.match, rule.match) for r in earlier):
                row["status"] = "shadowed"
            elif not mine:
                row["status"] = "not_exercised"
            elif any(row[miss] for miss in MISSES):
                row["status"] = "violated"
            else:
                row["status"] = "verified" if row["hit"] == len(mine) else "undetermined"
            rows.append(row)
    return rows
