"""Compile this package's kernels into the cache without any packets: `python -m pktrace.trajectories.precompile`.

The very first run starts this in a second process while it compiles and runs the earlier kernels, so two cores share
the work.
"""

from __future__ import annotations

import numpy as np

from pktrace.decode.changeable import CHANGEABLE, read_changeable
from pktrace.decode.identity import among, groups_of, mixed, secret
from pktrace.decode.rows import ROW
from pktrace.trajectories.grouping import InOrder, grouped
from pktrace.trajectories.outcome.changes_kernel import compare_sightings, count_distinct
from pktrace.trajectories.placing.repeated import Expected, Identities, follow_repeated
from pktrace.trajectories.placing.unique import Packets, Sightings, Ways, place_in_order, settle_unclear


def compile_kernels() -> None:
    """Call each kernel with empty arrays of the types that `follow` passes."""
    numbers = np.zeros(0, np.int64)
    points, paths, candidates = np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.int32)
    visits, table = np.zeros((1, 1, 2), np.int64), np.zeros((1, 4), np.int64)
    one, flags = np.zeros((1, 1), np.int64), np.zeros((1, 1), bool)
    seen, pairs = np.zeros((0, 1), np.int64), np.zeros((1, 1, 1), np.int64)
    grouped(np.zeros(0, np.uint64), paths)
    InOrder.of(numbers, numbers, 1).before(numbers, numbers)
    hashes = mixed(np.zeros(1, np.uint64))
    among(hashes, hashes[groups_of(hashes)[0]])
    owner = points
    sightings, ways = Sightings(numbers, points, paths), Ways(visits, numbers)
    into = Packets(owner, seen, paths, np.int64(0))
    place_in_order(numbers, sightings, visits, into, paths, flags[0, :0])
    settle_unclear(numbers, flags[0, :0], sightings, ways, into, numbers)
    same = Identities(np.zeros(0, np.uint64), np.zeros(0, bool))
    expected = Expected(table, pairs, pairs, one, one, one, flags, flags)
    follow_repeated(numbers, numbers, sightings, same, ways, expected, into, candidates, 0)
    rows, unkept = np.zeros(0, ROW), np.zeros(0, CHANGEABLE)
    read_changeable(np.zeros(0, np.uint8), 0, rows, numbers, numbers, numbers, secret(), unkept)
    compare_sightings(rows, unkept, numbers, numbers, np.zeros(0, bool), np.zeros(0, np.uint32))
    count_distinct(np.zeros(0, np.uint64), numbers, numbers)


if __name__ == "__main__":
    compile_kernels()
