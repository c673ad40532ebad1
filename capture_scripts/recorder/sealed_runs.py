"""Seal the files of a run: combine the packets and the counts of each capture, and check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from ..processes import LabError
from .captures import Capture, Counts, Settings
from .raw_files import RawFile
from .sealing import INWARD, OUTWARD, InterfaceRecord, Part, SealedCounts, seal, seal_shared
from .sources import Group
from .surroundings import kernel, tool_versions

_DIRECTIONS = {"": 0, "in": INWARD, "out": OUTWARD}


@dataclass
class SealedGroup:
    """One sealed capture: its files (names in ``captures/``), and its span on its own clock.

    ``files`` has the raw file if sealing failed. ``interfaces`` has the packets per interface, for a file that points
    share. ``is_sealed``: the sealed files have every readable packet of the raw ones. ``cut``: a raw file ends, or is
    damaged, inside a packet, and there may be packets behind.
    """

    start_ns: int | None = None
    end_ns: int | None = None
    files: list[str] = field(default_factory=list)
    counts: Counts | None = None
    packets: int = 0
    interfaces: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_sealed: bool = False
    cut: bool = False


def application(settings: Settings) -> str:
    """shb_userappl: the tools that captured and sealed."""
    versions = tool_versions()
    libpcap = f" libpcap {versions['libpcap']}" if "libpcap" in versions else ""
    return f"{settings.tool} {versions.get(settings.tool, '?')}{libpcap}, sealed by pktrace"


def seal_group(group: Group, captures: Sequence[Capture], settings: Settings) -> SealedGroup:
    """Seal the captures of one group; every disagreement is a problem in the result.

    The raw files stay. ``remove_raw`` removes them after the journal lists the group as sealed.
    """
    sealed = SealedGroup()
    if not _raw_files(captures):
        sealed.problems.append(f"{group.stem}: {settings.tool} wrote no file")
        return sealed
    try:
        _fill_in(group, captures, settings, sealed)
        if settings.ring is not None:
            _seal_ring(group, captures[0], settings, sealed)
        elif group.sources[0].cooked:
            _seal_shared(group, captures[0], settings, sealed)
        else:
            _seal_one(group, captures, settings, sealed)
    except Exception as error:  # the packets are safe in the raw files, and the other groups must be sealed
        why = error.strerror if isinstance(error, OSError) else str(error) or type(error).__name__
        return unsealed(group, captures, f"not sealed ({why})", sealed)
    sealed.is_sealed = True
    return sealed


def unsealed(group: Group, captures: Sequence[Capture], why: str, sealed: SealedGroup | None = None) -> SealedGroup:
    """An unsealed group, with its raw files; ``why`` becomes one of its problems."""
    raw = _raw_files(captures)
    found = SealedGroup() if sealed is None else sealed
    found.files = [file.name for file in raw]
    found.problems.append(f"{group.stem}: {why}; its packets are in {', '.join(found.files) or 'no file'}")
    return found


def remove_raw(captures: Sequence[Capture]) -> None:
    """Remove the raw files of captures that were sealed. OSError where they cannot be removed."""
    for file in _raw_files(captures):
        file.unlink()


def _raw_files(captures: Sequence[Capture]) -> list[Path]:
    return [file for capture in captures for file in capture.raw_files()]


def _fill_in(group: Group, captures: Sequence[Capture], settings: Settings, sealed: SealedGroup) -> None:
    """The counts and the span of a group, from its captures."""
    counts = [capture.known_counts() for capture in captures]
    if all(count is not None for count in counts):
        sealed.counts = reduce(Counts.plus, [count for count in counts if count is not None])
    else:
        sealed.problems.append(f"{group.stem}: {settings.tool} did not say what it received")
    ready = [capture.ready_ns for capture in captures]
    stopped = [capture.stopped_ns for capture in captures]
    sealed.start_ns = None if None in ready else max(t for t in ready if t is not None)
    sealed.end_ns = None if None in stopped else min(t for t in stopped if t is not None)
    _check_unread(group, captures, sealed)


def _check_unread(group: Group, captures: Sequence[Capture], sealed: SealedGroup) -> None:
    """Note packets that were received and never read: the capture then ends at its last packet."""
    if sealed.counts is None or sealed.counts.complete:
        return
    unread = sealed.counts.received - sealed.counts.dropped - sealed.counts.captured
    if all(capture.shut for capture in captures):
        sealed.problems.append(f"{group.stem}: {unread} packets were received and never read")
        return
    sealed.notes.append(
        f"{group.stem}: {unread} packets arrived during the stop and were not read; the capture ends at its last packet"
    )
    sealed.end_ns = max((last for capture in captures for last in _last_times(capture.raw_files())), default=None)


def _last_times(files: Sequence[Path]) -> list[int]:
    found = []
    for path in files:
        file = RawFile(path)
        try:
            found += [max((packet[0] for packet in file), default=0)]
        finally:
            file.close()
    return [time for time in found if time]


def _record(group: Group, sealed: SealedGroup, counts: Counts | None, comment: str) -> InterfaceRecord:
    point = group.points[0]
    return InterfaceRecord(
        name=group.stem,
        description=point.description(),
        filter=group.sources[0].filter,
        start_ns=sealed.start_ns,
        end_ns=sealed.end_ns,
        received=counts.received if counts else None,
        dropped=counts.dropped if counts else None,
        interface_dropped=counts.interface_dropped if counts else None,
        comment=comment,
    )


def _seal_one(group: Group, captures: Sequence[Capture], settings: Settings, sealed: SealedGroup) -> None:
    """One point: its capture, or its two captures per direction, merged by time."""
    comment = f"counts and times provided by {settings.tool} and its recorder"
    if len(captures) > 1:
        comment += "; sums of a capture inwards and one outwards"
    parts = [Part(c.raw, _DIRECTIONS[c.source.direction], c.since_ns) for c in captures]

    def record(written: SealedCounts) -> InterfaceRecord:
        counts = sealed.counts
        if counts is not None and written.left_out:  # received before the direction filter was attached
            counts = Counts(counts.captured - written.left_out, counts.received - written.left_out, counts.dropped)
        return _record(group, sealed, counts, comment)

    target = captures[0].raw.with_name(f"{group.stem}.pcapng")
    written = seal(parts, target, record, os_name=kernel(), application=application(settings))
    sealed.files = [target.name]
    sealed.packets = written.packets
    _check_number(group, sealed, written.packets + written.left_out, cut=written.cut)


def _seal_shared(group: Group, capture: Capture, settings: Settings, sealed: SealedGroup) -> None:
    """All devices of a namespace: an interface for each point, and one for each other device."""
    source = group.sources[0]
    try:
        capture.note_devices()
    except LabError as error:  # the namespace is gone; the names from the start are known
        sealed.notes.append(f"{group.stem}: {error}")
    names = _shared_names(group, capture.devices)
    record = _record(group, sealed, sealed.counts, f"counts and times provided by {settings.tool} and its recorder")
    record = replace(record, description=source.namespace or source.host.label() or "host")
    target = capture.raw.with_name(f"{group.stem}.pcapng")
    written, sealed.interfaces = seal_shared(
        capture.raw, target, record, names, os_name=kernel(), application=application(settings)
    )
    sealed.files = [target.name]
    sealed.packets = written.packets
    _check_number(group, sealed, written.packets, cut=written.cut)


def _shared_names(group: Group, devices: Mapping[int, str]) -> dict[int, tuple[str, ...]]:
    """Interface names by index: the names of the points, and the device's own name if it is no point."""
    points: dict[str, list[str]] = {}
    for point in group.points:
        points.setdefault(point.device, []).append(point.name)
    taken = {point.name for point in group.points}
    return {
        index: tuple(points.get(device, [device if device not in taken else f"{device} (no point)"]))
        for index, device in devices.items()
    }


def _seal_ring(group: Group, capture: Capture, settings: Settings, sealed: SealedGroup) -> None:
    """The files of a ring, oldest first; where some were overwritten, the capture starts at the oldest packet left."""
    spans = []
    for path in capture.raw_files():
        file = RawFile(path)
        try:
            times = [packet[0] for packet in file]
            spans.append((min(times, default=None), max(times, default=None), len(times), file.cut, path))
        finally:
            file.close()
    kept = sorted((s for s in spans if s[0] is not None), key=lambda s: s[0] or 0) or spans[:1]
    total = sum(span[2] for span in kept)
    counts = sealed.counts
    overwritten = 0 if counts is None else counts.captured - total
    if overwritten < 0 or any(span[3] for span in kept):
        sealed.problems.append(
            f"{group.stem}: {counts.captured if counts else '?'} packets captured, {total} in the ring"
        )
    if overwritten > 0:
        sealed.start_ns = kept[0][0]
        sealed.notes.append(f"{group.stem}: {overwritten} packets in older files of the ring were overwritten")
    comment = (
        f"counts and times provided by {settings.tool} and its recorder; {max(0, overwritten)} packets overwritten"
    )
    for number, (first, last, packets, _, path) in enumerate(kept, 1):
        final = number == len(kept)
        dropped = None if counts is None else counts.dropped if final else 0  # the file of a drop is unknown
        record = InterfaceRecord(
            name=group.stem,
            description=group.points[0].description(),
            filter=group.sources[0].filter,
            start_ns=sealed.start_ns if number == 1 else first,
            end_ns=sealed.end_ns if final else last,
            received=None if dropped is None else packets + dropped,
            dropped=dropped,
            comment=comment,
        )
        target = path.with_name(f"{group.stem}-{number:04d}.pcapng")
        seal(path, target, record, os_name=kernel(), application=application(settings))
        sealed.files.append(target.name)
        sealed.packets += packets
    sealed.cut = any(span[3] for span in spans)


def _check_number(group: Group, sealed: SealedGroup, packets: int, *, cut: bool) -> None:
    captured = sealed.counts.captured if sealed.counts is not None else None
    sealed.cut = cut
    if captured is not None and captured != packets:
        sealed.problems.append(f"{group.stem}: {captured} packets captured, {packets} in the file")
    if cut:
        sealed.problems.append(f"{group.stem}: the tool's file ends inside a packet, and is kept")
