"""The fast analyser against the slow reference and against the truth, on generated runs.

``pktrace analyze RUN`` is started as a process and its Parquet tables are compared, column by column, with
what the reference says of the same run. Packets whose bytes are the same are compared by counts: which of
them was lost is nobody's knowledge.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.kit.agreement import disagreements, frames_owned
from tests.kit.scenario import generate
from tests.kit.scenarios import SCENARIOS
from tests.kit.truth import Options
from tests.reference import Results, analyze
from tests.reference.analyze import Rows

Row = Mapping[str, Any]
FRAME = ("point", "capture", "frame")
# Not compared: the digest is the fast one's own, numbers of trajectories are only names, transforms and
# split packets are no matter of the reference.
NOT_COMPARED = {
    "digest", "trajectory", "transforms", "share", "stddev_ns", "counter", "divided", "last_byte_ns",
    "last_byte_mean_ns", "last_byte_max_ns",
}  # fmt: skip


@functools.cache
def command() -> list[str] | None:
    """How to start pktrace, None if it is not there (yet)."""
    if importlib.util.find_spec("pktrace") is None:
        return None
    for words in ([str(Path(sys.executable).parent / "pktrace")], [sys.executable, "-m", "pktrace"]):
        if len(words) == 1 and not Path(words[0]).exists():
            continue
        try:
            done = subprocess.run([*words, "analyze", "--help"], capture_output=True, timeout=120, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return words
    return None


pytestmark = pytest.mark.skipif(command() is None, reason="`pktrace analyze` cannot be started")


def fast(run: Path) -> dict[str, Rows]:
    """The tables that ``pktrace analyze`` writes."""
    words = command()
    assert words is not None
    done = subprocess.run(
        [*words, "analyze", str(run), "--no-plots"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    tables = {}
    for name in Results._fields:
        frame = pl.read_parquet(run / "results" / f"{name}.parquet")
        text = [column for column, kind in frame.schema.items() if kind in (pl.Categorical, pl.Enum)]
        tables[name] = frame.with_columns(pl.col(column).cast(pl.String) for column in text).to_dicts()
    return tables


def by(rows: Iterable[Row], *names: str) -> dict[tuple[Any, ...], Row]:
    return {tuple(row[name] for name in names): row for row in rows}


def differences(what: str, fast_row: Row, slow_row: Row, skip: set[str] | None = None) -> list[str]:
    """Common columns that differ, as sentences."""
    columns = fast_row.keys() & slow_row.keys() - NOT_COMPARED - (skip or set())
    return [
        f"{what} {column}: {fast_row[column]!r}, reference {slow_row[column]!r}"
        for column in sorted(columns)
        if fast_row[column] != slow_row[column]
    ]


def compare_observations(fast_rows: Rows, slow_rows: Rows) -> list[str]:
    mine, other = by(fast_rows, *FRAME), by(slow_rows, *FRAME)
    wrong = [f"observations of {key}: only one has it" for key in mine.keys() ^ other.keys()]
    for key in mine.keys() & other.keys():
        wrong += differences(f"observation {key}", mine[key], other[key])
        if (mine[key]["trajectory"] is None) != (other[key]["trajectory"] is None):
            wrong.append(f"observation {key}: only one has a trajectory for it")
    # Equal bytes have equal digests (the other direction is a matter of how much the digest covers).
    digests: dict[Any, set[Any]] = {}
    for key in mine.keys() & other.keys():
        identity = other[key].get("_key")
        if identity is not None:
            digests.setdefault(identity, set()).add(mine[key]["digest"])
    return wrong + [f"several digests for equal packets: {key[:5]}" for key, found in digests.items() if len(found) > 1]


def compare_trajectories(fast_tables: Mapping[str, Rows], slow: Results) -> list[str]:
    """Certain packets by the frames they own, equal packets by counts."""
    owned_fast, owned_slow = frames_owned(fast_tables["observations"]), frames_owned(slow.observations)
    mine = {owned_fast[row["trajectory"]]: row for row in fast_tables["trajectories"]}
    certain = {owned_slow[row["trajectory"]]: row for row in slow.trajectories if row["basis"] == "exact"}
    stages_fast, stages_slow = stages_of(fast_tables["stages"]), stages_of(slow.stages)
    wrong = []
    for owned, row in certain.items():
        if owned not in mine:
            wrong.append(f"no trajectory owns exactly {sorted(owned)[:3]}")
            continue
        wrong += differences(f"trajectory {sorted(owned)[0]}", mine[owned], row)
        a, b = stages_fast.get(mine[owned]["trajectory"], {}), stages_slow.get(row["trajectory"], {})
        wrong += [f"stage {s} of {sorted(owned)[0]}: only one has it" for s in a.keys() ^ b.keys()]
        for stage in a.keys() & b.keys():
            # Why a capture missed a packet is told by the fast one only.
            skip = {"reason"} if b[stage]["verdict"] == "unobserved" else None
            wrong += differences(f"stage {stage} of {sorted(owned)[0]}", a[stage], b[stage], skip)
    rest_fast = [row for owned, row in mine.items() if owned not in certain]
    rest_slow = [row for row in slow.trajectories if row["basis"] != "exact"]
    a_counts, b_counts = Counter(map(summary, rest_fast)), Counter(map(summary, rest_slow))
    wrong += [f"equal packets: {n} too many of {row}" for row, n in (a_counts - b_counts).items()]
    return wrong + [f"equal packets: {n} missing of {row}" for row, n in (b_counts - a_counts).items()]


def stages_of(rows: Rows) -> dict[int, dict[int, Row]]:
    table: dict[int, dict[int, Row]] = {}
    for row in rows:
        table.setdefault(row["trajectory"], {})[row["stage"]] = row
    return table


SUMMARY = (
    *("path", "source", "destination", "protocol", "sport", "dport", "ip_id", "length", "basis", "fate"),
    *("reason", "lost_stage", "rule", "expected_action", "observed_action", "rule_verdict", "last_point"),
)


def summary(row: Row) -> tuple[Any, ...]:
    return (*(row[name] for name in SUMMARY), row["candidates"] > 1)


def compare_latency(fast_rows: Rows, slow: Results) -> list[str]:
    """Row by row. A stage that nobody crossed may be left out; a path with equal packets is compared by its
    counts.
    """
    mine, other = by(fast_rows, "path", "stage"), by(slow.latency, "path", "stage")
    equal_on = {row["path"] for row in slow.trajectories if row["basis"] != "exact"}
    wrong = []
    for key in mine.keys() | other.keys():
        if key not in mine or key not in other:
            alone = mine.get(key) or other[key]
            if alone["count"] or alone["lost"]:
                wrong.append(f"latency of {key}: only one has it")
            continue
        skip = {name for name in mine[key] if name.endswith("_ns")} if key[0] in equal_on else set()
        wrong += differences(f"latency of {key}", mine[key], other[key], skip)
        shares = (mine[key]["share"], other[key]["share"])
        if not skip and shares[0] != shares[1] and (None in shares or abs(shares[0] - shares[1]) > 1e-9):
            wrong.append(f"latency of {key} share: {shares}")
    return wrong


def compare(run: Path) -> tuple[dict[str, Rows], list[str]]:
    """Fast tables, and everything in which they differ from the reference."""
    tables, slow = fast(run), analyze(run)
    wrong = compare_observations(tables["observations"], slow.observations)
    wrong += compare_trajectories(tables, slow)
    wrong += compare_latency(tables["latency"], slow)
    rules_fast, rules_slow = by(tables["rules"], "path", "rule"), by(slow.rules, "path", "rule")
    wrong += [f"rule {key}: only one has it" for key in rules_fast.keys() ^ rules_slow.keys()]
    for key in rules_fast.keys() & rules_slow.keys():
        # The reference knows no counters: where they disagree with what was matched, the fast one is cautious.
        told = rules_fast[key]["counter_packets"]
        cautious = rules_fast[key]["status"] == "undetermined" and told not in (None, rules_fast[key]["matched"])
        wrong += differences(f"rule {key}", rules_fast[key], rules_slow[key], {"status"} if cautious else None)
    return tables, wrong


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, tmp_path: Path) -> None:
    """The fast analyser agrees with the reference, and both with the truth."""
    truth = generate(SCENARIOS[name], tmp_path / "run")
    tables, wrong = compare(tmp_path / "run")
    told = disagreements(truth, tables["observations"], tables["trajectories"], tables["stages"])
    assert "\n".join(told[:15]) == ""
    assert "\n".join(wrong[:15]) == ""


@pytest.mark.parametrize("seed", range(4))
def test_bad_day(seed: int, tmp_path: Path) -> None:
    """Much at once."""
    options = Options(
        seed=500 + seed,
        packets=250,
        loss={("ingress", 1): 0.03, ("ingress", 2): 0.05, ("ingress", 4): 0.05, ("egress", 1): 0.05},
        duplicates={("ingress", 0): 0.05, ("egress", 2): 0.05},
        faults={"false_punt": 0.05, "false_forward": 0.05, "missed_drop": 0.1},
        identical=20,
        identical_lost={("ingress", 2): 2},
        reordered=0.05,
        fragmented=3,
        absorbed=5,
        looped=5,
        injected=2,
        changes=True,
        noise=4,
        unsorted=True,
    )
    generate(options, tmp_path / "run")
    _, wrong = compare(tmp_path / "run")
    assert "\n".join(wrong[:15]) == ""


def test_recorded_run(tmp_path: Path) -> None:
    """They agree on the recording in the repository as well (on a copy: no results are left in it)."""
    fixture = Path(__file__).parents[1] / "fixtures" / "service-chain"
    if not (fixture / "run.toml").exists():
        pytest.skip("the fixture is not there")
    shutil.copytree(fixture, tmp_path / "run", ignore=shutil.ignore_patterns("results", "truth.*"))
    _, wrong = compare(tmp_path / "run")
    assert "\n".join(wrong[:15]) == ""
