"""Available memory, the memory that an analysis takes, and the stop before memory runs out.

The kernel ends a process that takes more than its container has with SIGKILL, without a message and without cleaning
up. Therefore each step first checks here that its memory is available, and a watch stops the process shortly before the
kernel would.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pktrace.errors import EXIT_USAGE, PktraceError
from pktrace.sizes import as_size

# Bytes of memory that an observation takes at the peak of each step, including all memory held until then. Measured by
# `python tests/bench/memory.py` over 12 kinds of traffic, 0.25 to 4 M observations; the largest of each step: reading
# 367, with captures of several snap lengths 462; following 290; judging 434; writing 470 to 735, that is 470 and 265
# per packet followed. Following rewritten traffic takes up to 730 (730 - 230 over two loose ends per packet, four
# observations each: 1000 per loose end). In smaller runs, compiled code is half of the memory.
FOLLOWED_BYTES = 460
ANALYSED_BYTES = 580
# Bytes that the steps take above the memory held when they begin.
_FOLLOWING_MORE = 100
_WRITING_MORE = 230
_WRITING_PACKET = 270
_LOOSE_END = 1000
# The interpreter, its libraries and plots: 103 MiB with compiled kernels, which sometimes have to be compiled.
_PROGRAM = 60 << 20
# Shortest and longest pause of the watch: in 3 ms a processor fills at most 4 GB/s x 3 ms = 12 MB, and two of them 24.
_SOONEST_S, _LATEST_S = 0.003, 0.1
_FILLED_PER_S = 4e9
# Memory left when the watch stops the process: for data written meanwhile, and for the kernel itself.
_LEFT = 40 << 20
_FREE = "what the machine has free"
_NEXT = (
    "analyse fewer packets (cut the captures with `editcap -A START -B STOP`, filter them with "
    "`tcpdump -r IN -w OUT FILTER`), or give it more memory (--max-memory SIZE where you know better)"
)


class MemoryShort(PktraceError):
    """The analysis needs more memory than available; as with a full disk, its caller has to give more or ask less."""

    exit_code = EXIT_USAGE


@dataclass(frozen=True)
class Room:
    """Memory that may still be taken: `bytes` by the tightest limit, and `limit`, its name in words."""

    bytes: int
    limit: str


def tightest(proc: Path = Path("/proc")) -> Room:
    """The memory that this process may still take, by the tightest of all limits that the system has.

    These are the container's limits (cgroup v1 and v2, each ancestor), RLIMIT_AS, RLIMIT_DATA, and the machine's free
    memory.
    """
    rooms = [*_containers(proc), *_of_process(proc)]
    free = _numbers(proc / "meminfo").get("MemAvailable")
    if free is not None:
        rooms.append(Room(free, _FREE))
    return min(rooms, key=lambda room: room.bytes, default=Room(1 << 62, "no limit"))


def available(max_memory: int | None = None) -> Room:
    """The memory for planning: the tightest limit, or the rest of `max_memory` if it is given."""
    if max_memory is None:
        return tightest()
    own = _numbers(Path("/proc/self/status")).get("RssAnon", 0)
    return Room(max_memory - own, f"--max-memory {as_size(max_memory)}")


def available_bytes() -> int:
    """Bytes that this process may still take."""
    return max(0, tightest().bytes)


def _numbers(path: Path) -> dict[str, int]:
    """The lines `Name: N kB` of a file of /proc, in bytes; nothing without such a file."""
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = 1024 * int(value[:-3])
    return found


def _of_process(proc: Path) -> Iterator[Room]:
    """The memory that `ulimit -v` and `ulimit -d` leave."""
    status = _numbers(proc / "self/status")
    for name, kind, used in (
        ("RLIMIT_AS (ulimit -v)", resource.RLIMIT_AS, status.get("VmSize", 0)),
        ("RLIMIT_DATA (ulimit -d)", resource.RLIMIT_DATA, status.get("VmData", 0)),
    ):
        soft = resource.getrlimit(kind)[0]
        if soft != resource.RLIM_INFINITY:
            yield Room(soft - used, f"{name} of {as_size(soft)}")


@dataclass(frozen=True)
class _Container:
    """One folder of a cgroup hierarchy, and the names of its files."""

    folder: Path
    limits: tuple[str, ...]
    usage: str
    cached: tuple[str, ...]

    def room(self) -> Room | None:
        """The memory that its limit leaves, None without a limit. The cgroup counts the page cache as used, but it can
        be evicted.
        """
        limits = [limit for limit in (_integer(self.folder / name) for name in self.limits) if limit is not None]
        used = _integer(self.folder / self.usage)
        # cgroup v1 writes "no limit" as the largest number of pages.
        if not limits or used is None or min(limits) >= 1 << 60:
            return None
        return Room(min(limits) - used + self._cache(), f"the container's memory limit of {as_size(min(limits))}")

    def _cache(self) -> int:
        try:
            lines = (self.folder / "memory.stat").read_text("ascii", "replace").splitlines()
        except OSError:
            return 0
        return sum(int(value) for name, _, value in (line.partition(" ") for line in lines) if name in self.cached)


_V2 = (("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))
_V1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def _integer(path: Path) -> int | None:
    try:
        text = path.read_text("ascii", "replace").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _containers(proc: Path) -> Iterator[Room]:
    for container in _container_folders(proc):
        room = container.room()
        if room is not None:
            yield room


def _container_folders(proc: Path) -> Iterator[_Container]:
    """The cgroups of this process that may limit its memory, each with all its ancestors (cgroups(7))."""
    try:
        groups = (proc / "self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        mounts = (proc / "self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return
    paths: dict[str, str] = {}
    for line in groups:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    for line in mounts:
        fields, _, kind = line.partition(" - ")
        words = fields.split(" ")
        system, options = kind.split(" ")[0], kind.split(" ")[-1].split(",")
        if len(words) < 5 or system not in paths or (system == "cgroup" and "memory" not in options):
            continue
        root, place = words[3], Path(words[4].replace("\\040", " "))
        inner = os.path.relpath(paths[system], root) if root != "/" else paths[system].lstrip("/")
        # If the mount shows another part of the hierarchy, its own top is the nearest visible folder.
        folder = place if inner.startswith("..") else place / inner
        while True:
            if folder.is_dir():
                yield _Container(folder, *(_V2 if system == "cgroup2" else _V1))
            if folder == place:
                break
            folder = folder.parent


@dataclass(frozen=True)
class Need:
    """The memory that a command takes: `row_bytes` per observation at its peak; `doing` names its work in words."""

    doing: str
    row_bytes: int


ANALYSIS = Need("analysing", ANALYSED_BYTES)
FOLLOWING = Need("following", FOLLOWED_BYTES)


class Purse:
    """The memory available when reading began, and a check of further packets against it."""

    def __init__(self, need: Need, max_memory: int | None = None) -> None:
        self._need = need
        self._room = available(max_memory)
        self._most_rows = (self._room.bytes - _PROGRAM) // need.row_bytes

    def check(self, rows: int, share: float) -> None:
        """Compare the rows read so far, from this share of all bytes, with the rows that fit in memory.

        Raises:
            MemoryShort: an analysis of so many rows does not fit.
        """
        if rows <= self._most_rows:
            return
        expected = rows if share >= 1 or share <= 0 else round(rows / share)
        needed = expected * self._need.row_bytes + _PROGRAM
        so_far = "" if share >= 1 else f" ({rows:,} read, {100 * share:.0f} % of the captures)"
        raise MemoryShort(
            f"not enough memory: {self._need.doing} about {expected:,} packets{so_far} takes about "
            f"{as_size(needed)}, there is {_there(self._room)}; {_NEXT}"
        )


def _there(room: Room) -> str:
    return f"{as_size(max(0, room.bytes))} ({room.limit})"


def check(doing: str, more: int) -> None:
    """Stop before a step that does not fit.

    Args:
        doing: the step in words; more: bytes that it takes beside the memory held now.

    Raises:
        MemoryShort: less is available.
    """
    step(doing)
    room = available(_max_memory)
    if more > room.bytes:
        raise MemoryShort(
            f"not enough memory: {doing} takes about {as_size(more)} more, there is {_there(room)}; {_NEXT}"
        )


def check_following(rows: int) -> None:
    """Raises MemoryShort if following this many observations does not fit in memory."""
    check(f"following {rows:,} observations", rows * _FOLLOWING_MORE)


def check_loose_ends(count: int) -> None:
    """Raises MemoryShort if comparing this many loose ends does not fit in memory."""
    check(f"comparing {count:,} loose ends", count * _LOOSE_END)


def check_writing(rows: int, packets: int) -> None:
    """Raises MemoryShort if writing the tables does not fit in memory."""
    check(
        f"writing the tables of {rows:,} observations and {packets:,} packets",
        rows * _WRITING_MORE + packets * _WRITING_PACKET,
    )


def short(problem: BaseException) -> str:
    """The sentence for a failed allocation (MemoryError): the step, the bytes requested, the memory available."""
    asked = str(problem).split("\n")[0][:200]
    return (
        f"not enough memory while {_step}: an allocation failed{f' ({asked})' if asked else ''}, there is "
        f"{_there(available(_max_memory))}; {_NEXT}"
    )


_step = "starting"
_max_memory: int | None = None
_unfinished: set[Callable[[], None]] = set()
_unfinished_lock = threading.Lock()


def step(doing: str) -> None:
    """Name the step that begins, for the sentence of a stop."""
    global _step
    _step = doing


@contextlib.contextmanager
def unfinished(remove: Callable[[], None]) -> Iterator[None]:
    """While this lasts, a stop by the watch calls `remove`, from another thread, and ends the process.

    Once a stop has begun, this context does not end: a file that is being removed cannot be put in place.
    """
    with _unfinished_lock:
        _unfinished.add(remove)
    try:
        yield
    finally:
        with _unfinished_lock:
            _unfinished.discard(remove)


@contextlib.contextmanager
def watched(max_memory: int | None = None) -> Iterator[None]:
    """While this lasts, the process stops itself, with a sentence and exit code 2, shortly before memory runs out.

    For command lines only: a notebook would lose its values.
    """
    global _max_memory
    _max_memory = max_memory
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(over, max_memory), name="memory", daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(over: threading.Event, max_memory: int | None) -> None:
    """Look at the memory that is left, the more often the less there is.

    The process's own memory is cheap to read; the limits, and the memory of others, are read ten times a second.
    """
    try:
        status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # no Linux: nothing to see
    try:
        waited = _LATEST_S
        while True:
            if waited >= _LATEST_S:
                room, before, waited = _watched_room(max_memory), _taken(status), 0.0
            left = room.bytes - (_taken(status) - before)
            if left < _LEFT:
                room, before, waited = _watched_room(max_memory), _taken(status), 0.0
                left = room.bytes
            if left < _LEFT and not _may_swap(room):
                _stop(room)
            pause = min(_LATEST_S, max(_SOONEST_S, (left - _LEFT) / _FILLED_PER_S))
            if over.wait(pause):
                return
            waited += pause
    finally:
        os.close(status)


def _watched_room(max_memory: int | None) -> Room:
    """The tighter of the room that the system leaves and the room that `max_memory` leaves."""
    room = tightest()
    return room if max_memory is None else min(room, available(max_memory), key=lambda one: one.bytes)


def _taken(status: int) -> int:
    """The memory of this process without caches, in bytes (RssAnon of proc(5))."""
    text = os.pread(status, 4096, 0)
    at = text.find(b"RssAnon:")
    return 1024 * int(text[at + 8 : text.index(b"kB", at)]) if at >= 0 else 0


def _may_swap(room: Room) -> bool:
    """A machine without free memory but with swap goes on, slowly."""
    return room.limit == _FREE and _numbers(Path("/proc/meminfo")).get("SwapFree", 0) > _LEFT


def _stop(room: Room) -> None:
    """End the process at once: a stop that waits for the main thread would come too late."""
    own = _numbers(Path("/proc/self/status")).get("RssAnon", 0)
    _unfinished_lock.acquire()
    for remove in _unfinished:
        with contextlib.suppress(OSError):
            remove()
    sentence = (
        f"pktrace: error: not enough memory while {_step}: it takes {as_size(own)} so far, and "
        f"{_there(room)} is left; {_NEXT}\n"
    )
    with contextlib.suppress(OSError):
        os.write(2, sentence.encode("ascii", "backslashreplace"))
    os._exit(EXIT_USAGE)
