"""Packets of every network and transport protocol of docs/decoding.md, right ones and broken ones."""

from __future__ import annotations

import struct
from typing import Any

from tests.kit import links, packets, tunnels
from tests.kit.packets import ICMP, ICMPV6, TCP, UDP
from tests.kit.samples import (
    A4,
    A6,
    B4,
    B6,
    NOTHING,
    Sample,
    group,
    on_ethernet,
    plain_ethernet,
    ports_of,
    tcp6,
    udp4,
)


@group("network-ipv4")
def ipv4() -> list[Sample]:
    optional, known = udp4(options=bytes.fromhex("94040000"), ttl=3, dscp=46, ecn=1, dont_fragment=True)
    longest, _ = udp4(options=bytes([1]) * 40)
    packet, _ = udp4()
    superpacket = packet[:2] + bytes(2) + packet[4:]
    short_header, short_total = bytes([0x44]) + packet[1:], packet[:2] + b"\0\x13" + packet[4:]
    return [
        on_ethernet(optional, **known, ttl=3, dscp=46, fragment_offset=0, more_fragments=False),
        on_ethernet(longest, **known),
        on_ethernet(superpacket, **known),
        on_ethernet(short_header, **NOTHING),
        on_ethernet(short_total, **NOTHING),
        Sample(links.ethernet_head(0x0800) + bytes([0x55]) + packet[1:], {"source": None}),
        on_ethernet(packets.ipv4(A4, B4, 89, bytes(24), ip_id=3), protocol=89, sport=None, payload_length=24),
        on_ethernet(packets.ipv4(A4, B4, 255, b"", ip_id=3), protocol=255, payload_length=0),
    ]


@group("network-ipv6-extensions")
def ipv6_extensions() -> list[Sample]:
    datagram = packets.udp(A6, B6, 1000, 2000, b"payload")
    known = ports_of(A6, B6, UDP, 1000, 2000, payload_length=7)
    chain = packets.ipv6_extension(packets.ROUTING, bytes(20))
    chain += packets.ipv6_extension(packets.DESTINATION_OPTIONS, bytes(6))
    chain += packets.ipv6_extension(packets.FRAGMENT) + packets.ipv6_fragment(51, 0, False, 0x12345678)
    chain += tunnels.authentication(135, b"")
    chain += packets.ipv6_extension(139) + packets.ipv6_extension(140) + packets.ipv6_extension(UDP)
    single = [
        on_ethernet(packets.ipv6(A6, B6, number, packets.ipv6_extension(UDP) + datagram), **known)
        for number in (0, 43, 60, 135, 139, 140)
    ]
    sixteen = packets.ipv6_extension(60) * 15 + packets.ipv6_extension(UDP)
    alone = [
        on_ethernet(packets.ipv6(A6, B6, number, packets.ipv6_extension(59)), protocol=number)
        for number in (135, 139, 140)
    ]
    return [
        on_ethernet(packets.ipv6(A6, B6, packets.HOP_BY_HOP, chain + datagram), **known, ip_id=0x12345678),
        *single,
        on_ethernet(packets.ipv6(A6, B6, 51, tunnels.authentication(UDP, datagram)), **known),
        on_ethernet(packets.ipv6(A6, B6, 60, sixteen + datagram), **known),
        *alone,
        on_ethernet(packets.ipv6(A6, B6, 59, b"", dscp=10), protocol=59, dscp=10, payload_length=0),
        on_ethernet(packets.ipv6(A6, B6, 0, packets.ipv6_extension(59)), protocol=59),
    ]


@group("network-ipv6")
def ipv6() -> list[Sample]:
    packet, known = tcp6()
    superpacket = packet[:4] + bytes(2) + packet[6:]
    jumbo = bytes([UDP, 0, 0xC2, 4]) + struct.pack("!I", 8 + 15)
    datagram = packets.udp(A6, B6, 1000, 2000, b"payload")
    jumbogram = packets.ipv6(A6, B6, 0, jumbo + datagram)
    jumbogram = jumbogram[:4] + bytes(2) + jumbogram[6:]
    return [
        on_ethernet(packet, **known, ttl=9, ip_id=None, fragment_offset=None, more_fragments=None),
        on_ethernet(superpacket, **known),
        on_ethernet(jumbogram, **ports_of(A6, B6, UDP, 1000, 2000, payload_length=7)),
        Sample(plain_ethernet(packets.ipv6(A6, B6, 59, b"")) + bytes(6), {"protocol": 59, "payload_length": 0}),
        Sample(links.ethernet_head(0x86DD) + bytes([0x40]) + packet[1:], {"source": None}),
    ]


@group("network-fragments")
def fragments() -> list[Sample]:
    header4 = packets.Header(A4, B4, UDP, b"f" * 92, 1, 2, 5)
    header6 = packets.Header(A6, B6, UDP, b"f" * 92, 1, 2, 70000)
    cuts = ((0, 48), (48, 96), (96, 100))
    whole = [Sample(packets.frame(header6, fragment=(0, 100)), {"ip_id": 70000, "sport": 1, "more_fragments": False})]
    return whole + [
        Sample(
            packets.frame(header, fragment=(first, end)),
            {
                "ip_id": header.ip_id,
                "fragment_offset": first,
                "more_fragments": end < 100,
                "protocol": UDP,
                "sport": None if first else 1,
                "payload_length": end - first - (0 if first else 8),
            },
        )
        for header in (header4, header6)
        for first, end in cuts
    ]


# --- transport ----------------------------------------------------------------------------------------------


def carried4(protocol: int, segment: bytes, **known: Any) -> Sample:
    return on_ethernet(packets.ipv4(A4, B4, protocol, segment, ip_id=1), protocol=protocol, **known)


def carried6(protocol: int, segment: bytes, **known: Any) -> Sample:
    return on_ethernet(packets.ipv6(A6, B6, protocol, segment), protocol=protocol, **known)


@group("transport-tcp")
def tcp() -> list[Sample]:
    syn_options = bytes.fromhex("020405b4 0402 080a0000000100000000 01 030307")
    syn = packets.tcp(A4, B4, 5, 6, seq=2**32 - 1, flags=2, options=syn_options)
    sack_options = bytes.fromhex("0101 080a0000000a00000014 0101 050a0000006400000078")
    sack = packets.tcp(A6, B6, 5, 6, b"abc", seq=7, ack=90, flags=0x1FF, options=sack_options)
    broken = packets.tcp(A4, B4, 5, 6, b"x" * 12, flags=0x10)
    broken = broken[:12] + bytes([0x40]) + broken[13:]
    too_long = packets.tcp(A4, B4, 5, 6, b"x", options=bytes(40))
    no_end = packets.tcp(A4, B4, 5, 6, b"x", options=bytes.fromhex("01 02 01 08 ff 00 05 00"))
    fields = {"tcp_mss": 1460, "tcp_window_scale": 7, "tcp_sack_permitted": True, "tcp_tsval": 1, "tcp_tsecr": 0}
    return [
        carried4(TCP, syn, tcp_seq=2**32 - 1, tcp_ack=0, tcp_flags=2, payload_length=0, **fields),
        carried6(
            *(TCP, sack), tcp_seq=7, tcp_ack=90, tcp_flags=0x1FF, payload_length=3,
            tcp_sack_left=100, tcp_sack_right=120, tcp_tsval=10, tcp_tsecr=20,
        ),
        carried4(TCP, broken, sport=5, dport=6, tcp_flags=0x10, payload_length=12),
        carried4(TCP, too_long[:30], sport=5, payload_length=None),
        carried4(TCP, no_end, sport=5, payload_length=1),
        carried4(TCP, packets.tcp(A4, B4, 5, 6)[:13], sport=5, tcp_seq=None, tcp_flags=None),
        carried4(TCP, packets.tcp(A4, B4, 5, 6)[:14], sport=5, tcp_seq=0, tcp_flags=0x18),
        carried4(TCP, b"\0\x05\0", sport=None),
    ]  # fmt: skip


@group("transport-datagrams")
def datagrams() -> list[Sample]:
    """UDP, UDP-Lite, SCTP; the second UDP header says a length that IP contradicts, and IP is believed."""
    datagram = packets.udp(A4, B4, 53, 54, b"payload")
    lite, sctp = tunnels.udp_lite(55, 56, b"payload"), tunnels.sctp(57, 58, 0xDEADBEEF)
    return [
        carried4(UDP, datagram, sport=53, dport=54, payload_length=7),
        carried4(UDP, datagram[:4] + b"\xff\xff" + datagram[6:], sport=53, payload_length=7),
        carried4(UDP, datagram[:3], sport=None),
        carried4(tunnels.UDP_LITE, lite, sport=55, dport=56, payload_length=7),
        carried6(tunnels.UDP_LITE, lite, sport=55, dport=56, payload_length=7),
        carried4(tunnels.SCTP, sctp, sport=57, dport=58, payload_length=20, sctp_tag=0xDEADBEEF),
        carried6(tunnels.SCTP, sctp, sport=57, dport=58, payload_length=20, sctp_tag=0xDEADBEEF),
    ]


@group("transport-icmp")
def icmp() -> list[Sample]:
    with_ids = [
        carried4(ICMP, packets.icmp(kind, 0, 77, 5, bytes(12)), icmp_type=kind, icmp_code=0, icmp_id=77, icmp_seq=5)
        for kind in (0, 8, 13, 14, 15, 16, 17, 18)
    ]
    without = [carried4(ICMP, packets.icmp(kind, 1, 77, 5, bytes(4)), icmp_type=kind, icmp_id=None) for kind in (9, 40)]
    quoted = packets.ipv4("10.0.0.2", "10.0.0.9", UDP, packets.udp(B4, "10.0.0.9", 3, 4, b""), ip_id=99)
    fields = {"quoted_source": "10.0.0.2", "quoted_destination": "10.0.0.9", "quoted_protocol": UDP}
    fields |= {"quoted_ip_id": 99, "quoted_sport": 3, "quoted_dport": 4}
    errors = [
        carried4(ICMP, packets.icmp(kind, 1, 0, 0, quoted), icmp_type=kind, icmp_code=1, icmp_id=None, **fields)
        for kind in (3, 4, 5, 11, 12)
    ]
    return with_ids + without + errors


@group("transport-icmpv6")
def icmpv6() -> list[Sample]:
    echoes = [
        carried6(ICMPV6, packets.icmpv6(A6, B6, kind, 0, 77, 5, b"ping"), icmp_type=kind, icmp_id=77, icmp_seq=5)
        for kind in (128, 129)
    ]
    quoted = packets.ipv6(B6, A6, TCP, packets.tcp(B6, A6, 3, 4))
    fields = {"quoted_source": B6, "quoted_destination": A6, "quoted_protocol": TCP, "quoted_sport": 3}
    errors = [
        carried6(ICMPV6, packets.icmpv6(A6, B6, kind, 0, 0, 0, quoted), icmp_type=kind, icmp_id=None, **fields)
        for kind in (1, 2, 3, 4)
    ]
    return [*echoes, *errors, carried6(ICMPV6, packets.icmpv6(A6, B6, 135, 0, 0, 0, bytes(16)), icmp_type=135)]


@group("transport-ipsec")
def ipsec() -> list[Sample]:
    datagram = packets.udp(A4, B4, 53, 54, b"payload")
    protected = tunnels.authentication(UDP, datagram)
    protected6 = tunnels.authentication(UDP, packets.udp(A6, B6, 53, 54, b"payload"))
    return [
        carried4(tunnels.AH, protected, sport=53, dport=54, payload_length=7, spi=0x1001, sequence=9),
        on_ethernet(packets.ipv6(A6, B6, 51, protected6), protocol=UDP, sport=53, spi=0x1001, sequence=9),
        carried4(tunnels.ESP, tunnels.esp(0x2002, 10), sport=None, payload_length=56, spi=0x2002, sequence=10),
        carried6(tunnels.ESP, tunnels.esp(0x2002, 10), sport=None, payload_length=56, spi=0x2002, sequence=10),
    ]


@group("transport-others")
def others() -> list[Sample]:
    report = tunnels.igmp(0x16, "224.0.1.1")
    return [
        carried4(tunnels.IGMP, report, sport=None, payload_length=8, igmp_type=0x16, igmp_group="224.0.1.1"),
        carried4(tunnels.GRE, tunnels.gre(0x0806, bytes(28)), tunnel=None, sport=None, payload_length=32),
        carried6(103, bytes(12), sport=None, payload_length=12),
    ]


@group("transport-partial-checksum")
def partial_checksum() -> list[Sample]:
    """The pseudo header's sum alone, as a sender writes it whose interface completes it (ledger)."""

    def partial(source: str, destination: str, protocol: int, segment: bytes) -> bytes:
        empty = struct.pack("!H", len(segment))
        total = packets.address_bytes(source) + packets.address_bytes(destination) + bytes([0, protocol]) + empty
        return packets.with_checksum(segment, packets.CHECKSUM_AT[protocol], ~packets.internet_checksum(total) & 0xFFFF)

    datagram, segment = packets.udp(A4, B4, 1, 2, b"payload"), packets.tcp(A6, B6, 1, 2, b"payload")
    return [
        carried4(UDP, partial(A4, B4, UDP, datagram), sport=1),
        carried6(TCP, partial(A6, B6, TCP, segment), sport=1),
        carried4(UDP, packets.with_checksum(datagram, 6, 0), sport=1),
        carried4(UDP, datagram, sport=1),
    ]
