"""From a run, or from bare capture files, to observations: read, index, decode, digest, put in order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.capture.files import CaptureFile, read_capture
from pktrace.capture.index import CORRUPT, CUT, WHOLE
from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES, UNBOUNDED, digest, headers_and_kept
from pktrace.decode.headers import decode
from pktrace.decode.rows import ROW
from pktrace.ledger import Ledger
from pktrace.observations.coverage import Coverage, coverage_of, damage_matters, interfaces_of
from pktrace.run.model import ANY_DIRECTION, Point, Run

_DIRECTIONS = {"in": 1, "out": 2}


@dataclass(frozen=True)
class Observations:
    """All observations of a run (or of bare files), in order of time, then point, file and frame.

    `rows` is an array of ROW; `points` and `captures` are the names that its `point` and `capture` index.
    """

    rows: np.ndarray[Any, Any]
    points: tuple[str, ...]
    captures: tuple[str, ...]
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
    known: dict[str, CaptureFile] = {}  # several points may be interfaces of one file
    for point in run.points:
        of_point.append([])
        for name in point.captures:
            path = run.folder / name
            real = os.path.realpath(path)
            known[real] = known.get(real) or read_capture(path, name)
            of_point[-1].append(len(files))
            files.append(known[real])
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
        coverage.append(coverage_of(run, point, [files[index] for index in of_point[number]], decoded, ledger))
    payload_bytes = _digest_all(files, parts)
    all_rows = np.concatenate(parts) if parts else np.zeros(0, ROW)
    order = np.lexsort((all_rows["frame"], all_rows["capture"], all_rows["point"], all_rows["ts_ns"]))
    return Observations(
        rows=all_rows[order],
        points=tuple(point.name for point in run.points),
        captures=tuple(file.name for file in files),
        sha256=tuple(file.sha256 for file in files),
        coverage=tuple(coverage),
        ledger=ledger,
        digest_payload_bytes=payload_bytes,
        damaged=any(damage_matters(run, cover) for cover in coverage) or ledger.total("unknown_interface") > 0,
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
    """Digest all rows over bytes that every capture of such a packet kept; returns the payload bytes used at least.

    Packets with equal network headers may be one packet at several points, so the one that was cut shortest bounds
    them all; packets with other headers are not touched by that.
    """
    filled = [rows for rows in parts if len(rows)]
    headers, kept = [], []
    payload = PAYLOAD_BYTES
    for rows in filled:
        headers.append(np.zeros(len(rows), np.uint64))
        kept.append(np.zeros(len(rows), np.int64))
        payload = min(payload, int(headers_and_kept(rows, headers[-1], kept[-1])))
    cut = [bound < UNBOUNDED for bound in kept]
    if any(mask.any() for mask in cut):
        keys, place = np.unique(
            np.concatenate([h[mask] for h, mask in zip(headers, cut, strict=True)]), return_inverse=True
        )
        shortest = np.full(len(keys), UNBOUNDED)
        np.minimum.at(shortest, place, np.concatenate([k[mask] for k, mask in zip(kept, cut, strict=True)]))
        for header, bound in zip(headers, kept, strict=True):
            at = np.minimum(np.searchsorted(keys, header), len(keys) - 1)
            found = keys[at] == header
            bound[found] = shortest[at[found]]
    for rows, bound in zip(filled, kept, strict=True):
        digest(files[int(rows["capture"][0])].data, rows, bound)
    return payload


def _selected(file: CaptureFile, rows: np.ndarray[Any, Any], point: Point, ledger: Ledger) -> np.ndarray[Any, Any]:
    """Which rows belong to the point, by its `interface` and `direction`."""
    keep = np.ones(len(rows), bool)
    where = {"point": point.name, "capture": file.name}
    if point.interface is not None:
        numbers = interfaces_of(file, point)
        keep &= np.isin(rows["interface"], numbers)
        ledger.add("other_interface", int((~keep).sum()), **where)
    if point.direction != ANY_DIRECTION:
        unknown = keep & (rows["direction"] == 0)
        ledger.add("no_direction", int(unknown.sum()), **where)
        rows["has"][unknown] |= field.NO_DIRECTION
        fits = (rows["direction"] == _DIRECTIONS[point.direction]) | unknown
        ledger.add("other_direction", int((keep & ~fits).sum()), **where)
        keep &= fits
    return keep


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
