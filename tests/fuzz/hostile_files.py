"""Small files that ask for much: lengths of 4 GB, bombs, very many interfaces, options or sections.

Each is written to a path piece by piece, so that the writer needs no memory either. Reading any file may cost 64 MB
and 512 bytes for each packet in it.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from tests.kit.pcap_files import Interface, Record, block, interface_block, option, packet_block, section_header

GIB = 1 << 30
_PIECE = 1 << 20
SHB = section_header()
IDB = interface_block(Interface(name="eth0"))
EPB = packet_block(Record(10**18, bytes(60)), Interface())


def _pcap(magic: int = 0xA1B2C3D4, order: str = "<") -> bytes:
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, 1)


def _record(captured: int, length: int, order: str = "<") -> bytes:
    return struct.pack(order + "IIII", 1, 2, captured, length)


@dataclass(frozen=True)
class HostileFile:
    """How it is made (pieces of the uncompressed content), how it is compressed, how many packets it holds at most.

    `exact`: a reader has to find them all; else it may as well stop at what is hostile.
    `whole_table`: False where the packets are so many that only the streaming reader is asked.
    """

    pieces: Callable[[], Iterator[bytes]]
    codec: str | None = None
    packets: int = 0
    exact: bool = True
    whole_table: bool = True

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
    yield struct.pack("<I", total) + EPB


def _blocks(one: bytes, count: int, head: bytes = SHB, tail: bytes = EPB) -> Iterator[bytes]:
    yield head
    for _ in range(0, count, 1000):
        yield one * 1000
    yield tail


_NAMED = block(1, struct.pack("<HHI", 1, 0, 0) + option(2, b"n" * 65_532))
_COMMENTED = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + option(1, b"c" * 65_532))
_SECTION = SHB + IDB
_DESCRIPTION_HEAD = struct.pack("<HHI", 1, 0, 0)
_PACKET_HEAD = struct.pack("<IIIII", 0, 0, 0, 4, 4) + b"abcd"

FILES = {
    "pcap record of 4 GB": HostileFile(lambda: iter([_pcap() + _record(0xFFFFFFFF, 0xFFFFFFFF)])),
    "pcap record of 2 GB": HostileFile(lambda: iter([_pcap(order=">") + _record(0x7FFFFFFF, 60, ">")])),
    "pcap record of 1 GB in gzip": HostileFile(partial(_after, _pcap() + _record(GIB, GIB), GIB), "gzip"),
    "pcapng block of 4 GB": HostileFile(lambda: iter([SHB + IDB + struct.pack("<II", 6, 0xFFFFFFFC) + bytes(64)])),
    "section header of 4 GB": HostileFile(lambda: iter([SHB[:4] + b"\xfc\xff\xff\xff" + SHB[8:]])),
    "section header of 1 GB in gzip": HostileFile(
        partial(_after, SHB[:4] + struct.pack("<I", GIB) + SHB[8:16], GIB), "gzip"
    ),
    "interface description of 1 GB in zstd": HostileFile(
        partial(_after, SHB + struct.pack("<II", 1, GIB), GIB), "zstd"
    ),
    "packet block of 1 GB in zstd": HostileFile(partial(_after, SHB + IDB + struct.pack("<II", 6, GIB), GIB), "zstd"),
    "unknown block of 1 GB in zstd": HostileFile(partial(_skipped_block, GIB), "zstd", packets=1),
    "unknown block of 256 MB in lz4": HostileFile(partial(_skipped_block, GIB // 4), "lz4", packets=1),
    "zeros in gzip": HostileFile(partial(_zeros, GIB), "gzip"),
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
        partial(_large_body, 1, _DESCRIPTION_HEAD, option(2989, b""), 10_000_000), "zstd", packets=1
    ),
    "an interface with 10 M comments": HostileFile(
        partial(_large_body, 1, _DESCRIPTION_HEAD, option(1, b"c"), 10_000_000), "zstd", packets=1
    ),
    "a packet with 10 M options": HostileFile(
        partial(_large_body, 6, _PACKET_HEAD, option(2989, b""), 10_000_000), "zstd", packets=2, exact=False
    ),
    "10 M names": HostileFile(
        partial(_large_body, 4, b"", struct.pack("<HH", 1, 6) + b"\x0a\0\0\1a\0\0\0", 10_000_000), "zstd", packets=1
    ),
    "100,000 interface statistics": HostileFile(
        partial(_blocks, block(5, bytes(12) + option(4, bytes(8))), 100_000, head=SHB + IDB), packets=1
    ),
}
