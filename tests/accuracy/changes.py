"""What an analysis says of changed, split and merged packets, held against the truth: everything has to be equal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

_CHANGE = ["path", "stage", "kind", "from", "to"]
_RANGE = ["packet", "point", "frame", "first_byte", "last_byte"]


@dataclass(frozen=True)
class Changes:
    """Tables of changes and ranges: those of the truth, and those of an analysis (design 6)."""

    true_changes: pl.DataFrame
    true_ranges: pl.DataFrame
    changes: pl.DataFrame
    ranges: pl.DataFrame


def read_true_changes(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The changes and ranges of a generated run."""
    return pl.read_parquet(folder / "truth_transforms.parquet"), pl.read_parquet(folder / "truth_ranges.parquet")


def wrong_kinds(truth: pl.DataFrame, said: pl.DataFrame, matched: pl.DataFrame) -> int:
    """Packets of which other kinds of changes are told than there were, or in other order.

    Args:
        matched: `packet` and `trajectory` of packets that were followed rightly; truth, said: with `transforms`.
    """
    both = matched.join(truth.select("packet", "transforms"), on="packet").join(
        said.select("trajectory", pl.col("transforms").alias("told")), on="trajectory"
    )
    return len(both.filter(pl.col("transforms").list.join("\n") != pl.col("told").list.join("\n")))


def wrong_changes(tables: Changes, undecidable: int) -> list[str]:
    """Rows of transforms.parquet that are not as in the truth, as text.

    Args:
        undecidable: packets that cannot be told apart. So many may have been taken for others, with other values; how
            many there were of a kind has to be right.
    """
    columns = [pl.col("path", "kind", "from", "to").cast(pl.String), pl.col("stage", "packets").cast(pl.Int64)]
    true, told = (table.select(columns) for table in (tables.true_changes, tables.changes))
    both = true.join(told, on=_CHANGE, how="full", coalesce=True, nulls_equal=True, suffix="_told")
    differ = pl.col("packets").fill_null(0) - pl.col("packets_told").fill_null(0)
    too_many = differ.abs().sum().over("path", "stage", "kind") > 2 * undecidable
    wrong = both.filter((differ != 0) & (too_many | (differ.sum().over("path", "stage", "kind") != 0))).sort(_CHANGE)
    return [
        f"{path} stage {stage} {kind} {before} to {behind}: {packets or 0}, said {told or 0}"
        for path, stage, kind, before, behind, packets, told in wrong.select(*_CHANGE, "packets", "packets_told").rows()
    ]


def wrong_ranges(tables: Changes, matched: pl.DataFrame) -> int:
    """Ranges of packets that were followed rightly that are missing or too many."""
    some = matched.select(pl.col("packet", "trajectory").cast(pl.Int64))
    true = tables.true_ranges.cast({"point": pl.String}).join(some, on="packet", how="semi").select(_RANGE)
    told = tables.ranges.cast({"point": pl.String}).join(some, on="trajectory").select(_RANGE)
    kinds = dict.fromkeys(("packet", "frame", "first_byte", "last_byte"), pl.Int64)
    true, told = true.cast(kinds), told.cast(kinds)  # type: ignore[arg-type]
    return len(true.join(told, on=_RANGE, how="anti")) + len(told.join(true, on=_RANGE, how="anti"))
