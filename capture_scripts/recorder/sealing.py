"""Turn the raw file of a capture tool into a sealed pcapng: the same packets, and more facts about them.

pcap has no field for the name of the point, the filter, or the drops of the capture, and no tool writes the direction
of a packet. The sealed file has one section, an interface per point, a packet block per packet and the statistics of
each interface. Packets keep the order of the raw file; packets from several raw files are merged by time. Block layout
and option codes follow draft-ietf-opsawg-pcapng (sections 4.1 to 4.6); all numbers are little-endian.
"""

from __future__ import annotations

import heapq
import itertools
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..own_files import fresh, settle_names
from ..processes import LabError
from .raw_files import RawFile, RawPacket

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6
INWARD, OUTWARD = 1, 2  # epb_flags, bits 0 and 1
LONGEST_TEXT = 0xFFFF - 1
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_COOKED_HEADER = struct.Struct(
    ">HHIHBB"
)  # LINUX_SLL2: protocol, reserved, ifindex, ARPHRD, packet type, address length
_COOKED_OUTGOING = 4

Option = tuple[int, bytes]


@dataclass(frozen=True)
class InterfaceRecord:
    """The facts about one interface of a sealed file. Times are nanoseconds since the epoch.

    Counts that the capture tool did not report are None and are left out: unknown is not zero. ``received`` packets
    passed the filter. ``dropped`` packets, a part of them, found no room in the buffer of the tool.
    ``interface_dropped`` packets found no room in the device.
    """

    name: str
    description: str
    filter: str = ""
    start_ns: int | None = None
    end_ns: int | None = None
    received: int | None = None
    dropped: int | None = None
    interface_dropped: int | None = None
    comment: str = ""


@dataclass(frozen=True)
class SealedCounts:
    """Counts of a sealed file.

    ``cut``: a raw file ended in the middle of a packet. ``left_out`` counts the packets of raw files before their
    ``since_ns``.
    """

    packets: int
    first_ns: int | None
    last_ns: int | None
    cut: bool
    left_out: int = 0


@dataclass(frozen=True)
class Part:
    """One raw file for a sealed one. Its packets get ``direction``; packets up to ``since_ns`` are left out."""

    raw: Path
    direction: int = 0
    since_ns: int | None = None


def block(kind: int, body: bytes) -> bytes:
    """One pcapng block: type and total length, body padded to 32 bits, total length again."""
    padded = body + bytes(-len(body) % 4)
    total = struct.pack("<I", len(padded) + 12)
    return struct.pack("<I", kind) + total + padded + total


def options(values: Sequence[Option]) -> bytes:
    """Option list with its end mark; empty without options."""
    if not values:
        return b""
    written = b"".join(struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in values)
    return written + struct.pack("<HH", 0, 0)


def section_header(os_name: str, application: str) -> bytes:
    """Section header block with shb_os (3) and shb_userappl (4); its length is left open (-1)."""
    fixed = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
    return block(SECTION_HEADER, fixed + options([(3, _text(os_name)), (4, _text(application))]))


def _text(words: str) -> bytes:
    """Text of an option: UTF-8, within the 16 bit length, less the byte in front of a filter."""
    return words.encode("utf-8", "backslashreplace")[:LONGEST_TEXT].decode("utf-8", "ignore").encode()


def interface_description(record: InterfaceRecord, linktype: int, snaplen: int) -> bytes:
    """Interface description block: if_name (2), if_description (3), if_tsresol (9): ns, if_filter (11)."""
    values: list[Option] = [(2, _text(record.name)), (3, _text(record.description)), (9, b"\x09")]
    if record.filter:
        values.append((11, b"\x00" + _text(record.filter)))  # 0: a libpcap filter string follows
    return block(INTERFACE_DESCRIPTION, struct.pack("<HHI", linktype, 0, snaplen) + options(values))


def enhanced_packet(ts_ns: int, original: int, data: bytes, interface: int = 0, direction: int = 0) -> bytes:
    """Enhanced packet block, with epb_flags (2) if the direction is known."""
    head = struct.pack("<IIIII", interface, ts_ns >> 32, ts_ns & 0xFFFFFFFF, len(data), original)
    if not direction:
        return block(ENHANCED_PACKET, head + data)
    flags = options([(2, struct.pack("<I", direction))])
    return block(ENHANCED_PACKET, head + data + bytes(-len(data) % 4) + flags)


def _time(ts_ns: int) -> bytes:
    """A pcapng time: the high 32 bits first, also in options (the draft's section 4.6)."""
    return struct.pack("<II", ts_ns >> 32, ts_ns & 0xFFFFFFFF)


def interface_statistics(record: InterfaceRecord, block_time_ns: int, interface: int = 0) -> bytes:
    """Interface statistics block.

    isb_starttime (2) and isb_endtime (3) bound the capture. isb_ifrecv (4) and isb_filteraccept (6) both have the
    received packets of tcpdump, because it counts behind the filter. isb_ifdrop (5) and isb_osdrop (7) have drops.
    isb_usrdeliv (8) has the rest: received less dropped.
    """
    values: list[Option] = [(1, _text(record.comment))] if record.comment else []
    for code, moment in ((2, record.start_ns), (3, record.end_ns)):
        if moment is not None:
            values.append((code, _time(moment)))
    delivered = None if record.received is None or record.dropped is None else record.received - record.dropped
    counts = (
        (4, record.received),
        (5, record.interface_dropped),
        (6, record.received),
        (7, record.dropped),
        (8, delivered),
    )
    values += [(code, struct.pack("<Q", count)) for code, count in counts if count is not None]
    return block(INTERFACE_STATISTICS, struct.pack("<I", interface) + _time(block_time_ns) + options(values))


class SealedFile:
    """A sealed file in progress. It gets its name when it is complete, and not before."""

    def __init__(self, path: Path, *, os_name: str, application: str) -> None:
        self._path = path
        self._unfinished = path.with_name(path.name + ".part")
        self._file: BinaryIO = fresh(self._unfinished)
        self._file.write(section_header(os_name, application))
        self.packets: list[int] = []  # per interface
        self.first_ns: int | None = None
        self.last_ns: int | None = None

    def __enter__(self) -> SealedFile:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        try:
            self._file.close()
        except OSError:  # the disk is full: the rest cannot be written now either
            if error is None:
                raise
        finally:
            self._unfinished.unlink(missing_ok=True)

    def add_interface(self, record: InterfaceRecord, linktype: int, snaplen: int) -> int:
        self._file.write(interface_description(record, linktype, snaplen))
        self.packets.append(0)
        return len(self.packets) - 1

    def add(self, packet: RawPacket, interface: int, direction: int) -> None:
        ts_ns, original, data = packet
        self._file.write(enhanced_packet(ts_ns, original, data, interface, direction))
        self.packets[interface] += 1
        if self.first_ns is None or ts_ns < self.first_ns:  # a capture is not always in order
            self.first_ns = ts_ns
        if self.last_ns is None or ts_ns > self.last_ns:
            self.last_ns = ts_ns

    def finish(self, records: Sequence[InterfaceRecord]) -> None:
        """Write the statistics of every interface, and give the file its name."""
        for number, record in enumerate(records):
            moment = next((t for t in (record.end_ns, self.last_ns, record.start_ns) if t is not None), 0)
            self._file.write(interface_statistics(record, moment, number))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._unfinished.rename(self._path)
        settle_names(self._path.parent)


def seal(
    parts: Path | Sequence[Part],
    sealed: Path,
    record: InterfaceRecord | Callable[[SealedCounts], InterfaceRecord],
    *,
    os_name: str,
    application: str,
) -> SealedCounts:
    """Write ``sealed``, with one interface, from one or several raw files, which stay unchanged.

    ``record`` may be a function of the counts, called after the last packet; its name and filter must not depend on
    them. A raw file that ends in the middle of a packet is used up to the cut. LabError for a file that is no capture.
    """
    given = [Part(parts)] if isinstance(parts, Path) else list(parts)
    with SealedFile(sealed, os_name=os_name, application=application) as target:
        files = [RawFile(part.raw) for part in given]
        try:
            early = record(SealedCounts(0, None, None, False)) if callable(record) else record
            target.add_interface(early, files[0].linktype, files[0].snaplen)
            left_out = 0
            for packet, part in _merged(files, given):
                if part.since_ns is not None and packet[0] <= part.since_ns:
                    left_out += 1
                else:
                    target.add(packet, 0, part.direction)
        finally:
            for file in files:
                file.close()
        counts = SealedCounts(
            target.packets[0], target.first_ns, target.last_ns, any(file.cut for file in files), left_out
        )
        target.finish([record(counts) if callable(record) else record])
    return counts


def _merged(files: Sequence[RawFile], parts: Sequence[Part]) -> Iterator[tuple[RawPacket, Part]]:
    """Packets of all files by time; each file keeps its own order."""
    if len(files) == 1:
        yield from ((packet, parts[0]) for packet in files[0])
        return
    streams = [zip(file, itertools.repeat(part), strict=False) for file, part in zip(files, parts, strict=True)]
    yield from heapq.merge(*streams, key=lambda item: item[0][0])


def seal_shared(
    raw: Path,
    sealed: Path,
    record: InterfaceRecord,
    names: dict[int, tuple[str, ...]],
    *,
    os_name: str,
    application: str,
) -> tuple[SealedCounts, dict[str, int]]:
    """Write ``sealed`` from one capture of all devices of a namespace, with an interface for each.

    ``names`` gives the names of the interfaces by index of the device: several points may share a device. Packets
    of an unnamed device get an interface ``ifindex-N``. The counts of ``record`` hold for all devices together. A
    dropped packet may belong to any device, so each interface has all drops. Returns the counts of the file, and
    packets by interface.
    """
    written: dict[str, int] = {}
    with SealedFile(sealed, os_name=os_name, application=application) as target:
        file = RawFile(raw)
        try:
            if file.linktype != 276:
                raise LabError(
                    f"{raw.name}: link type {file.linktype} instead of LINUX_SLL2: no device is written there"
                )

            def interface_of(name: str, description: str) -> int:
                if name not in written:
                    named = replace(record, name=name, description=description)
                    written[name] = target.add_interface(named, file.linktype, file.snaplen)
                return written[name]

            for index, told in names.items():
                for name in told:
                    interface_of(name, f"{record.description}, ifindex {index}")
            for packet in file:
                if len(packet[2]) < _COOKED_HEADER.size:
                    raise LabError(f"{raw.name}: a packet without its LINUX_SLL2 header")
                _, _, index, _, kind, _ = _COOKED_HEADER.unpack_from(packet[2])
                for name in names.get(index, (f"ifindex-{index}",)):
                    number = interface_of(name, f"{record.description}, ifindex {index}")
                    target.add(packet, number, OUTWARD if kind == _COOKED_OUTGOING else INWARD)
        finally:
            file.close()
        dropped = record.dropped
        target.finish(
            [
                replace(
                    record,
                    name=name,
                    received=None if dropped is None else target.packets[number] + dropped,
                    comment=f"{record.comment}; drops are those of all devices of the namespace together",
                )
                for name, number in written.items()
            ]
        )
    packets = {name: target.packets[number] for name, number in written.items()}
    return SealedCounts(file.packets, target.first_ns, target.last_ns, file.cut), packets
