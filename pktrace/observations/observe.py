"""From a run, or from bare capture files, to observations: read, index, decode, digest, put in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.capture.files import CaptureFile, read_capture, read_tool_log
from pktrace.capture.index import CORRUPT, CUT, WHOLE
from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES, UNBOUNDED, digest, shortest_kept
from pktrace.decode.headers import decode
from pktrace.decode.rows import ROW
from pktrace.errors import CaptureFileError
from pktrace.ledger import Ledger
from pktrace.run.model import ANY_DIRECTION, Point, Run

_DIRECTIONS = {"in": 1, "out": 2}


@dataclass(frozen=True)
class Coverage:
    """What one point's captures cover, on its own clock.

    `start_ns` and `end_ns` are the interface statistics' times, else those of the first and last packet; None where
    there is neither. `dropped` is None where nothing says how many packets the capture dropped. `cut` says that a
    file is damaged, `hole` that packets may be missing between its files.
    """

    packets: int
    first_ns: int | None
    last_ns: int | None
    start_ns: int | None
    end_ns: int | None
    dropped: int | None
    unread: int
    cut: bool
    hole: bool
    resolution_ns: int

    @property
    def incomplete(self) -> bool:
        """Whether packets that passed may be missing from the captures."""
        return bool(self.dropped) or self.unread > 0 or self.hole


@dataclass(frozen=True)
class Observations:
    """All observations of a run (or of bare files), in order of time, then point, file and frame.

    `rows` is an array of ROW; `points` and `captures` are the names that its `point` and `capture` index.
    """

    rows: np.ndarray[Any, Any]
    points: tuple[str, ...]
    captures: tuple[str, ...]
    capture_points: tuple[int, ...]
    sha256: tuple[str, ...]
    coverage: tuple[Coverage, ...]
    ledger: Ledger
    digest_payload_bytes: int
    damaged: bool
    run: Run | None = None


def observe_run(run: Run) -> Observations:
    """Read all captures of a run.

    Raises:
        CaptureFileError: a file cannot be read or is no capture, or has not the interface that the point names.
    """
    ledger = Ledger()
    files: list[CaptureFile] = []
    of_point: list[list[int]] = []
    for point in run.points:
        of_point.append([])
        for name in point.captures:
            of_point[-1].append(len(files))
            files.append(read_capture(run.folder / name, name))
    parts = []
    coverage = []
    for number, point in enumerate(run.points):
        decoded = []
        for index in of_point[number]:
            rows = _decoded(files[index])
            rows = rows[_selected(files[index], rows, point, ledger)]
            rows["point"] = number
            rows["capture"] = index
            _count(files[index], rows, point.name, ledger)
            decoded.append(rows)
        parts.extend(decoded)
        coverage.append(_coverage(run, point, [files[index] for index in of_point[number]], decoded, ledger))
    payload_bytes = _digest_all(files, parts)
    all_rows = np.concatenate(parts) if parts else np.zeros(0, ROW)
    order = np.lexsort((all_rows["frame"], all_rows["capture"], all_rows["point"], all_rows["ts_ns"]))
    return Observations(
        rows=all_rows[order],
        points=tuple(point.name for point in run.points),
        captures=tuple(file.name for file in files),
        capture_points=tuple(number for number, indices in enumerate(of_point) for _ in indices),
        sha256=tuple(file.sha256 for file in files),
        coverage=tuple(coverage),
        ledger=ledger,
        digest_payload_bytes=payload_bytes,
        damaged=any(_matters(run, cover) for cover in coverage),
        run=run,
    )


def observe_files(paths: list[str]) -> Observations:
    """Decode capture files without a run: one row per packet, in the order of the files and of their packets.

    The `point` of a row is the name of its interface, where the file has one.
    """
    ledger = Ledger()
    files = [read_capture(path, path) for path in paths]
    names: dict[str, int] = {}
    parts = []
    for index, file in enumerate(files):
        rows = _decoded(file)
        of_interface = [
            -1 if interface.name is None else names.setdefault(interface.name, len(names))
            for interface in file.capture.interfaces
        ]
        lookup = np.array([*of_interface, -1], np.int32)
        rows["point"] = lookup[rows["interface"]]
        rows["capture"] = index
        _count(file, rows, None, ledger)
        parts.append(rows)
    payload_bytes = _digest_all(files, parts)
    return Observations(
        rows=np.concatenate(parts) if parts else np.zeros(0, ROW),
        points=tuple(names),
        captures=tuple(file.name for file in files),
        capture_points=tuple(-1 for _ in files),
        sha256=tuple(file.sha256 for file in files),
        coverage=(),
        ledger=ledger,
        digest_payload_bytes=payload_bytes,
        damaged=any(file.capture.ended != WHOLE for file in files),
    )


def _decoded(file: CaptureFile) -> np.ndarray[Any, Any]:
    packets = file.capture.packets
    rows = np.zeros(len(packets), ROW)
    link_types = np.array([interface.link_type for interface in file.capture.interfaces], np.int64)
    if len(packets):
        decode(file.data, packets, link_types, rows)
    return rows


def _digest_all(files: list[CaptureFile], parts: list[np.ndarray[Any, Any]]) -> int:
    """Digest all rows over the bytes that every capture of the run kept; returns the payload bytes used at least."""
    kept = UNBOUNDED
    payload = np.int64(PAYLOAD_BYTES)
    filled = [rows for rows in parts if len(rows)]
    for rows in filled:
        of_network, of_payload = shortest_kept(rows)
        kept = min(kept, of_network)
        payload = min(payload, of_payload)
    for rows in filled:
        digest(files[int(rows["capture"][0])].data, rows, kept)
    return int(payload)


def _selected(file: CaptureFile, rows: np.ndarray[Any, Any], point: Point, ledger: Ledger) -> np.ndarray[Any, Any]:
    """Which rows belong to the point, by its `interface` and `direction`."""
    keep = np.ones(len(rows), bool)
    where = {"point": point.name, "capture": file.name}
    if point.interface is not None:
        numbers = _interfaces_of(file, point)
        keep &= np.isin(rows["interface"], numbers)
        ledger.add("other_interface", int((~keep).sum()), **where)
    if point.direction != ANY_DIRECTION:
        fits = rows["direction"] == _DIRECTIONS[point.direction]
        ledger.add("other_direction", int((keep & ~fits).sum()), **where)
        keep &= fits
    return keep


def _interfaces_of(file: CaptureFile, point: Point) -> list[int]:
    """Interfaces of the file that belong to the point; files without interface names belong to it whole."""
    interfaces = file.capture.interfaces
    if point.interface is None or not any(interface.name for interface in interfaces):
        return list(range(len(interfaces)))
    found = [number for number, interface in enumerate(interfaces) if interface.name == point.interface]
    if not found:
        known = ", ".join(sorted({interface.name for interface in interfaces if interface.name}))
        raise CaptureFileError(
            file.name, None, f"has no interface {point.interface!r} that point {point.name!r} asks for; it has: {known}"
        )
    return found


def _count(file: CaptureFile, rows: np.ndarray[Any, Any], point: str | None, ledger: Ledger) -> None:
    """Put what is odd about one file into the ledger."""
    capture = file.capture
    if capture.ended == CUT:
        ledger.add("capture_cut", point=point, capture=file.name)
    elif capture.ended == CORRUPT:
        ledger.add("capture_corrupt", point=point, capture=file.name)
    ledger.add("unknown_block", capture.unknown_blocks, point=point, capture=file.name)
    has = rows["has"]
    for counter, bits in (
        ("unknown_interface", field.UNKNOWN_INTERFACE),
        ("unknown_link_type", field.UNKNOWN_LINK),
        ("timestamp_out_of_range", field.BAD_TIME),
        ("not_ip", field.NOT_IP),
        ("malformed_ip", field.MALFORMED),
        ("cut_header", field.CUT_HEADER),
    ):
        ledger.add(counter, int(np.count_nonzero(has & bits)), point=point, capture=file.name)
    timeless = np.count_nonzero(has & (field.HAS_TIME | field.BAD_TIME) == 0)
    ledger.add("no_timestamp", int(timeless), point=point, capture=file.name)


def _coverage(
    run: Run,
    point: Point,
    files: list[CaptureFile],
    decoded: list[np.ndarray[Any, Any]],
    ledger: Ledger,
) -> Coverage:
    """What the captures of one point cover and what they lost."""
    starts, ends, drops, steps = [], [], [], [1]
    firsts, lasts, cut_at = [], [], []
    unread = 0
    for file, rows in zip(files, decoded, strict=True):
        times = rows["ts_ns"][rows["has"] & field.HAS_TIME != 0]
        span = (int(times.min()), int(times.max())) if len(times) else (None, None)
        firsts.append(span[0])
        lasts.append(span[1])
        damaged = file.capture.ended != WHOLE
        cut_at.append(damaged)
        chosen = [file.capture.interfaces[number] for number in _interfaces_of(file, point)]
        steps.extend(interface.resolution_ns for interface in chosen)
        starts.append(min((i.start_ns for i in chosen if i.start_ns is not None), default=span[0]))
        # A damaged file ends where its last whole packet was seen, whatever its statistics say.
        end = max((i.end_ns for i in chosen if i.end_ns is not None), default=span[1])
        ends.append(span[1] if damaged else end)
        dropped, missing = _dropped(run, point, file)
        drops.append(dropped)
        unread += missing
        ledger.add("capture_drops", dropped or 0, point=point.name, capture=file.name)
        ledger.add("capture_unread", missing, point=point.name, capture=file.name)
        if dropped is None:
            ledger.add("capture_drops_unknown", point=point.name, capture=file.name)
    known_drops = [count for count in drops if count is not None]
    return Coverage(
        packets=sum(len(rows) for rows in decoded),
        first_ns=min((time for time in firsts if time is not None), default=None),
        last_ns=max((time for time in lasts if time is not None), default=None),
        start_ns=min((time for time in [*starts, *firsts] if time is not None), default=None),
        end_ns=max((time for time in [*ends, *lasts] if time is not None), default=None),
        dropped=sum(known_drops) if known_drops else None,
        unread=unread,
        cut=any(cut_at),
        hole=any(cut_at) and len(files) > 1,
        resolution_ns=max(steps),
    )


def _dropped(run: Run, point: Point, file: CaptureFile) -> tuple[int | None, int]:
    """(packets dropped by the capture, or None where nothing says so; packets left unread).

    The interface statistics, the packets' own drop counts and the tool's log may each tell; the largest is believed.
    """
    numbers = _interfaces_of(file, point)
    told = [file.capture.interfaces[number].dropped for number in numbers]
    in_statistics = [count for count in told if count is not None]
    packets = file.capture.packets
    with_packets = int(packets["dropped"][np.isin(packets["interface"], numbers)].sum())
    capture = run.folder / file.name
    counts = read_tool_log(capture)
    if counts is None and "/" not in point.name and len(point.captures) == 1:
        counts = read_tool_log(capture.parent / f"{point.name}.log")
    found = [sum(in_statistics)] if in_statistics else []
    found += [with_packets] if with_packets else []
    found += [counts.dropped] if counts is not None and counts.dropped is not None else []
    return (max(found) if found else None), (counts.unread if counts is not None else 0)


def _matters(run: Run, cover: Coverage) -> bool:
    """A damaged file matters unless it still covers the whole window in which all points captured."""
    if not cover.cut:
        return False
    return run.window is None or cover.last_ns is None or cover.last_ns < run.window[1]
