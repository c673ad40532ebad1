"""The host of a capture: this machine, or another one that a command prefix reaches (``ssh host``).

Another machine needs tcpdump and a shell, and no part of this package. The commands for it go to the standard input of
``PREFIX sh -s``: a prefix may hand its arguments to a second shell (ssh does, ``ip netns exec`` does not), and standard
input is safe in both cases. The capture comes back over standard output.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..own_files import PRIVATE_MASK
from ..processes import COMMAND_TIMEOUT_S, Children, LabError, in_namespace, run
from . import socket_filters
from .socket_filters import Instruction

PROCESS_MARK = "pktrace-process "


@dataclass(frozen=True)
class Host:
    """A machine; ``prefix`` is empty for this one."""

    prefix: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        return not self.prefix

    def label(self) -> str:
        """The name of the host in messages; empty for this machine."""
        return shlex.join(self.prefix)

    def run(
        self,
        command: Sequence[str],
        namespace: str | None = None,
        *,
        stdin: str | None = None,
        check: bool = True,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> str:
        """Run a command to its end and return stdout; LabError with the end of its stderr. No ``stdin`` elsewhere."""
        there = in_namespace(namespace, command)
        if self.is_local:
            return run(there, stdin=stdin, check=check, timeout_s=timeout_s)
        script = (
            f"exec {shlex.join(there)} </dev/null\n"
            if stdin is None
            else f"{shlex.join(there)} <<'EOT'\n{stdin}\nEOT\n"
        )
        return run([*self.prefix, "sh", "-s"], stdin=script, check=check, timeout_s=timeout_s)

    def start(
        self,
        children: Children,
        command: Sequence[str],
        namespace: str | None,
        *,
        stdout: IO[bytes] | None,
        stderr: IO[bytes],
        parent_death_signal: int,
        inherited: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start a program whose files only their owner can read. ``inherited`` descriptors stay open in it.

        On another host it first writes its process id to stderr, behind PROCESS_MARK.
        """
        there = in_namespace(namespace, command)
        if self.is_local:
            return children.start(
                there, stdout=stdout, stderr=stderr, parent_death_signal=parent_death_signal,
                inherited=inherited, umask=PRIVATE_MASK,
            )  # fmt: skip
        child = children.start(
            [*self.prefix, "sh", "-s"],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            parent_death_signal=parent_death_signal,
            inherited=inherited,
        )
        assert child.stdin is not None
        try:
            child.stdin.write(f'echo "{PROCESS_MARK}$$" >&2\nexec {shlex.join(there)} </dev/null\n'.encode())
            child.stdin.close()
        except BrokenPipeError:  # it ended at once; its stderr says why
            pass
        return child

    def signal(self, process: int, name: str) -> None:
        """Signal a process of another host; a process that has ended already is no error."""
        self.run(["kill", f"-{name}", str(process)], check=False)

    def now_ns(self) -> int | None:
        """The clock of the host; None where its ``date`` has no nanoseconds."""
        if self.is_local:
            return time.time_ns()
        said = self.run(["date", "+%s%N"], check=False).strip()
        return int(said) if said.isdecimal() and len(said) > 15 else None

    def boot_id(self) -> str:
        """The boot id: equal for two hosts only if they are one kernel, with one clock; empty if unknown."""
        return self.run(["cat", "/proc/sys/kernel/random/boot_id"], check=False).strip()

    def attach_filter(self, process: int, program: Sequence[Instruction]) -> int:
        """Run ``socket_filters.attach`` on that host, with its own python3; OSError where that fails."""
        if self.is_local:
            return socket_filters.attach(process, program)
        source = Path(socket_filters.__file__).read_text(encoding="utf-8")
        try:
            return int(self.run(["python3", "-c", source, str(process), json.dumps([list(i) for i in program])]))
        except (LabError, ValueError) as error:
            raise OSError(f"no filter could be attached on {self.label()}: {str(error)[-200:]}") from error


LOCAL = Host()
