"""Sole partners: sightings at two points that agree in the features of a rule as no others within the loss threshold.

Rule: each of the two is the other's only partner among all packets that the two points captured, matched ones too. A
retransmission with equal bytes is a second partner, so it joins nothing. Copies of a packet at a point are no partners
of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import among, group_numbers, groups_of
from pktrace.observations.payloads import Payloads
from pktrace.run.model import Run
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.grouping import InOrder, tallied
from pktrace.trajectories.joins.families import Families
from pktrace.trajectories.joins.open_sets import OpenSets, Sightings
from pktrace.trajectories.joins.rules import Rule, Statements, ending_of, keys_of
from pktrace.trajectories.joins.translations import Translations
from pktrace.trajectories.paths import NOT_FOLLOWED

Array = np.ndarray[Any, Any]


class Points:
    """The packets of each point, and their statements."""

    def __init__(self, rows: Fields) -> None:
        self._rows = rows
        self._known: dict[int, tuple[Array, Statements]] = {}

    def of(self, point: int) -> tuple[Array, Statements]:
        """Rows of the packets of one point, and their statements."""
        if point not in self._known:
            at = np.flatnonzero(self._rows["point"] == point)
            self._known[point] = at, Statements(self._rows.at(at))
        return self._known[point]


class Captured:
    """The packets that a point captured, by the features of a rule: the possible partners of a packet."""

    def __init__(
        self, rows: Fields, at: Sightings, flow: Array, sets: OpenSets, families: Families, translations: Translations,
        payloads: Payloads, points: Points,
    ) -> None:  # fmt: skip
        self._rows, self._at, self._flow = rows, at, flow
        self._family, self._translations, self._payloads = families.of(flow), translations, payloads
        self._is_open = sets.of_row >= 0
        self._open_flows = tallied(flow[self._is_open])[0]
        self._points = points
        self._asked_of: dict[tuple[str, int, bool], Array] = {}
        self._keys: dict[tuple[str, int, bool, bool], tuple[Array, Array]] = {}
        self._marked = np.zeros(len(flow), np.bool_)

    def keys(self, rule: Rule, point: int, before: bool, of_open: bool) -> tuple[Array, Array]:
        """Rows of the point that the rule can use, and their keys, as those before or behind a box.

        Args:
            of_open: only rows of open sets.
        """
        asked = rule.features, point, before and rule.asks("R"), of_open
        if asked not in self._keys:
            found = self._keys_of(rule, self._asked(rule, point, of_open), before)
            if not of_open:
                parts = zip(self.keys(rule, point, before, True), found, strict=True)
                at, keys = (np.concatenate(part) for part in parts)
                order = np.argsort(at, kind="stable")
                found = at[order], keys[order]
            self._keys[asked] = found
        return self._keys[asked]

    def translated(self, rule: Rule, point: int, other: int, of_open: bool) -> tuple[Array, Array]:
        """As `keys`, with TCP numbers as they would be at another point; a row for each known translation.

        If IP IDs agree, numbers are compared afterwards.
        """
        if not rule.asks("T") or rule.asks("I"):
            return self.keys(rule, point, True, of_open)
        if not len(self._translations):
            return np.zeros(0, np.int64), np.zeros(0, np.uint64)
        at = self._asked(rule, point, True)
        if not of_open:
            at = np.sort(np.append(at, self._asked(rule, point, False)))
        which, some = self._translations.applied(self._rows.at(at), self._at.times[at], self._flow[at], other)
        at = at[which]
        return at, keys_of(rule, some, self._family[at])

    def are(self, some: Array, rows: Array) -> Array:
        """bool per row: it is one of some."""
        self._marked[some] = True
        found: Array = self._marked[rows]
        self._marked[some] = False
        return found

    def _keys_of(self, rule: Rule, at: Array, before: bool) -> tuple[Array, Array]:
        ending = None
        if rule.of_ending:
            ending, there = ending_of(rule, self._rows.at(at), self._payloads)
            at, ending = at[there], ending[there]
        return at, keys_of(rule, self._rows.at(at), self._family[at], ending, before)

    def _asked(self, rule: Rule, point: int, of_open: bool) -> Array:
        """Rows of the point that the rule can use, those of open sets or the others."""
        asked = rule.features, point, of_open
        if asked not in self._asked_of:
            at, told = self._points.of(point)
            fits = told.asked(rule) & (self._at.paths[at] != NOT_FOLLOWED)
            if rule.of_ending:
                fits &= among(self._flow[at], self._open_flows)  # for other flows no bytes are read
            is_open = self._is_open[at]
            for wanted in (True, False):
                self._asked_of[rule.features, point, wanted] = at[fits & (is_open == wanted)]
        return self._asked_of[asked]


def offered(
    rule: Rule, captured: Captured, sets: OpenSets, run: Run, at: Sightings, path: int, i: int, j: int
) -> tuple[Array, Array]:  # fmt: skip
    """Sightings x at position i and y at position j of open sets, each the only partner of the other."""
    nothing = np.zeros(0, np.int64)
    left, right = sets.rows(path, i, j, True), sets.rows(path, j, i, False)
    if not len(left) or not len(right):
        return nothing, nothing
    points = run.paths[path].points
    x, x_keys = captured.translated(rule, points[i], points[j], True)
    if not len(x):
        return nothing, nothing
    y, y_keys = captured.keys(rule, points[j], False, True)
    wanted = x_keys[captured.are(left, x)]
    wanted = wanted[among(wanted, y_keys[captured.are(right, y)])]
    if not len(wanted):
        return nothing, nothing
    x, x_keys = _one_a_set(*captured.translated(rule, points[i], points[j], False), wanted, sets, at)
    y, y_keys = _one_a_set(*captured.keys(rule, points[j], False, False), wanted, sets, at)
    group = group_numbers(np.concatenate([x_keys, y_keys]))
    x_group, y_group = group[: len(x)], group[len(x) :]
    # Times on two clocks cannot be compared: the partner then has to be the only one in the whole run.
    window = run.threshold_ns if at.clock[points[i]] == at.clock[points[j]] else None
    of_x, of_y = mutual(x_group, at.times[x], y_group, at.times[y], window)
    found_x, found_y = x[of_x], y[of_y]
    both_open = captured.are(left, found_x) & captured.are(right, found_y)
    found_x, found_y = found_x[both_open], found_y[both_open]
    if rule.asks("T") and not rule.asks("I"):
        # A sighting with two translations has two partners.
        first, number = groups_of(found_x)
        first = first[np.bincount(number) == 1]
        found_x, found_y = found_x[first], found_y[first]
    return found_x, found_y


def _one_a_set(rows: Array, keys: Array, wanted: Array, sets: OpenSets, at: Sightings) -> tuple[Array, Array]:
    """The first sighting of each set with one of these keys: copies at a point are no partners of their own."""
    some = among(keys, wanted)
    rows, keys = rows[some], keys[some]
    order = np.argsort(at.times[rows], kind="stable")
    rows, keys = rows[order], keys[order]
    owned = sets.set_of(rows)
    # Rows without a set get a number of their own below those of trajectories, which are -2 and less.
    owned = np.where(owned == -1, -3 - len(at.path_of) - rows, owned)
    first, _ = groups_of(keys, owned.astype(np.uint64))
    return rows[first], keys[first]


def mutual(
    group: Array, time: Array, other_group: Array, other_time: Array, window: int | None
) -> tuple[Array, Array]:  # fmt: skip
    """Numbers of packets, and of others, that are each other's only partner (`sole`)."""
    partner = sole(group, time, other_group, other_time, window)
    back = sole(other_group, other_time, group, time, window)
    found = np.flatnonzero(partner >= 0)
    found = found[back[partner[found]] == found]
    return found, partner[found]


def sole(group: Array, time: Array, other_group: Array, other_time: Array, window: int | None) -> Array:
    """Per packet the number of its only partner: in its group, and within the window on either side; else -1."""
    if not len(other_group):
        return np.full(len(group), -1)
    low, high, order = within(group, time, other_group, other_time, window, early=window or 0)
    found: Array = np.where(high - low == 1, order[np.minimum(low, len(order) - 1)], -1)
    return found


def within(
    group: Array, time: Array, other_group: Array, other_time: Array, window: int | None, early: int
) -> tuple[Array, Array, Array]:
    """Per packet, others of its group that come up to `early` before it and `window` after it: order[low:high].

    Args:
        window: ns; None if times cannot be compared.

    Returns:
        low, high, and the numbers of the others in order of group and time.
    """
    if window is None:
        time, other_time, window, early = np.zeros_like(time), np.zeros_like(other_time), 0, 0
    groups = 1 + max(int(group.max(initial=-1)), int(other_group.max(initial=-1)))
    others = InOrder.of(other_group, other_time, groups)
    low, high = others.before(group, time - early), others.before(group, time + window, or_equal=True)
    return low, high, others.members
