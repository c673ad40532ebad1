"""A set of small captures, up to 4 kB each: every file format, and every packet of the samples, by name.

``CAPTURES[name]`` are the bytes of a file, ``EXPECTED[name]`` what is known of each of its packets, in their order.
Both are built when they are asked for, and always the same.

Formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng (editor's copy 449ae73).
"""

from __future__ import annotations

import functools
import gzip
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

import tests.kit.link_samples
import tests.kit.protocol_samples
import tests.kit.tunnel_samples  # noqa: F401  (the three fill GROUPS)
from tests.kit import packets
from tests.kit.pcap_files import (
    ENHANCED_PACKET,
    INTERFACE_DESCRIPTION,
    NANOSECONDS,
    ByteOrder,
    Interface,
    Record,
    Section,
    Statistics,
    block,
    custom_block,
    interface_block,
    name_resolution_block,
    options,
    packet_block,
    pcap_bytes,
    pcapng_bytes,
    section_header,
    simple_packet_block,
)
from tests.kit.samples import GROUPS, NOTHING, Sample, plain_ethernet, tcp6, udp4

START_NS = 1_700_000_000_123_456_789
OBSOLETE_PACKET, DECRYPTION_SECRETS, JOURNAL, SYSDIG_EVENT = 2, 10, 9, 0x204

Known = list[dict[str, Any]]
Built = tuple[bytes, Known]
FORMATS: dict[str, Callable[[], Built]] = {}


def capture(name: str) -> Callable[[Callable[[], Built]], Callable[[], Built]]:
    """Register a function that builds one capture and says what is in it."""

    def register(function: Callable[[], Built]) -> Callable[[], Built]:
        FORMATS[name] = function
        return function

    return register


def three(unit_ns: int = 1, start_ns: int = START_NS) -> tuple[list[Record], Known]:
    """The packets of every format capture - UDP in IPv4, TCP in IPv6 (cut by two bytes), ARP - and what is known.

    ``unit_ns`` is the resolution of the file: times are rounded down to it.
    """
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    frames = [plain_ethernet(packet4), plain_ethernet(packet6)[:-2], packets.arp_request()]
    lengths = [len(frames[0]), len(frames[1]) + 2, len(frames[2])]
    times = [start_ns + number * 1_000_000_007 for number in range(3)]
    records = [Record(*entry) for entry in zip(times, frames, lengths, strict=True)]
    known = [
        {**fields, "ts_ns": time // unit_ns * unit_ns, "length": length, "captured_length": len(data)}
        for fields, time, data, length in zip((known4, known6, NOTHING), times, frames, lengths, strict=True)
    ]
    return records, known


# --- pcap ---------------------------------------------------------------------------------------------------


def classic(nanoseconds: bool, order: ByteOrder) -> Built:
    records, known = three(1 if nanoseconds else 1000)
    return pcap_bytes(records, nanoseconds=nanoseconds, order=order), known


FORMATS["pcap-us-le"] = lambda: classic(False, "<")
FORMATS["pcap-us-be"] = lambda: classic(False, ">")
FORMATS["pcap-ns-le"] = lambda: classic(True, "<")
FORMATS["pcap-ns-be"] = lambda: classic(True, ">")
FORMATS["pcap-empty"] = lambda: (pcap_bytes([]), [])


def modified(order: ByteOrder) -> Built:
    """Behind the lengths of a record stand interface index, protocol, packet type (4: sent) and padding: 24 bytes."""
    records, known = three(1000)
    data = struct.pack(order + "IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 262144, 1)
    for number, (record, fields) in enumerate(zip(records, known, strict=True)):
        packet_type = 4 if number == 1 else 0
        fields.update(interface_index=number + 5, direction="out" if packet_type == 4 else "in")
        seconds, rest = divmod(record.ts_ns, NANOSECONDS)
        head = (seconds, rest // 1000, len(record.data), record.length, number + 5, 0x0800, packet_type, 0)
        data += struct.pack(order + "IIIIIHBB", *head) + record.data
    return data, known


FORMATS["pcap-modified-le"] = lambda: modified("<")
FORMATS["pcap-modified-be"] = lambda: modified(">")


def old(order: ByteOrder, minor: int) -> Built:
    """Before version 2.3 the length on the wire stood before the captured length."""
    records, known = three(1000)
    data = struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, minor, 0, 0, 262144, 1)
    for record in records:
        seconds, rest = divmod(record.ts_ns, NANOSECONDS)
        lengths = (record.length, len(record.data)) if minor < 3 else (len(record.data), record.length)
        data += struct.pack(order + "IIII", seconds, rest // 1000, *lengths) + record.data
    return data, known


FORMATS["pcap-2.2-le"] = lambda: old("<", 2)
FORMATS["pcap-2.2-be"] = lambda: old(">", 2)
FORMATS["pcap-2.3-le"] = lambda: old("<", 3)


# --- pcapng -------------------------------------------------------------------------------------------------


def one_section(order: ByteOrder) -> Built:
    records, known = three()
    return pcapng_bytes(Section([Interface("eth0")], records, order=order)), known


FORMATS["pcapng-le"] = lambda: one_section("<")
FORMATS["pcapng-be"] = lambda: one_section(">")
FORMATS["pcapng-empty"] = lambda: (pcapng_bytes(Section([Interface("eth0")])), [])
FORMATS["pcapng-no-interface"] = lambda: (section_header(), [])


@capture("pcapng-two-sections")
def two_sections() -> Built:
    """Of different byte order; the second section counts its interfaces anew."""
    (one, known_one), (two, known_two) = one_section("<"), three(1000)
    interfaces = [Interface("eth1", linktype=101), Interface("eth2", tsresol=6)]
    records = [Record(record.ts_ns, record.data, record.length, 1) for record in two]
    for fields in known_one:
        fields.update(interface_id=0, point="eth0")
    for fields in known_two:
        fields.update(interface_id=2, point="eth2")
    return one + pcapng_bytes(Section(interfaces, records, order=">")), known_one + known_two


@capture("pcapng-resolutions")
def resolutions() -> Built:
    """if_tsresol of ten and of two, and none; times are integers, rounded down."""
    raws = (None, 0, 3, 6, 9, 12, 0x80 | 1, 0x80 | 10, 0x80 | 20, 0x80 | 30)
    interfaces = [Interface(f"i{number}", tsresol=raw) for number, raw in enumerate(raws)]
    data = plain_ethernet(udp4()[0])
    records, known = [], []
    for number, interface in enumerate(interfaces):
        units = interface.units(START_NS) & (1 << 64) - 1  # a picosecond clock wraps after 213 days
        records.append(Record(START_NS, data, interface=number))
        known.append({"ts_ns": units * NANOSECONDS // interface.units_per_second, "point": interface.name})
    return pcapng_bytes(Section(interfaces, records)), known


@capture("pcapng-time-offset")
def time_offset() -> Built:
    """if_tsoffset, in seconds, is added; it may be negative."""
    interfaces = [Interface(tsoffset=1_600_000_000), Interface(tsresol=6, tsoffset=-3600)]
    data = plain_ethernet(udp4()[0])
    records = [Record(START_NS, data), Record(START_NS, data, interface=1)]
    return pcapng_bytes(Section(interfaces, records)), [
        {"ts_ns": START_NS},
        {"ts_ns": START_NS // 1000 * 1000},
    ]


@capture("pcapng-time-out-of-range")
def time_out_of_range() -> Built:
    """Seconds that do not fit 64 bit nanoseconds: no time; and the last moment that does."""
    interfaces = [Interface(tsresol=0), Interface(tsresol=9)]
    data = plain_ethernet(udp4()[0])
    far = packet_block(Record(10_000_000_000 * NANOSECONDS, data), interfaces[0])
    largest = packet_block(Record(2**63 - 1, data, interface=1), interfaces[1])
    over = packet_block(Record(2**63, data, interface=1), interfaces[1])
    head = section_header() + b"".join(interface_block(interface) for interface in interfaces)
    return head + far + largest + over, [{"ts_ns": None}, {"ts_ns": 2**63 - 1}, {"ts_ns": None}]


def full_options(order: ByteOrder) -> Built:
    """An enhanced packet block with every option there is, and an interface described in full."""
    packet, known = udp4()
    data = plain_ethernet(packet)
    interface_body = struct.pack(order + "HHI", 1, 0, 65535)
    described = [
        (1, b"a comment"),
        (2, b"eth0"),
        (3, b"the first"),
        (4, bytes([10, 0, 0, 1, 255, 255, 255, 0])),
        (5, bytes(15) + b"\x01\x40"),
        (6, packets.CLIENT_MAC),
        (7, bytes(8)),
        (8, struct.pack(order + "Q", 10**9)),
        (9, b"\x09"),
        (10, bytes(4)),
        (11, b"\0udp"),
        (12, b"an operating system"),
        (13, b"\x00"),
        (14, struct.pack(order + "q", 0)),
        (15, b"hardware"),
        (2988, struct.pack(order + "I", 32473) + b"text"),
    ]
    number = struct.pack(order + "Q", 0x1122334455667788)
    marks = [
        (1, b"first comment"),
        (1, b"second comment"),
        (2, struct.pack(order + "I", 2 | 1 << 2)),
        (3, b"\x02" + bytes(4)),
        (4, struct.pack(order + "Q", 3)),
        (5, number),
        (6, struct.pack(order + "I", 4)),
        (7, b"\x02" + struct.pack(order + "Q", 2)),
        (8, struct.pack(order + "II", 100, 101)),
        (2989, struct.pack(order + "I", 32473) + b"bytes"),
        (0x7FFF, b"unknown"),
    ]
    head = struct.pack(order + "IIIII", 0, START_NS >> 32, START_NS & 0xFFFFFFFF, len(data), len(data))
    padding = bytes(-len(data) % 4)
    file = section_header(order, hardware="machine", os="system", application="a test")
    file += block(INTERFACE_DESCRIPTION, interface_body + options(described, order), order)
    file += block(ENHANCED_PACKET, head + data + padding + options(marks, order), order)
    fields = {**known, "ts_ns": START_NS, "direction": "out", "interface_id": 0, "point": "eth0", "queue": 4}
    fields |= {"packet_id": 0x1122334455667788, "verdict_type": 2, "verdict": 2}
    return file, [fields]


FORMATS["pcapng-options-le"] = lambda: full_options("<")
FORMATS["pcapng-options-be"] = lambda: full_options(">")


@capture("pcapng-directions")
def directions() -> Built:
    """epb_flags: direction unknown, in and out; and a checksum that is not ready."""
    data = plain_ethernet(udp4()[0])
    flags = {0: None, 1: "in", 2: "out", 1 << 9 | 2: "out"}
    records = [Record(START_NS, data, direction=value) for value in flags]
    return pcapng_bytes(Section([Interface()], records)), [{"direction": text} for text in flags.values()]


def simple(order: ByteOrder, snaplen: int) -> Built:
    """Simple packet blocks: no time; the captured length is the shorter of length and snap length."""
    packet, known = udp4()
    data = plain_ethernet(packet)
    interface = Interface(snaplen=snaplen)
    blocks = simple_packet_block(Record(0, data), interface, order)
    kept = len(data[:snaplen]) if snaplen else len(data)
    fields = {**known, "ts_ns": None, "captured_length": kept, "length": len(data), "interface_id": 0}
    return section_header(order) + interface_block(interface, order) + blocks, [fields]


FORMATS["pcapng-simple-le"] = lambda: simple("<", 0)
FORMATS["pcapng-simple-be"] = lambda: simple(">", 0)
FORMATS["pcapng-simple-cut"] = lambda: simple("<", 45)


def obsolete(order: ByteOrder) -> Built:
    """Obsolete packet blocks: 16 bit interface and drop count before the time; options as in enhanced ones."""
    records, known = three()
    file = section_header(order) + interface_block(Interface("eth0"), order)
    for record, fields in zip(records, known, strict=True):
        head = struct.pack(
            *(order + "HHIIII", 0, 0xFFFF, record.ts_ns >> 32, record.ts_ns & 0xFFFFFFFF, len(record.data)),
            record.length,
        )
        flags = options([(2, struct.pack(order + "I", 1))], order)
        file += block(OBSOLETE_PACKET, head + record.data + bytes(-len(record.data) % 4) + flags, order)
        fields.update(direction="in", point="eth0")
    return file, known


FORMATS["pcapng-obsolete-le"] = lambda: obsolete("<")
FORMATS["pcapng-obsolete-be"] = lambda: obsolete(">")


def with_blocks(order: ByteOrder, *extra: bytes) -> Built:
    """Blocks that hold no packets, before the packets and behind them."""
    records, known = three()
    section = Section([Interface("eth0")], records, order=order, extra_blocks=extra)
    return pcapng_bytes(section) + b"".join(extra), known


def other_block(order: ByteOrder, name: str) -> bytes:
    address = bytes([10, 0, 0, 1])
    secrets = struct.pack(order + "II", 0x544C534B, 12) + b"CLIENT_RANDO"
    return {
        "name-resolution": name_resolution_block([(address, "host"), (bytes(16), "other")], order),
        "secrets": block(DECRYPTION_SECRETS, secrets, order),
        "custom": custom_block(b"anything", order=order) + custom_block(b"x", copyable=False, order=order),
        "unknown": block(0x0000ABCD, b"unknown" * 5, order) + block(0x80001234, b"", order),
        "journal": block(JOURNAL, b"__REALTIME_TIMESTAMP=1\n", order),
        "event": block(SYSDIG_EVENT, bytes(24), order),
    }[name]


for _order in ("<", ">"):
    for _name in ("name-resolution", "secrets", "custom", "unknown", "journal", "event"):
        FORMATS[f"pcapng-{_name}-{'le' if _order == '<' else 'be'}"] = functools.partial(
            lambda order, name: with_blocks(order, other_block(order, name)), _order, _name
        )


@capture("pcapng-statistics")
def statistics() -> Built:
    records, known = three()
    told = [Statistics(0, START_NS, START_NS - 5, START_NS + 10**10, 10, 3, 4), Statistics(1, START_NS)]
    return pcapng_bytes(Section([Interface("eth0"), Interface("eth1")], records, told)), known


@capture("pcapng-late-interface")
def late_interface() -> Built:
    """An interface may be described between packets; a packet may have no bytes at all."""
    data = plain_ethernet(udp4()[0])
    one, two = Interface("eth0"), Interface("eth1", linktype=101)
    file = section_header() + interface_block(one) + packet_block(Record(START_NS, data), one)
    file += interface_block(two) + packet_block(Record(START_NS, data[14:], interface=1), two)
    file += packet_block(Record(START_NS, b"", 60), one)
    return file, [{"point": "eth0", "source": "10.0.0.1"}, {"point": "eth1", "source": "10.0.0.1"}, NOTHING]


# --- compressed ---------------------------------------------------------------------------------------------


def compressed(codec: str, data: bytes) -> bytes:
    """One member (gzip) or frame (zstd, lz4)."""
    if codec == "gzip":
        return gzip.compress(data, mtime=0)
    return bytes(pa.compress(data, codec=codec, asbytes=True))


def packed(codec: str, name: str) -> Built:
    data, known = FORMATS[name]()
    return compressed(codec, data), known


def in_members(codec: str, name: str) -> Built:
    """Three members one after the other, cut where no block ends; the second is empty."""
    data, known = FORMATS[name]()
    middle = len(data) // 2 + 1
    return b"".join(compressed(codec, part) for part in (data[:middle], b"", data[middle:])), known


for _codec in ("gzip", "zstd", "lz4"):
    for _name in ("pcap-us-be", "pcap-ns-le", "pcap-modified-le", "pcapng-le", "pcapng-two-sections", "pcap-empty"):
        FORMATS[f"{_codec}-{_name}"] = functools.partial(packed, _codec, _name)
    for _name in ("pcap-ns-le", "pcapng-le"):
        FORMATS[f"{_codec}-members-{_name}"] = functools.partial(in_members, _codec, _name)


@capture("gzip-named")
def gzip_named() -> Built:
    """A member whose head has extra bytes, a file name, a comment and a checksum of the head."""
    data, known = FORMATS["pcapng-le"]()
    plain = gzip.compress(data, mtime=0)
    head = b"\x1f\x8b\x08\x1c" + plain[4:10] + struct.pack("<H", 4) + b"AB\0\0" + b"a.pcapng\0" + b"a comment\0"
    return head + plain[10:], known


# --- all of them --------------------------------------------------------------------------------------------


def group_capture(samples: list[Sample]) -> Built:
    """The samples in one file: pcap, or pcapng with an interface per link type if there are several."""
    known = [dict(sample.fields) for sample in samples]
    linktypes = list(dict.fromkeys(sample.linktype for sample in samples))
    records = [
        Record(START_NS + number * 1000, sample.data, sample.length, linktypes.index(sample.linktype))
        for number, sample in enumerate(samples)
    ]
    if len(linktypes) == 1:
        return pcap_bytes(records, linktype=linktypes[0]), known
    interfaces = [Interface(f"link{linktype}", linktype=linktype) for linktype in linktypes]
    return pcapng_bytes(Section(interfaces, records)), known


@functools.cache
def built(name: str) -> Built:
    """The bytes of a capture and what is known of its packets."""
    return FORMATS[name]() if name in FORMATS else group_capture(GROUPS[name]())


class ByName(Mapping[str, Any]):
    """One part of what `built` returns, by the capture's name."""

    def __init__(self, part: int) -> None:
        self.part = part

    def __getitem__(self, name: str) -> Any:
        return built(name)[self.part]

    def __iter__(self) -> Iterator[str]:
        return iter([*FORMATS, *GROUPS])

    def __len__(self) -> int:
        return len(FORMATS) + len(GROUPS)


CAPTURES: Mapping[str, bytes] = ByName(0)
EXPECTED: Mapping[str, Known] = ByName(1)
