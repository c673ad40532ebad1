"""Facts about the captures of a run, per point, path, stage and sender.

This module judges nothing; `answers.py` draws the conclusions. Times marked `common` are on the clock of the first
point, offsets removed (`clock_model`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pktrace.check.finding import NO, PARTLY
from pktrace.check.ip_ids import SenderIds, sender_ids
from pktrace.check.silences import Pause, pauses_of
from pktrace.check.stage_facts import StageFacts, stage_facts
from pktrace.decode import rows as bits
from pktrace.ledger import Ledger
from pktrace.observations.coverage import Coverage
from pktrace.observations.observe import Observations
from pktrace.run.context import Context, read_context
from pktrace.run.model import Run
from pktrace.trajectories.clocks.alignment import Contradiction
from pktrace.trajectories.clocks.steps import Drift, Step
from pktrace.trajectories.columns import Columns
from pktrace.trajectories.follow import follow_packets
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.paths import NOT_FOLLOWED, visits

LONGEST_FRAME = 1522  # Ethernet with two tags: longer frames are superpackets of offloads, or jumbo frames

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class PointFacts:
    """One point.

    `cover` is the coverage of its captures; `offset_ns` is the offset of its clock against the first point's clock,
    None if it is unknown; `span` and `times` (sorted) are common. `snapped` packets are longer than their captured
    bytes, `superpackets` longer than `LONGEST_FRAME`; `other` packets are neither IP nor known to be something else.
    `repeats` are packets whose digest the point saw at most the loss threshold earlier, more often than a path visits
    the point; `repeat_ns` is their median distance. `alike` packets have such a repeat or are one; `missed` counts
    proven misses.
    """

    name: str
    captures: tuple[str, ...]
    clock: str
    clock_known: bool
    offset_ns: int
    cover: Coverage
    span: tuple[int, int] | None
    snapped: int
    superpackets: int
    not_ip: int
    other: int
    without_id: int
    partial_checksums: int
    repeats: int
    repeat_ns: int | None
    alike: int
    missed: int
    pauses: tuple[Pause, ...]
    times: Array = field(repr=False, compare=False)


@dataclass(frozen=True)
class PathFacts:
    """One path: `packets` were followed on it. Only their order distinguishes `by_order` of them from packets with the
    same bytes within the loss threshold. `at_input` reached the filter's input; `outside` passed while not all points
    of the path captured, None if their clocks cannot be compared.
    """

    number: int
    packets: int
    by_order: int
    at_input: int
    outside: int | None
    stages: tuple[StageFacts, ...]


@dataclass(frozen=True)
class Suitability:
    """All facts of a run, and the ledger of reading and following it.

    `digests` is the number of different digests of the run; `chance_matches` is the number of pairs expected to be
    equal by chance; `contradictions` are stages whose packets contradict the shared clock that run.toml declares.
    `steps` are clocks that were set during the run, `drifts` are clocks that gain on others.
    """

    run: Run
    points: tuple[PointFacts, ...]
    paths: tuple[PathFacts, ...]
    senders: tuple[SenderIds, ...]
    contradictions: tuple[Contradiction, ...]
    steps: tuple[Step, ...]
    drifts: tuple[Drift, ...]
    digests: int
    chance_matches: float
    digest_payload_bytes: int
    no_path: int
    damaged: bool
    ledger: Ledger
    context: Context = field(default_factory=Context)


def suitability_of(observations: Observations) -> Suitability:
    """Facts about all observations of a run; follows its packets once."""
    trajectories = follow_packets(observations)
    run, rows = trajectories.run, observations.rows
    clocks = trajectories.clocks
    times = clocks.aligned(rows)
    paths = Columns.all_of(run, rows).paths
    members = np.flatnonzero(paths != NOT_FOLLOWED)
    order = members[np.lexsort((times[members], rows["identity"][members], rows["point"][members]))]
    every = np.sort(rows["identity"][members])
    digests = int(np.count_nonzero(every[1:] != every[:-1])) + bool(len(every))
    ledger = observations.ledger.merged(trajectories.ledger)
    stages = stage_facts(trajectories, order, times, paths)
    return Suitability(
        run=run,
        points=_points(trajectories, order, times, paths),
        paths=tuple(_path(trajectories, number, stages, times) for number in range(len(run.paths))),
        senders=sender_ids(rows, times),
        contradictions=clocks.contradictions,
        steps=clocks.steps.steps if clocks.steps is not None else (),
        drifts=clocks.steps.drifts if clocks.steps is not None else (),
        digests=digests,
        chance_matches=digests * (digests - 1) / 2.0**65,
        digest_payload_bytes=observations.digest_payload_bytes,
        no_path=ledger.total("no_path"),
        damaged=observations.damaged,
        ledger=ledger,
        context=read_context(run),
    )


def _path(trajectories: Trajectories, number: int, stages: tuple[StageFacts, ...], times: Array) -> PathFacts:
    mine = trajectories.path == number
    at_input = trajectories.seen[mine, trajectories.run.paths[number].filter_input] >= 0
    return PathFacts(
        number=number,
        packets=int(mine.sum()),
        by_order=int((trajectories.candidates[mine] > 1).sum()),
        at_input=int(at_input.sum()),
        outside=_outside(trajectories, number, times),
        stages=tuple(stage for stage in stages if stage.path == number),
    )


def _outside(trajectories: Trajectories, number: int, times: Array) -> int | None:
    """The number of packets of a path that were first seen while one of its points did not capture."""
    reach, clocks = trajectories.reach, trajectories.clocks
    at = list(dict.fromkeys(trajectories.run.paths[number].points))
    captured = [point for point in at if reach.start[point] <= reach.end[point]]
    if len(set(clocks.group[at])) > 1 or not captured:
        return None
    first = times[trajectories.first_row[trajectories.path == number]]
    return int(((first < reach.start[captured].max()) | (first > reach.end[captured].min())).sum())


def _points(trajectories: Trajectories, order: Array, times: Array, paths: Array) -> tuple[PointFacts, ...]:
    observations, run, clocks = trajectories.observations, trajectories.run, trajectories.clocks
    rows = observations.rows
    of_point, timed = rows["point"].copy(), rows["has"] & bits.HAS_TIME != 0
    at = [np.sort(times[timed & (of_point == number)]) for number in range(len(run.points))]
    spans = [_span(cover, int(clocks.offset_ns[number])) for number, cover in enumerate(observations.coverage)]
    on_path = paths >= 0
    pauses = pauses_of(run, at, [np.sort(times[on_path & (of_point == number)]) for number in range(len(run.points))])
    alike, repeats, gaps = _repeated(run, rows, order, times, paths)
    counts = _counts(rows, len(run.points))
    found = []
    for number, point in enumerate(run.points):
        found.append(
            PointFacts(
                name=point.name,
                captures=point.captures,
                clock=point.clock,
                clock_known=bool(clocks.group[number] == clocks.group[0]),
                offset_ns=int(clocks.offset_ns[number]),
                cover=observations.coverage[number],
                span=spans[number],
                snapped=int(counts["snapped"][number]),
                superpackets=int(counts["superpackets"][number]),
                not_ip=int(counts["not_ip"][number]),
                other=int(counts["other"][number]),
                without_id=int(counts["without_id"][number]),
                partial_checksums=int(counts["partial_checksums"][number]),
                repeats=int(repeats[number]),
                repeat_ns=gaps[number],
                alike=int(alike[number]),
                missed=int(trajectories.reach.missed[number]),
                pauses=pauses[number],
                times=at[number],
            )
        )
    return tuple(found)


def _counts(rows: Array, points: int) -> dict[str, Array]:
    """The number of packets of each kind, per point."""
    # Column by column: a copy of all rows of a point would cost more than all of the counting.
    point, has, length = rows["point"].copy(), rows["has"].copy(), rows["length"].copy()
    kinds = {
        "snapped": rows["captured_length"] < length,
        "superpackets": length > LONGEST_FRAME,
        "not_ip": has & bits.NOT_IP != 0,
        "other": has & (bits.NOT_IP | bits.HAS_IP) == 0,
        "partial_checksums": has & bits.PARTIAL_CHECKSUM != 0,
        "without_id": has & (bits.HAS_IP | bits.HAS_ID) == bits.HAS_IP,
    }
    return {name: np.bincount(point[kind], minlength=points) for name, kind in kinds.items()}


def _span(cover: Coverage, offset: int) -> tuple[int, int] | None:
    if cover.start_ns is None or cover.end_ns is None:
        return None
    return cover.start_ns - offset, cover.end_ns - offset


def _repeated(run: Run, rows: Array, order: Array, times: Array, paths: Array) -> tuple[Array, Array, list[int | None]]:
    """Per point: packets in groups of equal digests, repeats among them, median distance of the repeats.

    A group's members lie within the loss threshold of each other, one to the next; a point that a path visits twice
    may see each packet twice. `order` sorts the followed rows by (point, digest, time).
    """
    many = len(run.points)
    gaps: list[int | None] = [None] * many
    if not len(order):
        return np.zeros(many, np.int64), np.zeros(many, np.int64), gaps
    points, digests, when = rows["point"][order].astype(np.int64), rows["identity"][order], times[order]
    again = (points[1:] == points[:-1]) & (digests[1:] == digests[:-1])
    again &= when[1:] - when[:-1] <= run.threshold_ns
    first = np.flatnonzero(np.concatenate([[True], ~again]))
    size = np.diff(first, append=len(order))
    table = visits(run)
    twice = (table[:, :, 1] >= 0)[np.maximum(paths[order[first]], 0), points[first]]
    allowed = np.where(twice & (paths[order[first]] >= 0), 2, 1)
    extra = np.maximum(0, size - allowed)
    repeats = np.bincount(points[first], extra, minlength=many).astype(np.int64)
    alike = np.bincount(points[first], np.where(extra > 0, size, 0), minlength=many).astype(np.int64)
    in_group = np.repeat(extra > 0, size)
    distances = np.concatenate([[0], when[1:] - when[:-1]])
    counted = in_group & np.concatenate([[False], again])
    for number in np.flatnonzero(repeats):
        gaps[number] = int(np.median(distances[counted & (points == number)]))
    return alike, repeats, gaps


def stages_of(facts: Suitability) -> Iterator[tuple[PathFacts, StageFacts]]:
    """Every stage of a path that has packets."""
    for path in facts.paths:
        if path.packets:
            for stage in path.stages:
                yield path, stage


def limit_at(path: PathFacts, stage: StageFacts) -> str:
    """The limit that a stage without followed packets sets to its path: PARTLY if another stage has some, else NO."""
    return PARTLY if any(other.follows for other in path.stages if other is not stage) else NO


def ends_of(facts: Suitability, stage: StageFacts) -> str:
    """The names of a stage's ends."""
    return f"{facts.run.points[stage.from_point].name} and {facts.run.points[stage.to_point].name}"


def paths_of(facts: Suitability, point: int) -> tuple[tuple[int, ...], bool]:
    """(paths that visit a point, true if the point lies in detours only)."""
    on, outside = [], False
    for number, path in enumerate(facts.run.paths):
        for at, visited in enumerate(path.points):
            if visited == point:
                on.append(number)
                outside |= not (path.has_detour and path.detour_first <= at <= path.detour_last)
    return tuple(dict.fromkeys(on)), bool(on) and not outside
