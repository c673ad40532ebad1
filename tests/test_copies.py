"""Further sightings of a packet at one point: what they show of who made them, and what is no copy at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures.scenarios import generate_scenario
from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.analysis.summary import summary
from pktrace.report.explain import explain_packet
from pktrace.run.runfile import load_run
from tests.kit.links import ieee_802_11, snap
from tests.kit.packets import UDP, Header, frame
from tests.kit.pcap_files import Record
from tests.test_named_cases import MS, START, analyzed, fates, file_of, udp

PATH = ({"name": "p", "points": ["a", "b", "c"]},)
COUNT = 20


def seen(folder: Path, times: Sequence[int], *, gap_ns: int = 5_000, ip_id: int | None = None) -> Analysis:
    """Packets that a, b and c see so many times, 1 ms apart; copies follow by a gap."""
    files = {
        name: file_of(
            [
                Record(START + 10 * number * MS + 50_000 * at + copy * gap_ns, udp(number, ip_id=ip_id))
                for number in range(COUNT)
                for copy in range(times[at])
            ]
        )
        for at, name in enumerate("abc")
    }
    return analyzed(folder, files, PATH)


def counted(analysis: Analysis) -> dict[tuple[str, str | None], int]:
    return {(counter.name, point): number for counter, point, _, number in analysis.ledger.rows()}


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((1, 1, 1), {}),
        ((1, 2, 1), {("copies_here", "b"): COUNT}),
        ((1, 3, 1), {("copies_here", "b"): 2 * COUNT}),
        ((1, 2, 2), {("copies_network", "b"): COUNT, ("copies_network", "c"): COUNT}),
        ((1, 3, 2), {("copies_network", "b"): COUNT, ("copies_here", "b"): COUNT, ("copies_network", "c"): COUNT}),
        ((1, 1, 2), {("copies_last", "c"): COUNT}),
    ],
)
def test_copies_are_told_apart_by_where_else_there_are_some(
    tmp_path: Path, times: tuple[int, ...], expected: dict[tuple[str, str], int]
) -> None:
    analysis = seen(tmp_path, times)
    assert counted(analysis) == expected
    assert fates(analysis) == {("delivered", None): COUNT}
    assert analysis.trajectories.duplicates.tolist() == [max(times) - 1] * COUNT


@pytest.mark.parametrize(
    ("times", "fraction", "replicated"),
    [((1, 1, 1), 0.0, 0.0), ((1, 2, 1), 0.0, 0.0), ((1, 3, 3), 2.0, 1.0), ((1, 1, 0), None, None)],
)
def test_duplication_is_that_of_the_last_point(
    tmp_path: Path, times: tuple[int, ...], fraction: float | None, replicated: float | None
) -> None:
    (path,) = summary(seen(tmp_path, times), 0)["paths"].values()
    assert (path["duplication_fraction"], path["replicated_packet_rate"]) == (fraction, replicated)


def test_a_copy_behind_the_loss_threshold_is_no_arrival(tmp_path: Path) -> None:
    for name, delay, fraction in (("soon", 900 * MS, 1.0), ("late", 1100 * MS, 0.0)):
        (tmp_path / name).mkdir()
        files = {"a": [Record(START, udp(1))], "b": [Record(START + 9, udp(1)), Record(START + delay, udp(1))]}
        analysis = analyzed(
            tmp_path / name,
            {point: file_of(records) for point, records in files.items()},
            loss={"threshold": "1s"},
        )
        (path,) = summary(analysis, 0)["paths"].values()
        assert (path["duplication_fraction"], path["duplicates"]) == (fraction, 1)


@pytest.mark.parametrize("times", [(2, 1, 1), (2, 2, 1), (3, 1, 1), (2, 2, 2), (1, 1, 2)])
@pytest.mark.parametrize("ip_id", [None, 0])
def test_points_that_see_everything_twice_see_one_packet_each(
    tmp_path: Path, times: tuple[int, ...], ip_id: int | None
) -> None:
    """'A packet is what the first point saw': a mirror port in front of everything made two of each."""
    analysis = seen(tmp_path, times, ip_id=ip_id)
    assert fates(analysis) == {("delivered", None): COUNT}
    assert analysis.trajectories.duplicates.tolist() == [max(times) - 1] * COUNT


def test_packets_that_are_seen_twice_and_end_are_lost_once(tmp_path: Path) -> None:
    assert fates(seen(tmp_path, (2, 0, 0))) == {("lost", None): COUNT}


def test_what_the_first_point_often_saw_twice_is_not_called_lost(tmp_path: Path) -> None:
    """Three of four packets are doubled before the first point: the second one ended there, and was lost."""
    twice = [number for number in range(COUNT) if number % 4]
    files = {
        "a": file_of(
            [Record(START + n * MS + copy * 5_000, udp(n)) for n in range(COUNT) for copy in range(1 + (n in twice))]
        ),
        "b": file_of([Record(START + n * MS + 50_000, udp(n)) for n in range(COUNT)]),
    }
    analysis = analyzed(tmp_path, files)
    assert fates(analysis) == {("delivered", None): COUNT, ("ambiguous", None): len(twice)}
    assert counted(analysis) == {("copies_first", "a"): len(twice)}
    doubtful = int((~analysis.verdicts.packets_with("delivered")).nonzero()[0][0])
    assert "copy of one that the first point saw" in " ".join(str(explain_packet(analysis, doubtful)).split())


def test_a_mirror_that_doubles_one_host_of_many(tmp_path: Path) -> None:
    """'A mirror doubles most of what a point sees': of four hosts it doubled one, and its copies were lost."""
    many = 3 * COUNT
    hosts = [frame(Header(f"10.0.0.{n % 4}", "10.1.0.1", UDP, b"%04d" % n, sport=5, dport=6)) for n in range(many)]
    files = {
        "a": file_of(
            [
                Record(START + n * MS + copy * 5_000, data)
                for n, data in enumerate(hosts)
                for copy in range(2 if n % 4 == 0 else 1)
            ]
        ),
        "b": file_of([Record(START + n * MS + 50_000, data) for n, data in enumerate(hosts)]),
    }
    analysis = analyzed(tmp_path, files)
    assert fates(analysis) == {("delivered", None): many, ("ambiguous", None): many // 4}


def test_equal_packets_that_a_sender_may_repeat_are_counted(tmp_path: Path) -> None:
    """Datagrams without identification, some of which are equal."""
    pairs = [(number, copy) for number in range(COUNT) for copy in range(2 if number < COUNT // 4 else 1)]
    files = {
        "a": file_of([Record(START + n * MS + copy * 5_000, udp(n, ip_id=0)) for n, copy in pairs]),
        "b": file_of([Record(START + n * MS + 50_000, udp(n, ip_id=0)) for n in range(COUNT)]),
    }
    analysis = analyzed(tmp_path, files)
    assert fates(analysis) == {("delivered", None): COUNT, ("lost", None): COUNT // 4}


def test_one_packet_that_is_sent_very_often_is_no_sign_of_a_mirror_port(tmp_path: Path) -> None:
    """Bursts of one packet were taken for as many different ones, all of them seen twice."""
    times = [START + 10 * burst * MS + number * 5_000 for burst in range(20) for number in range(3)]
    files = {
        "a": file_of([Record(at, udp(1, ip_id=0)) for at in times]),
        "b": file_of([Record(at + 50_000, udp(1, ip_id=0)) for at in times[:-10]]),
    }
    assert fates(analyzed(tmp_path, files)) == {("delivered", None): 50, ("lost", None): 10}


def test_a_tcp_retransmission_is_a_packet_of_its_own(tmp_path: Path) -> None:
    def segment(ip_id: int) -> bytes:
        return frame(Header("10.0.0.1", "10.0.0.2", 6, b"data", sport=1, dport=2, ip_id=ip_id, seq=9))

    again = [Record(START, segment(1)), Record(START + 300_000, segment(2))]
    files = {"a": file_of(again), "b": file_of([Record(START + 350_000, segment(2))])}
    analysis = analyzed(tmp_path, files)
    assert fates(analysis) == {("lost", None): 1, ("delivered", None): 1}
    assert counted(analysis) == {}


def test_retries_on_the_air_are_told_from_duplicates(tmp_path: Path) -> None:
    def on_air(number: int, retry: bool) -> bytes:
        data = bytearray(ieee_802_11(snap(udp(number)[14:]), to_ds=True))
        data[1] |= 8 * retry
        return bytes(data)

    air = [
        Record(START + number * MS + 50_000 + 3_000 * retry, on_air(number, bool(retry)))
        for number in range(COUNT)
        for retry in range(2 if number % 2 else 1)
    ]
    wire = [Record(START + number * MS, udp(number)) for number in range(COUNT)]
    files = {"a": file_of(wire), "b": file_of(air, linktype=105)}
    analysis = analyzed(tmp_path, files)
    assert fates(analysis) == {("delivered", None): COUNT}
    assert counted(analysis) == {("copies_retried", "b"): COUNT // 2}


@pytest.mark.parametrize("ip_id", [None, 0])
@pytest.mark.parametrize("same", [False, True])
def test_retries_at_the_first_point_are_no_packets(tmp_path: Path, same: bool, ip_id: int | None) -> None:
    """'Equal bytes that the first point sees again are copies': on the air their number tells what they are."""

    def on_air(number: int, retry: bool) -> bytes:
        data = bytearray(ieee_802_11(snap(udp(1 if same else number, ip_id=ip_id)[14:]), to_ds=True))
        data[1] |= 8 * retry
        data[22:24] = (number % 4096 << 4).to_bytes(2, "little")
        return bytes(data)

    many = 5 * COUNT
    air = [
        Record(START + number * MS + 3_000 * retry, on_air(number, bool(retry)))
        for number in range(many)
        for retry in range(1 + number % 3)
    ]
    wire = [
        Record(START + number * MS + 50_000, udp(1 if same else number, ip_id=ip_id))
        for number in range(many)
        if number % 10 != 5
    ]
    analysis = analyzed(tmp_path, {"a": file_of(air, linktype=105), "b": file_of(wire)})
    assert fates(analysis) == {("delivered", None): many - many // 10, ("lost", None): many // 10}
    assert counted(analysis) == {("copies_retried", "a"): sum(number % 3 for number in range(many))}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("span-duplicates", {"copies_here", "copies_last"}),
        ("duplication", {"copies_network", "copies_last"}),
        ("bridge-flood-on-path", {"copies_last"}),
        ("tso-then-gro", set()),
        ("retransmissions", set()),
    ],
)
def test_copies_of_generated_runs(tmp_path: Path, name: str, expected: set[str]) -> None:
    generate_scenario(name, tmp_path / "run", packets=3000)
    analysis = analyze_run(load_run(tmp_path / "run"))
    assert {counter for counter, _ in counted(analysis) if counter.startswith("copies_")} == expected


def test_one_ip_id_for_all_packets_is_no_number(tmp_path: Path) -> None:
    """Identical packets whose sender gives them all one IP ID, 0.1 ms apart: what was lost of them is counted."""
    data = udp(1, ip_id=77)
    sent = [Record(START + number * MS // 10, data) for number in range(500)]
    came = [Record(record.ts_ns + 20_000, data) for number, record in enumerate(sent) if number % 50]
    analysis = analyzed(tmp_path, {"a": file_of(sent), "b": file_of(came)})
    assert fates(analysis) == {("delivered", None): 490, ("lost", None): 10}
