"""Small writers of test captures, in plain struct code.

Every function returns bytes, so that a test can cut, splice or damage them before they reach a file. Times
are integer nanoseconds since the epoch and are converted to the file's own units by integer floor division.

Sources: draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng (editor's copy 449ae73).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

ByteOrder = Literal["<", ">"]

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
NANOSECONDS = 1_000_000_000

PCAP_MICROSECONDS = 0xA1B2C3D4
PCAP_NANOSECONDS = 0xA1B23C4D

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
SIMPLE_PACKET = 3
NAME_RESOLUTION = 4
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6
CUSTOM_COPYABLE = 0x00000BAD
CUSTOM_NOT_COPYABLE = 0x40000BAD

DIRECTION_IN = 1
DIRECTION_OUT = 2


@dataclass(frozen=True)
class Record:
    """One packet as a capture file holds it.

    ``data`` are the captured bytes, ``length`` the length on the wire (default: all were captured),
    ``direction`` the epb_flags direction bits, ``dropped`` the epb_dropcount, ``packet_id`` the epb_packetid;
    pcap files have no place for the last three.
    """

    ts_ns: int
    data: bytes
    length: int | None = None
    interface: int = 0
    direction: int | None = None
    dropped: int | None = None
    packet_id: int | None = None

    def cut_to(self, snaplen: int) -> tuple[bytes, int]:
        """The bytes kept under a snap length (0: all) and the length on the wire."""
        length = len(self.data) if self.length is None else self.length
        return (self.data[:snaplen] if snaplen else self.data), length


@dataclass(frozen=True)
class Interface:
    """One interface of a pcapng section. ``tsresol`` is the raw option byte, None writes no option
    (microseconds).
    """

    name: str | None = None
    description: str | None = None
    filter: str | None = None
    tsresol: int | None = 9
    tsoffset: int | None = None
    snaplen: int = 0
    linktype: int = LINKTYPE_ETHERNET

    @property
    def units_per_second(self) -> int:
        """Time stamp units in one second, from the if_tsresol byte: power of two if its high bit is set, else
        of ten.
        """
        value = 6 if self.tsresol is None else self.tsresol
        return 1 << (value & 0x7F) if value & 0x80 else int(10**value)

    def units(self, ts_ns: int) -> int:
        """A time as this interface writes it (integer, rounded down, if_tsoffset taken off)."""
        shifted = ts_ns - (self.tsoffset or 0) * NANOSECONDS
        return shifted * self.units_per_second // NANOSECONDS


@dataclass(frozen=True)
class Statistics:
    """What an interface statistics block says; None leaves the option out. Times in nanoseconds."""

    interface: int = 0
    ts_ns: int = 0
    start_ns: int | None = None
    end_ns: int | None = None
    received: int | None = None
    dropped: int | None = None
    os_dropped: int | None = None


@dataclass(frozen=True)
class Section:
    """One pcapng section: interfaces first, then packets in the given order, then statistics and raw extra
    blocks.
    """

    interfaces: Sequence[Interface] = (Interface(),)
    records: Sequence[Record] = ()
    statistics: Sequence[Statistics] = ()
    order: ByteOrder = "<"
    hardware: str | None = None
    os: str | None = None
    application: str | None = None
    extra_blocks: Sequence[bytes] = field(default=())
    simple: bool = False


# --- pcap ---------------------------------------------------------------------------------------------------


def pcap_header(
    *,
    nanoseconds: bool = True,
    order: ByteOrder = "<",
    snaplen: int = 262144,
    linktype: int = LINKTYPE_ETHERNET,
) -> bytes:
    """The 24-byte file header."""
    magic = PCAP_NANOSECONDS if nanoseconds else PCAP_MICROSECONDS
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, linktype)


def pcap_record(record: Record, *, nanoseconds: bool = True, order: ByteOrder = "<", snaplen: int = 262144) -> bytes:
    """One record: 16-byte header and the captured bytes."""
    data, length = record.cut_to(snaplen)
    seconds, rest = divmod(record.ts_ns, NANOSECONDS)
    fraction = rest if nanoseconds else rest // 1000
    return struct.pack(order + "IIII", seconds, fraction, len(data), length) + data


def pcap_bytes(
    records: Iterable[Record],
    *,
    nanoseconds: bool = True,
    order: ByteOrder = "<",
    snaplen: int = 262144,
    linktype: int = LINKTYPE_ETHERNET,
) -> bytes:
    """A whole pcap file."""
    parts = [pcap_header(nanoseconds=nanoseconds, order=order, snaplen=snaplen, linktype=linktype)]
    parts += [pcap_record(record, nanoseconds=nanoseconds, order=order, snaplen=snaplen) for record in records]
    return b"".join(parts)


# --- pcapng -------------------------------------------------------------------------------------------------


def padded(data: bytes) -> bytes:
    """The data, filled with zeros to a multiple of four bytes."""
    return data + bytes(-len(data) % 4)


def option(code: int, value: bytes, order: ByteOrder = "<") -> bytes:
    """One option; the length field does not count the padding."""
    return struct.pack(order + "HH", code, len(value)) + padded(value)


def options(pairs: Iterable[tuple[int, bytes | None]], order: ByteOrder = "<") -> bytes:
    """The options whose value is not None and the end mark; nothing at all if there is none."""
    body = b"".join(option(code, value, order) for code, value in pairs if value is not None)
    return body + option(0, b"", order) if body else b""


def block(kind: int, body: bytes, order: ByteOrder = "<") -> bytes:
    """A block: type, total length, body, total length again."""
    body = padded(body)
    total = len(body) + 12
    return struct.pack(order + "II", kind, total) + body + struct.pack(order + "I", total)


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _packed(form: str, value: int | None, order: ByteOrder) -> bytes | None:
    return None if value is None else struct.pack(order + form, value)


def section_header(
    order: ByteOrder = "<",
    *,
    hardware: str | None = None,
    os: str | None = None,
    application: str | None = None,
) -> bytes:
    """SHB with an unknown section length (-1)."""
    body = struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1)
    return block(
        SECTION_HEADER,
        body + options([(2, _text(hardware)), (3, _text(os)), (4, _text(application))], order),
        order,
    )


def interface_block(interface: Interface, order: ByteOrder = "<") -> bytes:
    """IDB. The filter option starts with a zero byte: a libpcap filter string follows."""
    body = struct.pack(order + "HHI", interface.linktype, 0, interface.snaplen)
    filter_value = None if interface.filter is None else b"\0" + interface.filter.encode()
    return block(
        INTERFACE_DESCRIPTION,
        body
        + options(
            [
                (2, _text(interface.name)),
                (3, _text(interface.description)),
                (9, _packed("B", interface.tsresol, order)),
                (11, filter_value),
                (14, _packed("q", interface.tsoffset, order)),
            ],
            order,
        ),
        order,
    )


def packet_block(record: Record, interface: Interface, order: ByteOrder = "<") -> bytes:
    """EPB; the time is written high word first."""
    data, length = record.cut_to(interface.snaplen)
    units = interface.units(record.ts_ns)
    head = struct.pack(
        order + "IIIII", record.interface, units >> 32 & 0xFFFFFFFF, units & 0xFFFFFFFF, len(data), length
    )
    tail = options(
        [
            (2, _packed("I", record.direction, order)),
            (4, _packed("Q", record.dropped, order)),
            (5, _packed("Q", record.packet_id, order)),
        ],
        order,
    )
    return block(ENHANCED_PACKET, head + padded(data) + tail, order)


def simple_packet_block(record: Record, interface: Interface, order: ByteOrder = "<") -> bytes:
    """SPB: no time, no interface number; captured length from the first interface's snap length."""
    data, length = record.cut_to(interface.snaplen)
    return block(SIMPLE_PACKET, struct.pack(order + "I", length) + padded(data), order)


def statistics_block(statistics: Statistics, interface: Interface, order: ByteOrder = "<") -> bytes:
    """ISB. Its own time and isb_starttime/isb_endtime are two 32-bit words, high word first, in the
    interface's units.
    """

    def words(ts_ns: int | None) -> bytes | None:
        if ts_ns is None:
            return None
        units = interface.units(ts_ns)
        return struct.pack(order + "II", units >> 32 & 0xFFFFFFFF, units & 0xFFFFFFFF)

    body = struct.pack(order + "I", statistics.interface) + (words(statistics.ts_ns) or b"")
    return block(
        INTERFACE_STATISTICS,
        body
        + options(
            [
                (2, words(statistics.start_ns)),
                (3, words(statistics.end_ns)),
                (4, _packed("Q", statistics.received, order)),
                (5, _packed("Q", statistics.dropped, order)),
                (7, _packed("Q", statistics.os_dropped, order)),
            ],
            order,
        ),
        order,
    )


def custom_block(data: bytes, *, number: int = 32473, copyable: bool = True, order: ByteOrder = "<") -> bytes:
    """A custom block of a private enterprise number (default: the one reserved for examples)."""
    kind = CUSTOM_COPYABLE if copyable else CUSTOM_NOT_COPYABLE
    return block(kind, struct.pack(order + "I", number) + data, order)


def name_resolution_block(names: Iterable[tuple[bytes, str]], order: ByteOrder = "<") -> bytes:
    """NRB: 4-byte addresses as record type 1, 16-byte addresses as type 2."""
    body = b""
    for address, name in names:
        value = address + name.encode() + b"\0"
        body += struct.pack(order + "HH", 1 if len(address) == 4 else 2, len(value)) + padded(value)
    return block(NAME_RESOLUTION, body + struct.pack(order + "HH", 0, 0), order)


def section_bytes(section: Section) -> bytes:
    """One whole section."""
    order = section.order
    parts = [
        section_header(order, hardware=section.hardware, os=section.os, application=section.application),
        *(interface_block(interface, order) for interface in section.interfaces),
        *section.extra_blocks,
    ]
    for record in section.records:
        if section.simple:
            parts.append(simple_packet_block(record, section.interfaces[0], order))
        else:
            parts.append(packet_block(record, section.interfaces[record.interface], order))
    parts += [
        statistics_block(statistics, section.interfaces[statistics.interface], order)
        for statistics in section.statistics
    ]
    return b"".join(parts)


def pcapng_bytes(*sections: Section) -> bytes:
    """A whole pcapng file of one or more sections."""
    return b"".join(section_bytes(section) for section in sections)
