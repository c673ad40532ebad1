"""One running capture: tcpdump or dumpcap, observed through its log file and its own counts."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..own_files import fresh, is_regular
from ..processes import Children, LabError, signal_group
from .hosts import PROCESS_MARK
from .points import interfaces
from .raw_files import packets_in
from .socket_filters import NOTHING, Instruction, by_direction
from .sources import Source

FULL_SNAPLEN = 262_144
# One processor may stamp a packet just before another shuts the capture, and filter it just after.
SHUT_MARGIN_NS = 10_000_000
_LOG_TAIL = 1 << 16
_TCPDUMP_COUNTS = re.compile(
    r"(\d+) packets? captured\s*,?\s*(\d+) packets? received by filter"
    r"\s*,?\s*(\d+) packets? dropped by kernel(?:\s*,?\s*(\d+) packets? dropped by interface)?"
)
_DUMPCAP_COUNTS = re.compile(r"Packets received/dropped on interface '[^']*': (\d+)/(\d+)")
_DUMPCAP_PROGRESS = re.compile(r"Packets: (\d+)")


@dataclass(frozen=True)
class Ring:
    """Keep the last ``files`` files of ``megabytes`` (of a million bytes) each."""

    megabytes: int
    files: int


@dataclass(frozen=True)
class Settings:
    """Settings of all captures. ``threshold_s``, the loss threshold, is the recording time after the traffic."""

    snaplen: int = 256  # 0: whole packets
    buffer_kib: int = 32768
    threshold_s: float = 2.0
    keep_raw: bool = False
    tool: str = "tcpdump"
    ring: Ring | None = None


@dataclass(frozen=True)
class Counts:
    """The counts that the tool reports. ``received`` includes ``dropped``."""

    captured: int
    received: int
    dropped: int
    interface_dropped: int = 0

    @property
    def complete(self) -> bool:
        return self.captured + self.dropped == self.received

    def plus(self, other: Counts) -> Counts:
        return Counts(
            self.captured + other.captured,
            self.received + other.received,
            self.dropped + other.dropped,
            self.interface_dropped + other.interface_dropped,
        )


class Capture:
    """tcpdump for one source.

    Times are on the clock of its host. From ``ready_ns`` to ``stopped_ns`` it certainly captures. ``shut`` is true if
    its inflow was shut, so that the tool could read all received packets.
    """

    def __init__(self, source: Source, folder: Path, settings: Settings) -> None:
        self.source = source
        self.raw = folder / f"{source.stem}{self._suffix}"
        self.log = folder / f"{source.stem}.log"
        self.ready_ns: int | None = None
        self.stopped_ns: int | None = None
        self.since_ns: int | None = None  # earlier packets were not yet filtered
        self.shut = False
        self.ended_early = False
        self.is_over = False  # its recorder is gone, and its host is not asked any more
        self.devices: dict[int, str] = {}  # in a capture of all devices: their names by index
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._listening = False

    _suffix = ".pcap"

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"{self.source.stem} ({self.source.device})"

    def command(self) -> list[str]:
        settings = self._settings
        command = ["tcpdump", "-n", "-i", self.source.device, "--time-stamp-precision=nano"]
        if self.source.cooked:
            command += ["-y", "LINUX_SLL2"]
        # Not immediate mode: it loses packets under load. -Z root: the file stays ours.
        command += ["-B", str(settings.buffer_kib), "-s", str(settings.snaplen or FULL_SNAPLEN), "-Z", "root"]
        command += ["-w", str(self.raw) if self.source.host.is_local else "-"]
        if settings.ring is not None:
            command += ["-C", str(settings.ring.megabytes), "-W", str(settings.ring.files)]
        return command + _expression(self.source.filter)

    def start(self, children: Children, lock: int) -> None:
        """Start the tool. It keeps the descriptor ``lock`` open, which shows its end to later recorders."""
        host = self.source.host
        with fresh(self.log) as log:
            # If the parent dies, this first signal makes the tool write out its packets.
            if host.is_local:
                self._process = host.start(
                    children, self.command(), self.source.namespace, stdout=None, stderr=log,
                    parent_death_signal=signal.SIGINT, inherited=(lock,),
                )  # fmt: skip
                return
            with fresh(self.raw) as raw:
                self._process = host.start(
                    children, self.command(), self.source.namespace, stdout=raw, stderr=log,
                    parent_death_signal=signal.SIGTERM, inherited=(lock,),
                )  # fmt: skip

    def times(self) -> dict[str, Any]:
        """The capture's own times, devices and end, as JSON holds them."""
        return {
            "ready_ns": self.ready_ns,
            "stopped_ns": self.stopped_ns,
            "since_ns": self.since_ns,
            "shut": self.shut,
            "ended_early": self.ended_early,
            "devices": {str(index): name for index, name in self.devices.items()},
        }

    def restore(self, times: Mapping[str, Any]) -> None:
        """Set times, devices and end of a capture whose recorder is gone, from an earlier result of ``times``."""
        self.ready_ns, self.stopped_ns, self.since_ns = times["ready_ns"], times["stopped_ns"], times["since_ns"]
        self.shut, self.ended_early = times["shut"], times["ended_early"]
        self.devices = {int(index): name for index, name in times["devices"].items()}
        self.is_over = True

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def raw_files(self) -> list[Path]:
        """The files that the tool wrote: one file, or the files of the ring in no particular order."""
        if self._settings.ring is None:
            return [self.raw] if is_regular(self.raw) else []
        return sorted(filter(is_regular, self.raw.parent.glob(f"{self.raw.name}[0-9]*")))

    def size(self) -> int:
        """Bytes in its raw files so far."""
        total = 0
        for file in self.raw_files():
            with suppress(OSError):  # a file of a ring may go meanwhile
                total += file.stat().st_size
        return total

    def said(self) -> str:
        """The end of the tool's log (the whole log, unless the recorder asked for counts for hours)."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, log.seek(0, 2) - _LOG_TAIL))
                return log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def words(self) -> str:
        """The tool's log in one line."""
        lines = [line for line in self.said().strip().splitlines() if not line.startswith(PROCESS_MARK)]
        return "; ".join(lines[-3:]) or "no message"

    def listening(self) -> bool:
        """True once it captures. The time is taken after the log is read: it errs on the late side."""
        if not self._listening and self._says_ready():
            self._listening = True
            if self.source.direction:
                self._by_direction()
            if self.source.cooked:
                self.note_devices()
            self.ready_ns = self.source.host.now_ns()
        return self._listening

    def _says_ready(self) -> bool:
        return "listening on " in self.said()

    def note_devices(self) -> None:
        """Note the index of each device, at the start and at the end; devices between the two stay unknown."""
        if self.is_over:
            return
        self.devices = {**interfaces(self.source.host, self.source.namespace), **self.devices}

    def _by_direction(self) -> None:
        host = self.source.host
        try:
            program = self._program()
            before_ns = host.attach_filter(self._process_there(), program)
            time.sleep(SHUT_MARGIN_NS / 1e9)
            # Packets before this moment passed without the filter; packets stamped after it are filtered.
            self.since_ns = host.now_ns() or before_ns + SHUT_MARGIN_NS
        except OSError as error:
            raise LabError(
                f"{self.name}: cannot separate directions here ({error.strerror or error}); --any can"
            ) from error

    def _program(self) -> list[Instruction]:
        """The filter program of this source, with its direction, for the kernel."""
        snaplen = str(self._settings.snaplen or FULL_SNAPLEN)
        command = ["tcpdump", "-i", self.source.device, "-s", snaplen, "-ddd", *_expression(self.source.filter)]
        said = self.source.host.run(command, self.source.namespace)
        numbers = [[int(number) for number in line.split()] for line in said.splitlines()[1:]]
        return by_direction(self.source.direction, [(code, yes, no, value) for code, yes, no, value in numbers])

    def last_counts(self) -> Counts | None:
        found = _TCPDUMP_COUNTS.findall(self.said())
        return Counts(*(int(number or 0) for number in found[-1])) if found else None

    def known_counts(self) -> Counts | None:
        """The counts of the whole capture; None where the tool did not report them.

        If the capture ended by itself, the last counts are final only if they agree with its file. Earlier counts are
        smaller.
        """
        counts = self.last_counts()
        if self.stopped_ns is not None or counts is None:
            return counts if self.stopped_ns is not None else None
        return counts if self.is_over and counts.captured == sum(map(packets_in, self.raw_files())) else None

    def ask(self) -> int:
        """Ask for the counts (SIGUSR1); returns the length of the log before."""
        before = self._log_size()
        if self.running:
            self._signal(signal.SIGUSR1)
        return before

    def answered(self, before: int) -> bool:
        return not self.running or (self._log_size() > before and self.said().endswith("\n"))

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def complete(self) -> bool:
        """True if, by the last counts, every received packet has been read."""
        counts = self.last_counts()
        return counts is not None and counts.complete

    def shut_inflow(self) -> None:
        """Stop the kernel from handing over packets; OSError where that is impossible."""
        before_ns = self.source.host.attach_filter(self._process_there(), NOTHING)
        self.stopped_ns = before_ns - SHUT_MARGIN_NS
        self.shut = True

    def stop(self) -> None:
        if self.running:
            if self.stopped_ns is None:
                self.stopped_ns = self.source.host.now_ns()
            self._signal(signal.SIGINT)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False after ``timeout_s``."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def abandon(self) -> None:
        """End the tool on another host. On this host ``Children`` ends it."""
        if not self.source.host.is_local and self.running:
            self._signal(signal.SIGTERM)

    def _signal(self, sign: signal.Signals) -> None:
        assert self._process is not None
        if self.source.host.is_local:
            signal_group(self._process, sign)
        else:
            self.source.host.signal(self._process_there(), sign.name.removeprefix("SIG"))

    def _process_there(self) -> int:
        """Its process id on its own host."""
        assert self._process is not None
        if self.source.host.is_local:
            return self._process.pid
        with self.log.open("rb") as log:
            for line in log.read(_LOG_TAIL).splitlines():
                if line.startswith(PROCESS_MARK.encode()):
                    return int(line[len(PROCESS_MARK) :])
        raise LabError(f"{self.name}: nothing was started by {self.source.host.label()}: {self.words()}")


def _expression(text: str) -> list[str]:
    """A capture filter as arguments of tcpdump; behind ``--`` no word counts as an option."""
    return ["--", text] if text else []


class Dumpcap(Capture):
    """dumpcap for one source. It reports written packets while it runs, and received packets only at its end."""

    _suffix = ".raw.pcapng"

    # It writes out its queue at least this often, and takes a block from the kernel after a quarter second.
    _QUIET_S = 1.0

    def __init__(self, source: Source, folder: Path, settings: Settings) -> None:
        super().__init__(source, folder, settings)
        self._written: int | None = None
        self._written_since = 0.0

    def command(self) -> list[str]:
        settings = self._settings
        command = [
            "dumpcap",
            "-i",
            self.source.device,
            "-w",
            str(self.raw),
            "-s",
            str(settings.snaplen or FULL_SNAPLEN),
        ]
        command += ["-B", str(max(1, settings.buffer_kib // 1024))]
        if self.source.cooked:
            command += ["-y", "LINUX_SLL2"]
        if settings.ring is not None:
            command += ["-b", f"filesize:{settings.ring.megabytes * 1000}", "-b", f"files:{settings.ring.files}"]
        return command + (["-f", self.source.filter] if self.source.filter else [])

    def raw_files(self) -> list[Path]:
        if self._settings.ring is None:
            return super().raw_files()
        return sorted(filter(is_regular, self.raw.parent.glob(f"{self.raw.stem}_*{self.raw.suffix}")))

    def _says_ready(self) -> bool:
        return "File: " in self.said()

    def last_counts(self) -> Counts | None:
        final = _DUMPCAP_COUNTS.findall(self.said())
        if final:
            written, dropped = (int(number) for number in final[-1])
            return Counts(written, written + dropped, dropped)
        progress = _DUMPCAP_PROGRESS.findall(self.said())
        written = int(progress[-1]) if progress else 0
        return Counts(written, written, 0)

    def ask(self) -> int:
        return 0

    def answered(self, before: int) -> bool:
        return True

    def complete(self) -> bool:
        counts = self.last_counts()
        now = time.monotonic()
        if counts is None or counts.captured != self._written:
            self._written, self._written_since = (None if counts is None else counts.captured), now
        return now - self._written_since > self._QUIET_S


def new_capture(source: Source, folder: Path, settings: Settings) -> Capture:
    """The capture that the settings ask for."""
    return (Dumpcap if settings.tool == "dumpcap" else Capture)(source, folder, settings)


def dead(captures: Sequence[Capture]) -> Capture | None:
    """The first capture that has ended by itself."""
    return next((capture for capture in captures if not capture.running), None)
