"""Record at all points at once and seal what was recorded: ``record.py OUT --name LAB [-- COMMAND ...]``.

One tcpdump per point. What it does about the ways in which a capture lies:

* packets are certain only from the moment when the last tcpdump has said "listening on": the window
  starts there;
* tcpdump forgets what it has not yet read when it is told to stop, and says nothing. So before stopping we
  wait for the loss threshold and ask (SIGUSR1) until captured + dropped = received at every point, twice in
  a row the same;
* after stopping, captured + dropped = received is checked again, and against the packets in the file.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

if __name__ == "__main__" and not __package__:  # started as a file: its folder is the package (PEP 366)
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    __package__ = Path(__file__).resolve().parent.name

from .context import kernel, tool_versions
from .processes import (
    Children,
    Interrupted,
    LabError,
    in_namespace,
    interruptible,
    need_root,
    need_tools,
    signal_group,
)
from .sealing import InterfaceRecord, SealedCounts, seal

TOOLS = {"tcpdump": "tcpdump", "ip": "iproute2", "nft": "nftables", "ethtool": "ethtool"}
READY_TIMEOUT_S = 15.0
SETTLE_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 10.0
_POLL_S = 0.005
_COUNTS = re.compile(
    r"(\d+) packets? captured\s*,?\s*(\d+) packets? received by filter"
    r"\s*,?\s*(\d+) packets? dropped by kernel(?:\s*,?\s*(\d+) packets? dropped by interface)?"
)


@dataclass(frozen=True)
class Point:
    """A detection point: its name and its device; ``filter`` is a capture filter, mostly none."""

    name: str
    device: str
    namespace: str | None = None
    role: str = ""
    filter: str = ""

    def description(self) -> str:
        """``role/device``, without the lab's name: which lab it was does not matter to a reader."""
        return f"{self.role}/{self.device}" if self.role else self.device


@dataclass(frozen=True)
class Counts:
    """tcpdump's own words. ``received`` includes ``dropped``."""

    captured: int
    received: int
    dropped: int
    interface_dropped: int = 0

    @property
    def complete(self) -> bool:
        return self.captured + self.dropped == self.received


@dataclass(frozen=True)
class Settings:
    """How to capture. ``threshold_s``, the loss threshold, is how long to go on after the traffic."""

    snaplen: int = 256
    buffer_kib: int = 32768
    threshold_s: float = 2.0
    keep_raw: bool = False


@dataclass
class Recorded:
    """The outcome. ``window_ns`` is None and ``problems`` tell why when the recording is not complete."""

    started: datetime
    window_ns: tuple[int, int] | None = None
    counts: dict[str, Counts] = field(default_factory=dict)
    sealed: dict[str, SealedCounts] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Capture:
    """One tcpdump at one point, known through its log file."""

    def __init__(self, point: Point, folder: Path, settings: Settings) -> None:
        self.point = point
        self.raw = folder / f"{point.name}.pcap"
        self.log = folder / f"{point.name}.log"
        self.sealed = folder / f"{point.name}.pcapng"
        self.ready_ns: int | None = None
        self.stopped_ns: int | None = None
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, children: Children) -> None:
        command = [
            "tcpdump",
            "-n",
            "-i",
            self.point.device,
            "-w",
            str(self.raw),
            "--time-stamp-precision=nano",
        ]
        # Not immediate mode: it loses packets under load. -Z root: the file stays ours.
        command += ["-B", str(self._settings.buffer_kib), "-s", str(self._settings.snaplen), "-Z", "root"]
        if self.point.filter:
            command.append(self.point.filter)
        with self.log.open("wb") as log:
            self._process = children.start(
                in_namespace(self.point.namespace, command), stderr=log, parent_death_signal=signal.SIGINT
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def listening(self) -> bool:
        """True from "listening on". The time is taken after the words are read: it errs on the late side."""
        if self.ready_ns is None and "listening on " in self.said():
            self.ready_ns = time.time_ns()
        return self.ready_ns is not None

    def last_counts(self) -> Counts | None:
        found = _COUNTS.findall(self.said())
        return Counts(*(int(number or 0) for number in found[-1])) if found else None

    def ask(self) -> int:
        """Ask for the counts (SIGUSR1); returns how many answers the log held before."""
        before = len(_COUNTS.findall(self.said()))
        if self.running and self._process is not None:
            signal_group(self._process, signal.SIGUSR1)
        return before

    def answered(self, before: int) -> bool:
        return not self.running or len(_COUNTS.findall(self.said())) > before

    def stop(self) -> None:
        if self.running and self._process is not None:
            self.stopped_ns = time.time_ns()
            signal_group(self._process, signal.SIGINT)

    def wait(self, timeout_s: float) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def record(
    folder: Path,
    points: Sequence[Point],
    settings: Settings,
    *,
    before: Callable[[], None],
    traffic: Callable[[], None],
    after: Callable[[], None],
) -> tuple[Recorded, BaseException | None]:
    """Record at all ``points`` while ``traffic()`` runs; ``folder`` gets ``captures/``.

    ``before()`` is called when every point records, ``after()`` when traffic has ended and nothing is
    unread. A failure of either, of the traffic, or an interruption is returned as the second value, and
    what was captured until then is sealed all the same. Raises LabError if the points could not be started;
    no process is left then.
    """
    captures = folder / "captures"
    captures.mkdir(parents=True, exist_ok=True)
    recorded = Recorded(started=datetime.now(UTC))
    trouble: BaseException | None = None
    running = [Capture(point, captures, settings) for point in points]
    with Children() as children:
        for capture in running:
            capture.start(children)
        _wait_ready(running)
        try:
            before()
            traffic()
            _settle(running, settings.threshold_s)
            after()
            _settle(running, 0.0)
        except (Exception, Interrupted) as error:
            trouble = error
            recorded.problems.append(_reason(error))
            _read_the_rest(running, recorded)
        _stop(running, recorded)
    for capture in running:
        _seal(capture, settings, recorded)
    ready = [capture.ready_ns for capture in running if capture.ready_ns is not None]
    stopped = [capture.stopped_ns for capture in running if capture.stopped_ns is not None]
    if len(ready) == len(stopped) == len(running) and all(counts.complete for counts in recorded.counts.values()):
        recorded.window_ns = (max(ready), min(stopped))
    return recorded, trouble


def _reason(error: BaseException) -> str:
    return f"interrupted ({error})" if isinstance(error, Interrupted) else str(error) or type(error).__name__


def _wait_ready(captures: Sequence[Capture]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        listening = [capture.listening() for capture in captures]  # asks each one: its time is taken at once
        if all(listening):
            return
        for capture in captures:
            if not capture.running:
                words = capture.said().strip().replace("\n", "; ") or "no message"
                raise LabError(f"tcpdump at {capture.point.name} ({capture.point.device}) did not start: {words}")
        if time.monotonic() > deadline:
            silent = ", ".join(capture.point.name for capture in captures if not capture.listening())
            raise LabError(f"tcpdump is not listening after {READY_TIMEOUT_S:g} s at: {silent}")
        time.sleep(_POLL_S)


def _settle(captures: Sequence[Capture], wait_s: float) -> None:
    """Wait, then ask until every point has read all it received and twice in a row no point received more."""
    time.sleep(wait_s)
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    previous: list[Counts | None] = []
    while True:
        now = _ask_all(captures)
        for capture, counts in zip(captures, now, strict=True):
            if counts is None or not capture.running:
                raise LabError(f"tcpdump at {capture.point.name} ended before it was told to (see {capture.log.name})")
        if all(counts is not None and counts.complete for counts in now) and now == previous:
            return
        if time.monotonic() > deadline:
            raise LabError(f"packets are still arriving or unread {SETTLE_TIMEOUT_S:g} s after the traffic ended")
        previous = now
        time.sleep(0.25)


def _ask_all(captures: Sequence[Capture]) -> list[Counts | None]:
    asked = [(capture, capture.ask()) for capture in captures]
    deadline = time.monotonic() + 2.0
    while not all(capture.answered(before) for capture, before in asked) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return [capture.last_counts() for capture in captures]


def _read_the_rest(captures: Sequence[Capture], recorded: Recorded) -> None:
    """After a failure: give the kernel's one-second block timeout the time to hand over what it holds."""
    try:
        _settle([capture for capture in captures if capture.running], 0.0)
    except (LabError, Interrupted) as error:
        recorded.problems.append(_reason(error))


def _stop(captures: Sequence[Capture], recorded: Recorded) -> None:
    for capture in captures:
        if not capture.running:
            recorded.problems.append(f"tcpdump at {capture.point.name} ended before it was told to")
    for capture in captures:
        capture.stop()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for capture in captures:
        if not capture.wait(max(0.0, deadline - time.monotonic())):
            recorded.problems.append(f"tcpdump at {capture.point.name} did not stop and was killed")


def _seal(capture: Capture, settings: Settings, recorded: Recorded) -> None:
    name = capture.point.name
    counts = capture.last_counts()
    versions = tool_versions()
    application = f"tcpdump {versions.get('tcpdump', '?')} libpcap {versions.get('libpcap', '?')}, sealed by pktrace"
    end_ns = capture.stopped_ns  # unknown when it ended by itself: then the last packet is the end
    final = counts if end_ns is not None else None
    interface = InterfaceRecord(
        name=name,
        description=capture.point.description(),
        filter=capture.point.filter,
        start_ns=capture.ready_ns,
        end_ns=end_ns,
        received=final.received if final else None,
        dropped=final.dropped if final else None,
        interface_dropped=final.interface_dropped if final else None,
        comment="counts and times provided by tcpdump and its recorder",
    )
    try:
        sealed = seal(capture.raw, capture.sealed, interface, os_name=kernel(), application=application)
    except (LabError, OSError) as error:
        recorded.problems.append(f"cannot seal {name}: {error}")
        return
    recorded.sealed[name] = sealed
    if final is None:
        recorded.problems.append(f"{name}: tcpdump did not say what it received")
    else:
        recorded.counts[name] = final
        if not final.complete:
            unread = final.received - final.dropped - final.captured
            recorded.problems.append(f"{name}: {unread} packets were received and never read")
        if sealed.cut or sealed.packets != final.captured:
            recorded.problems.append(f"{name}: {final.captured} packets captured, {sealed.packets} in the file")
    if not settings.keep_raw:
        capture.raw.unlink()


def new_folder(folder: Path) -> None:
    """Make the run folder; LabError if something is there: a recording is never overwritten."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise LabError(f"{folder} exists already: name another folder, or remove it") from error
    except OSError as error:
        raise LabError(f"cannot make {folder}: {error.strerror}") from error


def what_is_left(folder: Path) -> str:
    """Half a sentence for the user about an interrupted recording."""
    return f"what there was is in {folder}" if folder.exists() else "nothing was recorded yet"


def _command(arguments: Sequence[str]) -> Callable[[], None]:
    """The traffic of the command line: a command to run, or nothing until Ctrl-C."""

    def run_it() -> None:
        with Children() as children:
            code = children.start(arguments, stdout=None).wait()
        if code != 0:
            raise LabError(f"the command ended with exit code {code}: {' '.join(arguments)}")

    return run_it


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``record.py``; exit 0 done, 1 failed (what there is, is sealed), 2 usage, 130 interrupted."""
    from .service_chain import record_chain  # the chain of the lab builds on this module
    from .topology import DEFAULT_NAME, DEFAULT_RULES, Lab

    parser = argparse.ArgumentParser(
        prog="record.py",
        description="Record at every point of a lab that is up, while COMMAND runs.",
        epilog="example: record.py /tmp/run --name demo -- ip netns exec demo-client ping -c 9 10.77.0.1",
    )
    parser.add_argument("out", type=Path, help="run folder to make")
    parser.add_argument("--name", default=DEFAULT_NAME, help="name of the lab (default: %(default)s)")
    parser.add_argument("--run-name", default="", help="name in run.toml (default: the folder's)")
    parser.add_argument("--description", default="", help="one sentence for run.toml")
    parser.add_argument("--rules", type=Path, default=DEFAULT_RULES, help="the rules the lab was brought up with")
    parser.add_argument("--snaplen", type=int, default=Settings.snaplen, help="bytes kept per packet (%(default)s)")
    parser.add_argument("--threshold", type=float, default=Settings.threshold_s, help="loss threshold, s (%(default)s)")
    parser.add_argument("--keep-raw", action="store_true", help="keep tcpdump's own pcap files beside the sealed ones")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run meanwhile, after --")
    options = parser.parse_args(arguments)
    if not 64 <= options.snaplen <= 262144 or not 0 < options.threshold <= 600:
        parser.error("--snaplen takes 64..262144, --threshold more than 0 and at most 600 seconds")
    try:
        need_root("recording")
        need_tools(TOOLS)
        with interruptible():
            recorded = record_chain(
                Lab(options.name),
                options.out,
                _command(options.command),
                rules_file=options.rules,
                run_name=options.run_name or options.out.resolve().name,
                description=options.description or f"recorded while running: {' '.join(options.command)}",
                settings=Settings(snaplen=options.snaplen, threshold_s=options.threshold, keep_raw=options.keep_raw),
            )
    except LabError as error:
        print(f"record: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"record: interrupted ({error}); {what_is_left(options.out)}", file=sys.stderr)
        return 130
    for point, counts in recorded.counts.items():
        print(f"{point}: {counts.captured} captured, {counts.dropped} dropped", file=sys.stderr)
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
