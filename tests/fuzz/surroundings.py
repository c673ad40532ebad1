"""A packet's row depends on its own captured bytes only, not on what lies around them in the file.

Reading one byte too many stays inside the file most of the time, where no check of an index sees it. So a packet is
put into a file once for each number of bytes that may have been captured of it, with other bytes between, twice: what
differs between the rows was read from outside.
"""

from __future__ import annotations

import struct

import numpy as np

from pktrace.decode.rows import ROW
from tests.fuzz.outcome import Reader, same_rows

_FILLING = 48


def _every_capture_of(link_type: int, data: bytes, filling: int) -> bytes:
    """A pcap file with the packet captured to 0, 1, 2, ... bytes, and a packet of one repeated byte around each."""
    time = filling * 0x0101_0101  # this is what follows the last byte of a packet
    other = struct.pack("<IIII", time, time, _FILLING, _FILLING) + bytes([filling]) * _FILLING
    parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, link_type), other]
    for captured in range(len(data) + 1):
        parts += [struct.pack("<IIII", 1, 2, captured, len(data)), data[:captured], other]
    return b"".join(parts)


def complaint_about_surroundings(reader: Reader, link_type: int, data: bytes) -> str | None:
    """The number of captured bytes and the field that is read from elsewhere; None if there is none."""
    tables, rows = [], []
    for filling in (0x00, 0xFF, 0x45):
        content = _every_capture_of(link_type, data, filling)
        observations = reader.read(content).observations
        assert observations is not None
        rows.append(observations.rows[1::2])
        tables.append(reader.read_as_stream(content))
    for name in ROW.names or ():
        for other in rows[1:]:
            differs = rows[0][name] != other[name]
            if differs.any():
                return f"link type {link_type}, {int(np.argmax(differs))} bytes of {data.hex()}: {name}"
    every_other = np.arange(1, tables[0].num_rows, 2)
    for table in tables[1:]:
        column = same_rows(tables[0].take(every_other), table.take(every_other), len(every_other))
        if column:
            return f"link type {link_type}, {data.hex()}: {column}"
    return None
