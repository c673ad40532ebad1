"""Latency of every packet at every stage, and its statistics.

Percentiles follow RFC 2330 11.3: the smallest observed value x with F(x) >= p, where lost packets count as infinite
(RFC 7679 5); a percentile that falls on a lost packet is undefined, here None. Times are taken at the first sightings;
for split and merged packets at the first sighting of the first byte. RFC 7679 3.4 asks for the last byte, which is
reported as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pktrace.trajectories.model import UNSEEN

Array = np.ndarray[Any, Any]
# (column, numerator, denominator) of each percentile: integers, so that the rank is exact.
PERCENTILES = (("median_ns", 50, 100), ("p90_ns", 90, 100), ("p99_ns", 99, 100), ("p999_ns", 999, 1000))


@dataclass(frozen=True)
class StageLatency:
    """Latencies of one stage of one path, or of the whole path (`stage` None), in ns, sorted."""

    path: int
    stage: int | None
    name: str
    from_position: int
    to_position: int
    values: Array
    lost: int
    error_ns: int | None
    divided: int = 0  # packets without a frame of their own at one of the ends
    last_bytes: Array = field(default_factory=lambda: np.zeros(0, np.int64))  # as `values`, for last bytes
    by_order: int = 0  # packets in `values` that only order distinguishes from equal ones

    @property
    def mean(self) -> float | None:
        """Mean of the latencies in ns; None for an empty sample."""
        return float(self.values.mean()) if len(self.values) else None


def percentile(ordered: Array, lost: int, numerator: int, denominator: int) -> int | None:
    """Smallest x with F(x) >= numerator / denominator, over the values and `lost` infinite ones (RFC 2330 11.3).

    Args:
        ordered: latencies in ns, sorted.

    Returns:
        An observed value; None for an empty sample or if the percentile falls on a lost packet.
    """
    total = len(ordered) + lost
    rank = -(-numerator * total // denominator)
    if total == 0 or rank > len(ordered):
        return None
    return int(ordered[max(rank, 1) - 1])


def differences(times: Array, which: Array, a: int, b: int) -> Array:
    """Differences between positions a and b of the chosen packets that have times at both, ns, never clipped.

    Args:
        times: int64 packets x positions, UNSEEN without a sighting.
    """
    times = times[which]
    both = (times[:, a] != UNSEEN) & (times[:, b] != UNSEEN)
    found: Array = times[both, b] - times[both, a]
    return found


def summary_row(latency: StageLatency, share: float | None) -> dict[str, Any]:
    """The statistics of one stage, by the column names of the latency table."""
    values = latency.values
    row: dict[str, Any] = {
        "count": len(values),
        "lost": latency.lost,
        "min_ns": int(values[0]) if len(values) else None,
        "mean_ns": round(latency.mean) if latency.mean is not None else None,
        "stddev_ns": round(float(values.std(ddof=1))) if len(values) > 1 else None,
        "max_ns": int(values[-1]) if len(values) else None,
        "share": share,
        "error_ns": latency.error_ns,
        "divided": latency.divided,
        "by_order": latency.by_order,
        "last_byte_mean_ns": round(float(latency.last_bytes.mean())) if len(latency.last_bytes) else None,
        "last_byte_max_ns": int(latency.last_bytes[-1]) if len(latency.last_bytes) else None,
    }
    for column, numerator, denominator in PERCENTILES:
        row[column] = percentile(values, latency.lost, numerator, denominator)
    return row


def shares(stages: list[StageLatency]) -> list[float | None]:
    """Mean of each stage over the sum of the stage means of its path; None if a mean is missing or all are 0."""
    totals: dict[int, float] = {}
    for stage in stages:
        if stage.stage is not None and stage.mean is not None:
            totals[stage.path] = totals.get(stage.path, 0.0) + stage.mean
    found: list[float | None] = []
    for stage in stages:
        total = totals.get(stage.path, 0.0)
        if stage.stage is None or stage.mean is None or total == 0 or not math.isfinite(total):
            found.append(None)
        else:
            found.append(stage.mean / total)
    return found
