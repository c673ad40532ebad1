"""Clocks that disagree: their offsets, from packets that both points saw exactly once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tests.reference.run import Path_, Run
from tests.reference.sightings import EARLY_NS, Sighting

SECOND_NS = 1_000_000_000  # no network holds all packets so long


def middle(values: Iterable[int]) -> int:
    """The median; between two values their mean, without its fraction."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    twice = ordered[half - 1] + ordered[half]
    return twice // 2 if twice >= 0 else -(-twice // 2)


def stages_of(path: Path_) -> list[tuple[str, str]]:
    """The points at both ends of every stage, the bypass too."""
    pairs = list(itertools.pairwise(path.points))
    if path.filter_input is not None and path.after_detour is not None:
        pairs.append((path.points[path.filter_input], path.points[path.after_detour]))
    return pairs


def by_payload(run: Run, sightings: Sequence[Sighting], path: Path_, a: str, b: str) -> list[int]:
    """Differences of the time stamps of packets whose payload and one side, source or destination, are unique."""
    found: list[int] = []
    for address, port in (("source", "sport"), ("destination", "dport")):
        at: dict[tuple[Any, ...], dict[str, list[Sighting]]] = {}
        for sighting in sightings:
            row = sighting.row
            if row["protocol"] is not None and (row["payload_length"] or 0) >= 16:
                names = ("protocol", "payload_length", "_content", address, port)
                key = tuple(row[name] for name in names)
                at.setdefault(key, {}).setdefault(sighting.point, []).append(sighting)
        both = [(seen.get(a, []), seen.get(b, [])) for seen in at.values()]
        delays = [
            there[0].ts_ns - here[0].ts_ns
            for here, there in both
            if len(here) == len(there) == 1 and here[0].path is path
        ]
        if len(delays) >= 20 and np.quantile(delays, 0.9) - np.quantile(delays, 0.1) <= run.threshold_ns // 20:
            found += delays
    return found


class Clocks:
    """Offsets of clocks against the first clock of their group; between groups nothing is known.

    Rule: of two clocks whose points are neighbours on a path (or the two ends of its bypass), the differences of the
    time stamps of this path's packets that both points saw exactly once. Both directions give half the difference of
    the two medians (RFC 5905 8), one direction the median itself: offset plus delay. It decides about time only, it
    never becomes a latency. Clocks are joined in the order of run.toml; a link between clocks that are joined already
    is not used.

    Where less than three packets of a stage are seen at both points, because a box rewrites them, those with 16 bytes
    of payload and more are asked whose payload and one side no other packet has, if there are 20 and eight of ten of
    their differences lie within a twentieth of the loss threshold.

    Where at least three, and 90 %, of the packets of a stage come to its end more than 1 ms before its beginning,
    though run.toml gives both points one clock, clocks are ``contradicted``; what follows from that is not known here.
    Points that the path visits twice do not count: what they saw once may be either visit.
    """

    def __init__(self, run: Run, groups: Iterable[Sequence[Sighting]]) -> None:
        self.names = list(dict.fromkeys(point.clock for point in run.points))
        self.offsets = dict.fromkeys(self.names, 0)
        self.group = {name: number for number, name in enumerate(self.names)}
        self.contradicted = False
        forward: dict[tuple[str, str], list[int]] = {}
        within: dict[tuple[str, str, str], list[int]] = {}  # stages between points of one clock
        groups = list(groups)
        stages: dict[tuple[str, str, str], list[int]] = {}
        for members in groups:
            once = {s.point: s for s in members if sum(other.point == s.point for other in members) == 1}
            for path in run.paths:
                for a, b in stages_of(path):
                    if a not in once or b not in once or not (once[a].path is once[b].path is path):
                        continue
                    difference = once[b].ts_ns - once[a].ts_ns
                    if once[a].clock == once[b].clock:
                        if path.points.count(a) == path.points.count(b) == 1:
                            within.setdefault((path.name, a, b), []).append(difference)
                    else:
                        stages.setdefault((path.name, a, b), []).append(difference)
        for delays in within.values():
            backwards = sum(delay < -EARLY_NS for delay in delays)
            self.contradicted |= backwards >= 3 and 10 * backwards >= 9 * len(delays)
            self.contradicted |= len(delays) >= 3 and min(delays) > SECOND_NS
        everything = [sighting for members in groups for sighting in members]
        for path in run.paths:
            for a, b in stages_of(path):
                clocks = run.point(a).clock, run.point(b).clock
                if clocks[0] != clocks[1]:
                    differences = stages.get((path.name, a, b), [])
                    if len(differences) < 3:
                        differences = differences + by_payload(run, everything, path, a, b)
                    forward.setdefault(clocks, []).extend(differences)
        for a, b in itertools.combinations(self.names, 2):
            there, back = forward.get((a, b)), forward.get((b, a))
            if there and back:
                self._join(a, b, (middle(there) - middle(back)) // 2)
            elif there:
                self._join(a, b, middle(there))
            elif back:
                self._join(a, b, -middle(back))

    def _join(self, a: str, b: str, offset: int) -> None:
        """Clock b stands ``offset`` before clock a."""
        if self.group[a] == self.group[b]:
            return
        absolute = {name: self.offsets[name] for name in self.names}
        shift = absolute[a] + offset - absolute[b]
        joined, kept = self.group[b], self.group[a]
        for name in self.names:
            if self.group[name] == joined:
                self.offsets[name] += shift
                self.group[name] = kept
        # The first clock of a group is its reference.
        base = self.offsets[next(name for name in self.names if self.group[name] == kept)]
        for name in self.names:
            if self.group[name] == kept:
                self.offsets[name] -= base

    def common(self, sighting: Sighting) -> int:
        """The sighting's time on the first clock of its group."""
        return sighting.ts_ns - self.offsets[sighting.clock]

    def known(self, a: str, b: str) -> bool:
        """Whether times of the two clocks can be compared."""
        return self.group[a] == self.group[b]

    @property
    def all_known(self) -> bool:
        return len(set(self.group.values())) <= 1

    def between(self, a: Sighting, b: Sighting) -> int | None:
        """The delay from a to b as far as the clocks allow; None if their offset is not known."""
        return self.common(b) - self.common(a) if self.known(a.clock, b.clock) else None

    def translate(self, ts_ns: int, source: str, target: str) -> int | None:
        """A time of one clock on another one."""
        if not self.known(source, target):
            return None
        return ts_ns - self.offsets[source] + self.offsets[target]
