"""The end of a recording: the end of a command, a time, a number of packets, or Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..processes import Children, Interrupted, LabError, accept_interruptions
from .recording import Running

_POLL_S = 0.02
# Each question for counts adds a line to the tool's log, so questions become rarer while no packet arrives.
_FIRST_QUESTION_S = 0.1
_LAST_QUESTION_S = 2.0


@dataclass(frozen=True)
class Ending:
    """The conditions that end a recording; the first to hold ends it. Without any: Ctrl-C or SIGTERM."""

    command: tuple[str, ...] = ()
    duration_s: float | None = None
    count: int | None = None
    count_at: str = ""

    def wait(self, running: Running) -> None:
        """Return when the recording is to end.

        LabError when the command fails, or when a capture ends or the disk is full. With a command an interruption is
        raised; without one it is the normal end. A recording that only an interruption can end reports on stderr that
        all points record, and names Ctrl-C.
        """
        if not self.command and self.duration_s is None and self.count is None:
            print("record: all points record; Ctrl-C ends it", file=sys.stderr, flush=True)
        with Children() as children:
            command = children.start(self.command, stdout=None) if self.command else None
            try:
                self._wait(running, command)
            except Interrupted:
                if self.command:
                    raise
                accept_interruptions()
                print("record: waiting for late packets; Ctrl-C once more does not wait", file=sys.stderr, flush=True)

    def _wait(self, running: Running, command: subprocess.Popen[bytes] | None) -> None:
        end = None if self.duration_s is None else time.monotonic() + self.duration_s
        enough = self._counter(running)
        while end is None or time.monotonic() < end:
            if command is not None and command.poll() is not None:
                if command.returncode != 0:
                    raise LabError(f"the command ended with {_status(command.returncode)}: {' '.join(self.command)}")
                return
            running.check()
            if enough():
                return
            time.sleep(_POLL_S)

    def _counter(self, running: Running) -> Callable[[], bool]:
        if self.count is None:
            return lambda: False
        count = self.count
        pause, due, last = _FIRST_QUESTION_S, 0.0, -1

        def enough() -> bool:
            nonlocal pause, due, last
            if time.monotonic() < due:
                return False
            seen = running.packets(self.count_at)
            pause = _FIRST_QUESTION_S if seen > last else min(_LAST_QUESTION_S, 1.5 * pause)
            due, last = time.monotonic() + pause, seen
            return seen >= count

        return enough


def _status(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
