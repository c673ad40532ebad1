"""Ask the analyzer, before a recording begins, if it would accept the ``run.toml`` of that recording.

Recorder and analyzer meet only on disk, so a separate process reads a draft of the run folder with the analyzer. A
machine that only records may have no analyzer. The check is left out there.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .processes import CannotStart

_TIMEOUT_S = 30.0
_NO_ANALYZER = 99
_QUESTION = f"""
import sys
sys.path.append(sys.argv[2])
try:
    from pktrace.errors import PktraceError
    from pktrace.run.runfile import load_run
except ImportError:
    sys.exit({_NO_ANALYZER})
try:
    load_run(sys.argv[1])
except PktraceError as problem:
    sys.exit(str(problem))
"""


def check_with_analyzer(text: str, captures: Sequence[str]) -> None:
    """Raise CannotStart with the analyzer's message if it refuses ``text`` with these files in ``captures/``."""
    try:
        with tempfile.TemporaryDirectory(prefix="pktrace-draft-") as scratch:
            draft = Path(scratch)
            (draft / "captures").mkdir()
            for name in captures:
                (draft / "captures" / name).touch()
            (draft / "run.toml").write_text(text, encoding="utf-8")
            asked = subprocess.run(
                [sys.executable, "-I", "-c", _QUESTION, scratch, str(Path(__file__).resolve().parent.parent)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_S,
                check=False,
            )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise CannotStart(f"the run file of this recording could not be checked: {error}") from error
    if asked.returncode not in (0, _NO_ANALYZER):
        said = (asked.stderr.strip().splitlines() or ["no message"])[-1].replace(f"{scratch}/", "")
        raise CannotStart(f"pktrace would refuse this recording: {said}")
