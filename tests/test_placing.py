"""Keys are numbered as a dictionary would, and what is placed as rows go by is what a look at all rows gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pktrace.trajectories.grouping import Groups, grouped
from pktrace.trajectories.paths import NO_PATH, NOT_FOLLOWED
from pktrace.trajectories.placing.unique import Packets, Sightings, Ways, place_in_order, settle_unclear

Array = np.ndarray[Any, Any]


def numbers_of(keys: list[int], paths: list[int]) -> list[int]:
    known: dict[int, int] = {}
    return [
        -1 if path == NOT_FOLLOWED else known.setdefault(key, len(known)) for key, path in zip(keys, paths, strict=True)
    ]


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 3000, 40_000])
@pytest.mark.parametrize("kind", ["hashes", "repeated", "small", "one", "upper bits alike", "lower bits alike"])
def test_keys_are_numbered_in_order_of_first_sight(size: int, kind: str) -> None:
    rng = np.random.default_rng(size)
    keys = rng.integers(0, 1 << 64, size, np.uint64)
    if kind == "repeated":
        keys = keys[rng.integers(0, max(1, size // 4), size)] if size else keys
    elif kind == "small":
        keys %= np.uint64(300)
    elif kind == "one":
        keys[:] = 7
    elif kind == "upper bits alike":
        keys >>= np.uint64(20)
    elif kind == "lower bits alike":
        keys <<= np.uint64(40)
    paths = rng.choice(np.array([NOT_FOLLOWED, NO_PATH, 0, 1], np.int16), size)
    expected = numbers_of(keys.tolist(), paths.tolist())
    at_once = grouped(keys, paths)
    assert at_once.group.tolist() == expected
    assert at_once.count == max(expected, default=-1) + 1
    in_pieces = Groups(size)
    for first in range(0, size, 1000):
        in_pieces.add(keys, paths, first, min(size, first + 1000))
    assert in_pieces.group[:size].tolist() == expected


POINTS = 4
# Visits of two paths: all points once; the second point twice, around the third (a filter before and after a service).
VISITS = np.array(
    [
        [[0, -1], [1, -1], [2, -1], [3, -1]],
        [[0, -1], [1, 3], [2, -1], [4, -1]],
        [[-1, -1], [0, -1], [1, -1], [2, -1]],
    ],
    np.int64,
)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 3),  # key
        st.integers(0, POINTS - 1),
        st.sampled_from([NOT_FOLLOWED, NO_PATH, 0, 0, 1, 1, 1, 2]),
        st.sampled_from([0, 0, 1, 5, 900_000, 2_000_000, 3_000_000]),  # ns after the row before
    ),
    max_size=24,
)


def placed(rows: list[tuple[int, int, int, int]], all_unclear: bool, shuffled: bool) -> tuple[Any, ...]:
    """What becomes of rows, by their place in order of time; shuffled: they stand in another order than that."""
    stands = np.random.default_rng(len(rows)).permutation(len(rows)) if shuffled else np.arange(len(rows))
    keys = np.empty(len(rows), np.uint64)
    points, paths = np.empty(len(rows), np.int32), np.empty(len(rows), np.int16)
    times = np.empty(len(rows), np.int64)
    keys[stands] = [row[0] for row in rows]
    points[stands] = [row[1] for row in rows]
    paths[stands] = [row[2] for row in rows]
    times[stands] = np.cumsum([row[3] for row in rows])
    groups = grouped(keys, paths)
    owner, count, threshold = groups.group.copy(), groups.count, np.int64(2_500_000)
    order = stands[paths[stands] != NOT_FOLLOWED] if shuffled else np.zeros(0, np.int64)
    seen, path_of = np.empty((count, 5), np.int64), np.empty(count, np.int16)
    furthest, unclear = np.empty(count, np.int16), np.empty(count, bool)
    sightings, into = Sightings(times, points, paths), Packets(owner, seen, path_of, threshold)
    begun = place_in_order(order, sightings, VISITS, into, furthest, unclear)
    assert begun == count
    if all_unclear:
        unclear[:] = True
    clocks, repeated = np.zeros(POINTS, np.int64), np.empty(2 * count, np.int64)
    members, left, no_path = settle_unclear(order, unclear, sightings, Ways(VISITS, clocks), into, repeated)
    several = [
        tuple(np.argsort(stands)[members[first:last]].tolist())
        for first, last in zip(repeated[:left:2], repeated[1:left:2], strict=True)
    ]
    in_order = np.argsort(stands) if len(rows) else stands
    packets = {
        (int(path_of[number]), tuple(int(in_order[row]) if row >= 0 else -1 for row in seen[number]))
        for number in np.flatnonzero(path_of >= 0)
    }
    owners = [int(owner[row]) if owner[row] >= 0 else -1 for row in stands]
    by_group = [tuple(index for index, one in enumerate(owners) if one == number) for number in range(count)]
    return sorted(several), packets, sorted(by_group), no_path


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, shuffled=st.booleans())
def test_what_is_placed_in_order_is_what_a_look_at_all_rows_gives(
    rows: list[tuple[int, int, int, int]], shuffled: bool
) -> None:
    if rows:
        assert placed(rows, all_unclear=False, shuffled=shuffled) == placed(rows, all_unclear=True, shuffled=shuffled)
