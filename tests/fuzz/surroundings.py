"""A packet's row depends on its own captured bytes only, not on what lies around them in the file.

Reading one byte too many stays inside the file most of the time, where no check of an index sees it. So many variants
of a packet (captured to any number of bytes, or with one byte changed) are put into a file, with other bytes between
them, thrice: what differs between the rows was read from outside.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from pktrace.decode.rows import ROW
from tests.fuzz.outcome import Reader, same_rows

_FILLING = 48
_BITS = tuple(1 << bit for bit in range(8))


def every_cut(data: bytes) -> list[bytes]:
    """What may have been captured of a packet."""
    return [data[:captured] for captured in range(len(data) + 1)]


def every_change(data: bytes, masks: Sequence[int] = (*_BITS, 0xFF)) -> list[bytes]:
    """The packet with one byte changed, for every byte and mask."""
    return [
        data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :] for at in range(len(data)) for mask in masks
    ]  # fmt: skip


def _between(link_type: int, variants: Sequence[bytes], length: int, filling: int) -> bytes:
    """A pcap file of the variants, with a packet of one repeated byte around each."""
    time = filling * 0x0101_0101  # this is what follows the last byte of a packet
    other = struct.pack("<IIII", time, time, _FILLING, _FILLING) + bytes([filling]) * _FILLING
    parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, link_type), other]
    for data in variants:
        parts += [struct.pack("<IIII", 1, 2, len(data), length), data, other]
    return b"".join(parts)


def complaint_about_surroundings(reader: Reader, link_type: int, variants: Sequence[bytes], length: int) -> str | None:
    """The first variant with a field that is read from elsewhere; None if there is none.

    Args:
        length: bytes on the wire that all of them are said to have had.
    """
    tables, rows = [], []
    for filling in (0x00, 0xFF, 0x45):
        content = _between(link_type, variants, length, filling)
        observations = reader.read(content).observations
        assert observations is not None
        rows.append(observations.rows[1::2])
        tables.append(reader.read_as_stream(content))
    for name in ROW.names or ():
        for other in rows[1:]:
            differs = rows[0][name] != other[name]
            if name != "tunnel" and differs.any():  # its numbers depend on all packets; its texts are compared below
                return f"link type {link_type}, {variants[int(np.argmax(differs))].hex()}: {name}"
    every_other = np.arange(1, tables[0].num_rows, 2)
    mine = tables[0].take(every_other)
    for table in tables[1:]:
        yours = table.take(every_other)
        column = same_rows(mine, yours, len(variants))
        if column:
            pairs = zip(mine.column(column).to_pylist(), yours.column(column).to_pylist(), strict=True)
            first = next(number for number, (one, other) in enumerate(pairs) if one != other)
            return f"link type {link_type}, {variants[first].hex()}: {column}"
    return None
