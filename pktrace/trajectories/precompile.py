"""Compiles this package's kernels into the cache without any packets: `python -m pktrace.trajectories.precompile`.

The first run of all starts this in a second process while it compiles and runs the kernels that come before, so that
two cores share the work.
"""

from __future__ import annotations

import numpy as np

from pktrace.trajectories.exact import follow_unique
from pktrace.trajectories.order import follow_repeated
from pktrace.trajectories.sorting import sort_pairs


def compile_kernels() -> None:
    """Call each kernel with empty arrays of the types that `follow` passes."""
    numbers = np.zeros(0, np.int64)
    points, paths, candidates = np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0, np.int32)
    visits, table = np.zeros((1, 1, 2), np.int64), np.zeros((1, 4), np.int64)
    one, flags = np.zeros((1, 1), np.int64), np.zeros((1, 1), bool)
    seen, pairs = np.zeros((0, 1), np.int64), np.zeros((1, 1, 1), np.int64)
    sort_pairs(np.zeros(0, np.uint64), numbers)
    follow_unique(
        np.zeros(0, np.uint64), numbers, numbers, points, paths, visits, numbers, np.int64(0), numbers, seen, paths,
        numbers,
    )  # fmt: skip
    follow_repeated(
        numbers, numbers, numbers, np.zeros(0, np.uint64), np.zeros(0, bool), points, paths, visits, numbers, table,
        pairs, pairs, one, one, one, flags, flags, np.int64(0), numbers, seen, paths, candidates, 0,
    )  # fmt: skip


if __name__ == "__main__":
    compile_kernels()
