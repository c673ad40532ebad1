"""A command of pktrace in a process of its own: how it ended, its output, its processor time and its peak memory."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import subprocess
import sys
import tempfile
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
    _compile_first()
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BETWEEN, str(write), sys.executable, "-m", "pktrace", *map(str, arguments)],
        cwd=ROOT, preexec_fn=prepare, pass_fds=(write,), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        os.close(write)
        assert process.stdout is not None
        killer = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
        killer.start()
        try:
            output = process.stdout.read()
            process.wait()
        finally:
            killer.cancel()
    with open(read, encoding="ascii") as said:
        code, seconds, peak = said.read().split() or (-signal.SIGKILL, 0, 0)
    return Measured(int(code), output, float(seconds), int(peak) * 1024)


@functools.cache
def _compile_first() -> None:
    """Have the packet kernels compiled: whoever comes first pays for it, and it is not what is measured."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pktrace", "analyze", "fixtures/service-chain", "--no-plots", "-o", f"{folder}/new"],
            cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=600, check=True,
        )  # fmt: skip


# The kernel takes the memory of whoever starts a process for the start of its peak, and a test runner has much. So a
# small process stands between the two.
_BETWEEN = """
import os, sys
child = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(child, 0)
code = os.waitstatus_to_exitcode(status)
os.write(int(sys.argv[1]), f"{code} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss}".encode())
"""


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
