"""Capture files to packets: pcap and pcapng, read with struct, block by block.

Rule (design 4): bytes in, packet index out; a file cut in the middle of a packet is used up to the cut.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

NANOSECONDS = 1_000_000_000


@dataclass
class FileInterface:
    """One interface of a capture file, with what the interface statistics say about it."""

    name: str | None = None
    linktype: int = 1
    snaplen: int = 0
    tsresol: int = 6
    tsoffset: int = 0
    start_ns: int | None = None
    end_ns: int | None = None
    dropped: int = 0

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
    """One packet of a capture file. ``frame`` counts from 1 over all interfaces of the file, as Wireshark
    does.
    """

    frame: int
    byte_offset: int
    ts_ns: int | None
    data: bytes
    length: int
    interface: FileInterface
    direction: str | None = None


@dataclass
class CaptureFile:
    """A whole capture file. ``cut`` says that the file ended in the middle of something."""

    packets: list[FilePacket] = field(default_factory=list)
    interfaces: list[FileInterface] = field(default_factory=list)
    cut: bool = False


def read_capture(data: bytes) -> CaptureFile:
    """The packets of a capture, whichever of the two formats it has.

    Raises ValueError if the first bytes are those of neither.
    """
    magic = data[:4]
    if magic == b"\x0a\x0d\x0d\x0a":
        return _read_pcapng(data)
    for order in "<>":
        for number, tsresol in ((0xA1B2C3D4, 6), (0xA1B23C4D, 9)):
            if magic == struct.pack(order + "I", number):
                return _read_pcap(data, order, tsresol)
    raise ValueError("neither pcap nor pcapng")


def _read_pcap(data: bytes, order: str, tsresol: int) -> CaptureFile:
    """pcap: a 24-byte header, then records of 16 bytes and the captured bytes."""
    capture = CaptureFile()
    if len(data) < 24:
        capture.cut = True
        return capture
    snaplen, linktype = struct.unpack(order + "II", data[16:24])
    interface = FileInterface(linktype=linktype & 0xFFFF, snaplen=snaplen, tsresol=tsresol)
    capture.interfaces.append(interface)
    at = 24
    while at < len(data):
        if at + 16 > len(data):
            capture.cut = True
            break
        seconds, fraction, captured, length = struct.unpack(order + "IIII", data[at : at + 16])
        at += 16
        if at + captured > len(data):
            capture.cut = True
            break
        ts_ns = seconds * NANOSECONDS + fraction * (1 if tsresol == 9 else 1000)
        capture.packets.append(
            FilePacket(len(capture.packets) + 1, at, ts_ns, data[at : at + captured], length, interface)
        )
        at += captured
    return capture


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


def _interface(body: bytes, order: str) -> FileInterface:
    """IDB: link type, snap length, if_name (2), if_tsresol (9, default 6), if_tsoffset (14)."""
    linktype, _, snaplen = struct.unpack(order + "HHI", body[:8])
    interface = FileInterface(linktype=linktype, snaplen=snaplen)
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
    if 2 in found:
        interface.start_ns = interface.nanoseconds(_words(found[2], order))
    if 3 in found:
        interface.end_ns = interface.nanoseconds(_words(found[3], order))
    reported = sum(_number(found[code], order) for code in (5, 7) if code in found)
    interface.dropped = max(interface.dropped, reported)


def _read_pcapng(data: bytes) -> CaptureFile:
    """pcapng: blocks; a section header starts new interfaces and may change the byte order."""
    capture = CaptureFile()
    interfaces: list[FileInterface] = []
    dropcounts: dict[int, int] = {}
    order = "<"
    at = 0
    while at < len(data):
        if at + 12 > len(data):
            capture.cut = True
            break
        if data[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces, dropcounts = [], {}
        kind, total = struct.unpack(order + "II", data[at : at + 8])
        if total < 12 or at + total > len(data):
            capture.cut = True
            break
        body = data[at + 8 : at + total - 4]
        if kind == 1:
            interfaces.append(_interface(body, order))
            capture.interfaces.append(interfaces[-1])
        elif kind == 5:
            _statistics(body, order, interfaces)
        elif kind == 6:
            number, high, low, captured, length = struct.unpack(order + "IIIII", body[:20])
            interface = interfaces[number]
            found = _options(body[20 + captured + -captured % 4 :], order)
            direction = {1: "in", 2: "out"}.get(_number(found.get(2, b""), order) & 3)
            if 4 in found:
                # epb_dropcount counts the losses since the packet before; the statistics block counts them
                # all.
                dropcounts[number] = dropcounts.get(number, 0) + _number(found[4], order)
                interface.dropped = max(interface.dropped, dropcounts[number])
            capture.packets.append(
                FilePacket(
                    len(capture.packets) + 1,
                    at + 28,
                    interface.nanoseconds(high << 32 | low),
                    body[20 : 20 + captured],
                    length,
                    interface,
                    direction,
                )
            )
        elif kind == 3:
            length = struct.unpack(order + "I", body[:4])[0]
            interface = interfaces[0]
            captured = min(length, interface.snaplen or length, len(body) - 4)
            capture.packets.append(
                FilePacket(len(capture.packets) + 1, at + 12, None, body[4 : 4 + captured], length, interface)
            )
        at += total
    return capture
