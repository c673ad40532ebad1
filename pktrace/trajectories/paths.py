"""Which path an observation may belong to, and the paths as arrays for the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.observations.headers import fits
from pktrace.run.model import Run

NO_PATH = -1
_TOGETHER = 1 << 14  # rows whose fields are looked at one after the other: so many stay in the processor's cache


def path_of_rows(run: Run, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """int16 per row: the first path, in file order, that visits the row's point and whose `match` fits; NO_PATH else.

    Only IP packets with a time are followed.
    """
    found = np.full(len(rows), NO_PATH, np.int16)
    visited = np.zeros((len(run.paths), len(run.points) + 1), bool)
    for number, path in enumerate(run.paths):
        visited[number, list(path.points)] = True
    for begin in range(0, len(rows), _TOGETHER):
        some, found_some = rows[begin : begin + _TOGETHER], found[begin : begin + _TOGETHER]
        usable, points = followed(some), some["point"]
        for number, path in enumerate(run.paths):
            free = usable & (found_some == NO_PATH) & visited[number][points]
            if free.any():
                found_some[free & fits(path.condition, some)] = number
    return found


def followed(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bool per row: an IP packet with a time, and with the direction that its point asks for."""
    wanted = field.HAS_IP | field.HAS_TIME
    found: np.ndarray[Any, Any] = rows["has"] & (wanted | field.NO_DIRECTION) == wanted
    return found


def visits(run: Run) -> np.ndarray[Any, Any]:
    """int64 (paths x points x 2): positions of the first and second visit of a point, -1 where there is none."""
    table = np.full((max(1, len(run.paths)), len(run.points), 2), -1, np.int64)
    for number, path in enumerate(run.paths):
        for position, point in enumerate(path.points):
            table[number, point, 0 if table[number, point, 0] < 0 else 1] = position
    return table


def longest(run: Run) -> int:
    """Positions of the longest path."""
    return max((len(path.points) for path in run.paths), default=1)


def parts(run: Run) -> np.ndarray[Any, Any]:
    """int64 per point: points that paths join, directly or over others, have the same number."""
    number = np.arange(len(run.points), dtype=np.int64)
    for _ in run.paths:  # so many times the lowest number may have to be handed on
        for path in run.paths:
            number[list(path.points)] = number[list(path.points)].min()
    return number
