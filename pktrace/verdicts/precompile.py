"""Compiles the judging kernel into the cache without any packets, while another process compiles others."""

from __future__ import annotations

import numpy as np

from pktrace.verdicts.judge import Captures, Judgement, Packets, Paths, judge_packets


def compile_kernels() -> None:
    """Call the kernel with empty arrays of the types that `verdicts` passes."""
    times, table = np.zeros((0, 1), np.int64), np.zeros((1, 1), np.int64)
    flags, codes = np.zeros((1, 1), bool), np.zeros(0, np.uint8)
    numbers, short, stages = np.zeros(0, np.int64), np.zeros(0, np.int16), np.zeros((0, 2), np.uint8)
    packets = Packets(times, numbers, short, codes, np.zeros(0, bool))
    captures = Captures(table, table, flags, flags, table, table, numbers, numbers)
    into = Judgement(codes, codes, short, numbers, codes, codes, stages, stages)
    judge_packets(packets, Paths(table, table, table), captures, numbers, np.int64(0), into)
