"""One recording from beginning to end: captures, witness, sentinels, surroundings, and the ``run.toml`` over them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..analyzer_check import check_with_analyzer
from ..own_files import PRIVATE_FOLDER, give_to_caller, remove_folder, write_whole
from ..processes import CannotStart, LabError, shielded
from ..visible import visible
from .captures import Settings, new_capture
from .journal import RECORDING, STATE_FILE, Journal, locked, path_of, read_journal
from .kernel_drops import KernelWitness
from .points import Point, clocks
from .raw_files import packets_in
from .recording import Recorded, Running, reason, record, seal_all
from .run_file import PathTable, PointTable, RunFile
from .sealed_runs import SealedGroup
from .sealing import LONGEST_TEXT
from .sentinels import Sentinels, window
from .sources import Group, one_per_point
from .surroundings import Context

_WHITE_SPACE = {ord(character): " " for character in "\t\n\r"}  # allowed in a capture filter
RESERVE = ".reserve"
INCOMPLETE = "incomplete.txt"
# Space kept free while recording, for run.toml and the reason when the disk is full.
_RESERVE = 256 << 10


@dataclass(frozen=True)
class RunPlan:
    """The plan of a recording, with the content for ``run.toml``.

    ``drops_in`` are the namespaces whose kernel drops are recorded; None means all.
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
    """Make the run folder, private to its owner. CannotStart if the name exists: nothing is ever overwritten."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(PRIVATE_FOLDER)
        (folder / "captures").mkdir(PRIVATE_FOLDER)
    except FileExistsError as error:
        raise CannotStart(exists_already(folder)) from error
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

    From the first packet on, files of the capture tools stay, except raw files whose packets are sealed. A recording
    that failed or was interrupted is written, too, with ``context/incomplete.txt`` and without a window; then the cause
    is raised: LabError, Interrupted, or the exception of ``traffic``. CannotStart: not all points recorded; the folder
    stays only if a point has captured packets already.
    """
    groups = list(plan.groups) or one_per_point(plan.points)
    _check(folder, plan, groups)
    with shielded() as shield:
        new_folder(folder)
        reserve = folder / RESERVE
        witness: KernelWitness | None = None
        recorded: Recorded | None = None
        try:
            with locked(folder / "captures", 0) as lock:
                surroundings = context(folder / "context")
                journal = new_journal(folder, plan, groups)
                write_unfinished(folder, journal)
                journal.write()
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
                    folder, groups, plan.settings, journal, shield, lock,
                    before=begin, traffic=go, after=lambda: after(surroundings),
                )  # fmt: skip
        except Exception as error:
            if isinstance(error, OSError):
                raise CannotStart(f"cannot write to {folder}: {error.strerror}") from error
            raise
        finally:
            if witness is not None:
                witness.finish()
            if recorded is None:  # no capture was started
                remove_folder(folder, keeps_packets)
        reserve.unlink(missing_ok=True)
        if not recorded.began and remove_folder(folder, keeps_packets):
            raise trouble or CannotStart(f"no capture could be started in {folder}")
        finish_folder(folder, journal, recorded, surroundings)
        give_to_caller(folder)
    if trouble is not None:
        if isinstance(trouble, CannotStart):
            raise CannotStart(f"{trouble}; the packets captured so far are in {folder}") from trouble
        raise trouble
    if recorded.problems:
        raise LabError(f"{folder} is incomplete: {'; '.join(recorded.problems)}")
    return recorded


def _check(folder: Path, plan: RunPlan, groups: Sequence[Group]) -> None:
    """CannotStart if the analyzer would refuse the run, or if a sealed file cannot hold its names."""
    for what, text in (("name", plan.name), ("description", plan.description), *_filters(groups)):
        visible = text if what != "filter" else text.translate(_WHITE_SPACE)
        if not visible.isprintable() or len(text.encode("utf-8", "replace")) > LONGEST_TEXT:
            raise CannotStart(f"{what} {text[:100]!r}: takes printable characters, at most {LONGEST_TEXT} bytes")
    journal = new_journal(folder, plan, groups)
    recorded = Recorded(journal.started, journal.clocks)
    files = {group.stem: f"{group.stem}.pcapng" for group in groups}
    recorded.sealed = {stem: SealedGroup(files=[name]) for stem, name in files.items()}
    check_with_analyzer(_run_file(journal, recorded).text(), list(files.values()))


def _filters(groups: Sequence[Group]) -> list[tuple[str, str]]:
    return [("filter", source.filter) for group in groups for source in group.sources]


def keeps_packets(file: Path) -> bool:
    """True for a file with packets, in the run folder of a recording that did not start."""
    return "pcap" in file.name and packets_in(file) > 0


def finish_folder(folder: Path, journal: Journal, recorded: Recorded, surroundings: Context) -> None:
    """Write the findings and ``run.toml``; the journal stays as long as a capture is unsealed."""
    left = [stem for stem, sealed in recorded.sealed.items() if not sealed.is_sealed]
    if left:
        recorded.problems.append(f"to seal the rest, try: record --resume {folder}")
    _write_findings(surroundings, sentinels_of(journal), journal.groups, recorded, folder / "captures")
    write_whole(folder / "run.toml", _run_file(journal, recorded).text())
    if not left:
        journal.remove()


def new_journal(folder: Path, plan: RunPlan, groups: Sequence[Group]) -> Journal:
    """The journal of a new recording; its file is not written yet."""
    sentinels = plan.sentinels
    return Journal(
        file=folder / "context" / STATE_FILE,
        started=datetime.now(UTC),
        groups=groups,
        settings=plan.settings,
        plan={
            "name": plan.name,
            "description": plan.description,
            "points": [point.name for point in plan.points],
            "paths": [asdict(path) for path in plan.paths],
            "rules": [dict(rule) for rule in plan.rules],
            "fragment": plan.fragment,
            "sentinels": None if sentinels is None else {**asdict(sentinels), "nonce": sentinels.nonce.hex()},
        },
        clocks=clocks(plan.points),
    )


def sentinels_of(journal: Journal) -> Sentinels | None:
    """The sentinels that the plan asked for."""
    state = journal.plan["sentinels"]
    return None if state is None else Sentinels(**{**state, "nonce": bytes.fromhex(state["nonce"])})


def write_unfinished(folder: Path, journal: Journal) -> None:
    """Describe the unfinished recording, for a recorder that gets killed; ``run.toml`` names raw files."""
    recorded = Recorded(journal.started, journal.clocks)
    for group in journal.groups:
        raw = [new_capture(source, folder / "captures", journal.settings).raw.name for source in group.sources]
        recorded.sealed[group.stem] = SealedGroup(files=raw)
    recorded.problems.append(f"not ended yet; if no recorder runs any more, seal it with: record --resume {folder}")
    write_whole(folder / "context" / INCOMPLETE, "".join(f"{line}\n" for line in recorded.problems))
    write_whole(folder / "run.toml", _run_file(journal, recorded).text())


def _write_findings(
    context: Context, sentinels: Sentinels | None, groups: Sequence[Group], recorded: Recorded, captures: Path
) -> None:
    """Write the findings of the recorder; a full disk is one more problem, and writing goes on."""
    try:
        if sentinels is not None:
            _bound_by_sentinels(context, sentinels, recorded, captures)
        shared = {g.stem: recorded.sealed[g.stem].interfaces for g in groups if g.sources[0].cooked}
        if shared:
            context.write_json("any-interfaces.json", shared)
    except (OSError, LabError) as error:
        recorded.problems.append(reason(error))
    for name, lines in ((INCOMPLETE, recorded.problems), ("notes.txt", recorded.notes)):
        if lines:
            write_whole(context.folder / name, "".join(f"{line}\n" for line in lines))
        else:
            (context.folder / name).unlink(missing_ok=True)


def _bound_by_sentinels(context: Context, sentinels: Sentinels, recorded: Recorded, captures: Path) -> None:
    files = {stem: [captures / name for name in sealed.files] for stem, sealed in recorded.sealed.items()}
    found = sentinels.find(files)
    span = window(found)
    if span is None:
        recorded.notes.append("no sentinel was seen before and after the traffic: the captures alone bound the window")
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


def _run_file(journal: Journal, recorded: Recorded) -> RunFile:
    plan = journal.plan
    description = str(plan["description"])
    if recorded.problems:
        description = f"INCOMPLETE ({visible(recorded.problems[0])}): {description}"
    tables = {
        point.name: PointTable(
            point.name,
            tuple(recorded.sealed[group.stem].files),
            recorded.clocks[point.name],
            point.name if group.sources[0].cooked else "",
        )
        for group in journal.groups
        for point in group.points
    }
    return RunFile(
        name=str(plan["name"]),
        description=description,
        started=recorded.started,
        points=[tables[name] for name in plan["points"]],
        paths=[path_of(path) for path in plan["paths"]],
        rules=plan["rules"],
        window_ns=None if recorded.problems else recorded.window_ns,
        threshold=f"{journal.settings.threshold_s:g}s",
        fragment=str(plan["fragment"]),
    )


def resume(folder: Path) -> Recorded:
    """Seal a recording whose recorder did not end: seal the files of its captures, by its journal.

    The recording is complete if its recorder had stopped every capture; else Incomplete is raised, after all is
    written. CannotStart: there is nothing to resume, or another process still writes there; nothing changes then.
    Interrupted: as in sealing.
    """
    for place in (folder, folder / "captures", folder / "context"):
        _need_own(place)
    with shielded() as shield, locked(folder / "captures") as _:
        journal = read_journal(folder)
        captures = {
            source: new_capture(source, folder / "captures", journal.settings)
            for group in journal.groups
            for source in group.sources
        }
        for source, capture in captures.items():
            if source.stem in journal.captures:
                capture.restore(journal.captures[source.stem])
            capture.is_over = True
        recorded = Recorded(journal.started, journal.clocks, problems=list(journal.problems), began=True)
        recorded.notes = list(journal.notes)
        if journal.phase == RECORDING:
            recorded.problems.append("its recorder was killed: each capture ends where its file does")
        for part in (folder / "captures").glob("*.pcapng.part"):
            part.unlink()  # half of a sealed file; the raw file has all its packets
        (folder / RESERVE).unlink(missing_ok=True)
        interrupted = seal_all(journal.groups, captures, journal.settings, journal, recorded, shield)
        finish_folder(folder, journal, recorded, Context(folder / "context", {}, strict=False))
        give_to_caller(folder)
    if interrupted is not None:
        raise interrupted
    if recorded.problems:
        raise Incomplete(f"{folder} is sealed; it is incomplete: {'; '.join(recorded.problems)}", recorded)
    return recorded


class Incomplete(LabError):
    """A recording was sealed, and lacks packets; `recorded` is its outcome."""

    def __init__(self, words: str, recorded: Recorded) -> None:
        super().__init__(words)
        self.recorded = recorded


def _need_own(place: Path) -> None:
    """CannotStart unless root, the caller or the user who called sudo owns this folder."""
    try:
        state = place.lstat()
    except OSError as error:
        raise CannotStart(f"{place}: nothing to resume: {error.strerror}") from error
    if not stat.S_ISDIR(state.st_mode):
        raise CannotStart(f"{place}: is no folder; a recording to resume is named by its own folder")
    owners = {0, os.geteuid(), int(os.environ["SUDO_UID"]) if os.environ.get("SUDO_UID", "").isdecimal() else 0}
    if state.st_uid not in owners or state.st_mode & 0o022:
        raise CannotStart(f"{place}: others than its owner, root or you may write there; resume a folder of your own")


def exists_already(folder: Path) -> str:
    """The message about an existing folder, with the remedy; the folder may hold an unsealed recording."""
    if (folder / "context" / STATE_FILE).exists():
        return f"{folder} holds a recording that is not sealed: seal it with record {folder} --resume, or name another"
    return f"{folder} exists already: name another folder, or remove it"


def what_is_left(folder: Path) -> str:
    """Half a sentence for the user about an interrupted recording."""
    if not folder.exists():
        return "nothing was recorded yet"
    if (folder / "context" / STATE_FILE).exists():
        return f"the packets so far are in {folder}, not sealed: record {folder} --resume seals it"
    return f"the packets so far are in {folder}"


def with_filter_beside(points: Sequence[Point], sentinels: Sentinels | None) -> list[Point]:
    """The points, with filters that also pass the sentinels."""
    if sentinels is None:
        return list(points)
    return [replace(point, filter=sentinels.beside(point.filter)) for point in points]
