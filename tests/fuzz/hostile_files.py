"""Small files that ask for much: lengths of 4 GB, bombs, very many interfaces, options or sections.

Each is written to a path piece by piece, so that the writer needs no memory either. Reading any file may cost 64 MB
and 512 bytes for each packet in it.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from tests.fuzz.blocks import gzipped
from tests.kit import packets
from tests.kit.pcap_files import Interface, Record, block, interface_block, option, packet_block, section_header

GIB = 1 << 30
_PIECE = 1 << 20
SHB = section_header()
IDB = interface_block(Interface(name="eth0"))
EPB = packet_block(Record(10**18, bytes(60)), Interface())


_NAMED = block(1, struct.pack("<HHI", 1, 0, 0) + option(2, b"n" * 65_532))
_COMMENTED = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + option(1, b"c" * 65_532))
_SECTION = SHB + IDB
_DESCRIPTION_HEAD = struct.pack("<HHI", 1, 0, 0)
_PACKET_HEAD = struct.pack("<IIIII", 0, 0, 0, 4, 4) + b"abcd"


def _pcap(magic: int = 0xA1B2C3D4, order: str = "<") -> bytes:
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, 1)


def _record(captured: int, length: int, order: str = "<") -> bytes:
    return struct.pack(order + "IIII", 1, 2, captured, length)


@dataclass(frozen=True)
class HostileFile:
    """How it is made (pieces of the uncompressed content), how it is compressed, how many packets it holds at most.

    `exact`: a reader has to find them all; else it may as well stop at what is hostile.
    `whole_table`: False where the packets are so many that only the streaming reader is asked.
    `window`: bytes that the decompressor itself needs to hold.
    """

    pieces: Callable[[], Iterator[bytes]]
    codec: str | None = None
    packets: int = 0
    exact: bool = True
    whole_table: bool = True
    window: int = 0

    def write(self, path: Path) -> None:
        """Write the file."""
        if self.codec == "gzip":
            with gzip.open(path, "wb", compresslevel=1) as file:
                for piece in self.pieces():
                    file.write(piece)
        elif self.codec:
            with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, self.codec) as stream:
                for piece in self.pieces():
                    stream.write(piece)
        else:
            with path.open("wb") as file:
                file.writelines(self.pieces())


def _zeros(size: int) -> Iterator[bytes]:
    for _ in range(size // _PIECE):
        yield bytes(_PIECE)


def _after(head: bytes, size: int) -> Iterator[bytes]:
    yield head
    yield from _zeros(size)


def _skipped_block(size: int) -> Iterator[bytes]:
    """An unknown block of `size` zeros, with a packet behind it."""
    yield SHB + IDB + struct.pack("<II", 0x0BAD_CAFE, size + 12)
    yield from _zeros(size)
    yield struct.pack("<I", size + 12) + EPB


def _large_body(kind: int, head: bytes, body: bytes, count: int) -> Iterator[bytes]:
    """A block that holds `body` very many times, with a packet behind it."""
    total = 12 + len(head) + len(body) * count
    yield SHB + (b"" if kind == 1 else IDB) + struct.pack("<II", kind, total) + head
    for _ in range(0, count, 10_000):
        yield body * 10_000
    assert count % 10_000 == 0
    yield struct.pack("<I", total) + EPB


def _blocks(one: bytes, count: int, head: bytes = SHB, tail: bytes = EPB) -> Iterator[bytes]:
    yield head
    step = min(count, 1000)
    for _ in range(0, count, step):
        yield one * step
    yield tail


def _large_block(kind: int, head: bytes, body: bytes, count: int) -> bytes:
    return block(kind, head + body * count)


def _tunnels() -> Iterator[bytes]:
    """Packets in VXLAN, each in a network of its own between addresses of its own."""
    yield _pcap()
    inner = (
        bytes(12) + b"\x08\x00" + packets.ipv4("10.0.0.1", "10.0.0.2", 17, packets.udp("10.0.0.1", "10.0.0.2", 1, 2))
    )
    for number in range(100_000):
        outer = f"192.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        body = struct.pack("!II", 8 << 24, number << 8) + inner
        datagram = struct.pack("!HHHH", 9, 4789, 8 + len(body), 0) + body
        frame = bytes(12) + b"\x08\x00" + packets.ipv4(outer, "192.0.2.1", 17, datagram)
        yield _record(len(frame), len(frame)) + frame


def _noise() -> Iterator[bytes]:
    """Interface descriptions of 1 MiB that do not compress, so that they come in many small pieces."""
    size = (1 << 20) - 32
    yield SHB
    for number in range(30):
        body = _DESCRIPTION_HEAD + random.Random(number).randbytes(size)
        yield block(1, body)


def _empty_members(count: int) -> Iterator[bytes]:
    """gzip members without content, and one with a capture behind them."""
    empty = gzipped(b"")
    for _ in range(0, count, 10_000):
        yield empty * 10_000
    yield gzipped(SHB + IDB + EPB)


def _empty_frames(count: int) -> Iterator[bytes]:
    """zstd frames without content (RFC 8878 3.1.1), and one with a capture behind them."""
    empty = b"\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00"
    for _ in range(0, count, 10_000):
        yield empty * 10_000
    yield bytes(pa.compress(SHB + IDB + EPB, codec="zstd", asbytes=True))


def _wide_window() -> Iterator[bytes]:
    """A zstd frame that asks for the widest window a decoder has to know, and fills it with zeros (RFC 8878 3.1.1)."""
    content = SHB + struct.pack("<II", 0x0BAD_CAFE, 0x4000_0000)
    first = struct.pack("<I", len(content) << 3)[:3] + content  # a raw block
    zeros = struct.pack("<I", 131_072 << 3 | 1 << 1)[:3] + b"\0"  # a block of one byte, repeated
    yield b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([17 << 3]) + first + zeros * 4096


FILES = {
    "pcap record of 4 GB": HostileFile(lambda: iter([_pcap() + _record(0xFFFFFFFF, 0xFFFFFFFF)])),
    "pcap record of 2 GB": HostileFile(lambda: iter([_pcap(order=">") + _record(0x7FFFFFFF, 60, ">")])),
    "pcap record of 1 GB in gzip": HostileFile(partial(_after, _pcap() + _record(GIB, GIB), GIB), "gzip"),
    "pcapng block of 4 GB": HostileFile(lambda: iter([SHB + IDB + struct.pack("<II", 6, 0xFFFFFFFC) + bytes(64)])),
    "section header of 4 GB": HostileFile(lambda: iter([SHB[:4] + b"\xfc\xff\xff\xff" + SHB[8:]])),
    "section header of 256 MB in gzip": HostileFile(
        partial(_after, SHB[:4] + struct.pack("<I", GIB // 4) + SHB[8:16], GIB // 4), "gzip"
    ),
    "interface description of 1 GB in zstd": HostileFile(
        partial(_after, SHB + struct.pack("<II", 1, GIB), GIB), "zstd"
    ),
    "packet block of 1 GB in zstd": HostileFile(partial(_after, SHB + IDB + struct.pack("<II", 6, GIB), GIB), "zstd"),
    "unknown block of 1 GB in zstd": HostileFile(partial(_skipped_block, GIB), "zstd", packets=1),
    "unknown block of 256 MB in lz4": HostileFile(partial(_skipped_block, GIB // 4), "lz4", packets=1),
    "zeros in gzip": HostileFile(partial(_zeros, GIB // 4), "gzip"),
    "zeros in zstd": HostileFile(partial(_zeros, GIB), "zstd"),
    "zeros behind a section header in zstd": HostileFile(partial(_after, SHB, GIB), "zstd"),
    "2 million empty packets": HostileFile(partial(_after, _pcap(), 32 << 20), packets=2 << 20, whole_table=False),
    "200,000 empty packets": HostileFile(partial(_after, _pcap(), 3 << 20), packets=3 << 16),
    "100,000 interfaces": HostileFile(partial(_blocks, interface_block(Interface()), 100_000), packets=1),
    "10,000 interfaces with names of 64 kB": HostileFile(partial(_blocks, _NAMED, 10_000), "zstd", packets=1),
    "10,000 sections with comments of 64 kB": HostileFile(
        partial(_blocks, _COMMENTED, 10_000, head=b"", tail=IDB + EPB), "zstd", packets=1
    ),
    "100,000 sections": HostileFile(partial(_blocks, _SECTION, 100_000, head=b""), packets=1),
    "an interface with 10 M options": HostileFile(
        partial(_large_body, 1, _DESCRIPTION_HEAD, option(2989, b""), 10_000_000), "zstd", packets=1, exact=False
    ),
    "an interface with 260,000 options": HostileFile(
        partial(_large_body, 1, _DESCRIPTION_HEAD, option(2989, b""), 260_000), "zstd", packets=1
    ),
    "an interface with 130,000 comments": HostileFile(
        partial(_large_body, 1, _DESCRIPTION_HEAD, option(1, b"c"), 130_000), "zstd", packets=1
    ),
    "a packet with 10 M options": HostileFile(
        partial(_large_body, 6, _PACKET_HEAD, option(2989, b""), 10_000_000), "zstd", packets=2, exact=False
    ),
    "a packet with 260,000 options": HostileFile(
        partial(_large_body, 6, _PACKET_HEAD, option(2989, b""), 260_000), "zstd", packets=2
    ),
    "10 M names": HostileFile(
        partial(_large_body, 4, b"", struct.pack("<HH", 1, 6) + b"\x0a\0\0\1a\0\0\0", 10_000_000), "zstd", packets=1
    ),
    "statistics with 260,000 options, 200 times": HostileFile(
        partial(_blocks, _large_block(5, bytes(12), option(2989, b""), 260_000), 200, head=SHB + IDB),
        "zstd",
        packets=1,
    ),
    "100,000 tunnels": HostileFile(_tunnels, "zstd", packets=100_000),
    "noise in large blocks in gzip": HostileFile(_noise, "gzip", packets=0),
    "a million empty gzip members": HostileFile(lambda: _empty_members(1_000_000), packets=1),
    "a million empty zstd frames": HostileFile(lambda: _empty_frames(1_000_000), packets=1),
    "zstd with a window of 128 MB": HostileFile(_wide_window, packets=0, window=128 << 20),
    "100,000 interface statistics": HostileFile(
        partial(_blocks, block(5, bytes(12) + option(4, bytes(8))), 100_000, head=SHB + IDB), packets=1
    ),
}
