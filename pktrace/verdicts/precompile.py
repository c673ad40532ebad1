"""Compiles the judging kernel into the cache without any packets, while another process compiles others."""

from __future__ import annotations

import numpy as np

from pktrace.verdicts.judge import Captures, judge_packets


def compile_kernels() -> None:
    """Call the kernel with empty arrays of the types that `verdicts` passes."""
    times, table = np.zeros((0, 1), np.int64), np.zeros((1, 1), np.int64)
    flags, codes = np.zeros((1, 1), bool), np.zeros(0, np.uint8)
    numbers, paths, stages = np.zeros(0, np.int64), np.zeros(0, np.int16), np.zeros((0, 2), np.uint8)
    captures = Captures(table, table, flags, flags, table, table, numbers, numbers)
    judge_packets(
        times, numbers, paths, table, table, codes, np.zeros(0, bool), captures, table, numbers, np.int64(0),
        codes, codes, paths, numbers, codes, codes, stages, stages,
    )  # fmt: skip
