"""Reads one content as a capture file and checks what must be true of any result, whatever the bytes are."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from pktrace import inputs
from pktrace.errors import CaptureFileError
from pktrace.observations.export import ObservationStream
from pktrace.observations.observe import Observations, observe_files
from pktrace.observations.table import observations_table
from tests.kit.pcap_files import Record, pcap_bytes

LARGEST_PACKET = 262_144
# No small file may keep the reader busy for longer; processor time, so that a busy machine changes nothing.
LONGEST_SECONDS = 5.0
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
_PER_PACKET = (
    "unknown_link_type",
    "not_ip",
    "malformed_ip",
    "cut_header",
    "no_timestamp",
    "timestamp_out_of_range",
    "unknown_interface",
)


@dataclass(frozen=True)
class Outcome:
    """A table with what came with it, or the error that was raised."""

    observations: Observations | None
    table: pa.Table | None
    error: CaptureFileError | None

    @property
    def frames(self) -> int:
        """How many packets were found."""
        return 0 if self.table is None else int(self.table.num_rows)

    def counted(self, counter: str) -> int:
        """A count of the ledger."""
        return 0 if self.observations is None else self.observations.ledger.total(counter)


# Nothing changes these files while they are read: a fresh one is not waited for until a further change would show.
_at_once = mock.patch.object(inputs, "_TICK_NS", 0)
_compiled: set[bool] = set()


def _compile(path: Path) -> None:
    """Kernels are compiled at first use, which the bound on the time does not cover."""
    if _compiled:
        return
    _compiled.add(True)
    path.write_bytes(pcap_bytes([Record(1, bytes(60))]))
    observations_table(observe_files([str(path)]))


class Reader:
    """Reads contents, one after the other, through one file in memory; the last content stays there after a crash."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            memory = Path("/dev/shm")
            self._own = tempfile.TemporaryDirectory(prefix="pktrace-", dir=memory if memory.is_dir() else None)
            folder = Path(self._own.name)
        self.path = folder / "case"
        _compile(self.path)

    @_at_once
    def read(self, content: bytes) -> Outcome:
        """The outcome, checked; any exception but CaptureFileError is passed on, and is a fault."""
        self.path.write_bytes(content)
        began = time.process_time()
        try:
            observations = observe_files([str(self.path)])
        except CaptureFileError as problem:
            outcome = Outcome(None, None, problem)
        else:
            outcome = Outcome(observations, observations_table(observations), None)
        assert time.process_time() - began < LONGEST_SECONDS, "reading takes too long"
        if outcome.observations is not None:
            _check(content, outcome.observations, outcome.table)
        else:
            assert str(self.path) in str(outcome.error), "an error names the file"
            assert "\n" not in str(outcome.error), "an error is one line"
        return outcome

    @_at_once
    def read_as_stream(self, content: bytes) -> Any:
        """The table that `pktrace observe --details` writes; None where it raises CaptureFileError."""
        self.path.write_bytes(content)
        stream = ObservationStream([str(self.path)], with_details=True)
        try:
            tables = list(stream.tables())
        except CaptureFileError:
            return None
        table = pa.concat_tables(tables).unify_dictionaries().combine_chunks() if tables else pa.table({})
        table.validate(full=True)
        assert stream.packets == table.num_rows
        return table


def _check(content: bytes, observations: Observations, table: Any) -> None:
    rows = observations.rows
    count = len(rows)
    table.validate(full=True)
    assert table.num_rows == count
    # Wireshark counts some blocks without packets, too, so numbers may be left out.
    assert (np.diff(rows["frame"], prepend=0) >= 1).all()
    captured = rows["captured_length"].astype(np.int64)
    first, last = rows["byte_offset"], rows["byte_offset"] + captured
    assert (first >= 0).all()
    assert (captured <= LARGEST_PACKET).all(), "a packet is larger than any packet may be"
    assert (first[1:] >= last[:-1]).all(), "packets overlap"
    if count and not content.startswith(COMPRESSED):
        assert last[-1] <= len(content), "a packet reaches beyond the file"
    ledger = observations.ledger
    damage = ledger.total("capture_cut") + ledger.total("capture_corrupt")
    assert damage <= 1
    assert observations.damaged == (damage > 0)
    for counter in _PER_PACKET:
        assert 0 <= ledger.total(counter) <= count, counter


def _values(column: Any) -> Any:
    """A column without its dictionary, which depends on the addresses of the whole file."""
    column = column.combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def same_rows(one: Any, other: Any, count: int) -> str | None:
    """The first column in which the first `count` rows of two tables differ, None if none does; the digest is left
    out: it depends on how many bytes all packets of the file kept."""
    for name in one.column_names if count else []:
        if name != "digest":
            mine, yours = (_values(table.column(name).slice(0, count)) for table in (one, other))
            if not mine.equals(yours):
                return str(name)
    return None
