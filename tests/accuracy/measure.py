"""Generate a scenario, analyse it in this process, and score it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import polars as pl

from fixtures.scenarios import generate_scenario
from pktrace.analysis.analysis import analyze_run
from pktrace.analysis.tables import all_tables
from pktrace.run.runfile import load_run
from tests.accuracy.changes import Changes, read_true_changes
from tests.accuracy.score import Score, read_truth, score


def measure(
    name: str, folder: Path, *, packets: int | None = None, rate: float | None = None, seed: int = 1
) -> tuple[Score, float]:
    """Score of a scenario written into a new folder, and the seconds that the analysis took."""
    generate_scenario(name, folder, packets=packets, rate=rate, seed=seed)
    return score_run(folder)


def score_run(folder: Path) -> tuple[Score, float]:
    """Score of a generated run, and the seconds that its analysis took."""
    begin = time.perf_counter()
    tables = all_tables(analyze_run(load_run(folder)))
    seconds = time.perf_counter() - begin
    seen = as_frame(tables["observations"].select(["point", "capture", "frame", "trajectory"]))
    packets = as_frame(tables["trajectories"].select(["trajectory", "path", "fate", "lost_stage", "transforms"]))
    ranges = as_frame(tables["ranges"])
    changes = Changes(*read_true_changes(folder), as_frame(tables["transforms"]), ranges)
    return score(*read_truth(folder), seen, packets, ranges, changes), seconds


def as_frame(table: Any) -> pl.DataFrame:
    """An Arrow table as a polars frame."""
    frame = pl.from_arrow(table)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError("a table is a frame")
    return frame
