"""Bugs that recordings behind real gateways brought to light, each with a name and as small as it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pktrace.analysis.analysis import Analysis
from pktrace.report.explain import explain_packet
from pktrace.schema import BASES, FATES
from tests.kit.packets import Header, frame
from tests.kit.pcap_files import Record
from tests.test_named_cases import MS, START, analyzed, fates, file_of

POINTS = ("client", "near", "far", "server")
STEP = 3_000  # ns from one packet to the next; twice as long takes each stage
PATH = [{"name": "there", "points": list(POINTS), "match": {"source": "10.0.0.0/8"}}]


def acknowledgment(number: int, source: str, ip_id: int, ack: int = 0) -> bytes:
    """Empty; equal `ack` makes equal bytes but for the IP ID."""
    header = Header(source, "192.0.2.1", 6, sport=1000, dport=80, ip_id=ip_id, seq=7, ack=ack or number, flags=16)
    return frame(header)


def recorded(packets: Sequence[tuple[int, int]], gone: set[int], ids_behind: int) -> dict[str, bytes]:
    """(IP ID, ack) of packets that a gateway gives another source and adds `ids_behind` to their IDs; the `gone` end
    at `far`, and the other one of the pair comes to the server when the lost one would have come."""
    files: dict[str, list[Record]] = {point: [] for point in POINTS}
    for number, (ip_id, ack) in enumerate(packets):
        for position, point in enumerate(POINTS):
            if position == 3 and number in gone:
                continue
            source = "10.0.0.1" if position == 0 else "192.0.2.9"
            data = acknowledgment(number, source, ip_id + (ids_behind if position else 0), ack)
            late = STEP if position == 3 and number + 1 in gone else 0
            files[point].append(Record(START + number // 2 * MS + number % 2 * STEP + position * 2 * STEP + late, data))
    return {point: file_of(records) for point, records in files.items()}


def ids(analysis: Analysis) -> list[list[int]]:
    """The IP IDs of each trajectory's sightings, point by point."""
    rows = analysis.trajectories.observations.rows
    return [[int(rows["ip_id"][row]) for row in seen if row >= 0] for seen in analysis.trajectories.seen.tolist()]


def test_ip_ids_that_nat_keeps_tell_equal_acknowledgments_apart(tmp_path: Path) -> None:
    """Pairs of duplicate acknowledgments: only the first of each pair was asked whether its ID is kept, of one that
    may have been compared with the other's. The flow lost its IDs, and the wrong one of a pair was called lost."""
    packets = [(100 + number, 1000 + number // 2) for number in range(40)]
    analysis = analyzed(tmp_path, recorded(packets, {5, 17, 31}, 0), PATH)
    assert fates(analysis) == {("delivered", None): 37, ("lost", None): 3}
    assert all(len(set(found)) == 1 for found in ids(analysis))
    lost = [found[0] - 100 for found in ids(analysis) if len(found) == 3]
    assert lost == [5, 17, 31]


def test_what_a_gateway_has_renumbered_keeps_its_number_behind_it(tmp_path: Path) -> None:
    """The digests by which the sightings behind a gateway are told apart were overwritten with the keys that make
    all of them equal."""
    packets = [(100 + number, 1000 + number // 2) for number in range(40)]
    analysis = analyzed(tmp_path, recorded(packets, {5, 17, 31}, 5000), PATH)
    assert fates(analysis) == {("delivered", None): 37, ("lost", None): 3}
    assert all(len(set(found[1:])) == 1 for found in ids(analysis))
    assert [found[1] - 5100 for found in ids(analysis) if len(found) == 3] == [5, 17, 31]


def test_two_gateways_that_lose_nothing(tmp_path: Path) -> None:
    """A packet that ends before the first gateway fits what leaves either; no flow was found to be another one, and
    all packets were ambiguous, or lost."""
    files: dict[str, list[Record]] = {point: [] for point in POINTS}
    for number in range(60):
        for position, (point, source) in enumerate(
            zip(POINTS, ("10.0.0.1", "192.0.2.9", "192.0.2.9", "198.51.100.9"), strict=True)
        ):
            payload = b"packet %04d" % number
            data = frame(Header(source, "203.0.113.1", 17, payload, sport=1000, dport=53, ip_id=number + 1))
            files[point].append(Record(START + number * MS + position * STEP, data))
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, PATH)
    assert fates(analysis) == {("delivered", None): 60}
    assert all(len(found) == 4 and len(set(found)) == 1 for found in ids(analysis))
    assert set(analysis.trajectories.basis.tolist()) == {BASES.index("rewritten")}


def fragments(whole: bytes) -> list[bytes]:
    """A frame with a datagram as two."""
    network, datagram = whole[:34], whole[34:]
    parts = []
    for at, end in ((0, 800), (800, len(datagram))):
        head = bytearray(network)
        head[16:18] = (20 + end - at).to_bytes(2, "big")
        head[20:22] = (at // 8 | (0x2000 if end < len(datagram) else 0)).to_bytes(2, "big")
        parts.append(bytes(head) + datagram[at:end])
    return parts


def test_a_lost_first_fragment_is_no_translation(tmp_path: Path) -> None:
    """Other fragments have no ports: they were said to be rewritten to 0."""
    whole = frame(Header("10.0.0.1", "192.0.2.1", 17, bytes(1400), sport=1000, dport=53, ip_id=9))
    parts = fragments(whole)
    files = {"a": [whole], "b": parts, "c": parts[1:]}
    records = {
        point: file_of([Record(START + MS + place * STEP, data) for data in frames])
        for place, (point, frames) in enumerate(files.items())
    }
    analysis = analyzed(tmp_path, records, [{"name": "p", "points": ["a", "b", "c"]}])
    assert fates(analysis) == {("partial", "part_lost"): 1}
    assert not {kind for kind in analysis.transforms.kinds if kind.startswith("nat-")}


def test_equal_traffic_of_two_links_is_not_one_flow_that_goes_back_in_time(tmp_path: Path) -> None:
    """A path that leads from one link to another, with which it has nothing to do: the same payloads pass there, now
    earlier and now later. They were taken for one flow behind a gateway with IP IDs of its own."""
    files: dict[str, list[Record]] = {"a": [], "b": []}
    for number in range(80):
        for point, source, first_id, late in (
            ("a", "10.0.0.1", 1, 0),
            ("b", "10.0.0.2", 901, 2 * MS - number % 5 * MS),
        ):
            data = frame(Header(source, "192.0.2.1", 17, b"packet %04d" % number, dport=53, ip_id=first_id + number))
            files[point].append(Record(START + number * 10 * MS + late, data))
    path = [{"name": "across", "points": ["a", "b"], "match": {"source": "10.0.0.1"}}]
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, path)
    assert not (analysis.trajectories.seen[:, 1] >= 0).any()
    assert {fate for fate, _ in fates(analysis)} <= {"lost", "ambiguous"}


def test_a_retransmitted_superpacket_and_its_original_under_way_at_once(tmp_path: Path) -> None:
    """Both were sent before the first segment of either was seen: the bytes of the original were given to the
    retransmission, and the other way round. The segments' IP IDs tell."""

    def data(first_id: int, begin: int, length: int) -> bytes:
        payload = b"".join(bytes([part]) * 1000 for part in range(begin // 1000, (begin + length) // 1000))
        header = Header("10.0.0.1", "192.0.2.1", 6, payload, sport=1000, dport=80)
        return frame(replace(header, seq=begin, ip_id=first_id + begin // 1000))

    sent = [Record(START + MS + number * STEP, data(100 + 20 * number, 0, 5000)) for number in range(2)]
    split = [
        Record(START + 2 * MS + number * MS + part * STEP, data(100 + 20 * number, 1000 * part, 1000))
        for number in range(2)
        for part in range(5)
        if (number, part) != (0, 3)
    ]
    files = {"a": file_of(sent), "b": file_of(split), "c": file_of([])}
    analysis = analyzed(tmp_path, files, [{"name": "p", "points": ["a", "b"]}])
    assert fates(analysis) == {("partial", "part_lost"): 1, ("delivered", None): 1}
    ranges, rows = analysis.trajectories.ranges, analysis.trajectories.observations.rows
    expected = rows["ip_id"][analysis.trajectories.first_row[ranges.trajectory]] + ranges.first // 1000
    assert rows["ip_id"][ranges.row].tolist() == expected.tolist()


@pytest.mark.parametrize(("count", "fate"), [(30, "delivered"), (1, "ambiguous")])
def test_datagrams_that_are_fragmented_where_they_are_translated(tmp_path: Path, count: int, fate: str) -> None:
    """No packet behind the gateway was like one before it, and all were called lost."""
    files: dict[str, list[Record]] = {"a": [], "b": []}
    for number in range(count):
        at = START + number * 10 * MS
        own, translated = (
            frame(
                Header(source, "192.0.2.1", 17, b"%08d" % number + bytes(1400), sport=sport, dport=53, ip_id=number + 1)
            )
            for source, sport in (("10.0.0.1", 1000), ("192.0.2.9", 2000))
        )
        files["a"].append(Record(at, own))
        files["b"] += [Record(at + STEP * place, part) for place, part in enumerate(fragments(translated), 1)]
    path = [{"name": "p", "points": ["a", "b"], "match": {"source": "10.0.0.1"}}]
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, path)
    assert fates(analysis) == {(fate, None): count}


def test_ip_ids_that_are_equal_by_chance_match_nothing(tmp_path: Path) -> None:
    """Twenty thousand hosts send one datagram each, all the same, through a gateway that gives IP IDs of its own: those
    few whose new ID was the ID of another one were taken for that."""
    files: dict[str, list[Record]] = {"a": [], "b": []}
    for number in range(20_000):
        at = START + number * MS // 500
        inside, outside = f"10.0.{number // 250}.{number % 250 + 1}", "198.51.100.1"
        for point, source, sport, ip_id, delay in (
            ("a", inside, 4000, number + 1, 0),
            ("b", outside, 1024 + number, (7 * number + 3) % 65_536, 30_000),
        ):
            data = frame(Header(source, "192.0.2.1", 17, b"the same", sport=sport, dport=53, ip_id=ip_id))
            files[point].append(Record(at + delay, data))
    path = [{"name": "out", "points": ["a", "b"], "match": {"destination": "192.0.2.1"}}]
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, path)
    assert not (analysis.trajectories.seen[:, :2] >= 0).all(axis=1).any()
    assert not analysis.verdicts.packets_with("lost").any()


def test_superpackets_of_equal_bytes_keep_their_segments(tmp_path: Path) -> None:
    """Ten UDP superpackets of zeros, 1 ms apart, with IP IDs one apart, each split within a fraction of that: segment i
    of one has the ID and the bytes that the next but i begins with, and was taken for its first one."""
    whole, part = bytes(8 * 1000), bytes(1000)
    sent, split = [], []
    for number in range(10):
        at = START + number * MS
        header = Header("10.0.0.1", "192.0.2.1", 17, whole, sport=4000, dport=53, ip_id=100 + number)
        sent.append(Record(at, frame(header)))
        split += [
            Record(at + 20_000 + 5_000 * index, frame(replace(header, payload=part, ip_id=100 + number + index)))
            for index in range(8)
        ]
    path = [{"name": "p", "points": ["a", "b"]}]
    analysis = analyzed(tmp_path, {"a": file_of(sent), "b": file_of(split)}, path)
    assert fates(analysis) == {("delivered", None): 10}
    ranges = analysis.trajectories.ranges
    frames = analysis.trajectories.observations.rows["frame"][ranges.row]
    assert sorted(zip(ranges.trajectory.tolist(), frames.tolist(), strict=True)) == [
        (number // 8, number + 1) for number in range(80)
    ]


def error_about(quoted: Header, router: str, ip_id: int) -> bytes:
    """An ICMP error as the sender of that packet gets it: the packet's header and first bytes are in it."""
    six = quoted.version == 6
    header = Header(router, quoted.source, 58 if six else 1, frame(quoted)[14:], ip_id=ip_id)
    return frame(replace(header, icmp_type=1 if six else 3, icmp_code=4 if six else 3))


@pytest.mark.parametrize("six", [False, True])
def test_icmp_errors_behind_a_gateway(tmp_path: Path, six: bool) -> None:
    """Datagrams to a closed port, each from a port of its own; two hosts behind one address.

    An error quotes the packet that it is about: where this was rewritten, so are the addresses and ports in the quote.
    All errors were called lost at the gateway. One of them is.
    """
    outside, server = ("2001:db8::9", "2001:db8:7::1") if six else ("203.0.113.9", "192.0.2.1")
    hosts = ("fd00::1", "fd00::2") if six else ("10.0.0.1", "10.0.0.2")
    files: dict[str, list[Record]] = {"far": [], "near": []}
    for number in range(30):
        sent = Header(hosts[number % 2], server, 17, b"packet %02d" % number * 4, sport=5000 + number, dport=9)
        sent = replace(sent, ip_id=0 if six else 300 + number)
        behind = replace(sent, source=outside, sport=20_000 + 7 * number)
        at = START + number * MS
        files["near"].append(Record(at, frame(sent)))
        files["far"].append(Record(at + STEP, frame(behind)))
        files["far"].append(Record(at + 10 * STEP, error_about(behind, server, 900 + number)))
        if number != 13:
            files["near"].append(Record(at + 11 * STEP, error_about(sent, server, 900 + number)))
    paths = [
        {"name": "there", "points": ["near", "far"], "match": {"source": list(hosts)}},
        {"name": "back", "points": ["far", "near"], "match": {"source": server}},
    ]
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, paths)
    assert fates(analysis) == {("delivered", None): 59, ("lost", None): 1}
    changed = set(analysis.transforms.kinds)
    assert changed == {"nat-source", "nat-source-port", "nat-destination"}


def test_what_many_overtake_meets_its_own_start(tmp_path: Path) -> None:
    """Equal datagrams behind a gateway that keeps IP IDs; one of nine is overtaken by all others.

    Of starts with equal remains only the next eight were looked at: packets seemed to have other IP IDs behind, and so
    IP IDs did not count.
    """
    passed = {  # ID: microseconds
        "near": {70: 0, 71: 59, 72: 99, 73: 160, 74: 213, 75: 276, 76: 340, 77: 399, 78: 460},
        "gate": {70: 221, 71: 229, 73: 384, 72: 409, 76: 499, 75: 512, 77: 585, 78: 746, 74: 2550},
        "far": {70: 321, 71: 352, 72: 442, 73: 454, 75: 545, 76: 584, 77: 644, 78: 781, 74: 2585},
    }
    files = {}
    for point, times in passed.items():
        source = "10.0.0.1" if point == "near" else "203.0.113.9"
        sent = Header(source, "192.0.2.1", 17, b"the same", sport=1000, dport=53)
        files[point] = [Record(START + at * 1000, frame(replace(sent, ip_id=ip_id))) for ip_id, at in times.items()]
    paths = [{"name": "there", "points": list(passed)}]
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, paths)
    assert ids(analysis) == [[ip_id] * 3 for ip_id in passed["near"]]


def test_headers_cut_behind_a_gateway_are_no_loss(tmp_path: Path) -> None:
    """Twelve bytes of the TCP header were captured behind the gateway: what a packet became cannot be told.

    All were called lost there.
    """
    files: dict[str, list[Record]] = {"near": [], "far": []}
    for number in range(20):
        sent = Header("10.0.0.1", "192.0.2.1", 6, b"%04d" % number * 9, sport=1000, dport=80, ip_id=70 + number)
        sent = replace(sent, seq=36 * number)
        behind = frame(replace(sent, source="203.0.113.9"))
        files["near"].append(Record(START + number * MS, frame(sent)))
        files["far"].append(Record(START + number * MS + STEP, behind[: 14 + 20 + 12], length=len(behind)))
    paths = [{"name": "there", "points": ["near", "far"]}]
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, paths)
    assert fates(analysis)[("ambiguous", None)] == 20
    assert not any(fate == "lost" for fate, _ in fates(analysis))


def test_ports_that_the_first_point_has_cut_off(tmp_path: Path) -> None:
    """Of datagrams that become fragments behind the second point, the first one captured no ports: the second did.

    Without ports nothing told what the fragments were parts of: the datagrams were called lost.
    """
    files: dict[str, list[Record]] = {"near": [], "gate": [], "far": []}
    for number in range(10):
        sent = Header("10.0.0.1", "192.0.2.1", 17, bytes([number]) * 1200, sport=1000, dport=53, ip_id=70 + number)
        whole, at = frame(sent), START + number * MS
        files["near"].append(Record(at, whole[: 14 + 20 + 2], length=len(whole)))
        files["gate"].append(Record(at + STEP, whole))
        for later, part in enumerate(((0, 600), (600, 1208))):
            files["far"].append(Record(at + 2 * STEP + later, frame(sent, fragment=part)))
    paths = [{"name": "there", "points": ["near", "gate", "far"]}]
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, paths)
    assert fates(analysis) == {("delivered", None): 10}
    assert {BASES[code] for code in analysis.trajectories.basis} == {"range"}


BOTH_SIDES = [{"name": "p", "points": ["a", "gateway", "c"], "match": {"source": "10.0.0.1"}}]


def at_both_sides(sources: Sequence[tuple[str, str]], gone: set[int], count: int = 12) -> dict[str, bytes]:
    """Packets of sources that one point shows as they come and as they leave with another source; the `gone` ones are
    lost behind it, every other of them in it."""
    files: dict[str, list[Record]] = {"a": [], "gateway": [], "c": []}
    for number in range(count):
        inside, outside = sources[number % len(sources)]
        payload = b"packet %04d" % number
        came, left = (
            frame(Header(source, "192.0.2.1", 17, payload, sport=1000, dport=53, ip_id=number + 1))
            for source in (inside, outside)
        )
        seen = [("a", came), ("gateway", came), ("gateway", left), ("c", left)]
        if number in gone:
            seen = seen[: 2 + number % 2]
        for step, (point, data) in enumerate(seen):
            files[point].append(Record(START + number * MS + step * STEP, data))
    return {point: file_of(records) for point, records in files.items()}


def test_one_point_that_shows_both_sides_of_a_gateway(tmp_path: Path) -> None:
    """`tcpdump -i any` on the box: a packet ended at a point, and began at the same one with another source. Only
    points further on were looked at, and everything was lost."""
    analysis = analyzed(tmp_path, at_both_sides([("10.0.0.1", "192.0.2.9")], {4, 7}), BOTH_SIDES)
    assert fates(analysis) == {("delivered", None): 10, ("lost", None): 2}
    trajectories = analysis.trajectories
    assert (trajectories.seen[:, :2] >= 0).all()
    assert trajectories.sightings.tolist() == [{4: 2, 7: 3}.get(number, 4) for number in range(12)]
    # The second form is no copy, and the point is no place where copies are made.
    assert not trajectories.duplicates.any()
    assert len(trajectories.further) == 0
    copies = {name: analysis.ledger.total(name) for name in ("copies_network", "copies_here", "copies_last")}
    assert not any(copies.values())
    assert analysis.ledger.total("copies_rewritten") == 11
    assert analysis.ledger.total("no_path") == 0
    # The change shows from the first sighting there to the next point.
    assert [row[1:] for row in analysis.transforms.table] == [(1, "nat-source", "10.0.0.1", "192.0.2.9", 10)]
    assert set(trajectories.basis.tolist()) == {BASES.index("exact"), BASES.index("rewritten")}
    told = explain_packet(analysis, 0).sightings
    assert [(sighting.point, sighting.position) for sighting in told] == [
        ("a", 0), ("gateway", 1), ("gateway", None), ("c", 2),
    ]  # fmt: skip
    assert told[2].changes == ("as it left; source 10.0.0.1 to 192.0.2.9",)


def test_a_stranger_at_the_point_where_packets_are_lost_explains_none(tmp_path: Path) -> None:
    """It begins there with other bytes, or in the flow that ends there: what is lost is lost."""
    files = at_both_sides([("10.0.0.1", "10.0.0.1")], set())
    other = frame(Header("192.0.2.7", "192.0.2.1", 17, b"another one", sport=1000, dport=53, ip_id=77))
    sent = [
        frame(Header("10.0.0.1", "192.0.2.1", 17, b"lost %04d" % number, sport=1000, dport=53, ip_id=900 + number))
        for number in range(3)
    ]
    lost = [Record(START + 20 * MS + number * MS, data) for number, data in enumerate(sent)]
    files = {
        "a": [files["a"], file_of(lost)],
        "gateway": [files["gateway"], file_of([*lost, Record(START + 24 * MS, other)])],
        "c": [files["c"], file_of([Record(START + 24 * MS + STEP, other)])],
    }
    analysis = analyzed(tmp_path, files, BOTH_SIDES)
    assert fates(analysis) == {("delivered", None): 12, ("lost", None): 3}


def renumbered(
    packets: Sequence[tuple[int, bytes]],
    gone: set[int],
    added: Sequence[int],
    source: str = "10.0.0.1",
    first_id: int = 100,
) -> dict[str, bytes]:
    """(sequence number, payload) of TCP packets to whose sequence and acknowledgment numbers a firewall adds something,
    to each of them the next of `added` in turn; the `gone` end before it."""
    server = "192.0.2.1" if ":" not in source else "fd02::1"
    files: dict[str, list[Record]] = {point: [] for point in POINTS}
    for number, (seq, payload) in enumerate(packets):
        for position, point in enumerate(POINTS):
            if position > 1 and number in gone:
                continue
            more = added[number % len(added)] if position > 1 else 0
            header = Header(
                source, server, 6, payload, sport=1000, dport=80, ip_id=first_id + number if first_id else 0
            )
            header = replace(header, seq=(seq + more) % 2**32, ack=(7 - more) % 2**32, flags=16)
            files[point].append(Record(START + number * MS + position * STEP, frame(header)))
    return {point: file_of(records) for point, records in files.items()}


SEGMENTS = [(2**32 - 500 + 100 * number, b"packet %04d" % number) for number in range(20)]
EMPTY = [(9000 + 100 * number, b"") for number in range(20)]
BOTH = [{"name": "there", "points": list(POINTS)}]


@pytest.mark.parametrize(
    ("packets", "source", "first_id"),
    [(SEGMENTS, "10.0.0.1", 100), (EMPTY, "10.0.0.1", 100)],
)
def test_tcp_numbers_that_a_firewall_translates(
    tmp_path: Path, packets: list[tuple[int, bytes]], source: str, first_id: int
) -> None:
    """SYN proxies and firewalls that choose initial sequence numbers anew: the same flow, IP ID and payload at all
    points, and everything was lost where the numbers changed."""
    files = renumbered(packets, {5, 11}, [0x9000_0001], source, first_id)
    analysis = analyzed(tmp_path, files, BOTH)
    assert fates(analysis) == {("delivered", None): 18, ("lost", None): 2}
    seen = analysis.trajectories.seen
    assert np.flatnonzero(seen[:, 2] < 0).tolist() == [5, 11]
    assert (np.diff(analysis.trajectories.observations.rows["ip_id"][seen[seen[:, 2] >= 0]].astype(int)) == 0).all()
    kept = np.flatnonzero(seen[:, 2] >= 0)
    assert {BASES[basis] for basis in analysis.trajectories.basis[kept]} == {"modified"}
    kinds = [(stage, kind, count) for _, stage, kind, _, _, count in analysis.transforms.table]
    assert kinds == [(1, "tcp-acknowledgment", 18), (1, "tcp-sequence", 18)]


@pytest.mark.parametrize("source", ["fd01::1", "10.0.0.1"])
def test_translated_numbers_alone_do_not_tell_a_firewall_from_a_proxy(tmp_path: Path, source: str) -> None:
    """'Eight numbers that differ by a constant are a translation': a transparent proxy sends just that."""
    analysis = analyzed(tmp_path, renumbered(SEGMENTS, {5, 11}, [0x9000_0001], source, 0), BOTH)
    assert (analysis.trajectories.seen[:, 1:3] >= 0).sum(axis=1).max() == 1
    ended = analysis.trajectories.seen[:, 0] >= 0
    assert {FATES[fate] for fate in analysis.verdicts.fate[ended]} == {"ambiguous"}


def test_numbers_that_differ_by_no_constant_are_no_translation(tmp_path: Path) -> None:
    """What ends and what begins has one IP ID and one payload, and may be another packet all the same."""
    analysis = analyzed(tmp_path, renumbered(SEGMENTS, {5, 11}, [17, 170, 1700, 17000, 170000]), BOTH)
    assert "rewritten" not in {BASES[basis] for basis in analysis.trajectories.basis}
    assert (analysis.trajectories.seen[:, 1:3] >= 0).sum(axis=1).max() == 1
    ended = analysis.trajectories.seen[:, 0] >= 0
    told = [FATES[fate] for fate in analysis.verdicts.fate[ended]]
    assert {number for number, fate in enumerate(told) if fate == "lost"} <= {5, 11}
    assert set(told) <= {"lost", "ambiguous"}


def test_what_came_through_as_it_was_stays_together(tmp_path: Path) -> None:
    """A packet of a flow whose numbers are translated passes untranslated, and is lost behind: in the last stage."""
    files = renumbered(SEGMENTS, {5, 11}, [0x9000_0001])
    header = Header("10.0.0.1", "192.0.2.1", 6, b"as it was", sport=1000, dport=80, ip_id=900, seq=77, ack=7, flags=16)
    sent = START + len(SEGMENTS) * MS
    more = {
        point: [data, file_of([Record(sent + at * STEP, frame(header))] if point != "server" else [])]
        for at, (point, data) in enumerate(files.items())
    }
    analysis = analyzed(tmp_path, more, BOTH)
    assert fates(analysis) == {("delivered", None): 18, ("lost", None): 3}
    assert (analysis.trajectories.seen[-1] >= 0).tolist() == [True, True, True, False]
    assert BASES[analysis.trajectories.basis[-1]] == "exact"


def test_one_renumbered_packet_is_not_enough(tmp_path: Path) -> None:
    """One number tells of no constant: it is not matched, and not lost."""
    analysis = analyzed(tmp_path, renumbered(SEGMENTS[:1], set(), [0x9000_0001]), BOTH)
    assert {fate for fate, _ in fates(analysis)} == {"ambiguous", "delivered"}


def test_what_a_syn_proxy_answers_itself_is_not_translated(tmp_path: Path) -> None:
    """It makes a SYN of its own, with another IP ID and window; the client's has ended there."""
    files: dict[str, list[Record]] = {point: [] for point in POINTS}
    for number, (seq, payload) in enumerate([(499, b""), *[(500 + 100 * at, b"packet %04d" % at) for at in range(12)]]):
        for position, point in enumerate(POINTS):
            behind = position > 1
            header = Header("10.0.0.1", "192.0.2.1", 6, payload, sport=1000, dport=80, ip_id=number + 1, seq=seq)
            header = replace(header, ack=9 + behind * 77_000, flags=16)
            if number == 0:
                header = replace(header, ip_id=(1 - behind) * 60, flags=2)
            late = 100 * STEP if number == 0 and behind else 0
            data = frame(header)
            if number == 0:
                data = data[:48] + (63 if behind else 64240).to_bytes(2, "big") + data[50:]
            files[point].append(Record(START + number * MS + position * STEP + late, data))
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, BOTH)
    assert fates(analysis)["lost", None] == 1
    first = analysis.trajectories.seen[0]
    assert (first >= 0).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("group", "forwarded"),
    [("239.1.2.3", True), ("239.255.255.250", False), ("224.0.0.251", False), ("ff1e::5", True), ("ff02::fb", False)],
)
def test_multicast_behind_a_gateway(tmp_path: Path, group: str, forwarded: bool) -> None:
    """What is sent to groups beyond the link may be translated; what two hosts say on their links is no one packet."""
    six = ":" in group
    sources = ("fd00::1", "2001:db8::9") if six else ("10.0.0.1", "203.0.113.9")
    files: dict[str, list[Record]] = {"near": [], "far": []}
    for number in range(20):
        for place, (point, source) in enumerate(zip(files, sources, strict=True)):
            sent = Header(source, group, 17, b"packet %02d" % number, sport=5353, dport=5353)
            sent = replace(sent, ip_id=0 if six else 40 + number)
            files[point].append(Record(START + number * MS + place * STEP, frame(sent)))
    paths = [{"name": "there", "points": ["near", "far"]}]
    analysis = analyzed(tmp_path, {point: file_of(records) for point, records in files.items()}, paths)
    assert fates(analysis)[("delivered", None)] == 20
    assert len(analysis.trajectories) == (20 if forwarded else 40)
