"""Joins: sets of sightings whose content shows that they are one packet, whatever happened to its headers on the way.

A packet is a set of sightings, at most one per position of its path, in causal order. A trajectory is such a set; a
single row that fits no path is one, too. A set with an open position can take the sightings of another.

Rule: two sets join if a sighting of the one at position i and a sighting of the other at position j agree in the
features of a rule (rules.py). Each has to be the other's only partner within the loss threshold among all packets that
the two points captured. The sets have no position in common, and the joined set goes forward in time. Rules run from
much evidence to little, near positions first. The pairs that a rule offers for two flows have to behave like one flow
(behaviour.py).

Two flows that a rule refuses are not joined by a weaker one.
Bound: a wrong join needs a packet that one point alone missed, a stranger with equal features within the threshold that
the other point alone missed, and as many of them as the tests ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pktrace.decode.identity import among, mixed
from pktrace.observations.payloads import Payloads
from pktrace.protocols import TCP
from pktrace.run.model import Run
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import flow_of
from pktrace.trajectories.joins.behaviour import Facts, tested
from pktrace.trajectories.joins.companions import companions_follow
from pktrace.trajectories.joins.families import families_of
from pktrace.trajectories.joins.open_sets import OpenSets, Sightings
from pktrace.trajectories.joins.rules import Rule
from pktrace.trajectories.joins.sole_partners import Captured, Points, offered
from pktrace.trajectories.joins.translations import Translations
from pktrace.trajectories.paths import longest, visits

Array = np.ndarray[Any, Any]


def join_sets(
    rules: tuple[Rule, ...], run: Run, rows: Fields, at: Sightings, flow: Array, explained: Array, payloads: Payloads,
    points: Points,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Rows of sets that join, and their new keys: equal for all rows of a joined set.

    Args:
        rows: all observations; flow: uint64 per row; explained: bool per row, rows and trajectories that hold parts of
        packets: they join nothing.

    Returns:
        Row numbers (int64) and keys (uint64), nothing if no set joins; and rows of sets whose sole partners do not
        behave like one flow: these packets are ambiguous.
    """
    sets = OpenSets(run, at, explained)
    left = [np.zeros(0, np.int64)]
    if not len(sets.path):
        return np.zeros(0, np.int64), np.zeros(0, np.uint64), left[0]
    families = families_of(rows, at, flow)
    translations = Translations(families)
    translations.learn(rows, at.times, flow, *_renumbered(rows, at))
    captured = Captured(rows, at, flow, sets, families, translations, payloads, points)
    refused, facts = np.zeros(0, np.uint64), _Known(rows, at, flow, sets, translations, payloads)
    for rule in rules:
        offers = []
        for place in nearest(run):
            x, y = offered(rule, captured, sets, run, at, *place)
            if len(x):
                offers.append((place, x, y))
        by_id = rule.asks("T") and rule.asks("I")
        numbers_differ = by_id or (rule.asks("P") and not rule.asks("N") and not rule.asks("T"))
        if numbers_differ and offers:
            pairs = (np.concatenate([offer[side] for offer in offers]) for side in (1, 2))
            translations.learn(rows, at.times, flow, *pairs)
        for place, x, y in offers:
            between = mixed(flow[x], flow[y], *(np.full(len(x), value) for value in place))
            known = ~among(between, refused)
            if rule.asks("R"):
                # A host that echoes a packet answers it; a relay sends it to somebody else.
                known &= flow_of(rows.at(x), answering=True) != flow[y]
            if numbers_differ:
                follow = translations.follow(rows, flow, x, y)
                if rule.asks("F") and rule.asks("I"):
                    # Flow and IP ID agree, and the numbers follow no translation: the packet is ambiguous.
                    left.append(x[known & ~follow])
                known &= follow
            x, y, between = x[known], y[known], between[known]
            if len(x):
                told = tested(rule, rows, flow, facts.of(*place), x, y, between)
                refused = np.append(refused, between[told.refused])
                left.append(x[told.doubtful])
                sets.join(place[0], x[told.joins], y[told.joins])
    doubtful = np.concatenate(left)
    joined, keys = sets.joined()
    return joined, keys, doubtful[~among(doubtful, joined)]


def nearest(run: Run) -> Iterator[tuple[int, int, int]]:
    """Path and two of its positions, near ones first; points that a path visits twice are left to the matcher
    `order`.
    """
    table = visits(run)
    for apart in range(1, longest(run)):
        for number, path in enumerate(run.paths):
            for i in range(len(path.points) - apart):
                if (table[number, [path.points[i], path.points[i + apart]], 1] < 0).all():
                    yield number, i, i + apart


def _renumbered(rows: Fields, at: Sightings) -> tuple[Array, Array]:
    """Pairs of rows of TCP segments that were placed at two positions, and whose numbers differ there."""
    certain = at.seen[at.candidates == 1]
    pairs = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for i in range(certain.shape[1]):
        segments = certain[certain[:, i] >= 0]
        segments = segments[rows["protocol"][segments[:, i]] == TCP]
        for j in range(i + 1, certain.shape[1] if len(segments) else 0):
            x, y = segments[segments[:, j] >= 0][:, [i, j]].T
            differ = (rows["tcp_seq"][x] != rows["tcp_seq"][y]) | (rows["tcp_ack"][x] != rows["tcp_ack"][y])
            pairs.append((x[differ], y[differ]))
    return np.concatenate([x for x, _ in pairs]), np.concatenate([y for _, y in pairs])


class _Known:
    """The facts about two positions of a path, by which the pairs of a rule are tested; each is computed once."""

    def __init__(
        self, rows: Fields, at: Sightings, flow: Array, sets: OpenSets, translations: Translations, payloads: Payloads
    ) -> None:
        self._rows, self._at, self._flow, self._sets = rows, at, flow, sets
        self._translations, self._payloads = translations, payloads
        self._facts: dict[tuple[int, int, int], Facts] = {}

    def of(self, path: int, i: int, j: int) -> Facts:
        """The facts about positions i and j."""
        if (path, i, j) not in self._facts:
            self._facts[path, i, j] = self._found(path, i, j)
        return self._facts[path, i, j]

    def _found(self, path: int, i: int, j: int) -> Facts:
        rows, at, flow, sets = self._rows, self._at, self._flow, self._sets
        both = (at.path_of == path) & (at.candidates == 1) & (at.seen[:, i] >= 0) & (at.seen[:, j] >= 0)
        points = sets.points(path)
        one_clock = bool(at.clock[points[i]] == at.clock[points[j]])
        return Facts(
            times=at.times,
            flow=flow,
            one_clock=one_clock,
            before=at.seen[both, i],
            behind=at.seen[both, j],
            arrivals=lambda: sets.rows(path, j, i, False),
            bounded=lambda x, y: sets.bounded(path, i, j, x, y),
            follow=lambda x, y: companions_follow(
                rows, flow, at.points, at.times, self._translations, self._payloads, x, y, one_clock
            ),
        )
