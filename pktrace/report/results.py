"""Writes results/: Parquet tables, summary.json and plots, all of an analysis or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pktrace import schema
from pktrace.analysis.analysis import Analysis
from pktrace.analysis.summary import summary_json
from pktrace.analysis.tables import all_tables
from pktrace.errors import OutputError
from pktrace.report.exchange import PLOT_FOLDER, SUMMARY, ResultsFolder
from pktrace.report.whole import whole_file
from pktrace.version import __version__
from pktrace.visible import distinct

_ROW_GROUP = 1 << 19
# A dictionary of values that hardly repeat would only be overhead; sorted times have small differences.
_PLAIN = {"digest", "tcp_seq", "tcp_ack", "ip_id", "icmp_seq", "tcp_tsval", "tcp_tsecr", "packet_id", "sequence"}
_DELTA = {"ts_ns", "first_ns", "frame", "byte_offset", "trajectory"}


def write_results(
    analysis: Analysis,
    into: ResultsFolder,
    summary: dict[str, Any],
    figures: Callable[[Callable[[str], BinaryIO]], list[str]] | None = None,
) -> list[Path]:
    """Write all results of an analysis, and put them in the place of the results before.

    Args:
        into: the results folder, locked since before the analysis began.
        figures: writes the plots to the files that its argument makes by name, and returns their names; None for none.

    Returns:
        The files written.

    Raises:
        OutputError: the folder cannot be written or the disk is full; the results before are as they were.
    """
    metadata = metadata_of(analysis)
    written = []
    with into.fresh() as create:
        for name, table in all_tables(analysis).items():
            with create(f"{name}.parquet") as file:
                write_parquet(table, file, metadata)
            written.append(f"{name}.parquet")
        if figures is not None:
            written += figures(lambda name: create(f"{PLOT_FOLDER}/{name}"))
        with create(SUMMARY) as file:
            file.write(summary_json(summary).encode())
        written.append(SUMMARY)
    return [into.path / name for name in written]


def write_observations(
    tables: Iterable[pa.Table], path: Path, metadata: Callable[[], dict[str, str]], with_details: bool = False
) -> None:
    """Write observation tables as one file, each as a row group as it comes, whole or not at all.

    Args:
        metadata: asked when all tables have come; with_details: the tables have the columns of schema.DETAILS.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with whole_file(path) as file:
            columns = schema.OBSERVATIONS.with_columns(schema.DETAILS if with_details else ()).arrow_schema()
            with pq.ParquetWriter(file, columns, **_parquet_options(columns.names)) as writer:
                for table in tables:
                    writer.write_table(table, row_group_size=_ROW_GROUP)
                writer.add_key_value_metadata(metadata())
    except OSError as problem:
        raise OutputError(f"{path}: cannot write: {problem.strerror or 'is there such a folder?'}") from None


def metadata_of(analysis: Analysis) -> dict[str, str]:
    """Key-value metadata of every file of an analysis: versions, the run, and the hashes of every file that went in."""
    inputs = analysis.inputs
    found = input_metadata(list(inputs), list(inputs.values()))
    found["pktrace.digest_payload_bytes"] = str(analysis.observations.digest_payload_bytes)
    found["pktrace.run"] = analysis.run.name
    return found


def input_metadata(names: Sequence[str], sha256: Sequence[str]) -> dict[str, str]:
    """Key-value metadata that every file has: versions, and the hashes of the inputs."""
    found = {"pktrace.schema_version": str(schema.SCHEMA_VERSION), "pktrace.version": __version__}
    for name, digest in zip(names, sha256, strict=True):
        if not digest:
            continue  # the file could not be read
        found[f"pktrace.input.sha256:{distinct(name)}"] = digest
    return found


def write_parquet(table: pa.Table, file: Path | BinaryIO, metadata: dict[str, str]) -> None:
    """Write one Parquet file: zstd, the same bytes for the same table."""
    table = table.replace_schema_metadata({key: value.encode() for key, value in metadata.items()})
    pq.write_table(table, file, row_group_size=_ROW_GROUP, **_parquet_options(table.column_names))


def _parquet_options(names: Sequence[str]) -> dict[str, Any]:
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in names if name not in _PLAIN and name not in _DELTA],
        "column_encoding": {name: "DELTA_BINARY_PACKED" for name in names if name in _DELTA} or None,
        "write_page_index": True,
        "store_schema": True,
    }
