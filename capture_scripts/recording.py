"""Recording at all points at once. What it does about the ways in which a capture lies:

* packets are certain only from the moment when the last capture has said that it listens: the window starts
  there;
* a capture tool forgets what it has not yet read when it is told to stop, and says nothing. So we go on for
  the loss threshold after the traffic, then shut the inflow of every capture (socket_filters.py) and ask
  until captured + dropped = received at each of them; only then are they stopped, and the window ends where
  the first was shut;
* after stopping, captured + dropped = received is checked again, and against the packets in the file.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .captures import Capture, Counts, Settings, dead, new_capture
from .points import clocks
from .processes import CannotStart, Children, Interrupted, LabError
from .sealed_runs import SealedGroup, seal_group
from .sources import Group

READY_TIMEOUT_S = 15.0
SETTLE_TIMEOUT_S = 15.0
QUIET_TIMEOUT_S = 3.0  # for captures whose inflow cannot be shut: they may never be quiet
STOP_TIMEOUT_S = 10.0
# Sealing needs room for the sealed file beside the raw one, which is about a third smaller at worst.
_GROWTH = 0.35
_DISK_RESERVE = 1 << 20
_POLL_S = 0.005


@dataclass
class Recorded:
    """The outcome. ``window_ns`` is None and ``problems`` tell why when the recording is not complete.

    ``counts`` are by file stem, which is the point's name unless captures are shared. ``clocks`` are by point.
    ``notes`` are what a reader should know of a complete recording.
    """

    started: datetime
    clocks: Mapping[str, str]
    window_ns: tuple[int, int] | None = None
    counts: dict[str, Counts] = field(default_factory=dict)
    sealed: dict[str, SealedGroup] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Running:
    """The captures while they run, for whoever waits for something meanwhile."""

    def __init__(self, captures: Sequence[Capture], folder: Path, *, keep_raw: bool) -> None:
        self._captures = captures
        self._folder = folder
        self._keep_raw = keep_raw

    def check(self) -> None:
        """LabError when a capture has ended by itself, or when the disk is about to be too full to seal."""
        ended = dead(self._captures)
        if ended is not None:
            ended.ended_early = True
            raise LabError(f"the capture at {ended.name} ended before it was told to: {ended.words()}")
        sizes = [sum(file.stat().st_size for file in capture.raw_files()) for capture in self._captures]
        growth = sum(sizes) * (1 + _GROWTH if self._keep_raw else _GROWTH) + (0 if self._keep_raw else max(sizes))
        free = shutil.disk_usage(self._folder).free
        if free < growth + _DISK_RESERVE:
            raise LabError(
                f"the disk of {self._folder} is nearly full ({free >> 10} KiB left): stopped while one can seal"
            )

    def packets(self, point: str) -> int:
        """Packets received at a point up to now, dropped ones included."""
        chosen = [capture for capture in self._captures if point in {p.name for p in capture.source.points}]
        return sum(counts.received for counts in _ask_all(chosen) if counts is not None)


def record(
    folder: Path,
    groups: Sequence[Group],
    settings: Settings,
    *,
    before: Callable[[], None],
    traffic: Callable[[Running], None],
    after: Callable[[], None],
) -> tuple[Recorded, BaseException | None]:
    """Record for all ``groups`` while ``traffic`` runs; ``folder`` gets ``captures/``.

    ``before()`` is called when every capture records, ``after()`` when traffic has ended and the loss threshold
    is over. A failure of either, of the traffic, or an interruption is returned as the second value, and
    what was captured until then is sealed all the same. Raises CannotStart if the captures could not be
    started; no process is left then.
    """
    folder_of_captures = folder / "captures"
    folder_of_captures.mkdir(parents=True, exist_ok=True)
    recorded = Recorded(datetime.now(UTC), clocks([point for group in groups for point in group.points]))
    trouble: BaseException | None = None
    captures = {
        source: new_capture(source, folder_of_captures, settings) for group in groups for source in group.sources
    }
    running = list(captures.values())
    with Children() as children:
        try:
            for capture in running:
                capture.start(children)
            _wait_ready(running)
            try:
                before()
                traffic(Running(running, folder, keep_raw=settings.keep_raw))
                time.sleep(settings.threshold_s)
                after()
                _settle(running, recorded)
            except (Exception, Interrupted) as error:
                trouble = error
                recorded.problems.append(reason(error))
                _settle_what_runs(running, recorded)
            _stop(running, recorded)
        finally:
            for capture in running:
                capture.abandon()
    # The smallest first: on a disk that is full, each raw file that goes makes room.
    for group in sorted(
        groups, key=lambda g: sum(f.stat().st_size for s in g.sources for f in captures[s].raw_files())
    ):
        sealed = seal_group(group, [captures[source] for source in group.sources], settings)
        recorded.sealed[group.stem] = sealed
        recorded.problems += sealed.problems
        recorded.notes += sealed.notes
        if sealed.counts is not None:
            recorded.counts[group.stem] = sealed.counts
    recorded.counts = {g.stem: recorded.counts[g.stem] for g in groups if g.stem in recorded.counts}
    if not recorded.problems:
        recorded.window_ns = _window(groups, recorded)
    return recorded, trouble


def reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    return f"interrupted ({error})" if isinstance(error, Interrupted) else str(error) or type(error).__name__


def _window(groups: Sequence[Group], recorded: Recorded) -> tuple[int, int] | None:
    """The span that all captures cover, where they are on one clock and say when they began and ended."""
    spans = [(recorded.sealed[group.stem].start_ns, recorded.sealed[group.stem].end_ns) for group in groups]
    known = [(start, end) for start, end in spans if start is not None and end is not None]
    if len(set(recorded.clocks.values())) != 1 or len(known) < len(spans):
        return None
    start, end = max(start for start, _ in known), min(end for _, end in known)
    return (start, end) if start <= end else None


def _wait_ready(captures: Sequence[Capture]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            listening = [capture.listening() for capture in captures]  # asks each one: its time is taken at once
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
    """Shut the inflow of every capture and wait until each has read all that it received."""
    for capture in captures:
        try:
            capture.shut_inflow()
        except OSError as error:
            recorded.notes.append(f"{capture.name}: its inflow could not be shut ({error})")
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    patience = time.monotonic() + QUIET_TIMEOUT_S
    waiting = list(captures)
    while waiting:
        ended = dead(waiting)
        if ended is not None:
            ended.ended_early = True
            raise LabError(f"the capture at {ended.name} ended before it was told to: {ended.words()}")
        _ask_all(waiting)
        now = time.monotonic()
        waiting = [capture for capture in waiting if not (capture.complete() or (not capture.shut and now > patience))]
        if waiting and now > deadline:
            names = ", ".join(capture.name for capture in waiting)
            raise LabError(f"packets are still unread {SETTLE_TIMEOUT_S:g} s after the end at: {names}")
        if waiting:
            time.sleep(0.1)


def _ask_all(captures: Sequence[Capture]) -> list[Counts | None]:
    asked = [(capture, capture.ask()) for capture in captures]
    deadline = time.monotonic() + 2.0
    while not all(capture.answered(before) for capture, before in asked) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return [capture.last_counts() for capture in captures]


def _settle_what_runs(captures: Sequence[Capture], recorded: Recorded) -> None:
    """After a failure: what the kernel still holds is handed over all the same."""
    try:
        _settle([capture for capture in captures if capture.running], recorded)
    except (LabError, Interrupted) as error:
        recorded.problems.append(reason(error))


def _stop(captures: Sequence[Capture], recorded: Recorded) -> None:
    for capture in captures:
        if not capture.running and not capture.ended_early:
            recorded.problems.append(f"the capture at {capture.name} ended before it was told to: {capture.words()}")
    for capture in captures:
        capture.stop()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for capture in captures:
        if not capture.wait(max(0.0, deadline - time.monotonic())):
            recorded.problems.append(f"the capture at {capture.name} did not stop and was killed")
