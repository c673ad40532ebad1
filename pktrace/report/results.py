"""Writes results/: Parquet tables, summary.json and plots, each under its final name only when it is whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pktrace import memory, schema
from pktrace.errors import OutputError
from pktrace.findings.analysis import Analysis
from pktrace.findings.summary import summary_json
from pktrace.findings.tables import all_tables
from pktrace.observations.observe import Observations
from pktrace.version import __version__
from pktrace.visible import distinct

_PARTIAL = ".partial"
PLOTS = ("ecdf.svg", "ecdf.png", "waterfall.svg", "waterfall.png")
_ROW_GROUP = 1 << 19
# Where values hardly repeat, a dictionary of them would only be overhead; sorted times have small differences.
_PLAIN = {"digest", "tcp_seq", "tcp_ack", "ip_id", "icmp_seq", "tcp_tsval", "tcp_tsecr", "packet_id", "sequence"}
_DELTA = {"ts_ns", "first_ns", "frame", "byte_offset", "trajectory"}


def write_results(
    analysis: Analysis, folder: Path, summary: dict[str, Any], figures: Callable[[Path], list[Path]] | None = None
) -> list[Path]:
    """Write all results of an analysis.

    Args:
        folder: made if missing; existing files of the same names are replaced one by one.
        figures: writes the plots into a folder and returns their paths; None for no plots.

    Returns:
        The files written.

    Raises:
        OutputError: the folder cannot be written or the disk is full; no half-written file is left under its name.
    """
    written = []
    metadata = metadata_of(analysis.observations)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Written last: where it is, all of an analysis is there, and nothing of an earlier one.
        (folder / "summary.json").unlink(missing_ok=True)
        for name in PLOTS:
            (folder / "plots" / name).unlink(missing_ok=True)
        for name, table in all_tables(analysis).items():
            with _whole(folder / f"{name}.parquet") as partial:
                write_parquet(table, partial, metadata)
            written.append(folder / f"{name}.parquet")
        if figures is not None:
            (folder / "plots").mkdir(exist_ok=True)
            written.extend(figures(folder / "plots"))
        elif (folder / "plots").is_dir() and not any((folder / "plots").iterdir()):
            (folder / "plots").rmdir()
        with _whole(folder / "summary.json") as partial:
            partial.write_text(summary_json(summary), encoding="utf-8")
        written.append(folder / "summary.json")
    except OSError as problem:
        raise OutputError(
            f"{problem.filename or folder}: cannot write results: {problem.strerror or problem}"
        ) from None
    return written


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
        with _whole(path) as partial:
            columns = schema.OBSERVATIONS.with_columns(schema.DETAILS if with_details else ()).arrow_schema()
            # Through an open file: Arrow takes names of files as UTF-8 only.
            with (
                open(partial, "wb") as file,
                pq.ParquetWriter(file, columns, **_parquet_options(columns.names)) as writer,
            ):
                for table in tables:
                    writer.write_table(table, row_group_size=_ROW_GROUP)
                writer.add_key_value_metadata(metadata())
    except OSError as problem:
        raise OutputError(f"{path}: cannot write: {problem.strerror or 'is there such a folder?'}") from None


def metadata_of(observations: Observations) -> dict[str, str]:
    """Key-value metadata of every file of an analysis: versions, the run, and the hashes of what went in."""
    found = input_metadata(observations.captures, observations.sha256)
    found["pktrace.digest_payload_bytes"] = str(observations.digest_payload_bytes)
    if observations.run is not None:
        found["pktrace.run"] = observations.run.name
        found["pktrace.input.sha256:run.toml"] = observations.run.run_toml_sha256
    return found


def input_metadata(captures: Sequence[str], sha256: Sequence[str]) -> dict[str, str]:
    """Key-value metadata that every file has: versions, and the hashes of the captures."""
    found = {"pktrace.schema_version": str(schema.SCHEMA_VERSION), "pktrace.version": __version__}
    for name, digest in zip(captures, sha256, strict=True):
        if not digest:
            continue  # the file could not be read
        found[f"pktrace.input.sha256:{distinct(name)}"] = digest
    return found


def write_parquet(table: pa.Table, path: Path, metadata: dict[str, str]) -> None:
    """Write one Parquet file: zstd, the same bytes for the same table."""
    table = table.replace_schema_metadata({key: value.encode() for key, value in metadata.items()})
    with open(path, "wb") as file:  # Arrow takes names of files as UTF-8 only
        pq.write_table(table, file, row_group_size=_ROW_GROUP, **_parquet_options(table.column_names))


def _parquet_options(names: Sequence[str]) -> dict[str, Any]:
    return {
        "compression": "zstd",
        "use_dictionary": [name for name in names if name not in _PLAIN and name not in _DELTA],
        "column_encoding": {name: "DELTA_BINARY_PACKED" for name in names if name in _DELTA} or None,
        "write_page_index": True,
        "store_schema": True,
    }


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write to; renamed to `path` when all went well, removed otherwise.

    Raises:
        OutputError: there is something that is no file, such as a device, which a rename would replace.
    """
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is no file; results replace files only")
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        with memory.unfinished(partial):
            yield partial
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
