"""Start and stop other programs, and leave none behind.

Every child gets a process group of its own, so Ctrl-C on the terminal reaches only the parent: a tcpdump that gets
SIGINT from the terminal loses the last packets of its capture. If the parent dies, the kernel signals the child.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

COMMAND_TIMEOUT_S = 20.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """An error that the user can act on: one line with the failure and the remedy."""


class CannotStart(LabError):
    """The command did not start, because of its arguments or of a missing tool, right or device: exit code 2."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived. Not an ``Exception``, so that no broad handler swallows it."""


def need_root(what: str) -> None:
    """Refuse early: a lab that is half made, for lack of rights, is worse than none."""
    if os.geteuid() != 0:
        raise CannotStart(f"{what} needs root (it makes network namespaces and packet sockets): run it with sudo")


def need_tools(packages: Mapping[str, str]) -> None:
    """Raise CannotStart with all missing programs; ``packages`` maps a program to its Debian package."""
    missing = {tool: package for tool, package in packages.items() if shutil.which(tool) is None}
    if missing:
        raise CannotStart(
            f"missing: {', '.join(sorted(missing))}; install with: apt-get install "
            + " ".join(sorted(set(missing.values())))
        )


def run(
    command: Sequence[str],
    *,
    stdin: str | None = None,
    check: bool = True,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> str:
    """Run a command to its end and return stdout. A failure raises LabError with the last line of its stderr.

    A signal is raised after the command has ended: Ctrl-C on a terminal ends the command, too.
    """
    try:
        with _raised_behind():
            done = subprocess.run(
                list(command),
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
            )
    except FileNotFoundError as error:
        raise LabError(f"cannot run {command[0]}: it is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command)}: no end after {timeout_s:g} s") from error
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip().replace("\n", "; ") or "no message"
        raise LabError(f"{' '.join(command)} failed (exit {done.returncode}): {words}")
    return done.stdout


def in_namespace(namespace: str | None, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` inside ``namespace`` (None: the present one).

    ``ip netns exec`` replaces itself by the command, so the process id belongs to the command.
    """
    return list(command) if namespace is None else ["ip", "netns", "exec", namespace, *command]


def python_script(name: str, *arguments: str) -> list[str]:
    """Call a script of this package, such as ``fixture/traffic.py``, with the present interpreter."""
    return [sys.executable, str(Path(__file__).resolve().parent / name), *arguments]


class Children:
    """The processes that one command has started. The end of the ``with`` block ends those that still run."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_all()

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = subprocess.DEVNULL,
        stderr: int | IO[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
        parent_death_signal: int = signal.SIGKILL,
        inherited: Sequence[int] = (),
        umask: int = -1,
    ) -> subprocess.Popen[bytes]:
        """Start one program in a process group of its own; LabError when it is not installed.

        ``inherited`` are descriptors that stay open in the program. ``umask`` -1 keeps the present umask.
        """
        parent = os.getpid()

        def bind_to_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(parent_death_signal), 0, 0, 0)
            if os.getppid() != parent:  # the parent died between fork and prctl: no signal would ever come
                os._exit(1)

        try:
            child = subprocess.Popen(
                list(command),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=None if environment is None else {**os.environ, **environment},
                process_group=0,
                preexec_fn=bind_to_parent,
                pass_fds=inherited,
                umask=umask,
            )
        except FileNotFoundError as error:
            raise LabError(f"cannot run {command[0]}: it is not installed") from error
        except OSError as error:  # the argument list is too long, or a limit on processes is met
            raise LabError(f"cannot run {command[0]}: {error.strerror}") from error
        self._started.append(child)
        return child

    def end_all(self, grace_s: float = 1.0) -> None:
        """Send SIGTERM to each group that still runs, and SIGKILL to the rest after ``grace_s`` seconds."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            running = [child for child in self._started if child.poll() is None]
            for child in running:
                signal_group(child, sign)
            deadline = time.monotonic() + grace_s
            for child in running:
                try:
                    child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    continue
        self._started = [child for child in self._started if child.poll() is None]


def signal_group(child: subprocess.Popen[bytes], sign: int) -> None:
    """Signal a child and its own children. The id of the group is the child's, which is not yet reaped."""
    try:
        os.killpg(child.pid, sign)
    except ProcessLookupError:
        return


def wait_all(children: Sequence[subprocess.Popen[bytes]], timeout_s: float, what: str) -> None:
    """Wait for the end of all; LabError names the first that failed or took over ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    for child in children:
        arguments = child.args if isinstance(child.args, list) else [child.args]
        command = " ".join(str(argument) for argument in arguments)
        try:
            code = child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{what}: no end after {timeout_s:g} s: {command}") from error
        if code != 0:
            raise LabError(f"{what}: exit {code}: {command}")


# If SIGHUP was ignored at the start of this process (nohup), it stays ignored.
_HANG_UP = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
_INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, *_HANG_UP)


class Shield:
    """Handles SIGINT, SIGTERM and SIGHUP inside ``shielded``: up, it notes them; lifted, the first one raises.

    An exception that a signal raises looks like a fault of the line that it interrupts. Signals are therefore raised
    only in functions that may lose their rest without harm. Elsewhere they are noted, and the code asks for them.
    """

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self._patience: int | None = None
        self._words = ""
        self._is_up = False

    def up(self, *, patience: int | None = None, words: str = "") -> None:
        """Note signals from now on, with an empty ``arrived``.

        The first one writes ``words`` to stderr. One more than ``patience`` raises Interrupted (None: none does).
        """
        self._is_up = True
        self._patience, self._words = patience, words
        self.arrived = []
        for number in _INTERRUPTIONS:
            signal.signal(number, self._note)

    def lift(self) -> None:
        """Raise Interrupted at the next signal, and ignore later ones until the next call of ``up``."""
        self._is_up = False
        accept_interruptions()

    def raise_arrived(self) -> None:
        """Raise Interrupted if a signal was noted."""
        if self.arrived:
            raise Interrupted(self.arrived[0])

    def noted(self, name: str) -> bool:
        """Note a signal that was raised in a finalizer, where Python drops it. False: raise it again."""
        if self._is_up:
            self.arrived.append(name)
        return self._is_up

    def _note(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        self.arrived.append(name)
        if self._patience is not None and len(self.arrived) > self._patience:
            for other in _INTERRUPTIONS:
                signal.signal(other, signal.SIG_IGN)
            raise Interrupted(name)
        if len(self.arrived) == 1 and self._words:
            with suppress(OSError):
                os.write(2, f"{self._words}\n".encode())


@contextmanager
def _raised_behind() -> Iterator[None]:
    """Delay Interrupted to the end of the block.

    `subprocess` takes a lock some lines before the block that releases it. An exception between them would leave the
    lock taken, and the wait for the child would never end.
    """
    if all(signal.getsignal(number) is not _interrupt for number in _INTERRUPTIONS):
        yield
        return
    arrived: list[str] = []
    try:
        with shielded() as shield:
            arrived = shield.arrived
            yield
    finally:
        if arrived:
            _interrupt(signal.Signals[arrived[0]], None)


_shield: Shield | None = None


@contextmanager
def shielded() -> Iterator[Shield]:
    """Yield a shield that is up. Afterwards the former handlers are back, and noted signals are forgotten."""
    global _shield  # signals are the process's own
    before = {number: signal.getsignal(number) for number in _INTERRUPTIONS}
    outer, _shield = _shield, Shield()
    _shield.up()
    try:
        yield _shield
    finally:
        _shield = outer
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _: FrameType | None) -> None:
    for other in _INTERRUPTIONS:
        signal.signal(other, signal.SIG_IGN)
    raise Interrupted(signal.Signals(number).name)


def accept_interruptions() -> None:
    """Let the next signal raise again inside ``interruptible``, after one has been handled."""
    for number in _INTERRUPTIONS:
        signal.signal(number, _interrupt)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted at the first SIGINT, SIGTERM or SIGHUP; later ones do not disturb the clean-up."""
    before = {number: signal.getsignal(number) for number in (*_INTERRUPTIONS, signal.SIGALRM)}
    hook = sys.unraisablehook

    def again(details: sys.UnraisableHookArgs) -> None:
        """Raise an interruption again that fell into a finalizer, where Python ignores exceptions."""
        interruption = details.exc_value
        if not isinstance(interruption, Interrupted):
            hook(details)
            return
        reason = str(interruption)

        def raise_it(_: int, __: FrameType | None) -> None:
            if _shield is None or not _shield.noted(reason):
                raise Interrupted(reason)

        signal.signal(signal.SIGALRM, raise_it)
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    sys.unraisablehook = again
    accept_interruptions()
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
