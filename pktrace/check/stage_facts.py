"""Packets that neighbouring points of a path share: by digest alone, and as followed.

The counts are of different digests of packets that fit the path, in the time that both captures cover. The share
divides by the smaller of the two counts, so neither losses nor rules that drop nor the traffic of a bypass lower it. It
measures how well packets can be recognised from one point to the next by their bytes. Packets that are rewritten, split
or merged between the points have other digests; pktrace may still follow them, and `follows` is true if it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.trajectories.model import Trajectories

LITTLE_SHARED = 0.5  # of the packets that two neighbours could share
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class StageFacts:
    """One stage of one path; `path`, `from_point` and `to_point` are indices.

    `overlap_ns` is the time that both captures ran together, a negative number the time between them, None if it is
    unknown. `at_from`, `at_to` and `both` count different digests in that time. `certain` packets are those that both
    points saw exactly as often as the path visits them; if the points share no digest, they are the followed packets.
    `median_ns` is the median time of certain packets from one point to the other, `earliest_ns` the least, and
    `backwards` the number that came to the second point first. `entered` packets were followed to the first point,
    `arrived` to the second, `followed` to both, and `changed` of these have another digest there.
    """

    path: int
    stage: int
    from_point: int
    to_point: int
    overlap_ns: int | None
    at_from: int
    at_to: int
    both: int
    same_clock: bool
    certain: int
    backwards: int
    earliest_ns: int | None
    median_ns: int | None
    entered: int
    arrived: int
    followed: int
    changed: int

    @property
    def follows(self) -> bool:
        """True if packets are followed over the stage, by any matcher; losses do not count against it."""
        return self.followed > 0 and self.followed >= LITTLE_SHARED * min(self.entered, self.arrived)

    @property
    def share(self) -> float | None:
        """Shared digests divided by the digests that could be shared; None if one point has no digests."""
        least = min(self.at_from, self.at_to)
        return self.both / least if least else None


@dataclass(frozen=True)
class _Sightings:
    """Different digests at one position, sorted: number of sightings, first and last common time of each."""

    digests: Array
    counts: Array
    first: Array
    last: Array

    def keep(self, mask: Array) -> _Sightings:
        return _Sightings(self.digests[mask], self.counts[mask], self.first[mask], self.last[mask])


def stage_facts(trajectories: Trajectories, order: Array, times: Array, paths: Array) -> tuple[StageFacts, ...]:
    """Every stage of every path.

    Args:
        order: the followed rows sorted by (point, digest, time); times: common, per row; paths: path per row.
    """
    run = trajectories.run
    rows = trajectories.observations.rows
    of_point = rows["point"][order]
    bounds = np.searchsorted(of_point, np.arange(len(run.points) + 1))
    found = []
    for number, path in enumerate(run.paths):
        seen: dict[int, _Sightings] = {}
        for point in set(path.points):
            mine = order[bounds[point] : bounds[point + 1]]
            mine = mine[paths[mine] == number]
            seen[point] = _sightings(rows["identity"][mine], times[mine])
        detour = [seen[point].digests for point in path.points[path.detour_first : path.detour_last + 1]]
        for stage in path.stage_numbers():
            leave = np.concatenate(detour) if path.has_detour and stage == path.bypass else None
            found.append(_stage(trajectories, number, stage, seen, leave, times))
    return tuple(found)


def _sightings(digests: Array, times: Array) -> _Sightings:
    first = np.flatnonzero(np.concatenate([[True], digests[1:] != digests[:-1]])) if len(digests) else np.zeros(0, int)
    counts = np.diff(first, append=len(digests))
    return _Sightings(digests[first], counts, times[first], times[first + counts - 1])


def _stage(
    trajectories: Trajectories, number: int, stage: int, seen: dict[int, _Sightings], leave: Array | None, times: Array
) -> StageFacts:
    path = trajectories.run.paths[number]
    ends = path.ends_of(stage)
    points = [path.points[at] for at in ends]
    visits = [path.points.count(point) for point in points]
    second = [path.points.index(point) != at for point, at in zip(points, ends, strict=True)]
    sides = [seen[point] for point in points]
    if leave is not None:
        sides = [side.keep(~np.isin(side.digests, leave)) for side in sides]
    sides = [side.keep(side.counts > 1) if late else side for side, late in zip(sides, second, strict=True)]
    reach, clocks = trajectories.reach, trajectories.clocks
    comparable = bool(clocks.group[points[0]] == clocks.group[points[1]])
    overlap = None
    has_span = all(trajectories.observations.coverage[point].start_ns is not None for point in points)
    if comparable and has_span:
        low, high = int(reach.start[points].max()), int(reach.end[points].min())
        overlap = high - low
        sides = [side.keep((side.last >= low) & (side.first <= high)) for side in sides]
    _, a, b = np.intersect1d(sides[0].digests, sides[1].digests, assume_unique=True, return_indices=True)
    certain = (sides[0].counts[a] == visits[0]) & (sides[1].counts[b] == visits[1])
    when = [
        (side.last if late else side.first)[index[certain]]
        for side, late, index in zip(sides, second, (a, b), strict=True)
    ]
    transit = when[1] - when[0]
    mine = trajectories.path == number
    sightings = trajectories.seen[mine][:, list(ends)]
    followed = (sightings >= 0).all(axis=1)
    digests = trajectories.observations.rows["identity"][sightings[followed]]
    if not len(a):
        sure = sightings[followed & (trajectories.candidates[mine] == 1)]
        transit = times[sure[:, 1]] - times[sure[:, 0]]
    return StageFacts(
        path=number,
        stage=stage,
        from_point=points[0],
        to_point=points[1],
        overlap_ns=overlap,
        at_from=len(sides[0].digests),
        at_to=len(sides[1].digests),
        both=len(a),
        same_clock=bool(clocks.clock[points[0]] == clocks.clock[points[1]]),
        certain=len(transit),
        backwards=int((transit < 0).sum()),
        earliest_ns=int(transit.min()) if len(transit) else None,
        median_ns=int(np.median(transit)) if len(transit) else None,
        entered=int((sightings[:, 0] >= 0).sum()),
        arrived=int((sightings[:, 1] >= 0).sum()),
        followed=int(followed.sum()),
        changed=int((digests[:, 0] != digests[:, 1]).sum()),
    )
