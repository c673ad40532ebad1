"""Holds the results of a recorded run against its truth; the same checks for the fixture and for fresh recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl

# What identifies a marked packet in the tables (fixtures/service-chain/README.md); nulls are equal to nulls.
_KEY = ["source", "destination", "protocol", "sport", "dport", "ip_id", "icmp_type", "icmp_seq", "tcp_seq"]


def followed(results: Path) -> pl.DataFrame:
    """Trajectories with the ICMP and TCP fields of their first sighting."""
    trajectories = pl.read_parquet(results / "trajectories.parquet")
    first = (
        pl.read_parquet(results / "observations.parquet")
        .drop_nulls("trajectory")
        .sort("trajectory", "ts_ns", "point", "frame")
        .unique("trajectory", keep="first", maintain_order=True)
        .select("trajectory", "icmp_type", "icmp_id", "icmp_seq", "tcp_seq", "ip_version")
    )
    # The truth has identifiers of echo messages only; timestamp requests have them too.
    echo = pl.col("icmp_type").is_in([0, 8, 128, 129])
    first = first.with_columns(pl.when(echo).then(pl.col(name)).alias(name) for name in ("icmp_id", "icmp_seq"))
    frame = trajectories.join(first, on="trajectory", how="left")
    return frame.with_columns(pl.col(pl.Categorical).cast(pl.String))


def marked(run: Path, results: Path) -> pl.DataFrame:
    """Each marked packet of the truth beside the trajectory that it became."""
    truth = pl.read_parquet(run / "truth.parquet").with_columns(pl.col(pl.Categorical).cast(pl.String))
    both = followed(results)
    keyed = truth.with_columns(pl.col(name).cast(both.schema[name]) for name in _KEY)
    joined = keyed.join(both, on=_KEY, how="left", nulls_equal=True, suffix="_found", maintain_order="left")
    assert joined.height == truth.height, "a marked packet fits several trajectories, or the key is not unique"
    return joined


def check_marked(run: Path, results: Path) -> None:
    """Every marked packet has the path, rule, expected action, fate and lost stage that its truth says."""
    joined = marked(run, results)
    assert joined.height > 1000
    missing = joined.filter(pl.col("trajectory").is_null())
    assert missing.is_empty(), missing.head(5)
    for name in ("path", "rule", "expected_action", "fate", "lost_stage"):
        wrong = joined.filter(~pl.col(name).eq_missing(pl.col(f"{name}_found")))
        assert wrong.is_empty(), (name, wrong.select("marker", name, f"{name}_found", "trajectory").head(5))


def check_kernel_tcp(run: Path, results: Path) -> None:
    """Kernel TCP lost exactly what the drop counters counted, in their stage, and nothing elsewhere."""
    truth = json.loads((run / "truth.json").read_text())
    lost = unmarked(run, results).filter(pl.col("fate") == "lost", pl.col("protocol") == 6)
    found = {
        (row["path"], row["lost_stage"]): row["len"] for row in lost.group_by("path", "lost_stage").len().to_dicts()
    }
    wanted = {
        (entry["path"], entry["stage"]): entry["packets"] for entry in truth["kernel_tcp"]["lost"] if entry["packets"]
    }
    assert found == wanted


def check_no_invented_loss(run: Path, results: Path) -> None:
    """Every packet reported lost is a planned or a counted one; nothing is undetermined or ambiguous."""
    truth = json.loads((run / "truth.json").read_text())
    planned = pl.read_parquet(run / "truth.parquet").filter(pl.col("fate") == "lost").height
    counted = sum(entry["packets"] for entry in truth["kernel_tcp"]["lost"])
    fates = dict(followed(results).group_by("fate").len().iter_rows())
    assert fates["lost"] == planned + counted + truth["identical"]["lost"]
    assert set(fates) <= {"delivered", "lost", "dropped"}


def check_identical(run: Path, results: Path) -> None:
    """Of the identical datagrams, the number lost is exact, and they say that they cannot be told apart."""
    truth: dict[str, Any] = json.loads((run / "truth.json").read_text())["identical"]
    of_flow = [pl.col(name) == truth[name] for name in ("path", "source", "destination", "protocol", "sport", "dport")]
    same = unmarked(run, results).filter(*of_flow)  # the kernel's TCP over IPv6 sends some packets twice, too
    assert same.height == truth["sent"]
    assert (same["basis"] == "order").all()
    assert same.filter(pl.col("fate") == "lost")["lost_stage"].to_list() == [truth["lost_stage"]] * truth["lost"]
    assert (same["candidates"] == truth["sent"]).all()


def check_rule_counters(run: Path, results: Path) -> None:
    """Per rule, packets matched equal the data plane's own counter; also for those that hit no rule."""
    truth = json.loads((run / "truth.json").read_text())
    rules = pl.read_parquet(results / "rules.parquet").with_columns(pl.col(pl.Categorical).cast(pl.String))
    named = rules.filter(pl.col("rule").is_not_null())
    assert named.height >= 20
    assert named["counter_packets"].null_count() == 0
    assert named.filter(pl.col("matched") != pl.col("counter_packets")).is_empty()
    counted = {entry["rule"]: entry["packets"] for entry in truth["rules"]}
    assert counted == dict(named.select("rule", "matched").iter_rows())
    defaults = {entry["path"]: entry["packets"] for entry in truth["defaults"]}
    assert defaults == dict(rules.filter(pl.col("rule").is_null()).select("path", "matched").iter_rows())


def unmarked(run: Path, results: Path) -> pl.DataFrame:
    """Trajectories of packets that carry no marker."""
    return followed(results).filter(~pl.col("trajectory").is_in(marked(run, results)["trajectory"].implode()))


def check_all(run: Path, results: Path) -> None:
    """All of the above."""
    check_marked(run, results)
    check_kernel_tcp(run, results)
    check_identical(run, results)
    check_no_invented_loss(run, results)
    check_rule_counters(run, results)
