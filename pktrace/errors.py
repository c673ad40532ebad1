"""The errors that pktrace raises on purpose: one root, with children named after the party at fault.

Every message is one line that names the file, the place in it, and the next thing to try.
"""

from __future__ import annotations

from pktrace.visible import visible

EXIT_DONE = 0
EXIT_CRITERION_FAILED = 1
EXIT_USAGE = 2
EXIT_DAMAGED_OR_UNDECIDED = 3
EXIT_INTEGRITY = 4
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130


class PktraceError(Exception):
    """Root of all errors that pktrace raises on purpose; names from outside are shown with every character visible."""

    exit_code = EXIT_INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(visible(message))


class RunFileError(PktraceError):
    """run.toml is wrong: names the file, the key and the fix."""

    exit_code = EXIT_USAGE

    def __init__(self, path: object, key: str, problem: str) -> None:
        self.path = str(path)
        self.key = key
        where = f"{self.path}: {key}" if key else self.path
        super().__init__(f"{where}: {problem}")


class CaptureFileError(PktraceError):
    """A file is no capture, or cannot be read: names the file and the byte offset.

    Among several files it costs that file only, and the others are used, unless `costs_all` is True.
    """

    exit_code = EXIT_USAGE
    costs_all = False

    def __init__(self, path: object, offset: int | None, problem: str) -> None:
        self.path = str(path)
        self.offset = offset
        self.problem = problem
        where = self.path if offset is None else f"{self.path}: byte {offset}"
        super().__init__(f"{where}: {problem}")


class CaptureChangedError(CaptureFileError):
    """A file changed while it was analysed: it grew, was cut, replaced or written to."""

    exit_code = EXIT_DAMAGED_OR_UNDECIDED
    costs_all = True

    def __init__(self, path: object) -> None:
        super().__init__(
            path, None, "changed while it was read; wait until nothing writes to it, or analyse a copy of the run"
        )


class CallerError(PktraceError):
    """The caller asked for something that does not exist or does not fit (no such run, no such packet)."""

    exit_code = EXIT_USAGE


class OutputError(PktraceError):
    """Results cannot be written (folder not writable, disk full)."""

    exit_code = EXIT_USAGE
