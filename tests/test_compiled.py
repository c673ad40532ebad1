"""Compiled kernels: what is compiled ahead is what an analysis calls."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from pktrace.compiled import kernel_sources
from tests.conftest import ROOT, SERVICE_CHAIN

_PROGRAM = """
import sys
from pktrace.cli.narration import analysis_of
analysis_of(sys.argv[1]).transforms
from pktrace.decode.changeable import read_changeable
from pktrace.decode.equal_kernel import add_column, find_wanted, number_values
from pktrace.trajectories.placing.unique import place_in_order, settle_unclear
from pktrace.trajectories.grouping_kernel import count_before, number_keys, put_in_groups
from pktrace.trajectories.placing.repeated import follow_repeated
from pktrace.trajectories.outcome.changes_kernel import compare_sightings, count_distinct
from pktrace.verdicts.judge import judge_packets
changes = (read_changeable, compare_sightings, count_distinct)
equal = (number_keys, number_values, find_wanted, add_column, put_in_groups, count_before)
kernels = (*equal, place_in_order, settle_unclear, follow_repeated, *changes, judge_packets)
print([kernel.__name__ for kernel in kernels if kernel.stats.cache_misses])
"""


def test_kernels_that_are_compiled_ahead_have_the_types_of_an_analysis(tmp_path: Path) -> None:
    """Else the first run compiles them twice, and the second one once more."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    for module in ("pktrace.trajectories.precompile", "pktrace.verdicts.precompile"):
        program = f"import {module} as ahead; ahead.compile_kernels()"
        subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=ROOT, timeout=120)
    told = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(SERVICE_CHAIN)],
        check=True, env=environment, cwd=ROOT, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.strip() == "[]"


def test_the_cache_knows_every_module_that_a_kernel_depends_on() -> None:
    """'Kernels stand in flat folders': one in a sub-folder, or a number from outside, came from a stale cache."""
    known = {source.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for source in kernel_sources()}
    needed = set()
    for path in (ROOT / "pktrace").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [name.id for name in ast.walk(tree) if isinstance(name, ast.Name)]
        if {"kernel", "inlined", "unfolded"} & set(names):
            needed.add(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."))
            imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
            needed |= {node.module or "" for node in imports if (node.module or "").startswith("pktrace.")}
    modules = {name for name in needed if (ROOT / name.replace(".", "/")).with_suffix(".py").is_file()}
    assert modules - known == {"pktrace.compiled"}
