"""Families of flows: flows that are known to be one on different sides of a box.

Rule: if a packet is known to have one flow at one point and another flow at the next, both flows belong to one family,
and so do the flows that answer them.
Bound: a public port that two hosts use one after the other makes their flows one family. A family limits the search for
partners; it is no proof.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.identity import found_among, groups_of, mixed
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.flows import flow_of
from pktrace.trajectories.joins.open_sets import Sightings

Array = np.ndarray[Any, Any]


class Families:
    """The family of every flow that has others beside it; a flow without others is a family of its own."""

    def __init__(self, one: Array, other: Array) -> None:
        """From pairs of flows (uint64) that belong to one family."""
        flows = np.concatenate([one, other])
        at, number = groups_of(flows)
        self._flows = flows[at]
        first, second = number[: len(one)], number[len(one) :]
        label = np.arange(len(self._flows))
        while True:
            lower = np.minimum(label[first], label[second])
            before = label.copy()
            for side in (first, second):
                np.minimum.at(label, label[side], lower)
            label = label[label]
            if (label == before).all():
                break
        self._family = self._flows[label] if len(label) else self._flows

    def of(self, flow: Array) -> Array:
        """uint64 per flow: its family, or the flow itself if it has no other."""
        if not len(self._flows):
            return flow
        place = found_among(flow, self._flows)
        found: Array = np.where(place >= 0, self._family[place], flow)
        return found


def families_of(rows: Fields, at: Sightings, flow: Array) -> Families:
    """The families that placed packets show.

    Args:
        flow: uint64 per row.
    """
    there = at.seen >= 0
    begin = at.seen[np.arange(len(at.seen)), np.argmax(there, axis=1)] if len(at.seen) else np.zeros(0, np.int64)
    one, other = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for position in range(at.seen.shape[1]):
        row = at.seen[:, position]
        changed = np.flatnonzero((row >= 0) & (flow[row] != flow[begin]))
        first, _ = groups_of(flow[begin[changed]], flow[row[changed]])
        one.append(begin[changed[first]])
        other.append(row[changed[first]])
    before, behind = np.concatenate(one), np.concatenate(other)
    answers = [flow_of(rows.at(side), answering=True) for side in (before, behind)]
    return Families(*(np.append(flow[side], answer) for side, answer in zip((before, behind), answers, strict=True)))


def connection_of(families: Families, flow: Array, answer: Array) -> tuple[Array, Array]:
    """Per segment a hash of its TCP connection, the same for both directions and on all sides of a box; and bool, if it
    goes in the direction whose family has the higher hash.
    """
    mine, theirs = families.of(flow), families.of(answer)
    return mixed(np.minimum(mine, theirs), np.maximum(mine, theirs)), mine > theirs
