"""Points that show both sides of what rewrites packets see them twice: as they came, and in their second form.

Rule: where one flow was found to become another at one and the same point, what that point sees in the flow behind is
the second form of the packet with its key that it saw in a flow before, the last within the loss threshold. Second
forms are not followed: the point is one position of the path, and the first sighting there counts. They belong to
the packet whose second form they are.
Bound: which of several packets with one key it is may be wrong; what became of them does not hang on it. Without a
first form, which the capture may have missed, the second one is followed as any other sighting.
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
    """Rows of second forms, in order, and of the first form of each."""

    second: Array
    first: Array

    def chosen(self, which: Array) -> Forms:
        """Some of them."""
        return Forms(self.second[which], self.first[which])

    def and_those(self, others: Forms) -> Forms:
        """Both, and the first form of what was a second one before is that of its own first one."""
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
    """All second forms.

    Args:
        keys, flow: uint64 per row; points: int32, times: int64, as captured; behind: hashes (`mixed`) of flow and point
        where other flows became it; threshold: ns.
    """
    known = np.array(sorted(behind), np.uint64)
    if not len(known):
        return NO_FORMS
    is_second = np.isin(mixed(flow, points), known)
    second = np.flatnonzero(is_second)
    place = mixed(keys, points)
    first = np.flatnonzero(~is_second)
    first = first[np.isin(place[first], place[second])]
    # In order of key and time, what may be a first form before what is stamped at the same time.
    rows = np.concatenate([first, second])
    of_first = np.arange(len(rows)) < len(first)
    order = np.lexsort((~of_first, times[rows], place[rows]))
    rows, of_first = rows[order], of_first[order]
    at = np.where(of_first, np.arange(len(rows)), -1)
    before = np.maximum.accumulate(at)
    behind_it = np.minimum.accumulate(np.where(of_first, np.arange(len(rows)), len(rows))[::-1])[::-1]
    found = np.full(len(rows), -1)
    # The capture may have stamped both in the wrong order.
    for candidate, early, late in ((behind_it, -EARLY_NS, 0), (before, 0, threshold)):
        there = ~of_first & (candidate >= 0) & (candidate < len(rows))
        other = np.clip(candidate, 0, max(0, len(rows) - 1))
        after = times[rows] - times[rows[other]]
        there &= (place[rows] == place[rows[other]]) & (after >= early) & (after <= late)
        found[there] = other[there]
    mine = np.flatnonzero(found >= 0)
    mine = mine[np.argsort(rows[mine])]
    return Forms(rows[mine], rows[found[mine]])
