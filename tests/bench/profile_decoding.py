"""Where the time goes when a capture becomes rows, and rows become a table.

    python tests/bench/profile_decoding.py FILE [--rounds 5]

Processor time of one thread, per step and packet; the least of the rounds, after one that is not counted. FILE is any
capture, for example one made by tests/bench/traffic.py.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pktrace.capture.files import CaptureReader
from pktrace.decode.digest import UNBOUNDED, digest_again
from pktrace.decode.identity import secret
from pktrace.errors import PktraceError
from pktrace.ledger import Ledger
from pktrace.observations.decoded import InterfaceCounts, count_rows, decode_file, digest_comparably
from pktrace.observations.observe import interface_names, observe_files
from pktrace.observations.stream import RowReader, row_batches
from pktrace.observations.table import rows_table
from pktrace.observations.tunnels import tunnel_texts
from pktrace.wire import PACKET


class Steps:
    """Seconds per step, summed up over a file."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def call(self, step: str, work: Callable[..., Any], *arguments: Any) -> Any:
        begin = time.thread_time()
        result = work(*arguments)
        self.seconds[step] = self.seconds.get(step, 0.0) + time.thread_time() - begin
        return result


def index(steps: Steps, path: str) -> None:
    """Reading and the packet index, without decoding."""
    reader = CaptureReader(path, path)
    reader._fill = lambda fill=reader._fill: steps.call("read", fill)
    steps.call("read and index", lambda: sum(len(batch.packets) for batch in reader.batches()))


def decode(steps: Steps, path: str) -> int:
    """Reading, index, decoding with digest; then what of it the digest takes, and clearing the rows beforehand."""
    steps.call("read, index, decode", lambda: sum(len(batch.rows) for batch in row_batches(path)))
    count = 0
    for batch in row_batches(path):
        count += len(batch.rows)
        kept = np.full(len(batch.rows), UNBOUNDED)
        steps.call("digest once more", digest_again, batch.data, batch.base, batch.rows, kept, secret())
        steps.call("clear rows", lambda rows=batch.rows: rows.view(np.uint8).fill(0))
    return count


def keep(steps: Steps, path: str) -> None:
    """All rows in memory, step by step as `observe_files` does it."""
    file = steps.call("decode_file", decode_file, path, path)
    steps.call("  of it sha256", lambda: hashlib.sha256(Path(path).read_bytes()))
    counts = InterfaceCounts()
    packets = np.zeros(len(file.rows), PACKET)
    steps.call("  of it packets per interface", counts.add, packets, len(file.interfaces))
    steps.call("count_rows", count_rows, path, file.rows, [i.link_type for i in file.interfaces], None, Ledger())
    steps.call("digest_comparably", digest_comparably, [file], [(0, file.rows)])
    steps.call("np.concatenate of one file", np.concatenate, [file.rows])
    steps.call("the same, rows as bytes", np.concatenate, [file.rows.view(np.dtype((np.void, file.rows.itemsize)))])


def whole(steps: Steps, path: str) -> None:
    steps.call("observe_files, this thread", observe_files, [path])


def tables(steps: Steps, path: str) -> None:
    """Tables as `pktrace observe` makes them, and Parquet."""
    import pyarrow.parquet as parquet

    reader = RowReader(path, path)
    with tempfile.TemporaryDirectory() as folder:
        writer = None
        room = []
        for batch in reader.batches():
            room.append(batch.rows.copy())
            if sum(map(len, room)) < 1 << 17:
                continue
            writer = table(steps, reader, np.concatenate(room), writer, Path(folder) / "t.parquet", parquet)
            room = []
        if room:
            writer = table(steps, reader, np.concatenate(room), writer, Path(folder) / "t.parquet", parquet)
        if writer:
            steps.call("write Parquet", writer.close)


def table(steps: Steps, reader: RowReader, rows: Any, writer: Any, path: Path, parquet: Any) -> Any:
    names: dict[str, int] = {}
    rows["point"] = interface_names(reader.capture.interfaces, names)[rows["interface"]]
    rows["capture"] = 0
    steps.call("np.unique of tunnels", lambda: np.unique(rows["tunnel"], return_inverse=True))
    made = steps.call(
        "rows_table", rows_table, rows, tuple(names), (reader.capture.name,), tuple(tunnel_texts(reader.tunnels))
    )
    writer = writer or parquet.ParquetWriter(path, made.schema, compression="zstd")
    steps.call("write Parquet", writer.write_table, made)
    return writer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    best: dict[str, float] = {}
    try:
        for number in range(options.rounds + 1):
            steps = Steps()
            index(steps, options.file)
            packets = decode(steps, options.file)
            keep(steps, options.file)
            whole(steps, options.file)
            tables(steps, options.file)
            if number:
                best = {step: min(best.get(step, seconds), seconds) for step, seconds in steps.seconds.items()}
    except PktraceError as problem:
        raise SystemExit(str(problem)) from None
    print(f"{options.file}: {packets:,} packets, least processor time of {options.rounds} rounds")
    for step, seconds in best.items():
        print(f"  {step:32} {seconds:8.3f} s {seconds / max(1, packets) * 1e9:8.1f} ns a packet")


if __name__ == "__main__":
    main()
