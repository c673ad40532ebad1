"""Both sides of a translator: one point sees a packet as it arrives, and again as it leaves, rewritten.

Rule: flow A was found to become flow B at one and the same point. Each sighting of flow B at this point is then an
egress sighting. Its packet is the last one with the same key that the point saw in a flow before, within the loss
threshold.
Egress sightings are not followed: the point is one position of the path, and the first sighting there counts. An egress
sighting belongs to its packet.
Bound: if several packets have one key, the egress sighting may get the wrong one; no fate depends on the choice. If the
capture missed the first sighting, the egress sighting is followed as any other sighting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.identity import mixed
from pktrace.trajectories.bounds import EARLY_NS

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Forms:
    """Egress sightings and their packets: `second` has the rows of egress sightings in order, `first` the row of each
    packet's first sighting at the point.
    """

    second: Array
    first: Array

    def chosen(self, which: Array) -> Forms:
        """The chosen pairs."""
        return Forms(self.second[which], self.first[which])

    def and_those(self, others: Forms) -> Forms:
        """The pairs of both; a first sighting that is itself an egress sighting is replaced by its own first
        sighting.
        """
        second, first = np.append(self.second, others.second), np.append(self.first, others.first)
        order = np.argsort(second, kind="stable")
        second, first = second[order], first[order]
        place = np.minimum(np.searchsorted(second, first), max(0, len(second) - 1))
        first = np.where(second[place] == first, first[place], first) if len(second) else first
        return Forms(second, first)

    def __len__(self) -> int:
        return len(self.second)


NO_FORMS = Forms(np.zeros(0, np.int64), np.zeros(0, np.int64))


def forms_of(keys: Array, flow: Array, points: Array, times: Array, behind: Iterable[int], threshold: int) -> Forms:
    """All egress sightings.

    Args:
        keys, flow: uint64 per row; points: int32, times: int64, as captured; behind: hashes (`mixed`) of flow and point
        where other flows became this flow; threshold: ns.
    """
    known = np.array(sorted(behind), np.uint64)
    if not len(known):
        return NO_FORMS
    is_second = np.isin(mixed(flow, points), known)
    second = np.flatnonzero(is_second)
    place = mixed(keys, points)
    first = np.flatnonzero(~is_second)
    first = first[np.isin(place[first], place[second])]
    # The order is by key and time; at equal times, a possible first sighting comes before an egress sighting.
    rows = np.concatenate([first, second])
    of_first = np.arange(len(rows)) < len(first)
    order = np.lexsort((~of_first, times[rows], place[rows]))
    rows, of_first = rows[order], of_first[order]
    at = np.where(of_first, np.arange(len(rows)), -1)
    before = np.maximum.accumulate(at)
    behind_it = np.minimum.accumulate(np.where(of_first, np.arange(len(rows)), len(rows))[::-1])[::-1]
    found = np.full(len(rows), -1)
    # The capture may have stamped both in the wrong order: then the first sighting follows by EARLY_NS at most. The
    # usual order is tried last, and wins.
    for candidate, early, late in ((behind_it, -EARLY_NS, 0), (before, 0, threshold)):
        there = ~of_first & (candidate >= 0) & (candidate < len(rows))
        other = np.clip(candidate, 0, max(0, len(rows) - 1))
        after = times[rows] - times[rows[other]]
        there &= (place[rows] == place[rows[other]]) & (after >= early) & (after <= late)
        found[there] = other[there]
    mine = np.flatnonzero(found >= 0)
    mine = mine[np.argsort(rows[mine])]
    return Forms(rows[mine], rows[found[mine]])
