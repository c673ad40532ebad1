"""Observations from a run, or from bare capture files: read, decode, digest, sort."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.capture.files import CaptureReader
from pktrace.capture.index import WHOLE, Interface
from pktrace.decode import rows as field
from pktrace.decode.changeable import WIRELESS
from pktrace.decode.rows import OPAQUE, ROW, rows_at
from pktrace.inputs import Location, Stamp
from pktrace.ledger import Ledger
from pktrace.limits import DEFAULT_LIMITS, Budget, Limits
from pktrace.memory import FOLLOWING, Need, Purse
from pktrace.observations.coverage import Coverage, coverage_of, damage_matters, interface_index, interfaces_of
from pktrace.observations.decoded import DecodedFile, count_oddities, decode_files, digest_comparably
from pktrace.run.model import ANY_DIRECTION, Point, Run

_DIRECTIONS = {"in": 1, "out": 2}


@dataclass(frozen=True)
class Observations:
    """All observations of a run (or of bare files), in order of time, then point, file and frame.

    `rows` is an array of ROW; `points` and `captures` are the names that its `point` and `capture` index, `tunnels` the
    texts that its `tunnel` numbers from 1; `wireless` is True for each capture with 802.11 frames. `stamps` are the
    stamps of the captures, which are read again for fields that rows do not keep.
    """

    rows: np.ndarray[Any, Any]
    points: tuple[str, ...]
    captures: tuple[str, ...]
    sha256: tuple[str, ...]
    coverage: tuple[Coverage, ...]
    ledger: Ledger
    digest_payload_bytes: int
    damaged: bool
    tunnels: tuple[str, ...] = ()
    run: Run | None = None
    wireless: tuple[bool, ...] = ()
    stamps: tuple[Stamp | None, ...] = ()

    def reader(self, capture: int) -> CaptureReader:
        """A reader of a capture, from its beginning once more.

        Raises:
            CaptureFileError: it cannot be read any more, or has changed.
        """
        name = self.captures[capture]
        return CaptureReader(self.location(capture), name, same_as=self.stamps[capture] if self.stamps else None)

    def location(self, capture: int) -> Location:
        """The location of a capture."""
        name = self.captures[capture]
        return Location(name) if self.run is None else self.run.input(name)


def observe_run(run: Run, limits: Limits = DEFAULT_LIMITS, need: Need = FOLLOWING) -> Observations:
    """Read all captures of a run.

    Args:
        limits: the bytes and packets read at most; need: the memory that an observation will take later.

    Raises:
        LimitError, MemoryShort: the captures hold more packets than these allow.
        CaptureFileError: no file is a readable capture, or a file lacks the interface that its point names.
    """
    ledger = Ledger()
    wanted: dict[str, tuple[str | Location, str]] = {}  # several points may be interfaces of one file: it is read once
    same = {name: _same_file(run, name) for point in run.points for name in point.captures}
    for name, one in same.items():
        wanted.setdefault(one, (run.input(name), name))
    users = Counter(same[name] for point in run.points for name in point.captures)
    purse = Purse(need, limits.max_memory)
    budget = Budget([path for path, _ in wanted.values()], limits, purse)
    decoded = dict(zip(wanted, decode_files(list(wanted.values()), budget), strict=True))
    tunnels = _common_tunnels(list(decoded.values()))
    files: list[DecodedFile] = []
    parts: list[tuple[int, np.ndarray[Any, Any]]] = []
    coverage = []
    for number, point in enumerate(run.points):
        own_files, own_rows = [], []
        for name in point.captures:
            file = decoded[same[name]]
            keep = _selected(file, point, ledger)
            alone = users[same[name]] == 1
            rows = file.rows if alone and keep.all() else rows_at(file.rows, keep)
            rows["point"] = number
            rows["capture"] = len(files)
            count_oddities(file, rows, point.name, ledger)
            parts.append((len(files), rows))
            files.append(file)
            own_files.append(file)
            own_rows.append(rows)
        coverage.append(coverage_of(run, point, own_files, own_rows, ledger))
    payload_bytes = digest_comparably(files, parts)
    return Observations(
        rows=_in_order([rows for _, rows in parts]),
        points=tuple(point.name for point in run.points),
        captures=tuple(file.name for file in files),
        sha256=tuple(file.sha256 for file in files),
        coverage=tuple(coverage),
        ledger=ledger,
        digest_payload_bytes=payload_bytes,
        damaged=any(damage_matters(run, cover) for cover in coverage),
        tunnels=tunnels,
        run=run,
        wireless=tuple(any(one.link_type in WIRELESS for one in file.interfaces) for file in files),
        stamps=tuple(file.stamp for file in files),
    )


def _same_file(run: Run, name: str) -> str:
    """One text for all names of a file; inside a run folder there are no links, so each has one name."""
    return os.path.realpath(run.folder / name) if run.trusted else name


def observe_files(paths: list[str]) -> Observations:
    """Decode capture files without a run: one row per packet, in the order of the files and of their packets.

    The `point` of a row is the name of its interface, if the file names it.
    """
    ledger = Ledger()
    budget = Budget(paths, DEFAULT_LIMITS, Purse(FOLLOWING))
    files = decode_files([(path, path) for path in paths], budget)
    tunnels = _common_tunnels(files)
    names: dict[str, int] = {}
    parts = []
    for index, file in enumerate(files):
        rows = file.rows
        rows["point"] = interface_names(file.interfaces, names)[rows["interface"]]
        rows["capture"] = index
        count_oddities(file, rows, None, ledger)
        parts.append((index, rows))
    payload_bytes = digest_comparably(files, parts)
    return Observations(
        rows=_together(parts),
        points=tuple(names),
        captures=tuple(file.name for file in files),
        sha256=tuple(file.sha256 for file in files),
        coverage=(),
        ledger=ledger,
        digest_payload_bytes=payload_bytes,
        damaged=any(file.ended != WHOLE for file in files),
        tunnels=tunnels,
        stamps=tuple(file.stamp for file in files),
    )


def _in_order(parts: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """All rows in order of time, point, capture and frame; `parts` are in order of the last three."""
    times = np.concatenate([np.zeros(0, np.int64), *(rows["ts_ns"] for rows in parts)])
    order = np.argsort(times, kind="stable")  # sorted parts, as most captures are, are only merged
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    found = np.empty(len(order), OPAQUE)
    at = 0
    for rows in parts:
        found[place[at : at + len(rows)]] = rows.view(OPAQUE)
        at += len(rows)
    return found.view(ROW)


def _together(parts: list[tuple[int, np.ndarray[Any, Any]]]) -> np.ndarray[Any, Any]:
    """All rows of all files in one array."""
    if len(parts) == 1:
        return parts[0][1]
    return np.concatenate([np.zeros(0, OPAQUE), *(rows.view(OPAQUE) for _, rows in parts)]).view(ROW)


def interface_names(interfaces: list[Interface], names: dict[str, int]) -> np.ndarray[Any, Any]:
    """Per interface the number of its name in `names`, which grows; -1 without a name."""
    found = (interface.name for interface in interfaces)
    return np.array([-1 if name is None else names.setdefault(name, len(names)) for name in found], np.int32)


def _common_tunnels(files: list[DecodedFile]) -> tuple[str, ...]:
    """The tunnel texts of all files, and their rows' `tunnel` renumbered to them."""
    codes: dict[str, int] = {}
    for file in files:
        if file.tunnels:
            common = [codes.setdefault(text, len(codes) + 1) for text in file.tunnels]
            file.rows["tunnel"] = np.array([0, *common], np.uint32)[file.rows["tunnel"]]
    return tuple(codes)


def _selected(file: DecodedFile, point: Point, ledger: Ledger) -> np.ndarray[Any, Any]:
    """Mask of the rows of a file that belong to the point, by its `interface` and `direction`."""
    rows = file.rows
    keep = np.ones(len(rows), bool)
    where = {"point": point.name, "capture": file.name}
    if point.interface is not None:
        keep &= np.isin(rows["interface"], interfaces_of(file, point))
        index = interface_index(file, point)
        if index is not None:
            keep &= rows["ifindex"] == index
        ledger.add("other_interface", int((~keep).sum()), **where)
    if point.direction != ANY_DIRECTION:
        unknown = keep & (rows["direction"] == 0)
        ledger.add("no_direction", int(unknown.sum()), **where)
        rows["has"][unknown] |= field.NO_DIRECTION
        fits = (rows["direction"] == _DIRECTIONS[point.direction]) | unknown
        ledger.add("other_direction", int((keep & ~fits).sum()), **where)
        keep &= fits
    return keep
