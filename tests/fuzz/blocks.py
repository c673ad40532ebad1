"""Hypothesis strategies for nearly valid capture files: pcap records, and pcapng blocks with their options."""

from __future__ import annotations

import struct
import zlib

import pyarrow as pa
from hypothesis import strategies as st

from tests.fuzz.frames import LINK_TYPES, Draw, frames, nearly, some

_KINDS = (1, 2, 3, 4, 5, 6, 6, 6, 6, 10, 0x0BAD, 0x40000BAD, 0x80000001, 0x0A0D0D0A)
_VERSIONS = ((2, 4), (2, 4), (2, 4), (2, 3), (2, 2), (543, 0), (1, 0), (0, 0))
_MAGICS = (0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34)
_RESOLUTIONS = (0, 3, 6, 9, 12, 19, 20, 27, 28, 127, 0x80, 0x8A, 0x9E, 0xBF, 0xC0, 0xFF)
_NUMBERS = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 20), st.just(2**64 - 1))
_OPTION = st.one_of(
    st.tuples(st.just(9), st.sampled_from(_RESOLUTIONS).map(lambda number: bytes([number]))),
    st.tuples(st.just(14), st.integers(-(2**63), 2**63 - 1).map(lambda number: struct.pack("<q", number))),
    st.tuples(st.integers(1, 15), st.sampled_from((b"", b"eth0", b"\0tcp", b"\xff\xfe", bytes(300)))),
    st.tuples(st.sampled_from((2, 3, 4, 5, 7)), _NUMBERS.map(lambda number: struct.pack("<Q", number))),
    st.tuples(st.sampled_from((2, 6)), st.sampled_from((1, 2, 0x201, 2**32 - 1)).map(lambda n: struct.pack("<I", n))),
    st.tuples(st.just(7), st.integers(0, 3).map(lambda kind: bytes([kind]) + bytes(8))),
    st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=9)),
)


def _options(draw: Draw, order: str) -> bytes:
    """Options with the codes that mean something somewhere, mostly of the right length."""
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        code, value = draw(_OPTION)
        if len(value) in (4, 8) and order == ">":
            value = value[::-1]
        head = struct.pack(order + "HH", code, nearly(draw, len(value), 16))
        parts.append(head + value + bytes(-len(value) % 4))
    if draw(st.booleans()):
        parts.append(bytes(4))
    return b"".join(parts)


def _block(draw: Draw, order: str, link_type: int) -> bytes:
    """A block whose lengths are mostly right."""
    kind = draw(st.sampled_from(_KINDS))
    if kind == 0x0A0D0D0A:
        body = struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, draw(st.sampled_from((-1, 0, 100, 2**62))))
    elif kind == 1:
        body = struct.pack(order + "HHI", nearly(draw, link_type, 16), 0, draw(st.sampled_from((0, 64, 2**32 - 1))))
    elif kind in (2, 3, 6):
        data = draw(frames((link_type,)))[1]
        length = nearly(draw, len(data), 32)
        ticks = (draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 2**32 - 1)))
        number = draw(st.sampled_from((0, 0, 0, 0, 1, 2**16 - 1)))
        head = {
            2: struct.pack(order + "HHIIII", number, 0, *ticks, nearly(draw, len(data), 32), length),
            3: struct.pack(order + "I", length),
            6: struct.pack(order + "IIIII", number, *ticks, nearly(draw, len(data), 32), length),
        }[kind]
        body = head + data + bytes(-len(data) % 4)
    elif kind == 5:
        body = struct.pack(order + "III", draw(st.integers(0, 2)), 1, 2)
    else:
        body = some(draw, 40)
    body += _options(draw, order) if kind != 3 else b""
    body += bytes(-len(body) % 4)
    total = nearly(draw, 12 + len(body), 32)
    return struct.pack(order + "II", kind, total) + body + struct.pack(order + "I", nearly(draw, total, 32))


@st.composite
def pcapng_files(draw: Draw) -> bytes:
    """Some sections, each with an interface to begin with, and blocks."""
    content = b""
    for _ in range(draw(st.sampled_from((1, 1, 2)))):
        order = draw(st.sampled_from("<>"))
        link_type = draw(st.sampled_from(LINK_TYPES))
        content += struct.pack(order + "IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
        options = _options(draw, order)
        total = 20 + len(options)
        content += struct.pack(order + "IIHHI", 1, total, link_type, 0, 0) + options + struct.pack(order + "I", total)
        content += b"".join(_block(draw, order, link_type) for _ in range(draw(st.integers(0, 5))))
    return content


@st.composite
def pcap_files(draw: Draw) -> bytes:
    """A file of some records: any magic number, order and version; lengths mostly right."""
    order = draw(st.sampled_from("<>"))
    link_type = draw(st.sampled_from(LINK_TYPES))
    magic = draw(st.sampled_from(_MAGICS))
    head = (nearly(draw, magic, 32), *draw(st.sampled_from(_VERSIONS)), 0, 0, 65535, nearly(draw, link_type, 32))
    content = struct.pack(order + "IHHiIII", *head)
    for _ in range(draw(st.integers(0, 4))):
        data = draw(frames((link_type,)))[1]
        lengths = [nearly(draw, len(data), 32), nearly(draw, len(data), 32)]
        content += struct.pack(order + "IIII", draw(st.integers(0, 2**32 - 1)), 999_999_999, *lengths)
        content += struct.pack(order + "IHBB", 1, 0, 4, 0) if magic == 0xA1B2CD34 else b""
        content += data
    return content


def gzipped(content: bytes) -> bytes:
    """The content as one gzip member; the same bytes each time."""
    stream = zlib.compressobj(6, zlib.DEFLATED, 31)
    return stream.compress(content) + stream.flush()


def compressed(content: bytes, codec: str) -> bytes:
    """The content in gzip, zstd or lz4 (frame format)."""
    if codec == "gzip":
        return gzipped(content)
    return bytes(pa.compress(content, codec=codec, asbytes=True)) if codec != "lz4" else _lz4(content)


def _lz4(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "lz4") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


@st.composite
def damaged_streams(draw: Draw) -> bytes:
    """A compressed capture, perhaps several members, then bytes changed, a cut, or bytes after its end."""
    codec = draw(st.sampled_from(("gzip", "zstd", "lz4")))
    whole = draw(st.one_of(pcapng_files(), pcap_files()))
    middle = draw(st.integers(0, len(whole)))
    members = [whole] if draw(st.booleans()) else [whole[:middle], whole[middle:]]
    content = bytearray(b"".join(compressed(member, codec) for member in members))
    for _ in range(draw(st.sampled_from((0, 1, 1, 3)))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content) + (some(draw) if draw(st.booleans()) else b"")
