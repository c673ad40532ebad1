"""The reference decoder: hand-made frames, every possible cut, and tshark as the independent witness."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kit import packets, pcap_files
from tests.kit.packets import ICMP, ICMPV6, TCP, UDP, Header
from tests.reference.capture import read_capture
from tests.reference.decode import PACKET_FIELDS, decode

A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"


def header_frames() -> dict[str, bytes]:
    """Frames of every kind the decoder knows."""
    udp6 = packets.udp(A6, B6, 1, 2, b"x" * 40)
    extended = packets.ipv6_extension(packets.DESTINATION_OPTIONS) + packets.ipv6_extension(packets.UDP, bytes(9))
    option_tcp = packets.tcp(A4, B4, 5, 6, b"abc", seq=2**32 - 1, ack=7, flags=0x1FF, options=b"\x02\x04\x05\xb4\x01")
    return {
        "tcp4": packets.frame(Header(A4, B4, TCP, b"hello", 1000, 2000, 7, seq=99, ack=3, flags=0x12), ttl=3, dscp=46),
        "tcp-options": packets.ethernet(packets.ipv4(A4, B4, TCP, option_tcp, options=bytes(4)), 0x0800),
        "udp4-padded": packets.ethernet(packets.ipv4(A4, B4, UDP, packets.udp(A4, B4, 9, 8, b"z")), 0x0800, minimum=60),
        "udp4-vlan": packets.frame(Header(A4, B4, UDP, b"data", 53, 53), vlans=(100,)),
        "udp4-two-vlans": packets.frame(Header(A4, B4, UDP, b"data", 53, 53), vlans=(4095, 7)),
        "echo4": packets.frame(Header(A4, B4, ICMP, b"ping", icmp_type=8, icmp_id=77, icmp_seq=5)),
        "unreachable4": packets.frame(Header(A4, B4, ICMP, b"p" * 28, icmp_type=3, icmp_code=3)),
        "gre4": packets.frame(Header(A4, B4, 47, b"whatever")),
        "first-fragment4": packets.frame(Header(A4, B4, UDP, b"f" * 100, 1, 2, 5), fragment=(0, 48)),
        "later-fragment4": packets.frame(Header(A4, B4, UDP, b"f" * 100, 1, 2, 5), fragment=(48, 108)),
        "tcp6": packets.frame(Header(A6, B6, TCP, b"hello", 1000, 2000, seq=5), ttl=9, dscp=10),
        "echo6": packets.frame(Header(A6, B6, ICMPV6, b"ping", icmp_type=128, icmp_id=7, icmp_seq=6)),
        "neighbour6": packets.frame(Header(A6, B6, ICMPV6, bytes(16), icmp_type=135)),
        "udp6-extensions": packets.ethernet(packets.ipv6(A6, B6, packets.HOP_BY_HOP, extended + udp6), 0x86DD),
        "first-fragment6": packets.frame(Header(A6, B6, UDP, b"f" * 100, 1, 2, 70000), fragment=(0, 48)),
        "later-fragment6": packets.frame(Header(A6, B6, UDP, b"f" * 100, 1, 2, 70000), fragment=(48, 108)),
        "no-next-header6": packets.ethernet(packets.ipv6(A6, B6, 59, b""), 0x86DD),
        "arp": packets.arp_request(),
        "arp-vlan": packets.arp_request(vlans=(3,)),
    }


def known(**fields: Any) -> dict[str, Any]:
    return dict.fromkeys(PACKET_FIELDS) | fields


def fields_of(data: bytes) -> dict[str, Any]:
    return {name: value for name, value in decode(data, len(data)).items() if name in PACKET_FIELDS}


def test_tcp4() -> None:
    assert fields_of(header_frames()["tcp4"]) == known(
        ip_version=4, protocol=6, source=A4, destination=B4, sport=1000, dport=2000, ip_id=7, ttl=3, dscp=46,
        fragment_offset=0, more_fragments=False, tcp_seq=99, tcp_ack=3, tcp_flags=0x12, payload_length=5,
    )  # fmt: skip


def test_echo6() -> None:
    assert fields_of(header_frames()["echo6"]) == known(
        ip_version=6, protocol=58, source=A6, destination=B6, ttl=64, dscp=0,
        icmp_type=128, icmp_code=0, icmp_id=7, icmp_seq=6, payload_length=4,
    )  # fmt: skip


def test_fragments() -> None:
    frames = header_frames()
    for version, identification in (("4", 5), ("6", 70000)):
        first, later = (
            fields_of(frames["first-fragment" + version]),
            fields_of(frames["later-fragment" + version]),
        )
        assert (first["sport"], first["dport"], first["payload_length"]) == (1, 2, 40)
        assert (later["sport"], later["dport"], later["payload_length"]) == (None, None, 60)
        assert (first["fragment_offset"], later["fragment_offset"]) == (0, 48)
        assert (first["more_fragments"], later["more_fragments"]) == (True, False)
        assert first["ip_id"] == later["ip_id"] == identification
        assert first["protocol"] == later["protocol"] == UDP


def test_not_ip_and_tags() -> None:
    frames = header_frames()
    assert fields_of(frames["arp"]) == known()
    assert fields_of(frames["arp-vlan"]) == known(vlan=3)
    assert fields_of(frames["udp4-two-vlans"])["vlan"] == 4095
    assert fields_of(frames["udp4-padded"])["payload_length"] == 1
    assert fields_of(frames["unreachable4"])["icmp_id"] is None


@pytest.mark.parametrize("name", header_frames())
def test_every_cut(name: str) -> None:
    """A shorter capture never changes a field, it only loses it."""
    data = header_frames()[name]
    whole = fields_of(data)
    for end in range(len(data)):
        cut = decode(data[:end], len(data))
        for field, value in whole.items():
            # What stands behind cut extension headers is not known: the number of the header seen last is all
            # there is.
            if field in ("protocol", "payload_length") and "6" in name:
                continue
            assert cut[field] in (value, None), (end, field)


def test_every_byte_may_be_anything() -> None:
    """No frame, however broken, raises anything."""
    for data in header_frames().values():
        for at in range(12, min(len(data), 70)):
            for value in (0, 1, 0x0F, 0x44, 0x60, 0x80, 0xFF):
                decode(data[:at] + bytes([value]) + data[at + 1 :], len(data))


TSHARK = {
    "ip_version": ("ip.version", "ipv6.version"),
    "source": ("ip.src", "ipv6.src"),
    "destination": ("ip.dst", "ipv6.dst"),
    "sport": ("tcp.srcport", "udp.srcport"),
    "dport": ("tcp.dstport", "udp.dstport"),
    "ip_id": ("ip.id", "ipv6.fraghdr.ident"),
    "ttl": ("ip.ttl", "ipv6.hlim"),
    "dscp": ("ip.dsfield.dscp", "ipv6.tclass.dscp"),
    "tcp_seq": ("tcp.seq_raw",),
    "tcp_ack": ("tcp.ack_raw",),
    "tcp_flags": ("tcp.flags",),
    "icmp_type": ("icmp.type", "icmpv6.type"),
    "icmp_code": ("icmp.code", "icmpv6.code"),
    "icmp_id": ("icmp.ident", "icmpv6.echo.identifier"),
    "icmp_seq": ("icmp.seq", "icmpv6.echo.sequence_number"),
    "vlan": ("vlan.id",),
}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_against_tshark(tmp_path: Path) -> None:
    """Frame numbers, times to the nanosecond and fields, as tshark has them."""
    frames = list(header_frames().values())
    records = [pcap_files.Record(1_795_410_000_123_456_789 + 1_000_000_007 * n, data) for n, data in enumerate(frames)]
    file = tmp_path / "all.pcapng"
    file.write_bytes(pcap_files.pcapng_bytes(pcap_files.Section([pcap_files.Interface("x")], records)))
    names = [name for alternatives in TSHARK.values() for name in alternatives]
    command = [
        "tshark",
        "-n",
        "-r",
        str(file),
        "-o",
        "ip.defragment:FALSE",
        "-o",
        "ipv6.defragment:FALSE",
        "-T",
        "fields",
    ]
    command += ["-E", "occurrence=f", "-e", "frame.number", "-e", "frame.time_epoch"]
    for name in names:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    packets_read = read_capture(file.read_bytes()).packets
    lines = done.stdout.splitlines()
    assert len(lines) == len(packets_read) == len(frames)
    for line, packet in zip(lines, packets_read, strict=True):
        number, epoch, *values = line.split("\t")
        by_name = dict(zip(names, values, strict=True))
        assert int(number) == packet.frame
        assert int(epoch.replace(".", "")) == packet.ts_ns
        assert packet.data == frames[packet.frame - 1]
        mine = decode(packet.data, packet.length)
        for field, alternatives in TSHARK.items():
            if field in ("icmp_id", "icmp_seq") and mine["icmp_type"] not in (8, 128):
                continue
            said: Any = next((by_name[name] for name in alternatives if by_name[name]), None)
            if said is not None and field not in ("source", "destination"):
                said = int(said, 0)
            assert mine[field] == said, (packet.frame, field)


def test_simple_packets_many_sections_and_foreign_blocks() -> None:
    """Blocks that hold no packet are passed over; a section has its own byte order and interfaces."""
    data = packets.arp_request()
    one = pcap_files.Section(
        [
            pcap_files.Interface("a", tsresol=None),
            pcap_files.Interface("b", tsresol=0x80 | 10, filter="icmp"),
        ],
        [
            pcap_files.Record(5_000_000_999, data),
            pcap_files.Record(7_500_000_000, data[:30], len(data), 1, 2),
        ],
        [pcap_files.Statistics(1, 0, 1_000_000_000, 2_000_000_000, 9, 4, 3)],
        extra_blocks=[
            pcap_files.custom_block(b"anything"),
            pcap_files.custom_block(b"x", copyable=False),
            pcap_files.name_resolution_block([(bytes([10, 0, 0, 1]), "host"), (bytes(16), "other")]),
        ],
    )
    two = pcap_files.Section([pcap_files.Interface(snaplen=20)], [pcap_files.Record(0, data)], order=">", simple=True)
    capture = read_capture(pcap_files.pcapng_bytes(one, two))
    # Wireshark numbers custom blocks, too.
    assert [p.frame for p in capture.packets] == [3, 4, 5]
    assert [p.ts_ns for p in capture.packets] == [5_000_000_000, 7_500_000_000, None]
    assert [len(p.data) for p in capture.packets] == [len(data), 30, 20]
    assert [p.length for p in capture.packets] == [len(data)] * 3
    assert capture.packets[1].direction == "out"
    b = capture.interfaces[1]
    assert (b.name, b.start_ns, b.end_ns, b.dropped, b.resolution_ns) == (
        "b",
        1_000_000_000,
        2_000_000_000,
        7,
        976563,
    )


def test_offsets_lead_to_the_bytes() -> None:
    frames = list(header_frames().values())
    records = [pcap_files.Record(n, data) for n, data in enumerate(frames)]
    for data in (
        pcap_files.pcap_bytes(records),
        pcap_files.pcapng_bytes(pcap_files.Section(records=records)),
    ):
        for packet in read_capture(data).packets:
            assert data[packet.byte_offset :].startswith(frames[packet.frame - 1])


def test_cut_files() -> None:
    """Used up to the cut, at every possible cut; complete only where a record ends."""
    records = [pcap_files.Record(n, packets.arp_request()) for n in range(3)]
    for data in (
        pcap_files.pcap_bytes(records),
        pcap_files.pcapng_bytes(pcap_files.Section(records=records)),
    ):
        seen = {
            (len(capture.packets), capture.cut)
            for capture in (read_capture(data[:end]) for end in range(24, len(data) + 1))
        }
        assert {count for count, _ in seen} == {0, 1, 2, 3}
        assert (3, False) in seen
        assert (3, True) not in seen
    with pytest.raises(ValueError, match="neither"):
        read_capture(struct.pack("<I", 7))
