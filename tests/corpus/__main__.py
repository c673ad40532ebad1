"""Command line of the comparison: `python -m tests.corpus FOLDER`. Exit code 1 if anything unexplained differs."""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tomllib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.corpus.compare import Outcome, compare_file
from tests.corpus.more import compressed_alike, make
from tests.corpus.tshark import profile, use_profile

EXCEPTIONS = Path(__file__).with_name("exceptions.toml")


def main() -> int:
    """Compare all files below the folders and print what differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("folder", nargs="+", type=Path, help="folders (or files) to compare")
    parser.add_argument("--more", action="store_true", help="generate further captures from them and compare those")
    parser.add_argument("--keep", type=Path, help="write generated captures into this folder and leave them there")
    parser.add_argument("--limit", type=int, default=5, help="differences shown per file (default 5)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    arguments = parser.parse_args()
    found = [(path, folder) for folder in arguments.folder for path in files_below(folder)]
    pool = ProcessPoolExecutor(arguments.jobs, initializer=use_profile, initargs=(profile(),))
    with pool, TemporaryDirectory(prefix="pktrace-corpus-") as temporary:
        outcomes = []
        if arguments.more:
            folder = arguments.keep or Path(temporary)
            captures = [path for path, _ in found]
            found = [(path, folder) for path in make(captures, set(reasons()), folder)]
            outcomes = compressed_alike(captures, Path(temporary))
        names = [str(path.relative_to(folder.parent)) for path, folder in found]
        outcomes += pool.map(compare_file, [path for path, _ in found], names, chunksize=4)
    return report(outcomes, arguments.limit)


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, in the order of their names."""
    return [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())


def reasons() -> dict[str, str]:
    """The reason for each file that is known to differ."""
    listed: dict[str, str] = tomllib.loads(EXCEPTIONS.read_text())["file"]
    return listed


def report(outcomes: list[Outcome], limit: int) -> int:
    """Print differences and the summary; the exit code."""
    listed = reasons()
    per_field: collections.Counter[str] = collections.Counter()
    explained = failed = 0
    for outcome in outcomes:
        if not outcome.differences:
            continue
        per_field.update(difference.name for difference in outcome.differences)
        reason = listed.get(os.path.basename(outcome.path))
        explained += reason is not None
        failed += reason is None
        print(f"{outcome.path}: {len(outcome.differences)} differences" + (f" (listed: {reason})" if reason else ""))
        for difference in outcome.differences[: 0 if reason else limit]:
            print(f"    {difference}")
    packets = sum(outcome.packets for outcome in outcomes)
    equal = len(outcomes) - explained - failed
    print(f"{len(outcomes)} files, {packets} packets: {equal} equal, {explained} listed, {failed} different")
    for name, count in per_field.most_common():
        print(f"    {name}: {count}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
