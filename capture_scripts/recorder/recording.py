"""Record at all points at once, with a remedy for each way in which a capture can mislead:

* Packets are certain only from the moment when the last capture has reported that it listens. The window starts there.
* A capture tool discards unread packets when it stops, and does not report them. The recorder goes on for the loss
  threshold after the traffic, and then shuts the inflow of every capture (socket_filters.py). It asks each tool for its
  counts until captured + dropped = received, and only then stops the tools. The window ends where the first inflow was
  shut.
* After the stop, captured + dropped = received is checked again, and also against the packets in the file.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ..processes import CannotStart, Children, Interrupted, LabError, Shield
from .captures import Capture, Counts, Settings, dead, new_capture
from .journal import STOPPED, Journal
from .raw_files import packets_in
from .sealed_runs import SealedGroup, remove_raw, seal_group, unsealed
from .sources import Group, Source

READY_TIMEOUT_S = 15.0
SETTLE_TIMEOUT_S = 15.0
QUIET_TIMEOUT_S = 3.0  # for captures whose inflow cannot be shut: their traffic may never end
STOP_TIMEOUT_S = 30.0
# A sealed file is larger than the raw one: a packet block has 16 bytes more than a packet of a pcap, up to 3 of
# padding, and 12 for the direction. The smallest packets, an ARP request of 42 bytes, grow most.
_GROWTH, _GROWTH_WITH_DIRECTION = 0.4, 0.65
_DISK_RESERVE = 1 << 20
# Time from a check of the disk to the end of the inflow: until the next check, and a block held by the kernel for 1 s.
_REACTION_S = 1.5
# A fast sender fills 48 MB within 0.1 s, so the disk is checked more often than a rate can be told.
_CHECK_S = 0.02
_SHORTEST_RATE_S = 0.1
_POLL_S = 0.005


@dataclass
class Recorded:
    """The outcome. An incomplete recording has no ``window_ns``, and its ``problems`` give the reasons.

    ``counts`` are by file stem, which is the name of the point unless points share a capture. ``clocks`` are by point.
    ``notes`` are facts that a reader of a complete recording should know. ``began``: all points recorded.
    """

    started: datetime
    clocks: Mapping[str, str]
    window_ns: tuple[int, int] | None = None
    counts: dict[str, Counts] = field(default_factory=dict)
    sealed: dict[str, SealedGroup] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: bool = False


class Running:
    """The captures while they run, for code that waits meanwhile."""

    def __init__(self, captures: Sequence[Capture], folder: Path, *, keep_raw: bool) -> None:
        self._captures = captures
        self._folder = folder
        self._keep_raw = keep_raw
        directed = any(capture.source.direction or capture.source.cooked for capture in captures)
        self._growth = _GROWTH_WITH_DIRECTION if directed else _GROWTH
        self._sizes: list[tuple[float, int]] = []

    def check(self) -> None:
        """LabError when a capture has ended by itself, or when the disk will soon be too full to seal."""
        ended = dead(self._captures)
        if ended is not None:
            ended.ended_early = True
            raise LabError(f"the capture at {ended.name} ended too early: {ended.words()}")
        sizes = [capture.size() for capture in self._captures]
        coming = self._rate(sum(sizes)) * _REACTION_S
        growth = self._growth * sum(sizes) + (sum(sizes) if self._keep_raw else max(sizes))
        free = shutil.disk_usage(self._folder).free
        if free < growth + coming + _DISK_RESERVE:
            raise LabError(
                f"the disk of {self._folder} is nearly full ({free >> 10} KiB left): stopped while sealing has room"
            )

    def wait(self, seconds: float) -> None:
        """Let the captures go on for some time. LabError as in ``check``."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _CHECK_S))

    def packets(self, point: str) -> int:
        """Packets received at a point so far, dropped ones included."""
        chosen = [capture for capture in self._captures if point in {p.name for p in capture.source.points}]
        return sum(counts.received for counts in _ask_all(chosen) if counts is not None)

    def _rate(self, size: int) -> float:
        """Bytes per second that all captures wrote: in the last second, or since the last check if that is more.

        The rate over a second is too late for a disk that fills within a second. The rate over a short time alone is
        unreliable, because the kernel hands over packets in blocks.
        """
        now = time.monotonic()
        self._sizes.append((now, size))
        while len(self._sizes) > 2 and now - self._sizes[1][0] >= 1.0:
            del self._sizes[0]
        looks = (self._sizes[0], self._sizes[max(0, len(self._sizes) - 2)])
        return max(max(0, size - before) / max(_SHORTEST_RATE_S, now - then) for then, before in looks)


def record(
    folder: Path,
    groups: Sequence[Group],
    settings: Settings,
    journal: Journal,
    shield: Shield,
    lock: int,
    *,
    before: Callable[[], None],
    traffic: Callable[[Running], None],
    after: Callable[[], None],
) -> tuple[Recorded, BaseException | None]:
    """Record for all ``groups`` while ``traffic`` runs; ``folder`` has ``captures/``, whose lock is ``lock``.

    ``before()`` is called when every capture records, ``after()`` when traffic has ended and the loss threshold
    is over. The second value returned is their failure, a failure of the traffic, or an interruption; the packets
    captured so far are sealed all the same. Nothing is raised once a capture runs. No process is left.

    The shield is lifted while ``before``, ``traffic`` and ``after`` run. A signal before that ends the start. A signal
    while the captures are stopped changes nothing. The second signal during the sealing ends the sealing.
    """
    recorded = Recorded(journal.started, journal.clocks)
    trouble: BaseException | None = None
    captures = {
        source: new_capture(source, folder / "captures", settings) for group in groups for source in group.sources
    }
    running: list[Capture] = []
    with Children() as children:
        try:
            for capture in captures.values():
                running.append(capture)
                capture.start(children, lock)
            _wait_ready(running, shield)
            recorded.began = True
            journal.note(running, journal.phase)
            watch = Running(running, folder, keep_raw=settings.keep_raw)
            try:
                shield.lift()
                before()
                traffic(watch)
                watch.wait(settings.threshold_s)
                after()
            finally:
                shield.up()
        except (Exception, Interrupted) as error:
            shield.up()  # once more: the signal may have arrived just before the shield was up
            trouble = error
            recorded.problems.append(reason(error))
        _end(running, recorded, whole=trouble is None)
    if not recorded.began and not any(packets_in(file) for capture in running for file in capture.raw_files()):
        return recorded, trouble
    journal.problems, journal.notes = list(recorded.problems), list(recorded.notes)
    _keep(recorded, lambda: journal.note(running, STOPPED))
    interrupted = seal_all(groups, captures, settings, journal, recorded, shield)
    return recorded, trouble or interrupted


def _end(running: Sequence[Capture], recorded: Recorded, *, whole: bool) -> None:
    """Shut, settle and stop the captures that run. A failure becomes a problem of the recording."""
    alive = [capture for capture in running if capture.running]
    try:
        if recorded.began:
            _settle(running if whole else alive, recorded)
        _stop(running if recorded.began else alive, recorded)
    except Exception as error:
        recorded.problems.append(reason(error))
    for capture in running:
        try:
            capture.abandon()
        except Exception as error:
            recorded.problems.append(reason(error))


def seal_all(
    groups: Sequence[Group],
    captures: Mapping[Source, Capture],
    settings: Settings,
    journal: Journal,
    recorded: Recorded,
    shield: Shield,
) -> Interrupted | None:
    """Seal the captures that the journal does not list as sealed; returns the interruption, if there was one.

    A raw file is removed after the journal lists its packets as sealed, and not before.
    """
    interrupted: Interrupted | None = None
    shield.up(patience=1, words="record: sealing the captures; one more signal leaves them for record --resume")
    # The smallest first: on a full disk, each raw file that is removed makes room.
    for group in sorted(groups, key=lambda group: sum(captures[source].size() for source in group.sources)):
        mine = [captures[source] for source in group.sources]
        sealed = journal.sealed.get(group.stem)
        try:
            if sealed is None and interrupted is None:
                sealed = seal_group(group, mine, settings)
            elif sealed is None:
                sealed = unsealed(group, mine, "not sealed (interrupted)")
            if sealed.is_sealed:
                journal.note_sealed(group.stem, sealed)
                if not settings.keep_raw and not sealed.cut:
                    remove_raw(mine)
        except Interrupted as error:
            shield.up()
            interrupted = error
            sealed = sealed or unsealed(group, mine, f"not sealed ({reason(error)})")
        except OSError as error:  # the disk is full: the raw files are still there
            recorded.problems.append(f"{group.stem}: {error.strerror}: its raw files stay beside the sealed ones")
            sealed = sealed or unsealed(group, mine, f"not sealed ({error.strerror})")
        recorded.sealed[group.stem] = sealed
        recorded.problems += sealed.problems
        recorded.notes += sealed.notes
    shield.up()
    found = {group.stem: recorded.sealed[group.stem].counts for group in groups}
    recorded.counts = {stem: counts for stem, counts in found.items() if counts is not None}
    if not recorded.problems:
        recorded.window_ns = _window(groups, recorded)
    return interrupted


def _keep(recorded: Recorded, write: Callable[[], None]) -> None:
    """Write to the journal; a full disk does not stop the rest."""
    try:
        write()
    except OSError as error:
        recorded.notes.append(f"the state of the recording could not be written ({error.strerror})")


def reason(error: BaseException) -> str:
    """The error in a few words."""
    return f"interrupted ({error})" if isinstance(error, Interrupted) else str(error) or type(error).__name__


def _window(groups: Sequence[Group], recorded: Recorded) -> tuple[int, int] | None:
    """The span that all captures cover, if they are on one clock and their begin and end are known."""
    spans = [(recorded.sealed[group.stem].start_ns, recorded.sealed[group.stem].end_ns) for group in groups]
    known = [(start, end) for start, end in spans if start is not None and end is not None]
    if len(set(recorded.clocks.values())) != 1 or len(known) < len(spans):
        return None
    start, end = max(start for start, _ in known), min(end for _, end in known)
    return (start, end) if start <= end else None


def _wait_ready(captures: Sequence[Capture], shield: Shield) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        shield.raise_arrived()
        try:
            listening = [capture.listening() for capture in captures]  # asks each capture: its time is taken at once
        except LabError as error:
            raise CannotStart(str(error)) from error
        if all(listening):
            return
        ended = dead(captures)
        if ended is not None:
            raise CannotStart(f"the capture at {ended.name} did not start: {ended.words()}")
        if time.monotonic() > deadline:
            silent = ", ".join(capture.name for capture, ready in zip(captures, listening, strict=True) if not ready)
            raise CannotStart(f"no capture after {READY_TIMEOUT_S:g} s at: {silent}")
        time.sleep(_POLL_S)


def _settle(captures: Sequence[Capture], recorded: Recorded) -> None:
    """Shut the inflow of every capture and wait until each has read all received packets."""
    for capture in captures:
        try:
            capture.shut_inflow()
        except OSError as error:
            recorded.notes.append(f"{capture.name}: its inflow could not be shut ({error})")
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    patience = time.monotonic() + QUIET_TIMEOUT_S
    waiting = list(captures)
    while waiting:
        while (ended := dead(waiting)) is not None:
            ended.ended_early = True
            recorded.problems.append(f"the capture at {ended.name} ended too early: {ended.words()}")
            waiting.remove(ended)
        _ask_all(waiting)
        now = time.monotonic()
        waiting = [capture for capture in waiting if not (capture.complete() or (not capture.shut and now > patience))]
        names = ", ".join(capture.name for capture in waiting)
        if waiting and now > deadline:
            raise LabError(f"packets are still unread {SETTLE_TIMEOUT_S:g} s after the end at: {names}")
        if waiting:
            time.sleep(0.1)


def _ask_all(captures: Sequence[Capture]) -> list[Counts | None]:
    asked = [(capture, capture.ask()) for capture in captures]
    deadline = time.monotonic() + 2.0
    while not all(capture.answered(before) for capture, before in asked) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return [capture.last_counts() for capture in captures]


def _stop(captures: Sequence[Capture], recorded: Recorded) -> None:
    for capture in captures:
        if not capture.running and not capture.ended_early:
            recorded.problems.append(f"the capture at {capture.name} ended too early: {capture.words()}")
    for capture in captures:
        capture.stop()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for capture in captures:
        if not capture.wait(max(0.0, deadline - time.monotonic())):
            recorded.problems.append(f"the capture at {capture.name} did not stop and was killed")
