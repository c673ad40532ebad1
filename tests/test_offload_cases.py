"""UDP that an offload split or merged: IPv6, which has no IP IDs, and GRO; also as captures cut it off."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pktrace.analysis.analysis import Analysis
from pktrace.schema import FATES
from tests.kit.packets import Header, frame
from tests.kit.pcap_files import Record
from tests.test_named_cases import MS, START, analyzed, file_of

US = 1_000
SIZE = 400
PATH = [{"name": "p", "points": ["a", "b"]}]
SIX, FOUR = ("fd01::1", "fd02::1"), ("10.0.0.1", "10.0.0.2")


@dataclass(frozen=True)
class Part:
    """A frame: when, its payload, its IP ID."""

    time: int
    payload: bytes
    ip_id: int = 0

    def later(self, by: int) -> Part:
        return Part(self.time + by, self.payload, self.ip_id)


def random_bytes(number: int, length: int) -> bytes:
    return random.Random(number).randbytes(length)


def equal_bytes(number: int, length: int) -> bytes:
    return b"\x55" * length


def sent(lengths: Sequence[int], payload: Callable[[int, int], bytes] = random_bytes, gap: int = MS) -> list[Part]:
    return [Part(START + n * gap, payload(n, length), 100 + 20 * n) for n, length in enumerate(lengths)]


def split(packets: Sequence[Part], lost: Sequence[tuple[int, int]] = ()) -> list[Part]:
    """Segments of packets, 50 µs later, without some: (packet, segment)."""
    return [
        Part(one.time + 50 * US + at // SIZE * US, one.payload[at : at + SIZE], one.ip_id + at // SIZE)
        for number, one in enumerate(packets)
        for at in range(0, len(one.payload), SIZE)
        if (number, at // SIZE) not in lost
    ]


def merged(packets: Sequence[Part], groups: Sequence[Sequence[int]]) -> list[Part]:
    return [
        Part(packets[group[-1]].time + 50 * US, b"".join(packets[n].payload for n in group), packets[group[0]].ip_id)
        for group in groups
    ]


def seen(parts: Sequence[Part], ends: tuple[str, str], snap: int | None = None, count_ids: bool = True) -> bytes:
    records = []
    for part in sorted(parts, key=lambda one: one.time):
        more = {"ip_id": part.ip_id if count_ids else 0} if ends is FOUR else {}
        data = frame(Header(*ends, 17, part.payload, sport=1000, dport=2000, **more))  # type: ignore[arg-type]
        records.append(Record(part.time, data[:snap], length=len(data)))
    return file_of(records)


def fates(analysis: Analysis, certain: bool = True) -> list[str]:
    """Of what the first point saw; nothing else is a packet, where it is certain what became of these."""
    first = analysis.trajectories.observations.rows["point"][analysis.trajectories.first_row] == 0
    assert first.all() or not certain
    return [FATES[code] for code in analysis.verdicts.fate[first]]


def held(analysis: Analysis, point: str = "b") -> list[tuple[int, int, int, int]]:
    """(packet, frame, first byte, last byte) of all ranges at a point."""
    rows, found = analysis.trajectories.observations.rows, analysis.trajectories.ranges
    number = [one.name for one in analysis.trajectories.run.points].index(point)
    some = found.chosen(rows["point"][found.row] == number)
    columns = (some.trajectory.tolist(), rows["frame"][some.row].tolist(), some.first.tolist(), some.last.tolist())
    return sorted(zip(*columns, strict=True))


LENGTHS = (1000, 2400, 400, 1500, 800, 1017)


@pytest.mark.parametrize("ends", [SIX, FOUR])
@pytest.mark.parametrize("lost", [[], [(1, 0)], [(1, 5), (3, 1)], [(0, 2), (5, 0), (5, 2)]])
def test_segments_without_ip_ids_are_told_by_their_bytes(
    tmp_path: Path, ends: tuple[str, str], lost: list[tuple[int, int]]
) -> None:
    """IPv6 has none, and unconnected sockets send 0. The flow was taken for one whose payload is changed."""
    packets = sent(LENGTHS)
    parts = split(packets, lost)
    # One comes twice, two change places.
    parts.append(parts[1].later(300 * US))
    parts[-4], parts[-3] = Part(parts[-3].time, parts[-4].payload), Part(parts[-4].time, parts[-3].payload)
    files = {"a": seen(packets, ends, count_ids=False), "b": seen(parts, ends, count_ids=False)}
    analysis = analyzed(tmp_path, files, PATH)
    gone = {number for number, _ in lost}
    assert fates(analysis) == ["partial" if number in gone else "delivered" for number in range(len(packets))]
    frames = sorted(parts, key=lambda one: one.time)
    for number, place, first, last in held(analysis):
        assert packets[number].payload[first : last + 1] == frames[place - 1].payload
    assert analysis.transforms.kinds.count("split") == 1
    assert "payload" not in analysis.transforms.kinds


@pytest.mark.parametrize("ends", [SIX, FOUR])
def test_merged_datagrams_are_told_by_their_bytes(tmp_path: Path, ends: tuple[str, str]) -> None:
    """One is lost before they are merged, a merged frame behind it; all but those that were alone were called lost."""
    packets = [Part(START + n * US, random_bytes(n, 150 if n % 6 == 5 else SIZE), 100 + n) for n in range(24)]
    groups = [[0, 1, 3, 4, 5], [6, 7, 8, 9, 10, 11], [18, 19, 20, 21, 22, 23]]
    if ends is FOUR:
        groups[:1] = [[0, 1], [3, 4, 5]]  # where IP IDs do not count on, nothing is merged
    analysis = analyzed(tmp_path, {"a": seen(packets, ends), "b": seen(merged(packets, groups), ends)}, PATH)
    arrived = {number for group in groups for number in group}
    assert fates(analysis) == ["delivered" if n in arrived else "lost" for n in range(24)]
    assert held(analysis) == sorted(
        (n, place, 0, len(packets[n].payload) - 1) for place, group in enumerate(groups, 1) for n in group
    )
    assert "merge" in analysis.transforms.kinds


def test_segments_that_are_merged_again_elsewhere(tmp_path: Path) -> None:
    """Of two superpackets of one size in one frame: its first half is the end of one, the other the beginning of the
    next."""
    packets = sent((800, 800, 800), gap=10 * US)
    segments = split(packets)
    again = [Part(segments[0].time + 90 * US, segments[0].payload)]
    again.append(Part(again[0].time + US, segments[1].payload + segments[2].payload))
    again.append(Part(again[0].time + 2 * US, segments[3].payload + segments[4].payload + segments[5].payload))
    files = {"a": seen(packets, SIX), "b": seen(segments, SIX), "c": seen(again, SIX)}
    analysis = analyzed(tmp_path, files, [{"name": "p", "points": list("abc")}])
    assert fates(analysis) == ["delivered"] * 3
    expected = [(0, 1, 0, 399), (0, 2, 400, 799), (1, 2, 0, 399), (1, 3, 400, 799), (2, 3, 0, 799)]
    assert held(analysis, "c") == expected


@pytest.mark.parametrize("lost", [False, True])
def test_equal_bytes_are_told_by_order_or_not_at_all(tmp_path: Path, lost: bool) -> None:
    """Two superpackets of the same bytes close to each other: whose segment is lost nothing tells."""
    packets = sent((1300, 1300), equal_bytes, gap=100 * US)
    parts = split(packets, [(0, 1)] if lost else [])
    analysis = analyzed(tmp_path, {"a": seen(packets, SIX), "b": seen(parts, SIX)}, PATH)
    assert fates(analysis, not lost) == (["ambiguous"] * 2 if lost else ["delivered"] * 2)


def test_an_equal_beginning_alone_is_no_part(tmp_path: Path) -> None:
    """Each begins with the same 64 bytes; what was lost and what the first point missed are two packets."""
    head = bytes(range(64))
    packets = [Part(START, head + random_bytes(1, 700)), Part(START + MS, head + random_bytes(2, 90))]
    stranger = Part(START + 100 * US, head + random_bytes(3, 300))
    files = {"a": seen(packets, SIX), "b": seen([stranger, packets[1].later(50 * US)], SIX)}
    analysis = analyzed(tmp_path, files, PATH)
    assert not len(analysis.trajectories.ranges)


@pytest.mark.parametrize(("ends", "said"), [(SIX, "ambiguous"), (FOUR, "lost")])
@pytest.mark.parametrize("gone", [None, 7])
def test_merged_datagrams_that_are_cut_off(tmp_path: Path, ends: tuple[str, str], said: str, gone: int | None) -> None:
    """IP IDs that count on tell what a frame holds, or the order does if nothing is missing; never is any called lost
    that may be in it."""
    packets = [Part(START + n // 6 * MS + n * US, random_bytes(n, SIZE), 100 + n) for n in range(18)]
    groups = [[n for n in range(first, first + 6) if n != gone] for first in (0, 6, 12)]
    if ends is FOUR and gone is not None:
        groups[1:2] = [[6], [8, 9, 10, 11]]
    files = {"a": seen(packets, ends), "b": seen(merged(packets, groups), ends, snap=140)}
    found = fates(analyzed(tmp_path, files, PATH), gone is None)
    if gone is None:
        assert found == ["delivered"] * 18
    else:
        assert found[gone] == said
        assert {found[n] for n in range(18) if n != gone} <= {"delivered", "ambiguous"}
        assert ends is SIX or found.count("delivered") == 17
