"""Meetings: departures in one flow that have an arrival in another flow within a time, for many pairs of flows.

For each pair of flows, the packets of the smaller flow are looked at, each with the span of packets that it meets in
the other flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.identity import found_among, groups_of, mixed
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.grouping import InOrder, each_between

Array = np.ndarray[Any, Any]
_Alike = tuple[Array, Array, Array]
_AT_ONCE = 1 << 20  # packets that are looked at together


@dataclass(frozen=True)
class Side:
    """Packets of one side of a stage: their groups (hashes), and the packets in order of group and time."""

    groups: Array
    packets: InOrder

    @classmethod
    def of(cls, group: Array, times: Array) -> Side:
        """From the group (uint64) and the time (int64) of each packet."""
        first, number = groups_of(group)
        return cls(group[first], InOrder.of(number, times, len(first)))

    def places(self, group: Array) -> tuple[Array, Array]:
        """Begin and end of the packets of each group, in their order; both 0 for a group without packets."""
        place = found_among(group, self.groups)
        begins = self.packets.begins
        return np.where(place >= 0, begins[place], 0), np.where(place >= 0, begins[place + 1], 0)

    def between(self, group: Array, first: Array | None, last: Array | None) -> tuple[Array, Array]:
        """Begin and end of the packets of each group from the first time up to the last; all packets of the group for
        None.
        """
        if first is None or last is None:
            return self.places(group)
        place = found_among(group, self.groups)
        low, high = np.zeros(len(group), np.int64), np.zeros(len(group), np.int64)
        known = np.flatnonzero(place >= 0)
        low[known] = self.packets.before(place[known], first[known])
        high[known] = self.packets.before(place[known], last[known], or_equal=True)
        return low, high


def meeting(
    sides: tuple[Side, Side], before: Array, behind: Array, window: int | None
) -> tuple[Array, Array, Array]:  # fmt: skip
    """The packets that meet some packet of the group that is paired with theirs.

    Args:
        sides: departures and arrivals; before, behind: uint64, the group of departures and the group of arrivals of
        each pair; window: ns, after which an arrival is late; None if times cannot be compared.

    Returns:
        bool per departure and per arrival: it meets one of any pair; bool per pair: some of its packets meet.
    """
    spans = [side.places(group) for side, group in zip(sides, (before, behind), strict=True)]
    many = [high - low for low, high in spans]
    of_ends = many[0] <= many[1]
    met = np.zeros(len(before), bool)
    marks = [np.zeros(len(side.packets.members) + 1, np.int64) for side in sides]
    for mine, chosen, others in ((0, of_ends, behind), (1, ~of_ends, before)):
        pairs = np.flatnonzero(chosen & (many[0] > 0) & (many[1] > 0))
        piece = np.cumsum(many[mine][pairs]) // _AT_ONCE
        for some in np.split(pairs, np.flatnonzero(np.diff(piece)) + 1):
            number, place = each_between(spans[mine][0][some], spans[mine][1][some])
            time = sides[mine].packets.times[place]
            early, late = (EARLY_NS, window) if mine == 0 else (window, EARLY_NS)
            first, last = (None, None) if window is None else (time - early, time + late)
            low, high = sides[1 - mine].between(others[some[number]], first, last)
            meets = np.flatnonzero(high > low)
            met[some[number[meets]]] = True
            # Each span adds 1 at its begin and takes 1 away behind its end: a running sum above 0 marks all members of
            # spans.
            for at, begin, end in ((mine, place[meets], place[meets] + 1), (1 - mine, low[meets], high[meets])):
                size = len(marks[at])
                marks[at] += np.bincount(begin, minlength=size) - np.bincount(end, minlength=size)
    ends, arrivals = (np.zeros(len(mark) - 1, bool) for mark in marks)
    for found, side, mark in zip((ends, arrivals), sides, marks, strict=True):
        found[side.packets.members] = np.cumsum(mark[:-1]) > 0
    return ends, arrivals, met


def meeting_alike(sides: tuple[_Alike, _Alike], before: Array, behind: Array, window: int | None) -> Array:
    """bool per pair of flows: a departure of the one meets an arrival of the other that has the same kind.

    Args:
        sides: departures and arrivals: flow (uint64), kind (uint64) and time (int64) of each;
        before, behind, window: as in `meeting`.
    """
    kinds, spans = [], []
    for (flow, kind, _), wanted in zip(sides, (before, behind), strict=True):
        first, _ = groups_of(flow, kind)
        side = Side.of(flow[first], np.zeros(len(first), np.int64))
        kinds.append(kind[first][side.packets.members])
        spans.append(side.places(wanted))
    fewer = spans[0][1] - spans[0][0] <= spans[1][1] - spans[1][0]
    pairs, of_pair = [], []
    for number, chosen in enumerate((fewer, ~fewer)):
        some = np.flatnonzero(chosen)
        which, place = each_between(*(end[some] for end in spans[number]))
        pairs.append(some[which])
        of_pair.append(kinds[number][place])
    pair, kind = np.concatenate(pairs), np.concatenate(of_pair)
    ends, arrivals = (Side.of(mixed(flow, of), times) for flow, of, times in sides)
    _, _, met = meeting((ends, arrivals), mixed(before[pair], kind), mixed(behind[pair], kind), window)
    found = np.zeros(len(before), bool)
    found[pair[met]] = True
    return found
