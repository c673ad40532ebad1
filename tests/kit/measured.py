"""A command of pktrace in a process of its own: how it ended, its output, its processor time and its peak memory."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Measured:
    """`code` is negative where a signal ended the process; `output` holds stdout and stderr; `peak` is in bytes."""

    code: int
    output: str
    seconds: float
    peak: int

    def __str__(self) -> str:
        said = " | ".join(self.output.strip().splitlines()[-2:])[-300:]
        return f"exit {self.code}, {self.seconds:.1f} s, {self.peak // MEBIBYTE} MiB: {said}"


def measured(arguments: list[object], prepare: Callable[[], None] | None = None, timeout: float = 600) -> Measured:
    """Run `pktrace ARGUMENTS`; `prepare` is called in the new process before it.

    A process that takes longer than `timeout` seconds is killed, so its code is -9.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "pktrace", *map(str, arguments)],
        cwd=ROOT, preexec_fn=prepare, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        killer = threading.Timer(timeout, process.kill)
        killer.start()
        try:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            killer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
    return Measured(process.returncode, output, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


@contextlib.contextmanager
def small_container(limit: int) -> Iterator[Callable[[], None] | None]:
    """A memory cgroup below the present one, removed again; yields what a new process calls to join it.

    None where none can be made: no root, or a cgroup v2 whose parent has processes of its own.
    """
    parent = _memory_group()
    if parent is None or os.geteuid() != 0:
        yield None
        return
    folder = parent / f"pktrace-test-{os.getpid()}"
    try:
        folder.mkdir()
        kind = "memory.limit_in_bytes" if (folder / "memory.limit_in_bytes").exists() else "memory.max"
        (folder / kind).write_text(str(limit))
        swap = folder / ("memory.memsw.limit_in_bytes" if kind != "memory.max" else "memory.swap.max")
        with contextlib.suppress(OSError):
            swap.write_text(str(limit) if kind != "memory.max" else "0")
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        yield None
        return
    try:
        yield lambda: (folder / "cgroup.procs").write_text(str(os.getpid())) and None
    finally:
        folder.rmdir()


def _memory_group() -> Path | None:
    """The folder of this process's memory cgroup."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _existing(Path("/sys/fs/cgroup/memory" + path))
        if number == "0" and Path("/sys/fs/cgroup/cgroup.controllers").exists():
            return _existing(Path("/sys/fs/cgroup" + path))
    return None


def _existing(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def limited(kind: int, limit: int) -> Callable[[], None]:
    """What a new process calls to get a limit of its own (RLIMIT_AS, RLIMIT_DATA, RLIMIT_NOFILE)."""
    return lambda: resource.setrlimit(kind, (limit, limit))
