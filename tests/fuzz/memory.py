"""What reading each hostile file costs: `python -m tests.fuzz.memory FOLDER [NAME...]`, a process of its own.

Prints a line of JSON per file: packets or error, seconds of processor time, growth of resident memory, and the largest
sum of allocations that Python and NumPy made (which also counts memory that was asked for and never touched).
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa

from pktrace.errors import PktraceError
from pktrace.observations.observe import observe_files
from pktrace.observations.stream import row_batches
from pktrace.observations.table import observations_table
from tests.fuzz.hostile_files import EPB, FILES, IDB, SHB, HostileFile

# A reader that asks for everything fails here, and not the machine.
_ADDRESS_SPACE = 16 << 30


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def _resident_growth(path: Path, batches: bool) -> tuple[dict[str, Any], int]:
    """The result of reading, and how much the resident memory grew at most."""
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
    before = _status("VmRSS")
    result = _result(path, batches)
    return result, _status("VmHWM") - before


def _result(path: Path, batches: bool) -> dict[str, Any]:
    try:
        if batches:
            return {"packets": sum(len(batch.rows) for batch in row_batches(str(path)))}
        return {"packets": observations_table(observe_files([str(path)])).num_rows}
    except PktraceError as problem:
        return {"packets": 0, "error": str(problem)}
    except Exception as problem:  # noqa: BLE001 - which ones there are is the question
        return {"packets": 0, "foreign": f"{type(problem).__name__}: {problem}"}


def measure(path: Path, batches: bool, allocations: bool) -> dict[str, Any]:
    """Read one hostile file, and once more, more slowly, where allocations are asked for."""
    began = time.process_time()
    result, resident = _resident_growth(path, batches)
    seconds = time.process_time() - began
    allocated = 0
    if allocations:
        tracemalloc.start()
        _result(path, batches)
        allocated = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return {**result, "seconds": round(seconds, 2), "resident": resident, "allocated": allocated}


def main(folder: Path, names: list[str]) -> None:
    """Measure the named files, or all."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    path = folder / "hostile"
    for codec in (None, "gzip", "zstd", "lz4"):  # what is imported and compiled at first use is no cost of a file
        HostileFile(lambda: iter([SHB + IDB + EPB]), codec).write(path)
        for batches in (False, True):
            measure(path, batches, True)
    for name in names or FILES:
        hostile = FILES[name]
        hostile.write(path)
        for batches in (False, True) if hostile.whole_table else (True,):
            cost = measure(path, batches, allocations=not batches or not hostile.whole_table)
            print(json.dumps({"name": name, "batches": batches, **cost}), flush=True)
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
