"""Joins: sets of sightings that their content shows to be one packet, whatever became of its headers on the way.

A packet is a set of sightings, at most one per position of its path, in causal order. A trajectory is such a set; so is
a single row that fits no path. A set with an open position can take the sightings of another.

Rule: two sets join if a sighting of the one at position i and a sighting of the other at position j agree in the
features of a rule (evidence.py), each is the other's only partner within the loss threshold among all packets that the
two points captured, the sets have no position in common, and the joined set goes forward in time. Rules run from much
evidence to little, near positions first. The pairs that a rule offers for two flows have to behave like one
flow (behaviour.py).

Two flows that a rule refuses are not joined by a weaker one.
Bound: a wrong join needs a packet that one point alone missed, a stranger with equal features within the threshold that
the other point alone missed, and as many of them as the tests ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.identity import group_numbers, groups_of, mixed
from pktrace.decode.rows import rows_at
from pktrace.run.model import Run
from pktrace.trajectories.behaviour import Facts, tested
from pktrace.trajectories.evidence import Rule, can_be_asked, connection_of, keys_of, renumbered_side_of, renumbering_of
from pktrace.trajectories.exact import EARLY_NS
from pktrace.trajectories.paths import NOT_FOLLOWED, longest, not_all_along, visits

Array = np.ndarray[Any, Any]
_CONSTANT = 0.5  # share of the segments whose numbers were translated as those of the segment before
_UNEXPLAINED = 0.1  # share of a flow's packets that nothing explains: some of its packets are changed on the way
_TCP = 6
_TAG = np.uint64(0x6A6F696E)  # joined keys are no hashes of anything else


@dataclass(frozen=True)
class Sightings:
    """What was placed so far: `owner` (int32 per row), `seen` (rows by position), `path_of`, `candidates` per packet,
    `points` (int32), `times` (int64, aligned) and `paths` (int16) per row, `clock` (int64 per point, equal where times
    can be compared).
    """

    owner: Array
    seen: Array
    path_of: Array
    candidates: Array
    points: Array
    times: Array
    paths: Array
    clock: Array


def join_sets(
    rules: tuple[Rule, ...], run: Run, rows: Array, at: Sightings, flow: Array, explained: Array
) -> tuple[Array, Array, Array]:
    """Rows of sets that join, and their new keys: equal for all rows of a joined set.

    Args:
        rows: all observations; flow: uint64 per row; explained: rows and trajectories that hold parts of packets, as
        bool per row: they join nothing.

    Returns:
        Row numbers (int64) and keys (uint64), nothing where no set joins; and rows of sets whose sole partners
        do not behave like one flow: what became of these packets is ambiguous.
    """
    sets = _OpenSets(run, at, explained)
    left = [np.zeros(0, np.int64)]
    if not len(sets.path):
        return np.zeros(0, np.int64), np.zeros(0, np.uint64), left[0]
    captured = _Captured(rows, at)
    refused = np.zeros(0, np.uint64)
    renumbered = np.zeros(0, np.uint64)
    for rule in rules:
        offers = []
        for place in _nearest(run):
            x, y = _offered(rule, captured, sets, run, at, *place)
            if len(x):
                offers.append((place, x, y))
        if rule.asks("P") and not rule.asks("N"):
            renumbered = np.union1d(renumbered, _constant(rows, at.times, offers))
        for place, x, y in offers:
            between = mixed(flow[x], flow[y], *(np.full(len(x), value) for value in place))
            known = ~np.isin(between, refused)
            if not rule.asks("N"):
                known &= _follows(rows, x, y, renumbered)
            x, y, between = x[known], y[known], between[known]
            if len(x):
                told = tested(rule, rows, flow, _facts(at, flow, sets, place), x, y, between)
                refused = np.union1d(refused, between[told.refused])
                left.append(x[told.doubtful])
                sets.join(place[0], x[told.joins], y[told.joins])
    doubtful = np.unique(np.concatenate(left))
    joined, keys = sets.joined()
    return joined, keys, doubtful[~np.isin(doubtful, joined)]


def _nearest(run: Run) -> Iterator[tuple[int, int, int]]:
    """Path and two of its positions, near ones first; points that a path visits twice are left to the order rung."""
    table = visits(run)
    for apart in range(1, longest(run)):
        for number, path in enumerate(run.paths):
            for i in range(len(path.points) - apart):
                if (table[number, [path.points[i], path.points[i + apart]], 1] < 0).all():
                    yield number, i, i + apart


def _facts(at: Sightings, flow: Array, sets: _OpenSets, place: tuple[int, int, int]) -> Facts:
    """The facts about two positions of a path that a rule's yield is held against."""
    path, i, j = place
    mine = at.seen[(at.path_of == path) & (at.candidates == 1)]
    mine = mine[(mine[:, i] >= 0) & (mine[:, j] >= 0)]
    points = sets.points(path)
    return Facts(
        times=at.times,
        one_clock=bool(at.clock[points[i]] == at.clock[points[j]]),
        before=mine[:, i],
        behind=mine[:, j],
        arrivals=flow[sets.rows(path, j, i, False)],
        bounded=lambda x, y: sets.bounded(path, i, j, x, y),
    )


def ends_with_possible_partners(run: Run, rows: Array, at: Sightings, flow: Array, explained: Array) -> Array:
    """Trajectories that end where an arrival may be the same packet with changed bytes: that is ambiguous, not lost.

    Rule: other packets of the flow were matched with packets of the arrival's flow between these two points, at least
    one in ten packets of the arrival's flow there is explained by nothing, and the arrival has the length of the end
    and comes within the loss threshold. Bound: a loss beside a packet that the first point missed looks the same.

    Args:
        as of `join_sets`.
    """
    sets = _OpenSets(run, at, explained)
    found = [np.zeros(0, np.int64)]
    for path, i, j in _nearest(run):
        ends, arrivals = sets.rows(path, i, j, True), sets.rows(path, j, i, False)
        ends = ends[(sets.places[path][sets.set_of(ends), i + 1 :] < 0).all(axis=1)]
        mine = at.seen[at.path_of == path]
        mine = mine[(mine[:, i] >= 0) & (mine[:, j] >= 0)]
        if not len(ends) or not len(arrivals) or not len(mine):
            continue
        x, y = mine[:, i], mine[:, j]
        changed = rows["identity"][x] != rows["identity"][y]
        pairs, _ = groups_of(flow[x[changed]], flow[y[changed]])
        known_x, known_y = flow[x[changed]][pairs], flow[y[changed]][pairs]
        unique, matched = np.unique(flow[y], return_counts=True)
        window = run.threshold_ns if at.clock[at.points[ends[0]]] == at.clock[at.points[arrivals[0]]] else None
        ends = ends[np.isin(flow[ends], known_x)]
        arrivals = arrivals[np.isin(flow[arrivals], known_y)]
        for before, behind in zip(known_x, known_y, strict=True):
            left, right = ends[flow[ends] == before], arrivals[flow[arrivals] == behind]
            among = len(right) + int(matched[np.searchsorted(unique, behind)])
            if not len(left) or len(right) < _UNEXPLAINED * among:
                continue
            like = group_numbers(
                *(rows[name][np.concatenate([left, right])] for name in ("payload_length", "protocol"))
            )
            low, high, _ = _within(
                like[: len(left)], at.times[left], like[len(left) :], at.times[right], window, early=int(EARLY_NS)
            )
            found.append(at.owner[left[high > low]].astype(np.int64))
    return np.unique(np.concatenate(found))


class _OpenSets:
    """The sets that have an open position: trajectories with a gap, an end or a late beginning, and single rows.

    `of_row` is the set of every row: the number of an open set, -2 - its trajectory for others, or -1.
    """

    def __init__(self, run: Run, at: Sightings, explained: Array) -> None:
        self._run, self._at = run, at
        trajectories = not_all_along(run, at.seen, at.path_of)
        held = at.seen[trajectories].max(axis=1, initial=-1)
        trajectories = trajectories[(at.candidates[trajectories] == 1) & ~explained[held]]
        single = np.flatnonzero((at.owner < 0) & (at.paths != NOT_FOLLOWED) & ~explained)
        count = len(trajectories)
        number = np.full(len(at.path_of) + 1, -1, np.int64)  # the last is that of rows without a trajectory
        number[trajectories] = np.arange(count)
        self.of_row = np.where(at.owner >= 0, -2 - at.owner.astype(np.int64), -1)
        self.of_row = np.where(number[at.owner] >= 0, number[at.owner], self.of_row)
        self.of_row[single] = count + np.arange(len(single))
        self.path = np.concatenate([at.path_of[trajectories].astype(np.int64), np.full(len(single), -1)])
        self._root = np.arange(len(self.path))
        self.places = [self._on_path(path, trajectories, single) for path in range(len(run.paths))]

    def _on_path(self, path: int, trajectories: Array, single: Array) -> Array:
        """int64 (sets x positions of a path): the row at each position; -1 for none, -2 if it cannot be on the path."""
        at, table = self._at, visits(self._run)[path]
        length, count = len(self._run.paths[path].points), len(trajectories)
        found = np.full((len(self.path), length), -1, np.int64)
        own = at.path_of[trajectories] == path
        found[:count][own] = at.seen[trajectories[own]][:, :length]
        others = np.flatnonzero(~own)
        columns = [(others, at.seen[trajectories[others], position]) for position in range(at.seen.shape[1])]
        for sets, rows in [*columns, (np.arange(count, len(self.path)), single)]:
            sets, rows = sets[rows >= 0], rows[rows >= 0]
            visit = table[at.points[rows]]
            once = (visit[:, 0] >= 0) & (visit[:, 1] < 0)
            found[sets[once], visit[once, 0]] = rows[once]
            found[sets[~once]] = -2
        found[(found == -2).any(axis=1)] = -2
        return found

    def rows(self, path: int, position: int, open_at: int, of_path: bool) -> Array:
        """Sightings at a position of sets that are open at another.

        Args:
            of_path: of trajectories of this very path.
        """
        places = self.places[path]
        fits = (places[:, position] >= 0) & (places[:, open_at] == -1)
        if of_path:
            fits &= self.path == path
        found: Array = places[fits, position]
        return found

    def points(self, path: int) -> tuple[int, ...]:
        """The points of a path."""
        return self._run.paths[path].points

    def bounded(self, path: int, i: int, j: int, x: Array, y: Array) -> Array:
        """bool per pair: the set of x goes on behind j, or that of y begins before i; times bound it on both sides."""
        places = self.places[path]
        behind = np.any(places[self.set_of(x), j + 1 :] >= 0, axis=1)
        before = np.any(places[self.set_of(y), :i] >= 0, axis=1)
        return np.asarray(behind | before)

    def set_of(self, rows: Array) -> Array:
        """The set of each row, after all joins."""
        sets = self.of_row[rows]
        found: Array = np.where(sets >= 0, self._root[np.maximum(sets, 0)], sets)
        return found

    def join(self, path: int, x: Array, y: Array) -> None:
        """Join the sets of these rows, pair by pair, where the joined set has one row a position and goes forward."""
        one, other = self.set_of(x), self.set_of(y)
        first = np.zeros(len(one), bool)
        first[groups_of(one)[0]] = True
        again = np.zeros(len(one), bool)
        again[groups_of(other)[0]] = True
        chosen = first & again & ~np.isin(one, other) & (one >= 0) & (other >= 0)
        one, other = one[chosen], other[chosen]
        places = self.places[path]
        left, right = places[one], places[other]
        joined = np.maximum(left, right)
        fits = ((left == -1) | (right == -1)).all(axis=1) & (joined >= -1).all(axis=1)
        fits &= self._goes_forward(path, joined)
        one, other = one[fits], other[fits]
        for number, other_places in enumerate(self.places):
            if number != path:
                other_places[one] = -2
            other_places[other] = -2
        places[one] = joined[fits]
        self.path[one] = path
        self._root[other] = one
        self._root = self._root[self._root]

    def _goes_forward(self, path: int, joined: Array) -> Array:
        """bool per set: on each clock it goes from position to position, in no more than the loss threshold."""
        at, points = self._at, self._run.paths[path].points
        found = np.ones(len(joined), bool)
        clocks = at.clock[list(points)]
        for clock in np.unique(clocks):
            before = np.full(len(joined), np.iinfo(np.int64).min // 2)
            for position in np.flatnonzero(clocks == clock):
                there = joined[:, position] >= 0
                time = at.times[np.maximum(joined[:, position], 0)]
                known = before > np.iinfo(np.int64).min // 2
                found &= ~(there & known) | ((time >= before - EARLY_NS) & (time - before <= self._run.threshold_ns))
                before = np.where(there, time, before)
        return found

    def joined(self) -> tuple[Array, Array]:
        """Rows of all sets that joined, and their new keys."""
        size = np.bincount(self._root, minlength=len(self._root))
        rows = np.flatnonzero(self.of_row >= 0)
        root = self._root[self.of_row[rows]]
        mine = size[root] > 1
        rows, root = rows[mine], root[mine]
        if not len(rows):
            return rows, np.zeros(0, np.uint64)
        first, number = groups_of(root)
        return rows, mixed(rows[first][number], np.full(len(rows), _TAG))


class _Captured:
    """The packets that a point captured, by the features of a rule: whom a packet may have for a partner."""

    def __init__(self, rows: Array, at: Sightings) -> None:
        self._rows, self._at = rows, at
        self._at_point: dict[int, Array] = {}
        self._keys: dict[tuple[str, int], tuple[Array, Array]] = {}

    def keys(self, rule: Rule, point: int) -> tuple[Array, Array]:
        """Rows of the point that can be asked, and their keys."""
        found = self._keys.get((rule.features, point))
        if found is None:
            if point not in self._at_point:
                self._at_point[point] = np.flatnonzero((self._at.points == point) & (self._at.paths != NOT_FOLLOWED))
            at = self._at_point[point]
            some = rows_at(self._rows, at)
            asked = can_be_asked(rule, some)
            found = at[asked], keys_of(rule, some[asked])
            self._keys[rule.features, point] = found
        return found


def _offered(
    rule: Rule, captured: _Captured, sets: _OpenSets, run: Run, at: Sightings, path: int, i: int, j: int
) -> tuple[Array, Array]:  # fmt: skip
    """Sightings x at position i and y at position j of open sets, each the only partner of the other."""
    nothing = np.zeros(0, np.int64)
    left, right = sets.rows(path, i, j, True), sets.rows(path, j, i, False)
    if not len(left) or not len(right):
        return nothing, nothing
    points = run.paths[path].points
    x, x_keys = captured.keys(rule, points[i])
    y, y_keys = captured.keys(rule, points[j])
    wanted = np.intersect1d(x_keys[np.isin(x, left)], y_keys[np.isin(y, right)])
    if not len(wanted):
        return nothing, nothing
    x, x_keys = _one_a_set(x, x_keys, wanted, sets, at)
    y, y_keys = _one_a_set(y, y_keys, wanted, sets, at)
    group = group_numbers(np.concatenate([x_keys, y_keys]))
    x_group, y_group = group[: len(x)], group[len(x) :]
    window = run.threshold_ns if at.clock[points[i]] == at.clock[points[j]] else None
    partner_of_x = _sole(x_group, at.times[x], y_group, at.times[y], window)
    partner_of_y = _sole(y_group, at.times[y], x_group, at.times[x], window)
    mutual = np.flatnonzero(partner_of_x >= 0)
    mutual = mutual[partner_of_y[partner_of_x[mutual]] == mutual]
    found_x, found_y = x[mutual], y[partner_of_x[mutual]]
    both_open = np.isin(found_x, left) & np.isin(found_y, right)
    return found_x[both_open], found_y[both_open]


def _constant(rows: Array, times: Array, offers: list[tuple[tuple[int, int, int], Array, Array]]) -> Array:
    """Translations of TCP numbers, of both sides and of each alone.

    What was added to one segment of a connection, and to the next one that was sent, is a translation.
    A gateway whose helper makes a payload longer adds more from there on; numbers that differ without such runs are
    those of two connections (docs/matching.md).
    """
    x = np.concatenate([np.zeros(0, np.int64), *(one for _, one, _ in offers)])
    y = np.concatenate([np.zeros(0, np.int64), *(other for _, _, other in offers)])
    one, other = rows_at(rows, x), rows_at(rows, y)
    tcp = one["protocol"] == _TCP
    sent, one, other = times[x[tcp]], one[tcp], other[tcp]
    added, connection = renumbering_of(one, other), connection_of(one, other)
    order = np.lexsort((sent, connection))
    added, connection = added[order], connection[order]
    again = np.zeros(len(added), bool)
    again[1:] = (added[1:] == added[:-1]) & (connection[1:] == connection[:-1])
    first, number = groups_of(added)
    many, runs = np.bincount(number), np.bincount(number, weights=again)
    constant = order[first][(runs > 0) & (runs >= _CONSTANT * (many - 1))]
    one, other = one[constant], other[constant]
    sides = [renumbered_side_of(one, other, side) for side in ("tcp_seq", "tcp_ack")]
    return np.unique(np.concatenate([renumbering_of(one, other), *sides]))


def _follows(rows: Array, x: Array, y: Array, renumbered: Array) -> Array:
    """bool per pair: its TCP numbers follow a translation that is known; packets of other protocols have none."""
    one, other = rows_at(rows, x), rows_at(rows, y)
    found: Array = (one["protocol"] != _TCP) | np.isin(renumbering_of(one, other), renumbered)
    opening = np.flatnonzero(~found & (one["tcp_ack"] == 0) & (other["tcp_ack"] == 0))
    found[opening] = np.isin(renumbered_side_of(one[opening], other[opening]), renumbered)
    return found


def _one_a_set(rows: Array, keys: Array, wanted: Array, sets: _OpenSets, at: Sightings) -> tuple[Array, Array]:
    """The first sighting of each set with one of these keys: copies at a point are no partners of their own."""
    some = np.isin(keys, wanted)
    rows, keys = rows[some], keys[some]
    order = np.argsort(at.times[rows], kind="stable")
    rows, keys = rows[order], keys[order]
    owned = sets.set_of(rows)
    owned = np.where(owned == -1, -3 - len(at.path_of) - rows, owned)
    first, _ = groups_of(keys, owned.astype(np.uint64))
    return rows[first], keys[first]


def _sole(group: Array, time: Array, other_group: Array, other_time: Array, window: int | None) -> Array:
    """Per packet the number of its only partner: of its group, and within the window on either side; -1 else."""
    if not len(other_group):
        return np.full(len(group), -1)
    low, high, order = _within(group, time, other_group, other_time, window, early=window or 0)
    found: Array = np.where(high - low == 1, order[np.minimum(low, len(order) - 1)], -1)
    return found


def _within(
    group: Array, time: Array, other_group: Array, other_time: Array, window: int | None, early: int
) -> tuple[Array, Array, Array]:
    """Per packet, others of its group that come up to `early` before it and `window` after it: order[low:high].

    Args:
        window: ns; None where times cannot be compared.

    Returns:
        low, high, and the numbers of the others in order of group and time.
    """
    if window is None:
        time, other_time, window, early = np.zeros_like(time), np.zeros_like(other_time), 0, 0
    _, rank = np.unique(np.concatenate([other_time, time - early, time + window]), return_inverse=True)
    width = int(rank.max(initial=0)) + 1
    count = len(other_time)
    code = other_group * width + rank[:count]
    order = np.argsort(code, kind="stable")
    low = np.searchsorted(code[order], group * width + rank[count : count + len(time)], "left")
    high = np.searchsorted(code[order], group * width + rank[count + len(time) :], "right")
    return low, high, order
