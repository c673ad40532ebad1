"""Latency per stage and end to end, with the lost counted as +infinity."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from typing import Any

from tests.reference.judge import Judged, stage_name
from tests.reference.reach import Coverage
from tests.reference.run import Path_, Run

PERCENTILES = (
    ("median_ns", Fraction(1, 2)),
    ("p90_ns", Fraction(9, 10)),
    ("p99_ns", Fraction(99, 100)),
    ("p999_ns", Fraction(999, 1000)),
)


def percentile(values: list[int], lost: int, p: Fraction) -> int | None:
    """RFC 2330 11.3: the smallest observed x with F(x) >= p, over all packets, the lost being +infinity
    (null).
    """
    count = len(values) + lost
    for rank, value in enumerate(sorted(values), start=1):
        if Fraction(rank, count) >= p:
            return value
    return None


def rounded(value: Fraction) -> int:
    """To the nearest nanosecond, halves to even."""
    return round(value)


def figures(values: list[int], lost: int) -> dict[str, Any]:
    """The figures of one row of latency.parquet (standard deviation of the population)."""
    row: dict[str, Any] = {"count": len(values), "lost": lost}
    mean = Fraction(sum(values), len(values)) if values else None
    row["min_ns"] = min(values, default=None)
    row["mean_ns"] = None if mean is None else rounded(mean)
    row["stddev_ns"] = None
    if mean is not None:
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        # Two more binary digits than needed, so that rounding the root is rounding the true value.
        row["stddev_ns"] = rounded(Fraction(isqrt(int(variance * 2**64)), 2**32))
    for name, p in PERCENTILES:
        row[name] = percentile(values, lost, p)
    row["max_ns"] = max(values, default=None)
    row["_mean"] = mean
    return row


def latency_rows(run: Run, judged: list[Judged], coverage: dict[str, Coverage]) -> list[dict[str, Any]]:
    """Design 5, latency: every stage of every path, `bypass` where there is a detour, then end to end (stage
    null).

    `count`: packets that crossed the stage with a latency; `lost`: packets lost there. End to end: from the
    first to the last point, lost anywhere on the path. `share`: stage mean over the sum of the means of all
    stages of that path.
    """
    rows = []
    for path in run.paths:
        mine = [j for j in judged if j.trajectory.path is path]
        stages = list(range(path.last)) + ([path.bypass] if path.enter is not None else [])
        of_path: list[dict[str, Any]] = []
        for stage in stages:
            crossed = [s for j in mine for s in j.stages if s["stage"] == stage and s["verdict"] == "crossed"]
            values = [s["latency_ns"] for s in crossed if s["latency_ns"] is not None]
            lost = sum(s["stage"] == stage and s["verdict"] == "lost" for j in mine for s in j.stages)
            a, b = _ends(path, stage)
            of_path.append(
                {
                    "path": path.name,
                    "stage": stage,
                    "stage_name": stage_name(path, stage),
                    **_points(path, a, b),
                }
                | figures(values, lost)
                | {"error_ns": _error(run, path, a, b, coverage)}
            )
        total = sum((row["_mean"] for row in of_path if row["_mean"] is not None), Fraction(0))
        for row in of_path:
            row["share"] = float(row["_mean"] / total) if row["_mean"] is not None and total else None
        of_path.append(_end_to_end(run, path, mine, coverage))
        rows += of_path
    for row in rows:
        del row["_mean"]
    return rows


def _end_to_end(run: Run, path: Path_, mine: list[Judged], coverage: dict[str, Coverage]) -> dict[str, Any]:
    values = []
    for j in mine:
        trajectory = j.trajectory
        if j.fate == "delivered" and 0 in trajectory.seen and path.last in trajectory.seen:
            a, b = trajectory.sighting(0), trajectory.sighting(path.last)
            if a.clock == b.clock:
                values.append(b.ts_ns - a.ts_ns)
    lost = sum(j.fate == "lost" for j in mine)
    head = {"path": path.name, "stage": None, "stage_name": "end to end", **_points(path, 0, path.last)}
    return head | figures(values, lost) | {"error_ns": _error(run, path, 0, path.last, coverage), "share": None}


def _ends(path: Path_, stage: int) -> tuple[int, int]:
    if stage == path.bypass and path.enter is not None and path.leave is not None:
        return path.enter - 1, path.leave + 1
    return stage, stage + 1


def _points(path: Path_, a: int, b: int) -> dict[str, str]:
    return {"from_point": path.points[a], "to_point": path.points[b]}


def _error(run: Run, path: Path_, a: int, b: int, coverage: dict[str, Coverage]) -> int | None:
    """For one clock the sum of the two resolutions; across clocks unknown."""
    first, second = path.points[a], path.points[b]
    if run.point(first).clock != run.point(second).clock:
        return None
    return coverage[first].resolution_ns + coverage[second].resolution_ns
