"""Bare capture files to observations, as ``pktrace observe`` does it: rows, ledger, and whether the file is damaged."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.reference.capture import CORRUPT, CUT, read_capture
from tests.reference.decode import decode


def observe(data: bytes) -> tuple[list[dict[str, Any]], Counter[str], bool]:
    """A row per packet with all columns that are known here, and the counts of the ledger.

    Columns that start with an underscore are the reference's own. Raises ValueError for what is no capture.
    """
    capture = read_capture(data)
    ledger: Counter[str] = Counter()
    rows = []
    for packet in capture.packets:
        row: dict[str, Any] = {
            "point": packet.interface.name,
            "frame": packet.frame,
            "byte_offset": packet.byte_offset,
            "ts_ns": packet.ts_ns,
            "captured_length": len(packet.data),
            "length": packet.length,
            "trajectory": None,
        }
        row |= decode(packet.data, packet.length, packet.interface.linktype)
        row |= {name: value for name, value in packet.marks.items() if value is not None}
        marks = row.pop("_marks")
        if packet.checksum_not_ready:
            marks.add("partial_checksum")
        if packet.out_of_range:
            marks.add("timestamp_out_of_range")
        elif packet.ts_ns is None:
            marks.add("no_timestamp")
        ledger.update(marks)
        rows.append(row)
    ledger["unknown_block"] += capture.unknown_blocks
    ledger["capture_cut"] += capture.ended == CUT
    ledger["capture_corrupt"] += capture.ended == CORRUPT
    return rows, +ledger, capture.cut
