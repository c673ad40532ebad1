"""One recording from beginning to end: captures, witness, sentinels, surroundings, and the ``run.toml`` over them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .captures import Settings
from .context import Context
from .kernel_witness import KernelWitness
from .points import Point
from .processes import CannotStart, LabError
from .recording import Recorded, Running, reason, record
from .run_file import PathTable, PointTable, RunFile
from .sentinels import Sentinels, window
from .sources import Group, one_per_point

# Kept free while recording, so that run.toml and the reason can be written when the disk is full.
_RESERVE = 256 << 10


@dataclass(frozen=True)
class RunPlan:
    """What is to be recorded, and what ``run.toml`` is to say about it.

    ``drops_in`` are the namespaces whose kernel drops are of interest; None is all of them.
    """

    name: str
    description: str
    points: Sequence[Point]
    settings: Settings
    groups: Sequence[Group] = ()
    paths: Sequence[PathTable] = ()
    rules: Sequence[Mapping[str, Any]] = ()
    fragment: str = ""
    sentinels: Sentinels | None = None
    kernel_drops: bool = False
    drops_in: Collection[str] | None = field(default=None)


def new_folder(folder: Path) -> None:
    """Make the run folder; CannotStart if something is there: a recording is never overwritten."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise CannotStart(f"{folder} exists already: name another folder, or remove it") from error
    except OSError as error:
        raise CannotStart(f"cannot make {folder}: {error.strerror}") from error


def record_run(
    folder: Path,
    plan: RunPlan,
    *,
    before: Callable[[Context], None],
    traffic: Callable[[Running], None],
    after: Callable[[Context], None],
    context: Callable[[Path], Context],
) -> Recorded:
    """Record ``traffic`` and write the whole run folder, which must not exist yet.

    A recording that failed or was interrupted is written too, with ``context/incomplete.txt`` and without a
    window; then the cause is raised: LabError, Interrupted, or what ``traffic`` raised. CannotStart: nothing was
    recorded, and nothing is left.
    """
    new_folder(folder)
    groups = list(plan.groups) or one_per_point(plan.points)
    reserve = folder / ".reserve"
    witness: KernelWitness | None = None
    try:
        surroundings = context(folder / "context")
        reserve.write_bytes(bytes(_RESERVE))
        if plan.kernel_drops:
            witness = KernelWitness(surroundings.folder, plan.drops_in)
            witness.begin()

        def begin() -> None:
            if witness is not None:
                witness.wait_ready()
            before(surroundings)
            if plan.sentinels is not None:
                plan.sentinels.send("start")

        def go(running: Running) -> None:
            traffic(running)
            if plan.sentinels is not None:
                plan.sentinels.send("end")

        recorded, trouble = record(
            folder, groups, plan.settings, before=begin, traffic=go, after=lambda: after(surroundings)
        )
    except BaseException as error:  # not one point was certain yet: nothing was recorded, and the folder is ours
        if witness is not None:
            witness.finish()
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise CannotStart(f"cannot write to {folder}: {error.strerror}") from error
        raise
    reserve.unlink(missing_ok=True)
    if witness is not None:
        witness.finish()
    _write_findings(surroundings, plan, groups, recorded, folder / "captures")
    (folder / "run.toml").write_text(_run_file(plan, groups, recorded).text(), encoding="utf-8")
    if trouble is not None:
        raise trouble
    if recorded.problems:
        raise LabError(f"{folder} is incomplete: {'; '.join(recorded.problems)}")
    return recorded


def _write_findings(
    context: Context, plan: RunPlan, groups: Sequence[Group], recorded: Recorded, captures: Path
) -> None:
    """What the recorder found out; a disk that is full is one more problem, and no reason to stop writing."""
    try:
        if plan.sentinels is not None:
            _bound_by_sentinels(context, plan.sentinels, recorded, captures)
        shared = {g.stem: recorded.sealed[g.stem].interfaces for g in groups if g.sources[0].cooked}
        if shared:
            context.write_json("any-interfaces.json", shared)
    except OSError as error:
        recorded.problems.append(reason(error))
    for name, lines in (("incomplete.txt", recorded.problems), ("notes.txt", recorded.notes)):
        if lines:
            context.write(name, "".join(f"{line}\n" for line in lines))


def _bound_by_sentinels(context: Context, sentinels: Sentinels, recorded: Recorded, captures: Path) -> None:
    files = {stem: [captures / name for name in sealed.files] for stem, sealed in recorded.sealed.items()}
    found = sentinels.find(files)
    span = window(found)
    if span is None:
        recorded.notes.append("no sentinel was seen before and after the traffic: the window is what the captures say")
    elif recorded.window_ns is not None:
        start, end = max(span[0], recorded.window_ns[0]), min(span[1], recorded.window_ns[1])
        recorded.window_ns = (start, end) if start <= end else recorded.window_ns
    context.write_json(
        "sentinels.json",
        {
            "address": sentinels.address,
            "start_pattern": sentinels.pattern("start").hex(),
            "end_pattern": sentinels.pattern("end").hex(),
            "window_ns": span,
            "seen": {name: {"start": len(s.start), "end": len(s.end)} for name, s in found.items()},
        },
    )


def _run_file(plan: RunPlan, groups: Sequence[Group], recorded: Recorded) -> RunFile:
    description = plan.description
    if recorded.problems:
        description = f"INCOMPLETE ({recorded.problems[0]}): {description}"
    tables = {
        point.name: PointTable(
            point.name,
            tuple(recorded.sealed[group.stem].files),
            recorded.clocks[point.name],
            point.name if group.sources[0].cooked else "",
        )
        for group in groups
        for point in group.points
    }
    return RunFile(
        name=plan.name,
        description=description,
        started=recorded.started,
        points=[tables[point.name] for point in plan.points],
        paths=plan.paths,
        rules=plan.rules,
        window_ns=None if recorded.problems else recorded.window_ns,
        threshold=f"{plan.settings.threshold_s:g}s",
        fragment=plan.fragment,
    )


def what_is_left(folder: Path) -> str:
    """Half a sentence for the user about an interrupted recording."""
    return f"what there was is in {folder}" if folder.exists() else "nothing was recorded yet"


def with_filter_beside(points: Sequence[Point], sentinels: Sentinels | None) -> list[Point]:
    """The points, with filters that let the sentinels through."""
    if sentinels is None:
        return list(points)
    return [replace(point, filter=sentinels.beside(point.filter)) for point in points]
