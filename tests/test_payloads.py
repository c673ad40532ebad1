"""Payload bytes of many rows at once are those of one row at a time, at the ends of files, too."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from pktrace.observations.observe import observe_run
from pktrace.observations.payloads import Payloads
from pktrace.run.runfile import load_run

CHAIN = Path(__file__).parents[1] / "fixtures" / "service-chain"


@pytest.mark.parametrize("seed", range(4))
def test_many_rows_as_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    observations = observe_run(load_run(CHAIN))
    last = [int(np.flatnonzero(observations.rows["capture"] == number)[-1]) for number in range(4)]
    some = np.array([*rng.choices(range(len(observations.rows)), k=500), *last])
    rows = observations.rows[some]
    begins = np.array([rng.choice([0, 0, 1, 8, 40, 1400, 70_000]) for _ in rows], np.int64)
    lengths = np.array([rng.choice([0, 1, 7, 8, 64, 65, 1480]) for _ in rows], np.int64)
    payloads = Payloads(observations)
    found, there = payloads.contents(rows, begins, lengths)
    for row, begin, length, content, known in zip(rows, begins, lengths, found, there, strict=True):
        assert payloads.content(row, int(begin), int(length)) == (int(content) if known else None)
    assert there.any()
    assert not there.all()
