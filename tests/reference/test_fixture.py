"""The reference on the recorded run, against what its sender and its drop counters say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.reference import analyze

FIXTURE = Path(__file__).parents[2] / "fixtures" / "service-chain"
COLUMNS = (
    *("path", "source", "destination", "protocol", "sport", "dport", "ip_id", "length"),
    *("rule", "expected_action", "fate", "lost_stage"),
)

pytestmark = pytest.mark.skipif(not (FIXTURE / "truth.parquet").exists(), reason="the fixture is not there")


def columns(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in COLUMNS)


def test_marked_packets_counters_and_losses() -> None:
    results = analyze(FIXTURE)
    marked = pl.read_parquet(FIXTURE / "truth.parquet").to_dicts()
    assert not Counter(map(columns, marked)) - Counter(map(columns, results.trajectories))

    truth = json.loads((FIXTURE / "truth.json").read_text())
    planned = Counter((row["path"], row["lost_stage"]) for row in marked if row["fate"] == "lost")
    for entry in truth["kernel_tcp"]["lost"]:
        planned[entry["path"], entry["stage"]] += entry["packets"]
    identical = truth["identical"]
    planned[identical["path"], identical["lost_stage"]] += identical["lost"]
    found = Counter((row["path"], row["lost_stage"]) for row in results.trajectories if row["fate"] == "lost")
    assert +found == +planned

    counted = [row for row in results.rules if row["counter_packets"] is not None]
    assert counted
    for row in counted:
        assert row["matched"] == row["counter_packets"], row["rule"]
