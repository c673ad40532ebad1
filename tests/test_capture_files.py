"""Reading capture files: formats, byte orders, times, and what their statistics are worth. Fixed bugs have names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.capture.index import CORRUPT, CUT, WHOLE
from pktrace.run.runfile import load_run
from pktrace.wire import NO_TIME, OUT_OF_RANGE
from tests.kit.index import Capture, read_capture
from tests.kit.pcap_files import (
    Interface,
    Record,
    Section,
    Statistics,
    custom_block,
    interface_block,
    pcap_bytes,
    pcapng_bytes,
    section_header,
)

SECOND = 10**9
START = 1_795_410_000 * SECOND + 123_456_789
FRAME = bytes(12) + b"\x08\x00" + bytes([0x45, 0, 0, 32, 0, 7, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2])
FRAME += bytes([0x30, 0x39, 0, 53, 0, 12, 0, 0]) + b"data"


def indexed(content: bytes, tmp_path: Path) -> Capture:
    file = tmp_path / "file.pcapng"
    file.write_bytes(content)
    return read_capture(file, "file.pcapng").capture


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [True, False])
def test_pcap_in_both_orders_and_resolutions(tmp_path: Path, order: str, nanoseconds: bool) -> None:
    records = [Record(START + number, FRAME) for number in range(3)]
    capture = indexed(pcap_bytes(records, nanoseconds=nanoseconds, order=order), tmp_path)  # type: ignore[arg-type]
    step = 1 if nanoseconds else 1000
    assert capture.packets["ts"].tolist() == [(START + number) // step * step for number in range(3)]
    assert capture.interfaces[0].resolution_ns == step
    assert capture.ended == WHOLE


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("tsresol", "expected"),
    [
        (None, START // 1000 * 1000),  # microseconds by default
        (0, START // SECOND * SECOND),
        (6, START // 1000 * 1000),
        (9, START),
        (0x80 | 30, ((START << 30) // SECOND * SECOND) >> 30),
    ],
)
def test_pcapng_resolutions(tmp_path: Path, order: str, tsresol: int | None, expected: int) -> None:
    section = Section([Interface(tsresol=tsresol)], [Record(START, FRAME)], order=order)  # type: ignore[arg-type]
    capture = indexed(pcapng_bytes(section), tmp_path)
    assert capture.packets["ts"].tolist() == [expected]


@pytest.mark.parametrize("tsresol", range(256))
def test_any_resolution_gives_a_time_or_says_that_it_cannot(tmp_path: Path, tsresol: int) -> None:
    """Hostile if_tsresol: the compiled arithmetic agrees with unbounded integers, or says out of range."""
    section = section_header() + interface_block(Interface(tsresol=tsresol))
    ticks = 0x0012_3456_789A_BCDE
    body = (0).to_bytes(4, "little") + (ticks >> 32).to_bytes(4, "little") + (ticks & 0xFFFFFFFF).to_bytes(4, "little")
    body += (4).to_bytes(4, "little") * 2 + b"abcd"
    packet = (6).to_bytes(4, "little") + (32 + 4).to_bytes(4, "little") + body + (36).to_bytes(4, "little")
    capture = indexed(section + packet, tmp_path)
    found = int(capture.packets["ts"][0])
    digits = tsresol & 0x7F
    exact = ticks * SECOND // 2**digits if tsresol & 0x80 else ticks * SECOND // 10**digits
    if found == OUT_OF_RANGE:
        assert exact > 8 * 10**18
    else:
        assert abs(found - exact) <= 1


def test_interface_numbers_run_through_sections(tmp_path: Path) -> None:
    sections = [
        Section([Interface(name="a"), Interface(name="b", tsresol=6)], [Record(START, FRAME, interface=1)]),
        Section([Interface(name="c")], [Record(START, FRAME)], order=">"),
    ]
    capture = indexed(pcapng_bytes(*sections), tmp_path)
    assert [capture.interfaces[number].name for number in capture.packets["interface"]] == ["b", "c"]
    assert capture.packets["ts"].tolist() == [START // 1000 * 1000, START]


def test_simple_packets_have_no_time(tmp_path: Path) -> None:
    capture = indexed(pcapng_bytes(Section(records=[Record(START, FRAME)], simple=True)), tmp_path)
    assert capture.packets["ts"].tolist() == [NO_TIME]
    assert capture.packets["captured"].tolist() == [len(FRAME)]


def test_blocks_without_packets_are_counted(tmp_path: Path) -> None:
    capture = indexed(
        pcapng_bytes(Section(records=[Record(START, FRAME)], extra_blocks=[custom_block(b"x")])), tmp_path
    )
    assert (len(capture.packets), capture.unknown_blocks) == (1, 1)


def test_a_file_cut_at_any_byte_gives_its_whole_packets(tmp_path: Path) -> None:
    for whole in (
        pcapng_bytes(Section(records=[Record(START + n, FRAME) for n in range(3)], statistics=[Statistics()])),
        pcap_bytes([Record(START + n, FRAME) for n in range(3)]),
    ):
        counts = []
        for size in range(28, len(whole)):
            capture = indexed(whole[:size], tmp_path)
            counts.append(len(capture.packets))
            assert capture.ended in (WHOLE, CUT)
            assert capture.ended_at <= size
        assert counts == sorted(counts)
        assert counts[-1] in (2, 3)


@pytest.mark.parametrize("length", [0, 1, 11, 13, 30])
def test_impossible_block_lengths_end_the_reading(tmp_path: Path, length: int) -> None:
    whole = pcapng_bytes(Section(records=[Record(START, FRAME)]))
    bad = (6).to_bytes(4, "little") + length.to_bytes(4, "little") + bytes(64)
    capture = indexed(whole + bad, tmp_path)
    assert (len(capture.packets), capture.ended, capture.ended_at) == (1, CORRUPT, len(whole))


def test_many_interfaces_take_linear_time(tmp_path: Path) -> None:
    """A file of nothing but interface descriptions once took quadratic time."""
    capture = indexed(section_header() + interface_block(Interface()) * 100_000, tmp_path)
    assert len(capture.interfaces) == 100_000


def test_dropped_packets_that_packets_tell_of(tmp_path: Path) -> None:
    capture = indexed(pcapng_bytes(Section(records=[Record(START, FRAME, dropped=3, direction=2)])), tmp_path)
    assert (capture.packets["dropped"].tolist(), capture.packets["direction"].tolist()) == ([3], [2])


def two_points(tmp_path: Path, first: bytes, second: bytes) -> Analysis:
    (tmp_path / "a.pcapng").write_bytes(first)
    (tmp_path / "b.pcapng").write_bytes(second)
    (tmp_path / "run.toml").write_text(
        'schema = 1\nname = "two"\n[[point]]\nname = "a"\ncaptures = ["a.pcapng"]\n'
        '[[point]]\nname = "b"\ncaptures = ["b.pcapng"]\n[[path]]\nname = "p"\npoints = ["a", "b"]\n'
    )
    return analyze_run(load_run(tmp_path))


def numbered(numbers: Sequence[int], statistics: Sequence[Statistics] = ()) -> bytes:
    """One packet per second, each with an IP ID of its own; the same bytes at every point."""
    records = []
    for number in numbers:
        frame = bytearray(FRAME)
        frame[18:20] = number.to_bytes(2, "big")
        records.append(Record(START + number * SECOND, bytes(frame)))
    return pcapng_bytes(Section(records=records, statistics=statistics))


def test_statistics_in_microseconds_whatever_the_resolution(tmp_path: Path) -> None:
    """dumpcap 2.2.6 wrote isb_starttime and isb_endtime in microseconds with if_tsresol 9: they lie in 1970, and
    made a capture that began later seem to have been running, so that packets before it counted as lost.
    """
    late = Statistics(start_ns=(START + 4 * SECOND + SECOND // 2) // 1000, end_ns=(START + 30 * SECOND) // 1000)
    early = Statistics(start_ns=START // 1000, end_ns=(START + 15 * SECOND) // 1000)
    analysis = two_points(tmp_path, numbered(range(10), [early]), numbered(range(5, 20), [late]))
    assert not analysis.verdicts.packets_with("lost").any()
    # Five before the one capture, and five that the other one should have seen.
    assert int(analysis.verdicts.packets_with("undetermined").sum()) == 10
    assert analysis.observations.coverage[1].end_ns == START // 1000 * 1000 + 30 * SECOND


def test_statistics_of_the_capture_that_a_file_was_cut_out_of(tmp_path: Path) -> None:
    """An excerpt keeps the statistics of the whole: they do not say what the excerpt covers."""
    of_the_whole = Statistics(start_ns=START - SECOND, end_ns=START + 30 * SECOND, received=20, dropped=0)
    whole = numbered(range(20), [of_the_whole])
    analysis = two_points(tmp_path, whole, numbered(range(5, 15), [of_the_whole]))
    assert not analysis.verdicts.packets_with("lost").any()
    assert int(analysis.verdicts.packets_with("undetermined").sum()) == 10
    assert analysis.ledger.total("excerpt") == 1


def test_a_packet_lost_inside_an_excerpt_is_lost(tmp_path: Path) -> None:
    of_the_whole = Statistics(start_ns=START - SECOND, end_ns=START + 30 * SECOND, received=20, dropped=0)
    inside = [number for number in range(5, 15) if number != 8]
    analysis = two_points(tmp_path, numbered(range(20), [of_the_whole]), numbered(inside, [of_the_whole]))
    lost = np.flatnonzero(analysis.verdicts.packets_with("lost"))
    assert analysis.trajectories.first_rows["ip_id"][lost].tolist() == [8]
