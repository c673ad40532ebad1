"""Translations of TCP numbers: the amounts that a box adds to the sequence and acknowledgment numbers of a connection.

Rule: an amount that was added to one segment of a connection, and to the next one that was sent, is a translation. It
is the same for both directions: the sequence numbers of the one are acknowledged by the other. A gateway whose helper
makes a payload longer adds more from there on; numbers that differ without such runs belong to two connections.
Bound: a proxy that sends its client's bytes in segments of the same size adds a constant as well. Equal payloads are
therefore evidence only if IP IDs agree, or if the segments without payload follow the translation, too (companions.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import among, group_numbers, groups_of, mixed
from pktrace.protocols import ACK, TCP
from pktrace.trajectories.fields import Fields, Picked
from pktrace.trajectories.flows import flow_of
from pktrace.trajectories.grouping import InOrder, each_between, in_order_of
from pktrace.trajectories.joins.families import Families, connection_of

Array = np.ndarray[Any, Any]
_CONSTANT = 0.5  # share of the segments whose numbers were translated as those of the segment before
_BEFORE, _BEHIND = 6, 2  # translations of a connection that are tried: the last ones, and those that begin soon


class Translations:
    """Known translations, by connection and pair of points.

    Amounts hold from the point with the lower number to the other. `first` is added to the sequence numbers of the side
    whose family has the lower hash, `second` to those of the other side.
    """

    def __init__(self, families: Families) -> None:
        self._families = families
        self.connection = np.zeros(0, np.uint64)
        self.first = np.zeros(0, np.uint32)
        self.second = np.zeros(0, np.uint32)
        self._begun = np.zeros(0, np.int64)  # the time of the first segment with this translation

    def __len__(self) -> int:
        return len(self.connection)

    def learn(self, rows: Fields, times: Array, flow: Array, x: Array, y: Array) -> None:
        """Add the translations that pairs of sightings of TCP segments show.

        Args:
            rows: all observations; times, flow: per row; x, y: row numbers of the pairs.
        """
        tcp = rows["protocol"][x] == TCP
        x, y = x[tcp], y[tcp]
        first, _ = groups_of(x, y)
        x, y = x[first], y[first]
        connection, first, second = self._added(rows, flow, x, y)
        order = in_order_of(group_numbers(connection), times[x])
        connection, first, second = connection[order], first[order], second[order]
        added = mixed(connection, first, second)
        again = np.zeros(len(added), bool)
        again[1:] = added[1:] == added[:-1]
        one, number = groups_of(added)
        many, runs = np.bincount(number), np.bincount(number, weights=again)
        # `runs` counts segments translated as the one before: at least one, and half of those that could be.
        constant = (runs > 0) & (runs >= _CONSTANT * (many - 1))
        one = one[constant]
        new = ~among(added[one], mixed(self.connection, self.first, self.second))
        one = one[new]
        self.connection = np.append(self.connection, connection[one])
        self.first = np.append(self.first, first[one])
        self.second = np.append(self.second, second[one])
        self._begun = np.append(self._begun, times[x][order][one])

    def follow(self, rows: Fields, flow: Array, x: Array, y: Array) -> Array:
        """bool per pair: its TCP numbers follow a known translation; packets of other protocols have none, and pass."""
        connection, first, second = self._added(rows, flow, x, y)
        known = among(mixed(connection, first, second), mixed(self.connection, self.first, self.second))
        found: Array = (rows["protocol"][x] != TCP) | known
        return found

    def applied(self, rows: Picked, times: Array, flow: Array, point: int) -> tuple[Array, Picked]:
        """Rows of one point with their numbers at another, once for each translation that their connection has then.

        Args:
            rows: of some segments of one point; times, flow: of each; point: the other point.

        Returns:
            The places of the rows, int64, and the rows with the numbers that they would have at the other point.
        """
        here = int(rows["point"][0]) if len(rows) else point
        mine, turned = connection_of(self._families, flow, flow_of(rows, answering=True))
        mine = mixed(mine, np.full(len(rows), min(here, point)), np.full(len(rows), max(here, point)))
        number = group_numbers(np.append(self.connection, mine))
        known, asked = number[: len(self)], number[len(self) :]
        in_order = InOrder.of(known, self._begun, int(number.max(initial=-1)) + 1)
        at = in_order.before(asked, times, or_equal=True)
        low = np.maximum(in_order.begins[asked], at - _BEFORE)
        high = np.minimum(in_order.begins[asked + 1], at + _BEHIND)
        which, place = each_between(low, high)
        told = in_order.members[place]
        found = rows.at(which)
        first, second = self.first[told], self.second[told]
        sequence = np.where(turned[which], second, first)
        acknowledgment = np.where(turned[which], first, second)
        if here > point:
            sequence, acknowledgment = np.uint32(0) - sequence, np.uint32(0) - acknowledgment
        acknowledgment[found["tcp_flags"] & ACK == 0] = 0
        return which, found.but(tcp_seq=found["tcp_seq"] + sequence, tcp_ack=found["tcp_ack"] + acknowledgment)

    def _added(self, rows: Fields, flow: Array, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """(connection and points, first, second) of each pair; a segment without ACK has no second number."""
        one, other = rows.at(x), rows.at(y)
        connection, turned = connection_of(self._families, flow[x], flow_of(one, answering=True))
        points = one["point"], other["point"]
        connection = mixed(connection, np.minimum(*points), np.maximum(*points))
        swapped = points[0] > points[1]
        sequence, acknowledgment = (
            np.where(swapped, one[name] - other[name], other[name] - one[name]) for name in ("tcp_seq", "tcp_ack")
        )
        return connection, np.where(turned, acknowledgment, sequence), np.where(turned, sequence, acknowledgment)
