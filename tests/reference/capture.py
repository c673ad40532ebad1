"""Capture files to packets: pcap and pcapng, read with struct, block by block (docs/decoding.md, "Capture files").

Rule (design 4): bytes in, packet index out; a file that is cut, or contradicts itself, is used up to there.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

NANOSECONDS = 1_000_000_000
LARGEST_PACKET = 262_144
WHOLE, CUT, CORRUPT = "whole", "cut", "corrupt"
SECTION_HEADER, INTERFACE_DESCRIPTION, OBSOLETE_PACKET, SIMPLE_PACKET = 0x0A0D0D0A, 1, 2, 3
INTERFACE_STATISTICS, ENHANCED_PACKET = 5, 6
NUMBERED_BLOCKS = (0x00000BAD, 0x40000BAD, 9, 0x204, 0x216, 0x221)
# The bytes of a block that has neither data nor options, its type and both lengths included.
SMALLEST_BLOCK = {
    SECTION_HEADER: 28,
    INTERFACE_DESCRIPTION: 20,
    OBSOLETE_PACKET: 32,
    SIMPLE_PACKET: 16,
    INTERFACE_STATISTICS: 24,
    ENHANCED_PACKET: 32,
}


@dataclass
class FileInterface:
    """One interface of a capture file, with what the interface statistics say about it."""

    name: str | None = None
    linktype: int = 1
    snaplen: int = 0
    tsresol: int = 6
    tsoffset: int = 0
    number: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    dropped: int = 0
    told: bool = False  # whether anything says how many were dropped

    @property
    def units_per_second(self) -> int:
        """if_tsresol: power of two if the high bit is set, else power of ten."""
        return 1 << (self.tsresol & 0x7F) if self.tsresol & 0x80 else int(10**self.tsresol)

    @property
    def resolution_ns(self) -> int:
        """One unit in nanoseconds, rounded up, at least 1."""
        return max(1, -(-NANOSECONDS // self.units_per_second))

    def nanoseconds(self, units: int) -> int:
        """A time in units as nanoseconds since the epoch, rounded down."""
        return units * NANOSECONDS // self.units_per_second + self.tsoffset * NANOSECONDS


@dataclass
class FilePacket:
    """One packet of a capture file. ``frame`` counts from 1 over all interfaces of the file, as Wireshark does, which
    gives numbers to custom blocks, journal entries and system events, too.

    ``ts_ns`` is None where there is no time, or none that fits 64 bits (``out_of_range``). ``marks`` are the further
    columns that the file itself knows of the packet: direction, packet_id, queue and so on.
    """

    frame: int
    byte_offset: int
    ts_ns: int | None
    data: bytes
    length: int
    interface: FileInterface
    direction: str | None = None
    out_of_range: bool = False
    checksum_not_ready: bool = False
    marks: dict[str, Any] = field(default_factory=dict)


@dataclass
class CaptureFile:
    """A whole capture file, how it ended (whole, cut, corrupt) and how many blocks held no packets."""

    packets: list[FilePacket] = field(default_factory=list)
    interfaces: list[FileInterface] = field(default_factory=list)
    ended: str = WHOLE
    unknown_blocks: int = 0
    numbered_blocks: int = 0

    @property
    def cut(self) -> bool:
        """There may be more packets than those that were read."""
        return self.ended != WHOLE

    def add(self, interface: FileInterface, at: int, units: int | None, data: bytes, length: int) -> FilePacket:
        """One more packet; ``units`` is its time as the file writes it."""
        frame = len(self.packets) + self.numbered_blocks + 1
        packet = FilePacket(frame, at, None, data, length, interface)
        if units is not None:
            ts_ns = interface.nanoseconds(units)
            packet.out_of_range = not -(2**63) < ts_ns < 2**63
            packet.ts_ns = None if packet.out_of_range else ts_ns
        self.packets.append(packet)
        return packet


def read_capture(data: bytes) -> CaptureFile:
    """The packets of a capture, whichever of the formats it has.

    Raises ValueError if the first bytes are those of none.
    """
    data, ended = decompressed(data)
    capture = _read_plain(data)
    if ended == CORRUPT or (ended == CUT and capture.ended == WHOLE):
        capture.ended = ended
    return capture


def _read_plain(data: bytes) -> CaptureFile:
    magic = data[:4]
    if magic == b"\x0a\x0d\x0d\x0a":
        return _read_pcapng(data)
    for order in "<>":
        for number, tsresol in ((0xA1B2C3D4, 6), (0xA1B23C4D, 9), (0xA1B2CD34, 6)):
            if magic == struct.pack(order + "I", number):
                return _read_pcap(data, order, tsresol, modified=number == 0xA1B2CD34)
    raise ValueError("neither pcap nor pcapng")


# --- compression --------------------------------------------------------------------------------------------


def decompressed(data: bytes) -> tuple[bytes, str]:
    """The content of a gzip, zstd or lz4 file, as far as it can be had, and how it ended; others as they are."""
    if data[:2] == b"\x1f\x8b":
        return _gunzipped(data)
    codec = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}.get(data[:4])
    if codec is None:
        return data, WHOLE
    content = b""
    stream = pa.CompressedInputStream(pa.BufferReader(data), codec)
    try:
        while True:
            part = stream.read(1)
            if not part:
                return content, WHOLE
            content += part
    except OSError as error:
        return content, CUT if "runcated" in str(error) else CORRUPT


def _gunzipped(data: bytes) -> tuple[bytes, str]:
    """Member by member (RFC 1952)."""
    content = b""
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            for at in range(len(data)):
                content += member.decompress(data[at : at + 1])
                if member.eof:
                    break
        except zlib.error:
            return content, CORRUPT
        if not member.eof:
            return content, CUT
        data = data[at + 1 :]
    return content, WHOLE


# --- pcap ---------------------------------------------------------------------------------------------------


def _read_pcap(data: bytes, order: str, tsresol: int, *, modified: bool) -> CaptureFile:
    """pcap: a 24-byte header, then records of 16 bytes (modified: 24) and the captured bytes.

    Before version 2.3 the two lengths of a record are the other way round.
    """
    if len(data) < 24:
        raise ValueError("neither pcap nor pcapng: a file header of pcap has 24 bytes")
    capture = CaptureFile()
    version = struct.unpack(order + "HH", data[4:8])
    snaplen, linktype = struct.unpack(order + "II", data[16:24])
    interface = FileInterface(linktype=linktype & 0xFFFF, snaplen=snaplen, tsresol=tsresol)
    capture.interfaces.append(interface)
    head = 24 if modified else 16
    at = 24
    while at < len(data):
        if at + head > len(data):
            capture.ended = CUT
            break
        seconds, fraction, captured, length = struct.unpack(order + "IIII", data[at : at + 16])
        if version < (2, 3):
            captured, length = length, captured
        if captured > LARGEST_PACKET:
            capture.ended = CORRUPT
            break
        marks: dict[str, Any] = {"interface_id": 0}
        if modified:
            index, _, packet_type, _ = struct.unpack(order + "IHBB", data[at + 16 : at + 24])
            marks |= {"interface_index": index, "direction": cooked_direction(packet_type)}
        at += head
        if at + captured > len(data):
            capture.ended = CUT
            break
        units = seconds * interface.units_per_second + fraction
        packet = capture.add(interface, at, units, data[at : at + captured], length)
        packet.marks = marks
        packet.direction = marks.get("direction")
        at += captured
    return capture


def cooked_direction(packet_type: int) -> str:
    """Linux packet types: 0 to us, 1 broadcast, 2 multicast, 3 to another host (all received), 4 sent by us."""
    return "out" if packet_type == 4 else "in"


# --- pcapng -------------------------------------------------------------------------------------------------


def _options(body: bytes, order: str) -> dict[int, bytes]:
    """The options of a block; of a repeated one the last. Stops at the end mark or where the bytes end."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(body):
        code, length = struct.unpack(order + "HH", body[at : at + 4])
        if code == 0 or at + 4 + length > len(body):
            break
        found[code] = body[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4
    return found


def _number(value: bytes, order: str) -> int:
    return int.from_bytes(value, "little" if order == "<" else "big")


def _interface(body: bytes, order: str, number: int) -> FileInterface:
    """IDB: link type, snap length, if_name (2), if_tsresol (9, default 6), if_tsoffset (14)."""
    linktype, _, snaplen = struct.unpack(order + "HHI", body[:8])
    interface = FileInterface(linktype=linktype, snaplen=snaplen, number=number)
    found = _options(body[8:], order)
    if 2 in found:
        interface.name = found[2].rstrip(b"\0").decode("utf-8", "replace")
    if found.get(9):
        interface.tsresol = found[9][0]
    if len(found.get(14, b"")) == 8:
        interface.tsoffset = struct.unpack(order + "q", found[14])[0]
    return interface


def _words(value: bytes, order: str) -> int:
    """A time in two 32-bit words, the high one first, whatever the byte order."""
    high, low = struct.unpack(order + "II", value[:8])
    return int(high) << 32 | int(low)


def _statistics(body: bytes, order: str, interfaces: list[FileInterface]) -> None:
    """ISB: isb_starttime (2), isb_endtime (3), isb_ifdrop (5), isb_osdrop (7)."""
    number = struct.unpack(order + "I", body[:4])[0]
    if number >= len(interfaces):
        return
    interface, found = interfaces[number], _options(body[12:], order)
    if len(found.get(2, b"")) == 8:
        interface.start_ns = interface.nanoseconds(_words(found[2], order))
    if len(found.get(3, b"")) == 8:
        interface.end_ns = interface.nanoseconds(_words(found[3], order))
    reported = sum(_number(found[code], order) for code in (5, 7) if code in found)
    interface.dropped = max(interface.dropped, reported)
    interface.told |= 5 in found or 7 in found


def _marks(packet: FilePacket, options: bytes, order: str) -> int:
    """epb_flags (2), epb_packetid (5), epb_queue (6), epb_verdict (7); returns epb_dropcount (4)."""
    found = _options(options, order)
    if len(found.get(2, b"")) == 4:
        flags = _number(found[2], order)
        packet.direction = {1: "in", 2: "out"}.get(flags & 3)
        packet.checksum_not_ready = bool(flags >> 9 & 1)
        packet.marks["direction"] = packet.direction
    if len(found.get(5, b"")) == 8:
        packet.marks["packet_id"] = _number(found[5], order)
    if len(found.get(6, b"")) == 4:
        packet.marks["queue"] = _number(found[6], order)
    if len(found.get(7, b"")) >= 1:
        packet.marks["verdict_type"] = found[7][0]
        if len(found[7]) == 9:
            packet.marks["verdict"] = _number(found[7][1:], order)
    return _number(found[4], order) if len(found.get(4, b"")) == 8 else 0


def _read_pcapng(data: bytes) -> CaptureFile:
    """pcapng: blocks; a section header starts new interfaces and may change the byte order."""
    capture = CaptureFile()
    interfaces: list[FileInterface] = []
    dropcounts: dict[int, int] = {}
    order = "<"
    at = 0
    while at < len(data):
        starts_section = data[at : at + 4] == b"\x0a\x0d\x0d\x0a"
        if at + (12 if starts_section else 8) > len(data):
            capture.ended = CUT
            break
        if starts_section:
            if data[at + 8 : at + 12] not in (b"\x4d\x3c\x2b\x1a", b"\x1a\x2b\x3c\x4d"):
                capture.ended = CORRUPT
                break
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
        kind, total = struct.unpack(order + "II", data[at : at + 8])
        if total % 4 or total < SMALLEST_BLOCK.get(kind, 12):
            capture.ended = CORRUPT
            break
        if at + total > len(data):
            capture.ended = CUT
            break
        if data[at + total - 4 : at + total] != data[at + 4 : at + 8]:
            capture.ended = CORRUPT
            break
        body = data[at + 8 : at + total - 4]
        if kind == SECTION_HEADER:
            interfaces, dropcounts = [], {}
        elif kind == INTERFACE_DESCRIPTION:
            interfaces.append(_interface(body, order, len(capture.interfaces)))
            capture.interfaces.append(interfaces[-1])
        elif kind == INTERFACE_STATISTICS:
            _statistics(body, order, interfaces)
        elif kind in (ENHANCED_PACKET, OBSOLETE_PACKET, SIMPLE_PACKET):
            if kind == ENHANCED_PACKET:
                number, high, low, captured, length = struct.unpack(order + "IIIII", body[:20])
                head = 20
            elif kind == OBSOLETE_PACKET:
                number, _, high, low, captured, length = struct.unpack(order + "HHIIII", body[:20])
                head = 20
            else:
                length = struct.unpack(order + "I", body[:4])[0]
                number, head = 0, 4
                captured = length
                if interfaces and interfaces[0].snaplen:
                    captured = min(length, interfaces[0].snaplen)
            if number >= len(interfaces) or captured > LARGEST_PACKET or captured > len(body) - head:
                capture.ended = CORRUPT
                break
            units = None if kind == SIMPLE_PACKET else high << 32 | low
            packet = capture.add(interfaces[number], at + 8 + head, units, body[head : head + captured], length)
            packet.marks["interface_id"] = interfaces[number].number
            if kind != SIMPLE_PACKET:
                dropped = _marks(packet, body[head + captured + -captured % 4 :], order)
                packet.marks["dropped_before"] = dropped
                if dropped:
                    # epb_dropcount counts the losses since the packet before; the statistics block counts them
                    # all.
                    dropcounts[number] = dropcounts.get(number, 0) + dropped
                    packet.interface.dropped = max(packet.interface.dropped, dropcounts[number])
                    packet.interface.told = True
        else:
            capture.unknown_blocks += 1
            capture.numbered_blocks += kind in NUMBERED_BLOCKS
        at += total
    return capture
