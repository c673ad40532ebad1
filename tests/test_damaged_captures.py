"""Capture files that contradict themselves, or end too early, are read up to there: product and reference.

Each case says how reading ends and how many packets are read. docs/decoding.md, "Capture files".
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pktrace.errors import CaptureFileError
from tests.kit.pcap_files import (
    Interface,
    Record,
    block,
    interface_block,
    packet_block,
    pcap_bytes,
    pcap_header,
    section_header,
)
from tests.kit.samples import plain_ethernet, udp4
from tests.kit.small_captures import CAPTURES, compressed
from tests.reference.observe import observe
from tests.test_decoder import counts_that_differ, decoded, differences, streamed

FRAME = plain_ethernet(udp4()[0])
RECORD = Record(1_700_000_000_000_000_000, FRAME)
HEAD = section_header() + interface_block(Interface("eth0"))
GOOD = packet_block(RECORD, Interface())
CUT, CORRUPT, WHOLE = "capture_cut", "capture_corrupt", None


def enhanced(captured: int, *, interface: int = 0, data: bytes = FRAME) -> bytes:
    """An enhanced packet block that says what it likes of its packet."""
    padded = data + bytes(-len(data) % 4)
    return block(6, struct.pack("<IIIII", interface, 0, 0, captured, captured) + padded)


def with_total(data: bytes, first: int, last: int) -> bytes:
    """A block whose two lengths are overwritten."""
    return data[:4] + struct.pack("<I", first) + data[8:-4] + struct.pack("<I", last)


def pcap_after_one(head: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    return pcap_bytes([RECORD]) + struct.pack("<IIII", *head) + data


TOTAL = len(GOOD)
CASES = {
    "length-not-multiple-of-four": (HEAD + GOOD + with_total(GOOD, TOTAL + 2, TOTAL + 2) + bytes(8), CORRUPT, 1),
    "length-zero": (HEAD + GOOD + with_total(GOOD, 0, 0), CORRUPT, 1),
    "length-less-than-its-head": (HEAD + GOOD + with_total(GOOD, 28, 28), CORRUPT, 1),
    "length-of-unknown-block-too-small": (HEAD + GOOD + struct.pack("<III", 0xABCD, 8, 8), CORRUPT, 1),
    "length-differs-at-the-end": (HEAD + GOOD + with_total(GOOD, TOTAL, TOTAL + 4) + GOOD, CORRUPT, 1),
    "length-differs-in-a-block-without-packets": (HEAD + GOOD + with_total(block(4, bytes(8)), 20, 24), CORRUPT, 1),
    "length-beyond-the-file": (HEAD + GOOD + with_total(GOOD, TOTAL + 40, TOTAL), CUT, 1),
    "captured-more-than-the-block": (HEAD + GOOD + enhanced(len(FRAME) + 100), CORRUPT, 1),
    "captured-4-GB": (HEAD + GOOD + enhanced(0xFFFFFFFF), CORRUPT, 1),
    "captured-too-much": (HEAD + GOOD + enhanced(262145, data=bytes(262145)), CORRUPT, 1),
    "captured-the-most": (HEAD + GOOD + enhanced(262144, data=bytes(262144)), WHOLE, 2),
    "interface-not-described": (HEAD + GOOD + enhanced(len(FRAME), interface=1), CORRUPT, 1),
    "interface-of-the-section-before": (
        HEAD + GOOD + section_header(">") + packet_block(RECORD, Interface(), ">"),
        CORRUPT,
        1,
    ),
    "simple-packet-without-interface": (section_header() + block(3, struct.pack("<I", 4) + bytes(4)), CORRUPT, 0),
    "simple-packet-longer-than-its-block": (HEAD + GOOD + block(3, struct.pack("<I", 99) + bytes(8)), CORRUPT, 1),
    "obsolete-packet-of-no-interface": (
        HEAD + GOOD + block(2, struct.pack("<HHIIII", 3, 0, 0, 0, 4, 4) + bytes(4)),
        CORRUPT,
        1,
    ),
    "section-of-no-byte-order": (HEAD + GOOD + struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 7, 1, 0, -1, 28), CORRUPT, 1),
    "cut-in-a-packet": (HEAD + GOOD + GOOD[:-5], CUT, 1),
    "cut-in-a-head": (HEAD + GOOD + GOOD[:6], CUT, 1),
    "cut-in-the-first-block": (HEAD[:20], CUT, 0),
    "options-beyond-their-block": (
        HEAD + block(6, struct.pack("<IIIII", 0, 0, 0, 4, 4) + bytes(4) + struct.pack("<HH", 5, 4000)),
        WHOLE,
        1,
    ),
    "large-block-without-packets": (HEAD + block(4, bytes(1 << 20)) + GOOD, WHOLE, 1),
    "pcap-captured-too-much": (pcap_after_one((1, 2, 262145, 262145), bytes(262145)), CORRUPT, 1),
    "pcap-captured-4-GB": (pcap_after_one((1, 2, 0xFFFFFFFF, 60)), CORRUPT, 1),
    "pcap-captured-the-most": (pcap_after_one((1, 2, 262144, 262144), bytes(262144)), WHOLE, 2),
    "pcap-cut-in-a-packet": (pcap_after_one((1, 2, 60, 60), bytes(59)), CUT, 1),
    "pcap-cut-in-a-head": (pcap_after_one((1, 2, 60, 60))[:-1], CUT, 1),
    "pcap-without-packets": (pcap_header(), WHOLE, 0),
    "pcap-length-less-than-captured": (pcap_after_one((1, 2, len(FRAME), 20), FRAME), WHOLE, 2),
    "gzip-of-a-cut-file": (compressed("gzip", HEAD + GOOD + GOOD[:-5]), CUT, 1),
    "zstd-of-a-corrupt-file": (compressed("zstd", HEAD + GOOD + with_total(GOOD, 0, 0)), CORRUPT, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_reading_ends_where_the_file_contradicts_itself(name: str, tmp_path: Path) -> None:
    data, ending, packets = CASES[name]
    expected_rows, expected_ledger, damaged = observe(data)
    assert len(expected_rows) == packets
    assert {counter for counter in expected_ledger if counter.startswith("capture_")} == ({ending} if ending else set())
    for rows, ledger, told in (decoded(data, tmp_path), streamed(data, tmp_path)):
        wrong = differences(rows, expected_rows) + counts_that_differ(ledger, expected_ledger)
        assert "\n".join(wrong) == ""
        assert told.damaged == damaged == (ending is not None)


@pytest.mark.parametrize("codec", ["gzip", "zstd", "lz4"])
def test_a_compressed_file_cut_in_the_middle(codec: str, tmp_path: Path) -> None:
    """What can be had of it is used; how much that is depends on the compression."""
    data = CAPTURES[f"{codec}-pcapng-le"]
    whole, _, _ = decoded(data, tmp_path)
    for end in range(len(data) * 2 // 3, len(data), 7):
        try:
            rows, ledger, observations = decoded(data[:end], tmp_path)
        except CaptureFileError:  # not a byte could be had, so what is in it cannot be known
            continue
        assert observations.damaged
        assert set(ledger) & {"capture_cut", "capture_corrupt"}
        assert rows == whole[: len(rows)]
