"""A service in user space: frames that arrive at one device leave by another, with impairments on request.

``forwarder.py p1 r1 --protected-mac MAC [--delay US] [--loss P] ...`` runs until SIGTERM, then passes on its held
frames, writes its counts and ends. SIGUSR1 writes the counts and goes on; SIGHUP reads ``--config`` again. Without
impairments frames go unchanged from one batch of system calls to the next. With impairments every frame passes through
Python, which is about ten times slower.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

if __name__ == "__main__" and not __package__:  # started as a file: its room is the package (PEP 366)
    _room = Path(__file__).resolve().parent
    sys.path.append(str(_room.parent.parent))
    __package__ = f"{_room.parent.name}.{_room.name}"

from ..processes import LabError, need_root
from .alterations import Chain, json_line
from .batches import Batch, kernel_drops, open_receiver, open_sender
from .frames import Frame, VnetHeader
from .impairment import ForwarderPlan, Impairment, add_flags, from_flags

_PR_SET_TIMERSLACK = 29
_IDLE_S = 0.5  # longest time between reads of the socket's statistics: its counter is short
_LAST_READ_S = 0.5  # limit of the last reads, in processor time: waits for a processor do not count
_NEVER_NS = 1 << 62


class Forwarder:
    """One direction of one pair of devices, in one thread."""

    def __init__(self, device_in: str, device_out: str, mac: str, plan: ForwarderPlan, counts: Path | None) -> None:
        self._mac = mac
        self._counts_file = counts
        self._log: IO[str] | None = None
        self._log_path: Path | None = None
        self._sender = open_sender(device_out)
        self._receiver = open_receiver(device_in)
        self._batch = Batch()
        self._waker, self._woken = socket.socketpair()
        for end in (self._waker, self._woken):
            end.setblocking(False)
        self._wanted: set[int] = set()
        self.received = self.forwarded = self.refused = self.kernel_dropped = 0
        self._dropped_before = 0
        self._chain = Chain((), mac, plan.seed, None)
        self.use(plan)

    def use(self, plan: ForwarderPlan) -> None:
        """Apply other impairments from now on; frames held by the old ones are passed on first."""
        self._send(self._let_go())
        self._dropped_before += self._chain.dropped
        path = plan.log_path()
        if path != self._log_path and self._log is not None:
            self._log.close()
            self._log = None
        if path is not None and self._log is None:
            self._log = path.open("a", encoding="utf-8")
        self._log_path = path
        self._plan = plan
        self._chain = Chain(plan.impairments, self._mac, plan.seed, self._note if self._log else None)

    def run(self, config: Path | None) -> None:
        """Forward until SIGTERM or SIGINT."""
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            signal.signal(number, self._remember)
        # The kernel may wake this thread so much later than asked; the default of 50 us would show in every delay.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
        print("ready", flush=True)
        wanted: set[int] = set()
        while not wanted & {signal.SIGTERM, signal.SIGINT}:
            self._wait()
            wanted.clear()
            while self._wanted:  # one by one: a signal may arrive at any moment, and none may get lost
                wanted.add(self._wanted.pop())
            if signal.SIGHUP in wanted and config is not None:
                self._reload(config)
            if signal.SIGUSR1 in wanted:
                self.write_counts()
            self._receive()
        deadline = time.process_time() + _LAST_READ_S
        while self._receive() and time.process_time() < deadline:
            continue
        self._send(self._let_go())
        self.write_counts()

    def counts(self) -> dict[str, Any]:
        """The counts. Every received frame is forwarded, dropped, refused by the kernel, or still held, unless merged,
        split or duplicated. ``kernel_dropped`` frames never reached the forwarder."""
        self.kernel_dropped += kernel_drops(self._receiver)
        return {
            "time_ns": time.time_ns(),
            "pid": os.getpid(),
            "seed": self._plan.seed,
            "received": self.received,
            "forwarded": self.forwarded,
            "dropped": self._dropped_before + self._chain.dropped,
            "refused": self.refused,
            "held": self._chain.held,
            "kernel_dropped": self.kernel_dropped,
            "truncated": self._batch.truncated,
            "impairments": self._chain.counts(),
        }

    def write_counts(self) -> None:
        if self._log is not None:
            self._log.flush()
        text = json.dumps(self.counts(), indent=1) + "\n"
        if self._counts_file is None:
            sys.stderr.write(text)
            return
        partial = self._counts_file.with_name(self._counts_file.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._counts_file)

    def _remember(self, number: int, _: FrameType | None) -> None:
        self._wanted.add(number)

    def _reload(self, config: Path) -> None:
        try:
            self.use(read_plan(config))
        except LabError as error:
            print(f"forwarder: {error}; the old plan stays in force", file=sys.stderr, flush=True)

    def _wait(self) -> None:
        due_ns = self._chain.next_due_ns()
        wait_s = _IDLE_S
        if due_ns is not None:
            wait_s = min(wait_s, max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
        readable, _, _ = select.select([self._receiver, self._woken], [], [], wait_s)
        if not readable:
            self.kernel_dropped += kernel_drops(self._receiver)
        if self._woken in readable:
            self._woken.recv(64)

    def _receive(self) -> int:
        """Receive the waiting frames and pass on those that are due. Returns the number received."""
        count = self._batch.receive(self._receiver)
        self.received += count
        if not self._chain:
            taken = self._batch.send(self._sender) if count else 0
            self.forwarded += taken
            self.refused += count - taken
            return count
        now_ns = time.monotonic_ns()
        self._send(self._chain.due(now_ns))
        for number in range(count):
            header, data = self._batch.frame(number)
            self._send(self._chain.push(Frame(VnetHeader.read(header), data), now_ns))
        return count

    def _let_go(self) -> list[Frame]:
        frames: list[Frame] = []
        now_ns = _NEVER_NS
        while self._chain.held:
            frames += self._chain.due(now_ns)
            now_ns *= 2  # a later impairment may hold a released frame again, for a time counted from now
        return frames

    def _send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            try:
                self._sender.send(frame.vnet.bytes() + frame.data)
            except OSError:  # too long for the device, or no room: count it, the next frame may fit
                self.refused += 1
            else:
                self.forwarded += 1

    def _note(self, entry: dict[str, Any]) -> None:
        assert self._log is not None
        self._log.write(json_line({"time_ns": time.time_ns(), **entry}))


def read_plan(path: Path) -> ForwarderPlan:
    """The plan in a ``--config`` file; LabError when the file is no plan."""
    try:
        return ForwarderPlan.from_table(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabError(f"{path}: no plan for a forwarder: {error}") from error


def _plan(options: argparse.Namespace) -> ForwarderPlan:
    if options.config is not None:
        return read_plan(options.config)
    impairments: list[Impairment] = from_flags(options)
    return ForwarderPlan(options.seed, tuple(impairments), str(options.log or ""))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``forwarder.py``; exit 0 ended by SIGTERM or SIGINT, 1 could not, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="forwarder.py",
        description="Forward frames from one device to another, with impairments, until SIGTERM.",
        epilog="example: forwarder.py p1 r1 --protected-mac 02:77:00:00:00:01 --delay 2000 --jitter 500",
    )
    parser.add_argument("device_in", metavar="IN", help="device whose arriving frames are forwarded")
    parser.add_argument("device_out", metavar="OUT", help="device they leave by")
    parser.add_argument("--protected-mac", required=True, metavar="MAC", help="frames to it are ingress")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (default: %(default)s)")
    parser.add_argument("--log", type=Path, help="write every impairment applied as a line of JSON")
    parser.add_argument("--counts", type=Path, help="file for the counts, at SIGUSR1 and at the end (default: stderr)")
    parser.add_argument("--config", type=Path, help="plan as JSON, in place of the flags; read again on SIGHUP")
    add_flags(parser)
    options = parser.parse_args(arguments)
    try:
        need_root("forwarding")
        forwarder = Forwarder(
            options.device_in, options.device_out, options.protected_mac, _plan(options), options.counts
        )
        forwarder.run(options.config)
    except (LabError, OSError) as error:
        print(f"forwarder: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
