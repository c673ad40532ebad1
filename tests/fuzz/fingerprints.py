"""What this build of the kernels makes of the small captures: `python -m tests.fuzz.fingerprints FOLDER [EACH]`.

Prints a JSON object: for each capture, and EACH cuts and EACH flipped bytes of it, hashes of the Arrow IPC bytes of its
table with the ledger, of the table with details, and of what rows do not keep, or the error. The same files must give
the same object compiled, uncompiled (NUMBA_DISABLE_JIT=1) and with checks of every index (NUMBA_BOUNDSCHECK=1).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pktrace.decode.identity import _use_key_of
from pktrace.observations.changeable import changeable_of
from tests.fuzz.damage import flipped, flips, sample
from tests.fuzz.outcome import Reader
from tests.kit.small_captures import CAPTURES


def cases(each: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of every case."""
    for name in CAPTURES:
        content = CAPTURES[name]
        yield name, content
        for length in sample(f"cut {name}", len(content), each):
            yield f"{name}, cut to {length}", content[:length]
        for position, mask in flips(f"flip {name}", len(content), each):
            yield f"{name}, byte {position} ^ {mask:#04x}", flipped(content, position, mask)


def _hash(table: pa.Table, words: str = "") -> str:
    table = table.drop_columns(["capture"]) if table.num_columns else table
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return hashlib.sha256(bytes(sink.getvalue()) + words.encode()).hexdigest()


def fingerprint(reader: Reader, content: bytes) -> str:
    """Hashes of the two tables and the ledger, or the error's words without the name of the file."""
    outcome = reader.read(content)
    if outcome.observations is None:
        return str(outcome.error).replace(str(reader.path), "FILE")
    counts = "".join(f"{counter.name} {count}\n" for counter, *_, count in outcome.observations.ledger.rows())
    unkept = hashlib.sha256(changeable_of(outcome.observations).tobytes()).hexdigest()
    return f"{_hash(outcome.table, counts)} {_hash(reader.read_as_stream(content))} {unkept}"


def main(folder: Path, each: int) -> None:
    """Print the fingerprints of all cases."""
    _use_key_of(0)  # hashes are compared between processes
    reader = Reader(folder)
    found = {}
    for name, content in cases(each):
        try:
            found[name] = fingerprint(reader, content)
        except Exception as problem:  # noqa: BLE001 - which ones there are is the question
            found[name] = f"fault: {type(problem).__name__}: {problem}"
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
