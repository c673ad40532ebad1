"""Which path an observation may belong to, and the paths as arrays for the kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.observations.headers import fits
from pktrace.run.model import Run

NO_PATH = -1
NOT_FOLLOWED = -2


def path_of_rows(run: Run, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """int16 per row: the first path, in file order, that visits the row's point and whose `match` fits; NO_PATH else.

    Only IP packets with a time, and with the direction that their point asks for, are followed; others have
    NOT_FOLLOWED.
    """
    usable, points = followed(rows), rows["point"]
    found = np.where(usable, np.int16(NO_PATH), np.int16(NOT_FOLLOWED))
    for number, path in enumerate(run.paths):
        visited = np.zeros(len(run.points) + 1, bool)
        visited[list(path.points)] = True
        free = visited[points]
        free &= found == NO_PATH
        if free.any():
            free &= fits(path.condition, rows)
            found[free] = number
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
