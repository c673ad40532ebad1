"""How much a warm analysis takes beside the imports that it cannot do without.

    python tests/bench/start_up.py [RUN] [--pairs 9]

`pktrace analyze RUN --no-plots` against a process that only imports polars, numba and pyarrow, and with plots against
one that imports matplotlib.pyplot too. Both sides of a pair run one after the other, in turn first, so that a machine
that slows down slows both; the median over the pairs of their ratios is what counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

IMPORTS = "import polars, numba, pyarrow"
IMPORTS_WITH_PLOTS = IMPORTS + ", matplotlib.pyplot"


@dataclass(frozen=True)
class Comparison:
    """Medians over all pairs: seconds of both sides, and of their ratio."""

    analysis_s: float
    imports_s: float
    ratio: float


def seconds(command: list[str]) -> float:
    """Wall-clock time of one process, which must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)
    return time.perf_counter() - begin


def compare(analysis: list[str], imports: list[str], pairs: int) -> Comparison:
    """Run both commands `pairs` times in turn, after one run of each that is not counted."""
    seconds(analysis)  # compiles the kernels where they are not in the cache
    seconds(imports)
    measured = []
    for number in range(pairs):
        if number % 2:
            b, a = seconds(imports), seconds(analysis)
        else:
            a, b = seconds(analysis), seconds(imports)
        measured.append((a, b))
    return Comparison(
        statistics.median(a for a, _ in measured),
        statistics.median(b for _, b in measured),
        statistics.median(a / b for a, b in measured),
    )


def start_up(run: str, pairs: int) -> dict[str, Comparison]:
    """Both comparisons for one run, by what was analysed."""
    python = [sys.executable, "-c"]
    with tempfile.TemporaryDirectory() as folder:
        analyze = [sys.executable, "-m", "pktrace", "analyze", run, "-o", folder]
        return {
            "without plots": compare([*analyze, "--no-plots"], [*python, IMPORTS], pairs),
            "with plots": compare(analyze, [*python, IMPORTS_WITH_PLOTS], pairs),
        }


def main() -> None:
    """Print a line per comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", nargs="?", default="fixtures/service-chain")
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    print(f"Medians of {arguments.pairs} pairs of processes, {arguments.run}:")
    for name, found in start_up(arguments.run, arguments.pairs).items():
        print(
            f"  analyze {name}: {found.analysis_s:.3f} s, its imports alone {found.imports_s:.3f} s, "
            f"ratio {found.ratio:.2f} (wanted: at most 2)"
        )


if __name__ == "__main__":
    main()
