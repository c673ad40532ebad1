"""The program's output that README.md shows: `python -m tests.kit.shown_output README.md` writes it anew.

A block is shown output if a comment stands above it that names the command and, optionally, the lines kept:

    <!-- shown: pktrace rules fixtures/service-chain | lines 1-8 -->
    ```text
    ...
    ```

Output has 100 columns and no colours. What an analysis prints depends on the recorded run alone, so that the blocks
can be compared with a new run of the program (tests/test_docs.py).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SHOWN = re.compile(
    r"<!-- shown: (?P<command>[^|\n]+?)(?: \| lines (?P<first>\d+)-(?P<last>\d+))? -->\n```text\n.*?^```$",
    re.DOTALL | re.MULTILINE,
)


def output_of(command: str) -> str:
    """What a command of `pktrace` prints on stdout."""
    program, *arguments = shlex.split(command)
    assert program == "pktrace", f"{command!r}: only commands of pktrace can be shown"
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    found = subprocess.run(
        [sys.executable, "-m", "pktrace", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=environment,
    )
    return found.stdout


def with_new_output(text: str, run: Callable[[str], str] = output_of) -> str:
    """The text with every shown block replaced by what its command prints now."""

    def block(match: re.Match[str]) -> str:
        command = match["command"]
        lines = [line.rstrip() for line in run(command).rstrip("\n").split("\n")]
        kept = lines
        if match["first"]:
            first, last = int(match["first"]), int(match["last"])
            kept = ["..."] * (first > 1) + lines[first - 1 : last] + ["..."] * (last < len(lines))
        comment = match[0].split("\n", 1)[0]
        return "\n".join([comment, "```text", f"$ {command}", *kept, "```"])

    return _SHOWN.sub(block, text)


def main() -> None:
    """Rewrite the files that the command line names."""
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(with_new_output(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
