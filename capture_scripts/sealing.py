"""From tcpdump's pcap to a sealed pcapng: the same packets in the same order, with what the pcap cannot say.

pcap has no place for the name of the point, the filter, or what the capture dropped. The sealed file has
one section with one interface, a packet block per packet and the interface's statistics. Block layout and
option codes follow draft-ietf-opsawg-pcapng (sections 4.1 to 4.6); everything is written little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .processes import LabError

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
INTERFACE_STATISTICS = 5
ENHANCED_PACKET = 6
_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_MAGICS = {  # first four bytes of a pcap: byte order, and nanoseconds per unit of the second time field
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_LARGEST_PACKET = 262_144  # tcpdump's own limit; a longer one means that the file is damaged

Option = tuple[int, bytes]


@dataclass(frozen=True)
class InterfaceRecord:
    """What is written about the one interface of a sealed file. Times are nanoseconds since the epoch.

    Counts that the capture tool did not tell are None and are left out: unknown is not zero. ``received``
    are the packets that passed the filter, ``dropped`` those of them that the kernel could not keep for the
    tool, and ``interface_dropped`` those that the device had no room for.
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
    """What went into a sealed file; ``cut`` tells that the pcap ended in the middle of a packet."""

    packets: int
    first_ns: int | None
    last_ns: int | None
    cut: bool


@dataclass(frozen=True)
class PcapHeader:
    order: str
    nanoseconds_per_unit: int
    snaplen: int
    linktype: int


def read_header(file: BinaryIO, name: str) -> PcapHeader:
    """The 24 bytes at the start of a pcap; LabError if they are something else."""
    head = file.read(24)
    if len(head) < 24 or head[:4] not in _MAGICS:
        raise LabError(f"{name}: no pcap file (its first bytes are {head[:4].hex() or 'missing'})")
    order, unit = _MAGICS[head[:4]]
    snaplen, linktype = struct.unpack(order + "II", head[16:24])
    return PcapHeader(order, unit, snaplen, linktype & 0xFFFF)  # the high half may carry an FCS length


def read_packets(file: BinaryIO, header: PcapHeader) -> Iterator[tuple[int, int, bytes] | None]:
    """(time in ns, original length, bytes) of each packet in file order; a last None if the file is cut."""
    layout = struct.Struct(header.order + "IIII")
    while True:
        head = file.read(16)
        if not head:
            return
        if len(head) < 16:
            yield None
            return
        seconds, fraction, captured, original = layout.unpack(head)
        data = file.read(captured) if captured <= _LARGEST_PACKET else b""
        if len(data) < captured:
            yield None
            return
        yield seconds * 1_000_000_000 + fraction * header.nanoseconds_per_unit, original, data


def block(kind: int, body: bytes) -> bytes:
    """One pcapng block: type and total length, body padded to 32 bits, total length again."""
    padded = body + bytes(-len(body) % 4)
    total = struct.pack("<I", len(padded) + 12)
    return struct.pack("<I", kind) + total + padded + total


def options(values: Sequence[Option]) -> bytes:
    """Option list with its end mark; empty when there is none."""
    if not values:
        return b""
    written = b"".join(struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4) for code, value in values)
    return written + struct.pack("<HH", 0, 0)


def section_header(os_name: str, application: str) -> bytes:
    """Section header block with shb_os (3) and shb_userappl (4); its length is left open (-1)."""
    fixed = struct.pack("<IHHq", _BYTE_ORDER_MAGIC, 1, 0, -1)
    return block(SECTION_HEADER, fixed + options([(3, os_name.encode()), (4, application.encode())]))


def interface_description(record: InterfaceRecord, linktype: int, snaplen: int) -> bytes:
    """Interface description block: if_name (2), if_description (3), if_tsresol (9): ns, if_filter (11)."""
    values: list[Option] = [(2, record.name.encode()), (3, record.description.encode()), (9, b"\x09")]
    if record.filter:
        values.append((11, b"\x00" + record.filter.encode()))  # 0: what follows is a libpcap filter string
    return block(INTERFACE_DESCRIPTION, struct.pack("<HHI", linktype, 0, snaplen) + options(values))


def enhanced_packet(ts_ns: int, original: int, data: bytes) -> bytes:
    """Enhanced packet block of interface 0, without options."""
    head = struct.pack("<IIIII", 0, ts_ns >> 32, ts_ns & 0xFFFFFFFF, len(data), original)
    return block(ENHANCED_PACKET, head + data)


def _time(ts_ns: int) -> bytes:
    """A pcapng time: the high 32 bits first, also in options (the draft's section 4.6)."""
    return struct.pack("<II", ts_ns >> 32, ts_ns & 0xFFFFFFFF)


def interface_statistics(record: InterfaceRecord, block_time_ns: int) -> bytes:
    """Interface statistics block.

    isb_starttime (2) and isb_endtime (3) bound the capture; isb_ifrecv (4) and isb_filteraccept (6) both
    carry what tcpdump calls received, because it counts behind the filter; isb_ifdrop (5), isb_osdrop (7).
    isb_usrdeliv (8) is what is left: received less dropped.
    """
    values: list[Option] = [(1, record.comment.encode())] if record.comment else []
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
    return block(INTERFACE_STATISTICS, struct.pack("<I", 0) + _time(block_time_ns) + options(values))


def seal(raw: Path, sealed: Path, record: InterfaceRecord, *, os_name: str, application: str) -> SealedCounts:
    """Write ``sealed`` from ``raw``. It appears under its name only when it is whole; ``raw`` is left alone.

    A pcap that ends in the middle of a packet is used up to the cut. LabError when ``raw`` is no pcap.
    """
    unfinished = sealed.with_name(sealed.name + ".part")
    packets = 0
    first_ns: int | None = None
    last_ns: int | None = None
    cut = False
    try:
        with raw.open("rb") as source, unfinished.open("wb") as target:
            header = read_header(source, raw.name)
            target.write(section_header(os_name, application))
            target.write(interface_description(record, header.linktype, header.snaplen))
            for packet in read_packets(source, header):
                if packet is None:
                    cut = True
                    break
                ts_ns, original, data = packet
                target.write(enhanced_packet(ts_ns, original, data))
                packets += 1
                first_ns = ts_ns if first_ns is None else min(first_ns, ts_ns)  # a capture is not always in order
                last_ns = ts_ns if last_ns is None else max(last_ns, ts_ns)
            moment = next((t for t in (record.end_ns, last_ns, record.start_ns) if t is not None), 0)
            target.write(interface_statistics(record, moment))
            target.flush()
            os.fsync(target.fileno())
        unfinished.rename(sealed)
    finally:
        unfinished.unlink(missing_ok=True)
    return SealedCounts(packets, first_ns, last_ns, cut)
