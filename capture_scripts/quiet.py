"""Wait for conditions instead of pauses: a pause that is long enough on an idle machine is too short on a busy one.

Packets are on their way as long as a processor has a queue of received frames, a socket holds unread bytes, or a
connection waits for an acknowledgement. The kernel reports all three, so nothing here guesses.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from .processes import LabError, in_namespace, run

DEADLINE_S = 120.0  # guards against hanging, nothing else
_POLL_S = 0.005
_SOFTNET = Path("/proc/net/softnet_stat")
_BACKLOG, _PROCESSOR = 11, 12  # columns
_PAUSE_S = 0.2  # in place of the condition, on kernels before 5.10, which do not report the length of a queue
_RMEM = 6  # column of /proc/net/packet
# TCP states in which this side may still send: all but FIN_WAIT2, TIME_WAIT, CLOSE and LISTEN.
_SENDING = {"01", "02", "03", "04", "08", "09", "0B", "0C"}
Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found], what: str, timeout_s: float = DEADLINE_S) -> Found:
    """Return the first true result of ``condition()``; LabError names ``what`` after ``timeout_s`` seconds."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout_s:g} s")
        time.sleep(_POLL_S)
    return found


def wait_until_handled() -> None:
    """Return when every processor has handled the frames that had been sent before this call.

    A frame that crosses a veth pair waits in a queue of the processor that sent it. Each processor looks at its own
    queue: a processor that looks handles no frame, so an empty queue also means that no frame is between two queues.
    """
    for _ in range(2):  # a frame may have moved to a processor whose queue was checked before
        for processor, _ in _backlogs():
            watcher = threading.Thread(target=_wait_for, args=(processor,))  # affinity belongs to threads
            watcher.start()
            watcher.join()
    if not _backlogs():
        time.sleep(_PAUSE_S)


def _wait_for(processor: int) -> None:
    with suppress(OSError):  # this process may not run on that processor; its queue is visible all the same
        os.sched_setaffinity(0, {processor})
    deadline = time.monotonic() + DEADLINE_S  # foreign traffic may keep a queue filled for ever
    while dict(_backlogs()).get(processor) and time.monotonic() < deadline:
        time.sleep(0.001)


def _backlogs() -> list[tuple[int, int]]:
    """(processor, frames in its queue) for each; empty on a kernel that does not report it."""
    lines = [line.split() for line in _SOFTNET.read_text(encoding="ascii").splitlines()]
    return [(int(line[_PROCESSOR], 16), int(line[_BACKLOG], 16)) for line in lines if len(line) > _PROCESSOR]


def unread_bytes(namespace: str | None) -> int:
    """Unread bytes in the packet sockets of a namespace; the rings of captures count as zero."""
    lines = run(in_namespace(namespace, ["cat", "/proc/net/packet"])).splitlines()[1:]
    return sum(int(line.split()[_RMEM]) for line in lines)


def wait_until_closed(namespaces: Sequence[str | None]) -> None:
    """Return when no TCP connection of these namespaces has bytes left to send."""

    def all_said() -> bool:
        return not any(_tcp_states(namespace) & _SENDING for namespace in namespaces)

    wait_until(all_said, "the TCP connections come to their end")


def _tcp_states(namespace: str | None) -> set[str]:
    lines = run(in_namespace(namespace, ["cat", "/proc/net/tcp", "/proc/net/tcp6"])).splitlines()
    return {fields[3] for fields in map(str.split, lines) if len(fields) > 3 and fields[0] != "sl"}
