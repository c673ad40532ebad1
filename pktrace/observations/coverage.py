"""Coverage of the captures of one point: their times, their losses, and the evidence for both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pktrace.capture.files import read_tool_log
from pktrace.capture.index import WHOLE, Interface
from pktrace.decode import rows as field
from pktrace.errors import CaptureFileError, RunFileError
from pktrace.inputs import NotInside
from pktrace.ledger import Ledger
from pktrace.observations.decoded import DecodedFile
from pktrace.run.model import Point, Run

_SLACK_NS = 10**9
# The most names of interfaces in an error, and letters of each name.
_SHOWN_NAMES, _SHOWN_LETTERS = 20, 60
_1990_NS = 631_152_000 * 10**9


@dataclass(frozen=True)
class Coverage:
    """The coverage of one point's captures, on its own clock.

    `start_ns` and `end_ns` are the times of the interface statistics, else of the first and last packet; a point whose
    interface saw no packets takes the packets of other interfaces. They are None if neither is known. `dropped` is None
    if no source gives the number of packets that the capture dropped. `cut`: a file is damaged. `lost_file`: nothing of
    a file can be used. `hole`: packets may be missing between the files. `unusable` counts packets in the files that
    could not be followed (link type, snap length, missing time or direction). `link_types` are in order of number.
    `snap_length` is the shortest that a file states, None if no file states one. `logs` are the names and SHA-256 of
    the capture tools' logs that were read. `drop_spans` are begin and end (int64, two lines) of the times in which the
    capture dropped packets. They are known only if the packets' own counters account for all drops and nothing else is
    missing; otherwise None.
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
    unusable: int
    resolution_ns: int
    link_types: tuple[int, ...] = ()
    snap_length: int | None = None
    lost_file: bool = False
    logs: tuple[tuple[str, str], ...] = ()
    drop_spans: np.ndarray[Any, Any] | None = dataclass_field(default=None, compare=False)

    @property
    def has_gaps(self) -> bool:
        """True if packets that passed may be missing from the captures, besides the drops that the captures state."""
        return self.unread > 0 or self.hole or self.unusable > 0

    @property
    def incomplete(self) -> bool:
        """True if packets that passed may be missing from the captures."""
        return bool(self.dropped) or self.has_gaps


def interfaces_of(file: DecodedFile, point: Point) -> list[int]:
    """Interfaces of the file that belong to the point.

    A point selects an interface by its name; by `#N`, its number in the file from 0 (through all sections); or by the
    host's number of the interface, if the packets carry it (SLL2). Files without names belong to the point whole.
    """
    interfaces = file.interfaces
    wanted = point.interface
    every = list(range(len(interfaces)))
    if wanted is None:
        return every
    if wanted in file.numbers_by_name:
        return file.numbers_by_name[wanted]
    if wanted[:1] == "#" and wanted[1:].isdecimal() and int(wanted[1:]) < len(interfaces):
        return [int(wanted[1:])]
    if interface_index(file, point) is not None:
        return every
    if len(interfaces) <= 1 and not any(interface.name for interface in interfaces):
        return every
    named = sorted(name for name in file.numbers_by_name if name)
    known = ", ".join(name[:_SHOWN_LETTERS] for name in named[:_SHOWN_NAMES])
    known += f" and {len(named) - _SHOWN_NAMES:,} more" if len(named) > _SHOWN_NAMES else ""
    known = known or f"none with a name, {len(interfaces)} by number (#0 and so on)"
    raise CaptureFileError(
        file.name, None, f"has no interface {wanted!r} that point {point.name!r} asks for; it has: {known}"
    )


def interface_index(file: DecodedFile, point: Point) -> int | None:
    """The host's number of the interface that a point asks for, in a file whose packets carry it; else None."""
    wanted = point.interface
    if wanted is None or not wanted.isdecimal() or len(wanted) > 9 or not file.has_indexes:
        return None
    return int(wanted)


def coverage_of(
    run: Run,
    point: Point,
    files: list[DecodedFile],
    decoded: list[np.ndarray[Any, Any]],
    ledger: Ledger,
) -> Coverage:
    """The coverage and losses of one point's captures."""
    starts, ends, drops, steps = [], [], [], [1]
    link_types, snap_lengths = set(), set()
    firsts, lasts, cut_at = [], [], []
    stated: list[tuple[int, int]] = []
    logs: dict[str, str] = {}
    unread = unusable = counted = 0
    for file, rows in zip(files, decoded, strict=True):
        times = rows["ts_ns"][rows["has"] & field.HAS_TIME != 0]
        span = (int(times.min()), int(times.max())) if len(times) else (None, None)
        firsts.append(span[0])
        lasts.append(span[1])
        damaged = file.ended != WHOLE
        cut_at.append(damaged)
        numbers = interfaces_of(file, point)
        chosen = [file.interfaces[number] for number in numbers]
        steps.extend(interface.resolution_ns for interface in chosen)
        link_types |= {interface.link_type for interface in chosen}
        snap_lengths |= {interface.snap_length for interface in chosen if interface.snap_length > 0}
        # A capture ran while its other interfaces saw packets, even if this interface saw none.
        start, end = span if len(times) else _span_of(file)
        if _is_excerpt(file, numbers):
            ledger.add("excerpt", point=point.name, capture=file.name)
        else:
            told = [_statistics_span(interface, span) for interface in chosen]
            stated += [(begin, until) for begin, until in told if begin is not None and until is not None]
            start = min((time for time, _ in told if time is not None), default=start)
            # A damaged file ends with its last complete packet, whatever its statistics say.
            end = end if damaged else max((time for _, time in told if time is not None), default=end)
        starts.append(start)
        ends.append(end)
        unusable += _unusable(rows, point)
        dropped, missing = _dropped(run, point, file, numbers, logs)
        drops.append(dropped)
        counted += int(file.drops_of[numbers].sum())
        unread += missing
        ledger.add("capture_drops", dropped or 0, point=point.name, capture=file.name)
        ledger.add("capture_unread", missing, point=point.name, capture=file.name)
        if dropped is None:
            ledger.add("capture_drops_unknown", point=point.name, capture=file.name)
    known_drops = [count for count in drops if count is not None]
    dropped = sum(known_drops) if any(known_drops) or len(known_drops) == len(drops) > 0 else None
    found = Coverage(
        packets=sum(len(rows) for rows in decoded),
        first_ns=min((time for time in firsts if time is not None), default=None),
        last_ns=max((time for time in lasts if time is not None), default=None),
        start_ns=min((time for time in [*starts, *firsts] if time is not None), default=None),
        end_ns=max((time for time in [*ends, *lasts] if time is not None), default=None),
        # If one file gives no number, a zero of the others is not the total.
        dropped=dropped,
        unread=unread,
        cut=any(cut_at),
        hole=len(files) > 1 and (any(cut_at) or _has_gap(stated)),
        unusable=unusable,
        resolution_ns=max(steps),
        link_types=tuple(sorted(link_types)),
        snap_length=min(snap_lengths, default=None),
        lost_file=any(file.proves_nothing for file in files),
        logs=tuple(logs.items()),
    )
    if not dropped or found.has_gaps or counted != dropped:
        return found
    spans = [_drop_spans(file, interfaces_of(file, point)) for file in files]
    known = [times for times in spans if times is not None]
    return replace(found, drop_spans=np.concatenate(known, axis=1)) if len(known) == len(spans) else found


def _span_of(file: DecodedFile) -> tuple[int, int] | tuple[None, None]:
    """First and last time of all packets of a file."""
    times = file.rows["ts_ns"][file.rows["has"] & field.HAS_TIME != 0]
    return (int(times.min()), int(times.max())) if len(times) else (None, None)


def _statistics_span(interface: Interface, packets: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    """Start and end of the capture by the interface statistics; None if they are missing or contradict its packets.

    dumpcap writes these times in microseconds, whatever if_tsresol says (seen in 2.2.6 and 4.0.17): times before all
    packets that fit them after multiplication by 1,000 are multiplied; without packets, the same holds for times before
    1990 that are later than 1990 after multiplication.
    """
    start, end = interface.start_ns, interface.end_ns
    first = packets[0] if packets[0] is not None else _1990_NS
    if end is None or end >= first:
        return start, end
    if 1000 * end >= first - _SLACK_NS and (packets[0] is None or start is None or 1000 * start <= first + _SLACK_NS):
        return None if start is None else 1000 * start, 1000 * end
    return (None, None) if packets[0] is not None else (start, end)


def _is_excerpt(file: DecodedFile, numbers: list[int]) -> bool:
    """True if the statistics belong to a larger capture from which the file was cut; they do not give the file's ends.

    Some tools include dropped packets in the received ones, some do not; in both cases a complete file has at least
    received - dropped packets.
    """
    received = sum(file.interfaces[number].received or 0 for number in numbers)
    dropped = sum(file.interfaces[number].dropped or 0 for number in numbers)
    packets = int(file.packets_of[numbers].sum())
    return packets < received - dropped


def _has_gap(spans: list[tuple[int, int]]) -> bool:
    """True if the spans of one point's files leave a time between them without capture."""
    ordered = sorted(spans)
    reached = ordered[0][1] if ordered else 0
    for begin, end in ordered:
        if begin > reached:
            return True
        reached = max(reached, end)
    return False


def _unusable(rows: np.ndarray[Any, Any], point: Point) -> int:
    """The number of packets that cannot be followed and may be packets that another point saw. With such packets,
    absence at this point proves nothing.

    Reasons: a header cut by the snap length, a link type that is not decoded, an encrypted 802.11 frame, no time, or no
    direction although the point asks for one.
    """
    bits = field.UNKNOWN_LINK | field.HIDDEN_PACKET | field.BAD_TIME | field.NO_DIRECTION
    lost = rows["has"] & bits != 0
    lost |= (rows["has"] & field.CUT_HEADER != 0) & (rows["has"] & field.HAS_IP == 0)
    lost |= (rows["has"] & field.HAS_TIME == 0) & (rows["has"] & field.NOT_IP == 0)
    return int(np.count_nonzero(lost))


def _dropped(
    run: Run, point: Point, file: DecodedFile, numbers: list[int], logs: dict[str, str]
) -> tuple[int | None, int]:
    """(packets dropped by the capture, or None without a source; packets left unread).

    Sources are the interface statistics, the packets' own drop counts and the tool's log; the largest count is
    believed. Rotated files share one log, which counts once: `logs` holds the logs already read.
    """
    told = [file.interfaces[number].dropped for number in numbers]
    in_statistics = [count for count in told if count is not None]
    with_packets = int(file.drops_of[numbers].sum())
    found = [sum(in_statistics)] if in_statistics else []
    found += [with_packets] if with_packets else []
    capture = PurePosixPath(file.name)
    candidates = [str(capture.with_suffix(".log"))]
    if "/" not in point.name and len(point.captures) == 1:
        candidates.append(str(capture.parent / f"{point.name}.log"))
    unread = 0
    for log in candidates:
        if log in logs:
            found.append(0)  # counted with the first of the files that share it
            break
        try:
            log_read = read_tool_log(run.input(log))
        except NotInside as problem:
            raise RunFileError(
                run.folder / run.file,
                f"point[{point.name}].captures",
                f"its log {log!r} {problem}; put the file itself there, or use --trust",
            ) from None
        if log_read is None:
            continue
        counts, logs[log] = log_read
        if counts.dropped is not None or counts.by_interface:
            found.append((counts.dropped or 0) + counts.by_interface)
        unread = counts.unread if len(point.captures) == 1 else 0
        break
    return (max(found) if found else None), unread


def _drop_spans(file: DecodedFile, numbers: list[int]) -> np.ndarray[Any, Any] | None:
    """Begin and end (int64, two lines) of the times in which packets were lost, by the drop counts of a file's packets.

    Each time ends at a packet with a drop count, and begins with the packet before on the same interface, or with the
    start of its capture. None if times are missing.
    """
    if file.counting is None or (file.rows["has"] & field.HAS_TIME == 0).any():
        return None
    rows, spans = file.rows, [np.zeros((2, 0), np.int64)]
    counting = np.isin(rows["frame"], file.counting)
    for number in numbers:
        mine = np.flatnonzero(rows["interface"] == number)
        last = np.flatnonzero(counting[mine])
        times = rows["ts_ns"][mine]
        if len(last) and last[0] == 0:
            start = file.interfaces[number].start_ns
            if start is None:
                return None
            spans.append(np.array([[min(start, times[0])], [times[0]]]))
        spans.append(np.stack([times[np.maximum(last - 1, 0)], times[last]]))
    return np.concatenate(spans, axis=1)


def damage_matters(run: Run, cover: Coverage) -> bool:
    """True if the damage of a point's files may change results. A damaged file matters unless it still covers the whole
    window in which all points captured. An unusable file always matters, since its packets are unknown.
    """
    if not cover.cut or cover.lost_file:
        return cover.lost_file
    return run.window is None or cover.last_ns is None or cover.last_ns < run.window[1]
