"""The path that each observation may belong to, and the paths as arrays for the kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pktrace.decode import rows as field
from pktrace.observations.headers import fits, protocols_of
from pktrace.run.model import Condition, Network, Run

NO_PATH = -1
NOT_FOLLOWED = -2
# The fields that a test can check (`path_tests`).
PROTOCOL, SOURCE, DESTINATION, SPORT, DPORT, ICMP_TYPE, VLAN, TUNNEL_ID = range(8)
_Test = tuple[int, int, int, int, int, int]


def path_of_rows(run: Run, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """int16 per row: the first path, in file order, that visits the row's point and whose `match` fits; else NO_PATH.

    Only IP packets with a time, and with the direction that their point asks for, are followed. Others have
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


class PathTests(NamedTuple):
    """The conditions of all paths as arrays.

    `candidates`: int64 points + 1 x paths, the paths that visit a point in file order, -1 where there are no more; the
    last row stands for points that run.toml does not name. `conditions`, `alternatives`: int64, where the conditions of
    each path begin among the alternatives, and these among the tests; one alternative of each condition has to hold.
    `tests`: uint64 n x 6.
    """

    candidates: np.ndarray[Any, Any]
    conditions: np.ndarray[Any, Any]
    alternatives: np.ndarray[Any, Any]
    tests: np.ndarray[Any, Any]


def path_tests(run: Run) -> PathTests:
    """The conditions that `path_of_rows` asks, for `column_kernel`."""
    candidates = np.full((len(run.points) + 1, len(run.paths) + 1), NO_PATH, np.int64)
    conditions, alternatives = [0], [0]
    tests: list[tuple[int, ...]] = []
    for number, path in enumerate(run.paths):
        for point in set(path.points):
            row = candidates[point]
            row[np.argmin(row)] = number
        for alike in _conditions(path.condition):
            tests += alike
            alternatives.append(len(tests))
        conditions.append(len(alternatives) - 1)
    asked = np.array(tests, np.uint64).reshape(-1, 6)
    return PathTests(candidates, np.array(conditions, np.int64), np.array(alternatives, np.int64), asked)


def _conditions(asked: Condition) -> list[list[_Test]]:
    """The tests per field of a condition: kind, version, halves or range, masks. One test per field has to hold."""

    def inside(kind: int, network: Network) -> _Test:
        return kind, network.version, network.high, network.low, network.mask_high, network.mask_low

    protocols = protocols_of(asked)
    ranges = None if protocols is None else tuple((protocol, protocol) for protocol in protocols)
    found = [
        [inside(kind, network) for network in networks]
        for kind, networks in ((SOURCE, asked.sources), (DESTINATION, asked.destinations))
        if networks is not None
    ]
    spans = (
        (PROTOCOL, ranges), (SPORT, asked.sports), (DPORT, asked.dports), (ICMP_TYPE, asked.icmp_types),
        (VLAN, asked.vlans), (TUNNEL_ID, asked.tunnel_ids),
    )  # fmt: skip
    return found + [
        [(kind, 0, low, high, 0, 0) for low, high in several] for kind, several in spans if several is not None
    ]


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
    """int64 per point: the network component. Points have the same number if paths join them, directly or over other
    points.
    """
    number = np.arange(len(run.points), dtype=np.int64)
    for _ in run.paths:  # as many rounds as the lowest number may need to spread
        for path in run.paths:
            number[list(path.points)] = number[list(path.points)].min()
    return number


def not_all_along(run: Run, seen: np.ndarray[Any, Any], path_of: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The packets that some position of their path has not seen, in order. They are few, so gaps are looked for among
    these alone.

    Args:
        seen: rows of packets by position, -1 where not seen; path_of: int16.
    """
    lengths = np.array([len(path.points) for path in run.paths], np.int16)
    gap = np.zeros(len(seen), bool)
    for position in range(seen.shape[1]):
        unseen = seen[:, position] < 0
        if (lengths <= position).any():
            unseen &= lengths[path_of] > position
        gap |= unseen
    return np.flatnonzero(gap)
