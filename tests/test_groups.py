"""Groups, order and meetings of many packets: what kernels find is what a slow search finds, whatever the key."""

from __future__ import annotations

import numpy as np
import pytest

from pktrace.decode.identity import _use_key_of, among, found_among, groups_of, mixed, secret
from pktrace.decode.rows import ROW
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.fields import Fields
from pktrace.trajectories.grouping import InOrder, counted, in_order_of
from pktrace.trajectories.meetings import Side, meeting, meeting_alike

_SEEDS = range(8)


@pytest.mark.parametrize("count", [0, 1, 7, 64, 65, 3000])
@pytest.mark.parametrize("kind", [np.uint64, np.int64, np.uint8])
def test_equal_values_are_numbered_as_they_come_first(count: int, kind: type) -> None:
    values = np.random.default_rng(count).integers(0, 200, count).astype(kind)
    first, number = groups_of(values)
    assert (values[first][number] == values).all()
    assert (np.diff(first) > 0).all()
    assert number.tolist() == [list(dict.fromkeys(values.tolist())).index(value) for value in values.tolist()]


def test_values_far_apart_share_no_number() -> None:
    """A step of a power of two would put all of them at one place of a table without a key."""
    for step in (1 << 20, 1 << 33, 1 << 50):
        values = np.arange(5000, dtype=np.uint64) * np.uint64(step)
        assert len(groups_of(values)[0]) == len(np.unique(values))


def test_values_are_found_where_they_come_first() -> None:
    values, wanted = np.array([5, -1, 7, 9]), np.array([9, 7, 7, -1, 9])
    assert found_among(values, wanted).tolist() == [-1, 3, 1, 0]
    assert among(values, wanted).tolist() == [False, True, True, True]
    assert counted(wanted, values).tolist() == [0, 1, 2, 2]
    assert found_among(values, wanted[:0]).tolist() == [-1] * 4


@pytest.mark.parametrize("seed", _SEEDS)
def test_members_are_in_order_of_group_and_time(seed: int) -> None:
    random = np.random.default_rng(seed)
    group, times = random.integers(0, 9, 200), random.integers(-50, 50, 200)
    assert (in_order_of(group, times) == np.lexsort((times, group))).all()
    in_order = InOrder.of(group, times, 12)
    asked, at = random.integers(0, 12, 100), random.integers(-60, 60, 100)
    for or_equal in (False, True):
        found = in_order.before(asked, at, or_equal)
        for number, (of, time) in enumerate(zip(asked, at, strict=True)):
            there = times <= time if or_equal else times < time
            assert found[number] == np.count_nonzero((group < of) | ((group == of) & there))


@pytest.mark.parametrize("window", [3 * EARLY_NS, None])
@pytest.mark.parametrize("seed", _SEEDS)
def test_meetings_are_those_of_each_pair_alone(seed: int, window: int | None) -> None:
    random = np.random.default_rng(seed)
    flows, kinds, times = (
        [random.integers(0, most, many) for many in (60, 40)] for most in (6, 3, 40 * int(EARLY_NS))
    )  # fmt: skip
    flows, kinds = ([column.astype(np.uint64) for column in columns] for columns in (flows, kinds))
    before, behind = (random.integers(0, 8, 9).astype(np.uint64) for _ in range(2))
    ends, arrivals = (Side.of(flow, time) for flow, time in zip(flows, times, strict=True))
    found = meeting((ends, arrivals), before, behind, window)
    alike = meeting_alike(tuple(zip(flows, kinds, times, strict=True)), before, behind, window)
    after = times[1][None, :] - times[0][:, None]
    in_time = np.ones_like(after, bool) if window is None else (after >= -EARLY_NS) & (after <= window)
    meets = [
        in_time & (flows[0] == one)[:, None] & (flows[1] == other)[None, :]
        for one, other in zip(before, behind, strict=True)
    ]
    assert (found[0] == np.any(meets, axis=(0, 2))).all()
    assert (found[1] == np.any(meets, axis=(0, 1))).all()
    assert (found[2] == np.any(meets, axis=(1, 2))).all()
    assert (alike == np.any(meets & (kinds[0][:, None] == kinds[1][None, :]), axis=(1, 2))).all()


def test_no_number_depends_on_the_key() -> None:
    columns = [np.random.default_rng(1).integers(0, 30, 500) for _ in range(2)]
    key = secret().copy()
    first, number = groups_of(*columns)
    hashes = mixed(*columns)
    try:
        _use_key_of(1)
        again, other = groups_of(*columns)
        assert (hashes != mixed(*columns)).all()
    finally:
        secret()[:] = key
    assert (first == again).all()
    assert (number == other).all()


def test_fields_that_were_changed_are_read_again() -> None:
    rows = np.zeros(10, ROW)
    fields, which = Fields(rows), np.arange(3, 6)
    made = fields.kept(which).once(lambda some: some["mark"] + np.uint64(1))
    assert made.tolist() == [1, 1, 1]
    assert fields.kept(which) is fields.kept(which)
    rows["mark"][4] = 7
    fields.forget("mark")
    assert fields.kept(which)["mark"].tolist() == fields.at(which)["mark"].tolist() == [0, 7, 0]
    other = fields.at(which).but(mark=np.arange(3)).at(np.array([1]))
    assert (other["mark"].tolist(), other["frame"].tolist()) == ([1], [0])
