"""What is told of changes: each kind apart from others, with values before and behind, and none that there was not."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pktrace import schema
from pktrace.analysis.analysis import Analysis
from pktrace.analysis.tables import trajectories_table, transforms_table
from pktrace.report.explain import explain_packet
from pktrace.report.matching import print_matching
from pktrace.trajectories.outcome.changes import MOST_PAIRS
from tests.kit.links import sll
from tests.kit.packets import (
    ETHERTYPE_IPV4,
    Header,
    ethernet,
    frame,
    internet_checksum,
    ipv4,
    ipv6,
    tcp,
    udp,
    with_checksum,
)
from tests.kit.pcap_files import Interface, Record, Section, Statistics, pcapng_bytes
from tests.kit.tunnels import vxlan
from tests.test_named_cases import AB, END, MS, START, S, analyzed, file_of

Change = tuple[str, str | None, str | None, int]
A, B = "10.0.0.1", "10.0.0.2"
MACS = [bytes.fromhex(f"0200000000{number:02x}") for number in range(4)]


def told(folder: Path, before: Sequence[bytes], behind: Sequence[bytes], **of: int) -> tuple[list[Change], Analysis]:
    """(kind, from, to, packets) of packets that a numbered capture saw at two points, and the whole analysis."""
    interfaces = [Interface(name="a"), Interface(name="b", **of)]
    records = [
        Record(START + number * MS + at * 1000, data, interface=at, packet_id=number)
        for number, pair in enumerate(zip(before, behind, strict=True))
        for at, data in enumerate(pair)
    ]
    statistics = [
        Statistics(at, ts_ns=END, start_ns=START - S, end_ns=END, received=len(before), dropped=0) for at in (0, 1)
    ]
    (folder / "both.pcapng").write_bytes(pcapng_bytes(Section(interfaces, records, statistics)))
    point = {name: {"captures": ["both.pcapng"], "interface": name} for name in ("a", "b")}
    analysis = analyzed(folder, {"a": b"", "b": b""}, AB, point)
    assert {entry[:2] for entry in analysis.transforms.table} <= {(0, 0)}
    return [entry[2:] for entry in analysis.transforms.table], analysis


def syn(options: bytes, window: int = 64240, source: str = A) -> bytes:
    segment = tcp(source, B, 1000, 80, seq=7, flags=2, window=window, options=options)
    return ethernet(ipv4(source, B, 6, segment, ip_id=5), ETHERTYPE_IPV4)


MSS_1460, MSS_1360 = bytes.fromhex("020405b4"), bytes.fromhex("02040550")
TIMES, SACK, NO_OPERATION = bytes.fromhex("080a0000000100000002"), bytes.fromhex("0402"), b"\x01"


def test_what_did_not_change_is_not_told(tmp_path: Path) -> None:
    packets = [syn(MSS_1460 + SACK), frame(Header(A, B, 17, b"x" * 90, 1, 2, ip_id=9))]
    changes, analysis = told(tmp_path, packets, packets)
    assert changes == []
    assert len(analysis.transforms.trajectory) == 0


def test_mss_options_and_window_are_told_apart(tmp_path: Path) -> None:
    cases: list[tuple[bytes, bytes, Change]] = [
        (syn(MSS_1460 + SACK), syn(MSS_1360 + SACK), ("tcp-mss", "1460", "1360", 1)),
        (syn(MSS_1460 + SACK), syn(MSS_1460), ("tcp-options", None, None, 1)),
        (syn(MSS_1460), syn(SACK + NO_OPERATION * 2), ("tcp-options", None, None, 1)),
        (syn(TIMES), syn(TIMES[:-1] + b"\x03"), ("tcp-options", None, None, 1)),
        (syn(MSS_1460), syn(MSS_1460, window=100), ("tcp-window", None, None, 1)),
    ]
    for number, (before, behind, expected) in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        assert told(tmp_path / str(number), [before], [behind])[0] == [expected]


def test_padding_of_options_is_no_change(tmp_path: Path) -> None:
    padded, again = NO_OPERATION * 2 + TIMES, TIMES + NO_OPERATION * 2
    assert told(tmp_path, [syn(padded)], [syn(again)])[0] == []


def test_what_routers_rewrite_is_told_with_values(tmp_path: Path) -> None:
    header = Header(A, B, 17, b"payload", 1000, 2000, ip_id=5)
    datagram = udp(A, B, 1000, 2000, b"payload")
    marked = ipv4(A, B, 17, datagram, ip_id=5, ttl=63, dscp=46, ecn=3)
    plain = ipv4(A, B, 17, datagram, ip_id=5, ecn=2)
    before = ethernet(plain, ETHERTYPE_IPV4, source=MACS[0], destination=MACS[1])
    behind = ethernet(marked, ETHERTYPE_IPV4, source=MACS[2], destination=MACS[3])
    changes, analysis = told(tmp_path, [before, frame(header)], [behind, frame(header)])
    assert changes == [
        ("dscp", "0", "46", 1),
        ("ecn", "ECT(0)", "CE", 1),
        ("mac-destination", "02:00:00:00:00:01", "02:00:00:00:00:03", 1),
        ("mac-source", "02:00:00:00:00:00", "02:00:00:00:00:02", 1),
        ("ttl-1", "64", "63", 1),
    ]
    assert analysis.transforms.trajectory.tolist() == [0] * 5
    shown = [change for sighting in explain_packet(analysis, 0).sightings for change in sighting.changes]
    assert "ECN ECT(0) to CE" in shown
    assert "MAC source 02:00:00:00:00:00 to 02:00:00:00:00:02" in shown


def segment(**changes: int) -> bytes:
    fields = {"seq": 7, "ack": 8, "flags": 0x10, **changes}
    return ethernet(ipv4(A, B, 6, tcp(A, B, 1000, 80, b"data", **fields), ip_id=5), ETHERTYPE_IPV4)


def echo(identifier: int) -> bytes:
    return frame(Header(A, B, 1, b"data", icmp_id=identifier, icmp_seq=3, ip_id=5))


def in_vxlan(number: int) -> bytes:
    carried = vxlan(ethernet(ipv4(A, B, 17, udp(A, B, 1, 2, b"in"), ip_id=5), ETHERTYPE_IPV4), vni=number)
    return ethernet(ipv4("192.0.2.1", "192.0.2.2", 17, udp("192.0.2.1", "192.0.2.2", 50000, 4789, carried)), 0x0800)


SIX = Header("fd00::1", "fd00::2", 17, b"six", 1, 2)
DATAGRAM = Header(A, B, 17, b"x" * 20, 1, 2, ip_id=5)
OUTER = "192.0.2.1>192.0.2.2"


@pytest.mark.parametrize(
    ("before", "behind", "expected"),
    [
        (segment(), segment(seq=9), ("tcp-sequence", None, None, 1)),
        (segment(), segment(ack=9), ("tcp-acknowledgment", None, None, 1)),
        (segment(), segment(flags=0x18), ("tcp-flags", None, None, 1)),
        (echo(3), echo(4), ("icmp-id", None, None, 1)),
        (frame(SIX, ttl=64), frame(SIX, ttl=62), ("ttl-2", "64", "62", 1)),
        (frame(SIX, ttl=9), frame(SIX, ttl=64), ("ttl+55", "9", "64", 1)),
        (frame(DATAGRAM), frame(replace(DATAGRAM, ip_id=6)), ("ip-id", None, None, 1)),
        (frame(DATAGRAM), frame(replace(DATAGRAM, dport=3)), ("nat-destination-port", "2", "3", 1)),
        (frame(DATAGRAM), frame(replace(DATAGRAM, payload=b"y" * 20)), ("payload", None, None, 1)),
        (frame(DATAGRAM), frame(replace(DATAGRAM, payload=b"x" * 21)), ("payload", None, None, 1)),
        (frame(DATAGRAM), frame(DATAGRAM, vlans=(5,)), ("vlan-push", None, "5", 1)),
        (frame(DATAGRAM, vlans=(5,)), frame(DATAGRAM, vlans=(6,)), ("vlan-change", "5", "6", 1)),
        (frame(DATAGRAM, vlans=(5, 6)), frame(DATAGRAM), ("vlan-pop", "5", None, 1)),
        # 'Another outermost tag is a change of it': the outer one of two was taken off, or put on.
        (frame(DATAGRAM, vlans=(5, 6)), frame(DATAGRAM, vlans=(6,)), ("vlan-pop", "5", None, 1)),
        (frame(DATAGRAM, vlans=(6,)), frame(DATAGRAM, vlans=(5, 6)), ("vlan-push", None, "5", 1)),
        (in_vxlan(1), in_vxlan(2), ("tunnel-change", f"vxlan 1 {OUTER}", f"vxlan 2 {OUTER}", 1)),
    ],
)
def test_each_kind_alone(tmp_path: Path, before: bytes, behind: bytes, expected: Change) -> None:
    assert told(tmp_path, [before], [behind])[0] == [expected]


def test_ecn_of_ipv6(tmp_path: Path) -> None:
    datagram = udp("fd00::1", "fd00::2", 1, 2, b"six")
    packets = [ipv6("fd00::1", "fd00::2", 17, datagram) for _ in range(2)]
    packets[1] = bytes([0x60, 0x30]) + packets[1][2:]  # traffic class 3
    assert told(tmp_path, *[[ethernet(packet, 0x86DD)] for packet in packets])[0] == [("ecn", "Not-ECT", "CE", 1)]


def test_a_capture_without_the_destination_compares_the_source_only(tmp_path: Path) -> None:
    packet = ipv4(A, B, 17, udp(A, B, 1000, 2000, b"payload"), ip_id=5)
    for number, (mac, expected) in enumerate(((0xC0, []), (0xC1, [("mac-source", "02:00:00:00:00:01")]))):
        (tmp_path / str(number)).mkdir()
        cooked = bytearray(sll(packet))
        cooked[6:12] = MACS[0]
        records = [Record(START, ethernet(packet, ETHERTYPE_IPV4, source=MACS[mac & 1]))]
        analysis = analyzed(
            tmp_path / str(number),
            {"a": file_of(records), "b": file_of([Record(START + 1000, bytes(cooked))], linktype=113)},
        )
        assert [entry[2:4] for entry in analysis.transforms.table] == expected


def port_changed(count: int) -> tuple[list[bytes], list[bytes]]:
    sides = [
        [frame(Header(A, B, 17, b"%06d" % number, base + number, 53, ip_id=7)) for number in range(count)]
        for base in (1024, 20_000)
    ]
    return sides[0], sides[1]


@pytest.mark.parametrize("count", [MOST_PAIRS, MOST_PAIRS + 1])
def test_very_many_pairs_of_values_are_one_row(tmp_path: Path, count: int) -> None:
    changes, _ = told(tmp_path, *port_changed(count))
    if count > MOST_PAIRS:
        assert changes == [("nat-source-port", None, None, count)]
    else:
        assert len(changes) == count
        assert ("nat-source-port", "1024", "20000", 1) in changes
    assert sum(change[3] for change in changes) == count


def test_fragments_without_ports_have_not_lost_them(tmp_path: Path) -> None:
    """Their absence behind a stage was taken for a port of 0."""
    header = Header(A, B, 17, b"x" * 2992, 1000, 2000, ip_id=5)
    whole, parts = frame(header), [frame(header, fragment=(at, at + 1000)) for at in (0, 1000, 2000)]
    for number, first in enumerate((0, 1)):
        (tmp_path / str(number)).mkdir()
        behind = [Record(START + 1000 + at, part) for at, part in enumerate(parts)][first:]
        analysis = analyzed(tmp_path / str(number), {"a": file_of([Record(START, whole)]), "b": file_of(behind)})
        assert [entry[2:] for entry in analysis.transforms.table] == [("fragmentation", None, None, 1)]
        assert len(analysis.transforms.trajectory) == 1


def looks_partial(source: str) -> bytes:
    """A UDP datagram whose checksum is right, and happens to be the sum of its pseudo header."""
    for number in range(1 << 16):
        payload = b"%c%c" % (number >> 8, number & 0xFF)
        datagram = udp(source, B, 1000, 2000, payload)
        pseudo = bytes([10, 0, 0, int(source[-1]), 10, 0, 0, 2, 0, 17, 0, len(datagram)])
        if datagram[6:8] == (internet_checksum(pseudo) ^ 0xFFFF).to_bytes(2, "big"):
            return payload
    raise AssertionError("one of them is it")


def test_a_checksum_that_looks_partial_by_chance_was_not_completed(tmp_path: Path) -> None:
    payload = looks_partial(A)
    header = Header(A, B, 17, payload, 1000, 2000, ip_id=5)
    changes, analysis = told(tmp_path, [frame(header)], [frame(replace(header, source="10.0.0.9"))])
    assert analysis.ledger.total("partial_checksum") == 1
    assert changes == [("nat-source", A, "10.0.0.9", 1)]


def test_a_checksum_that_was_completed(tmp_path: Path) -> None:
    datagram = udp(A, B, 1000, 2000, b"payload")
    pseudo = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, 17, 0, len(datagram)])
    partial = with_checksum(datagram, 6, internet_checksum(pseudo) ^ 0xFFFF)
    sides = [ethernet(ipv4(A, B, 17, each, ip_id=5), ETHERTYPE_IPV4) for each in (partial, datagram)]
    assert told(tmp_path, sides[:1], sides[1:])[0] == [("checksum-completion", None, None, 1)]
    (tmp_path / "back").mkdir()
    assert told(tmp_path / "back", sides[1:], sides[:1])[0] == [("checksum-removal", None, None, 1)]


def test_different_snap_lengths_are_no_changed_payload(tmp_path: Path) -> None:
    """Payload hashes of numbered packets were compared over as many bytes as each capture had."""
    headers = [Header(A, B, 17, bytes(range(90)), 1000, 2000, ip_id=number) for number in range(3)]
    moved = [replace(header, source="10.0.0.9") for header in headers]
    changes, _ = told(tmp_path, [frame(one) for one in headers], [frame(one) for one in moved], snaplen=70)
    assert changes == [("nat-source", A, "10.0.0.9", 3)]


def test_a_change_that_a_point_missed_is_told_without_its_stage(tmp_path: Path) -> None:
    """It was told nowhere."""
    headers = [Header(A, B, 17, b"%03d" % number, 1000, 2000, ip_id=number + 1) for number in range(20)]
    times = [START + number * MS for number in range(20)]
    files = {
        "a": [Record(at, frame(one)) for at, one in zip(times, headers, strict=True)],
        "b": [Record(at + 1000, frame(one, ttl=63)) for at, one in zip(times[5:], headers[5:], strict=True)],
        "c": [Record(at + 2000, frame(one, ttl=63, dscp=46)) for at, one in zip(times, headers, strict=True)],
    }
    analysis = analyzed(
        tmp_path,
        {name: file_of(records) for name, records in files.items()},
        ({"name": "p", "points": ["a", "b", "c"]},),
    )
    assert analysis.transforms.table == (
        (0, 0, "ttl-1", "64", "63", 15), (0, 1, "dscp", "0", "46", 15),
        (0, None, "dscp", "0", "46", 5), (0, None, "ttl-1", "64", "63", 5),
    )  # fmt: skip
    kinds = trajectories_table(analysis)["transforms"].to_pylist()
    assert kinds == [["dscp", "ttl-1"]] * 5 + [["ttl-1", "dscp"]] * 15
    assert transforms_table(analysis)["stage"].to_pylist() == [0, 1, None, None]
    shown = io.StringIO()
    print_matching(analysis, shown)
    assert "(a point missed)" in shown.getvalue()


def test_changed_payload_of_tcp_is_no_split(tmp_path: Path) -> None:
    """What holds the same place in the sequence, and all of it, was listed as a part of a split packet."""
    sides = []
    for payload in (b"before--", b"behind--"):
        sides.append(
            [
                Record(
                    START + number * MS + len(sides) * 1000,
                    frame(Header(A, B, 6, payload, 1000, 80, ip_id=number, seq=8 * number)),
                )
                for number in range(10)
            ]
        )
    analysis = analyzed(tmp_path, {"a": file_of(sides[0]), "b": file_of(sides[1])})
    assert [entry[2:] for entry in analysis.transforms.table] == [("payload", None, None, 10)]
    assert len(analysis.trajectories.ranges) == 0
    assert set(np.unique(analysis.trajectories.basis).tolist()) == {4}  # modified


@pytest.mark.parametrize("at_once", [1, 3, 1 << 20])
def test_lists_of_kinds_are_what_a_loop_makes(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_AT_ONCE", at_once)
    names = ["ttl-1", "é", "nat-destination-port"]
    owner, codes = np.array([0, 0, 2, 2, 2, 4]), np.array([1, 0, 2, 1, 2, 0])
    expected = [[names[code] for code in codes[owner == row]] for row in range(6)]
    assert schema.word_lists(6, owner, codes, names).to_pylist() == expected
    nothing = np.zeros(0, np.int64)
    assert schema.word_lists(2, nothing, nothing, []).to_pylist() == [[], []]
