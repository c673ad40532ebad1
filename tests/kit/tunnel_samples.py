"""Packets in every tunnel of docs/decoding.md, nested, cut short, in fragments, and tunnels that are none."""

from __future__ import annotations

import struct
from typing import Any

from tests.kit import links, packets, tunnels
from tests.kit.packets import UDP
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

C4, D4, C6, D6 = "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"
BETWEEN4, BETWEEN6 = f"{C4}>{D4}", f"{C6}>{D6}"


def over4(protocol: int, payload: bytes, **more: Any) -> bytes:
    """An outer IPv4 packet."""
    return packets.ipv4(C4, D4, protocol, payload, ip_id=77, **more)


def over6(protocol: int, payload: bytes) -> bytes:
    """An outer IPv6 packet."""
    return packets.ipv6(C6, D6, protocol, payload)


def over_udp4(port: int, payload: bytes) -> bytes:
    return over4(UDP, packets.udp(C4, D4, 49152, port, payload))


def over_udp6(port: int, payload: bytes) -> bytes:
    return over6(UDP, packets.udp(C6, D6, 49152, port, payload))


def outer_only(packet: bytes, port: int) -> Sample:
    """A packet that looks like a tunnel and is none: the row describes the outer packet."""
    return on_ethernet(packet, **ports_of(C4, D4, UDP, 49152, port, tunnel=None))


@group("tunnel-ip-in-ip")
def ip_in_ip() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    extended = packets.ipv6(C6, D6, 60, packets.ipv6_extension(41) + packet6)
    return [
        on_ethernet(over4(4, packet4), **known4, tunnel=f"ipip {BETWEEN4}"),
        on_ethernet(over6(4, packet4), **known4, tunnel=f"ipip {BETWEEN6}"),
        on_ethernet(over4(41, packet6), **known6, tunnel=f"6in4 {BETWEEN4}"),
        on_ethernet(over6(41, packet6), **known6, tunnel=f"6in6 {BETWEEN6}"),
        on_ethernet(extended, **known6, tunnel=f"6in6 {BETWEEN6}"),
        on_ethernet(over4(4, packet6), **known6, tunnel=f"ipip {BETWEEN4}"),
        on_ethernet(over4(41, packet4), source=C4, protocol=41, tunnel=None),
        on_ethernet(over4(4, packet4[:2] + b"\0\x13" + packet4[4:]), source=C4, protocol=4, tunnel=None),
        on_ethernet(over4(4, b"\x44" + packet4[1:]), source=C4, protocol=4, tunnel=None),
        on_ethernet(over4(4, packet4[:19]), source=C4, protocol=4, tunnel=None, payload_length=19),
        on_ethernet(over4(41, packet6[:39]), source=C4, protocol=41, tunnel=None, payload_length=39),
    ]


@group("tunnel-gre")
def gre() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    plain, keyed = f"gre {BETWEEN4}", f"gre 4026531841 {BETWEEN4}"
    frame, zero = plain_ethernet(packet6), f"gre 0 {BETWEEN4}"
    return [
        on_ethernet(over4(47, tunnels.gre(0x0800, packet4)), **known4, tunnel=plain),
        on_ethernet(over6(47, tunnels.gre(0x86DD, packet6)), **known6, tunnel=f"gre {BETWEEN6}"),
        on_ethernet(over4(47, tunnels.gre(0x0800, packet4, key=0xF0000001)), **known4, tunnel=keyed),
        on_ethernet(over4(47, tunnels.gre(0x0800, packet4, sequence=5)), **known4, tunnel=plain),
        on_ethernet(over4(47, tunnels.gre(0x0800, packet4, key=0, checksum=True)), **known4, tunnel=zero),
        on_ethernet(
            over4(47, tunnels.gre(0x6558, frame, key=0xF0000001, sequence=1, checksum=True)), **known6, tunnel=keyed
        ),
        on_ethernet(over4(47, tunnels.gre(0x8847, links.mpls((100, 200), packet4))), **known4, tunnel=plain),
        on_ethernet(over4(47, tunnels.gre(0x894F, tunnels.nsh(packet4, 7, 1))), **known4, tunnel=f"{plain} / nsh 7"),
        on_ethernet(over4(47, tunnels.gre(0x88BE, bytes(8) + frame)), source=C4, protocol=47, tunnel=None),
        on_ethernet(over4(47, b"\0\2\x08\0" + packet4), source=C4, protocol=47, tunnel=None),
    ]


@group("tunnel-mirrors")
def mirrors() -> list[Sample]:
    """Frames that a switch mirrors: ERSPAN types I, II and III, and TZSP."""
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    frame4, frame6, session = plain_ethernet(packet4), plain_ethernet(packet6), f"erspan 100 {BETWEEN4}"

    def by_udp(inside: bytes) -> bytes:
        return over_udp4(37008, inside)

    return [
        on_ethernet(over4(47, tunnels.erspan(frame4, 0, 1)), **known4, tunnel=f"erspan {BETWEEN4}"),
        on_ethernet(over4(47, tunnels.erspan(frame6, 100, 2)), **known6, tunnel=session),
        on_ethernet(over4(47, tunnels.erspan(frame4 + bytes(4), 100, 2)), **known4, tunnel=session),
        on_ethernet(over4(47, tunnels.erspan(frame4, 100, 3)), **known4, tunnel=session),
        on_ethernet(over4(47, tunnels.erspan(frame6, 100, 3, more=True)), **known6, tunnel=session),
        on_ethernet(over4(47, tunnels.erspan(packet4, 100, 3, frame_type=2)), **known4, tunnel=session),
        on_ethernet(over4(47, tunnels.erspan(frame4, 100, 3, frame_type=1)), source=C4, protocol=47, tunnel=None),
        on_ethernet(by_udp(tunnels.tzsp(frame4)), **known4, tunnel=f"tzsp {BETWEEN4}"),
        on_ethernet(
            by_udp(tunnels.tzsp(frame6, tags=b"\x0a\x01\xd8\0\x12\x01\x06")), **known6, tunnel=f"tzsp {BETWEEN4}"
        ),
        on_ethernet(by_udp(tunnels.tzsp(frame4, protocol=18)), source=C4, protocol=17, tunnel=None),
    ]


@group("tunnel-gre-pptp")
def pptp() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    text = f"gre 513 {BETWEEN4}"
    wraps = [
        tunnels.pptp(links.ppp(packet4), 513),
        tunnels.pptp(links.ppp(packet4, address=False), 513, acknowledgment=8),
        tunnels.pptp(links.ppp(packet4, address=False, compressed=True), 513),
    ]
    return [
        *(on_ethernet(over4(47, wrap), **known4, tunnel=text) for wrap in wraps),
        on_ethernet(over4(47, tunnels.pptp(links.ppp(packet6), 513)), **known6, tunnel=text),
        on_ethernet(over4(47, tunnels.pptp(b"", 513, sequence=None, acknowledgment=3)), source=C4, tunnel=None),
        on_ethernet(over4(47, tunnels.pptp(links.ppp(packet4, protocol=0xC021), 513)), source=C4, tunnel=None),
    ]


@group("tunnel-vxlan")
def vxlan() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    tagged = links.ethernet_head(0x0800, links.tag(33)) + packet4
    arp, port = packets.arp_request(), tunnels.VXLAN_PORT
    linux = over_udp6(tunnels.VXLAN_LINUX_PORT, tunnels.vxlan(plain_ethernet(packet6), 0xFFFFFF))
    reply = packets.udp(C4, D4, port, 49152, tunnels.vxlan(plain_ethernet(packet4), 42))
    return [
        on_ethernet(
            over_udp4(port, tunnels.vxlan(plain_ethernet(packet4), 42)), **known4, tunnel=f"vxlan 42 {BETWEEN4}"
        ),
        on_ethernet(linux, **known6, tunnel=f"vxlan 16777215 {BETWEEN6}"),
        on_ethernet(over_udp4(port, tunnels.vxlan(tagged, 42)), **known4, tunnel=f"vxlan 42 {BETWEEN4}"),
        outer_only(over_udp4(port, tunnels.vxlan(plain_ethernet(packet4), 42, flags=0)), port),
        outer_only(over_udp4(port, tunnels.vxlan(arp, 42)), port),
        outer_only(over_udp4(port, b"\x08"), port),
        on_ethernet(over4(UDP, reply), source=C4, sport=port, tunnel=None),
    ]


@group("tunnel-vxlan-gpe")
def vxlan_gpe() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    port, text = tunnels.VXLAN_GPE_PORT, f"vxlan-gpe 42 {BETWEEN4}"
    frame, labelled = plain_ethernet(packet4), links.mpls((5,), packet4)
    chained = tunnels.vxlan_gpe(tunnels.nsh(plain_ethernet(packet6), 7, 3, metadata=b""), 42, tunnels.NEXT_NSH)
    return [
        on_ethernet(over_udp4(port, tunnels.vxlan_gpe(packet4, 42, 1)), **known4, tunnel=text),
        on_ethernet(over_udp4(port, tunnels.vxlan_gpe(packet6, 42, 2)), **known6, tunnel=text),
        on_ethernet(over_udp4(port, tunnels.vxlan_gpe(frame, 42, 3)), **known4, tunnel=text),
        on_ethernet(over_udp4(port, tunnels.vxlan_gpe(labelled, 42, 5)), **known4, tunnel=text),
        on_ethernet(over_udp4(port, chained), **known6, tunnel=f"{text} / nsh 7"),
        outer_only(over_udp4(port, tunnels.vxlan_gpe(packet4, 42, 1, flags=0x08)), port),
        outer_only(over_udp4(port, tunnels.vxlan_gpe(packet4, 42, 99)), port),
    ]


@group("tunnel-geneve")
def geneve() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    port, text = tunnels.GENEVE_PORT, f"geneve 42 {BETWEEN4}"
    options = bytes.fromhex("010203010a0b0c0d") + bytes.fromhex("01020300")
    optional = tunnels.geneve(0x6558, plain_ethernet(packet6), 42, options=options)
    return [
        on_ethernet(over_udp4(port, tunnels.geneve(0x6558, plain_ethernet(packet4), 42)), **known4, tunnel=text),
        on_ethernet(over_udp4(port, optional), **known6, tunnel=text),
        on_ethernet(over_udp4(port, tunnels.geneve(0x0800, packet4, 42)), **known4, tunnel=text),
        on_ethernet(over_udp6(port, tunnels.geneve(0x86DD, packet6, 42)), **known6, tunnel=f"geneve 42 {BETWEEN6}"),
        outer_only(over_udp4(port, tunnels.geneve(0x0800, packet4, 42, geneve_version=1)), port),
        outer_only(over_udp4(port, tunnels.geneve(0x0806, bytes(28), 42)), port),
    ]


@group("tunnel-gtp-u")
def gtp_u() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    port, text = tunnels.GTP_U_PORT, f"gtp-u 3735928559 {BETWEEN4}"
    teid = 0xDEADBEEF
    session = ((0x85, b"\x00\x09"), (0x20, bytes(6)))
    return [
        on_ethernet(over_udp4(port, tunnels.gtp_u(packet4, teid)), **known4, tunnel=text),
        on_ethernet(over_udp4(port, tunnels.gtp_u(packet6, teid)), **known6, tunnel=text),
        on_ethernet(over_udp4(port, tunnels.gtp_u(packet4, teid, sequence=True)), **known4, tunnel=text),
        on_ethernet(over_udp4(port, tunnels.gtp_u(packet4, teid, extensions=session)), **known4, tunnel=text),
        on_ethernet(over_udp6(port, tunnels.gtp_u(packet4, 1)), **known4, tunnel=f"gtp-u 1 {BETWEEN6}"),
        outer_only(over_udp4(port, tunnels.gtp_u(bytes(8), 0, kind=1)), port),
        outer_only(over_udp4(port, tunnels.gtp_u(packet4, teid, extensions=((0x85, b"\x00\x09"),))[:18]), port),
        outer_only(over_udp4(port, b"\x34\xff\0\x30\0\0\0\1\0\0\0\x85\0\0\0\0" + packet4), port),
    ]


@group("tunnel-nsh")
def nsh() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()

    def framed(inside: bytes) -> bytes:
        return links.ethernet_head(0x894F) + inside

    nested = tunnels.nsh(tunnels.nsh(packet4, 8, 1), 7, tunnels.NEXT_NSH)
    over_gre = over4(47, tunnels.gre(0x0800, packet4))
    return [
        Sample(framed(tunnels.nsh(packet4, 7, 1)), {**known4, "tunnel": "nsh 7"}),
        Sample(framed(tunnels.nsh(packet6, 0xFFFFFF, 2, metadata=b"")), {**known6, "tunnel": "nsh 16777215"}),
        Sample(framed(tunnels.nsh(plain_ethernet(packet4), 7, 3, metadata=bytes(8))), {**known4, "tunnel": "nsh 7"}),
        Sample(framed(tunnels.nsh(links.mpls((6,), packet4), 7, 5)), {**known4, "tunnel": "nsh 7"}),
        Sample(framed(nested), {**known4, "tunnel": "nsh 7 / nsh 8"}),
        Sample(framed(tunnels.nsh(over_gre, 7, 1)), {**known4, "tunnel": f"nsh 7 / gre {BETWEEN4}"}),
        Sample(framed(tunnels.nsh(bytes(40), 7, 77)), NOTHING),
    ]


@group("tunnel-mpls-in-udp")
def mpls_in_udp() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    port = tunnels.MPLS_PORT
    return [
        on_ethernet(over_udp4(port, links.mpls((100, 200), packet4)), **known4, tunnel=f"mpls-in-udp 200 {BETWEEN4}"),
        on_ethernet(
            over_udp6(port, links.mpls((1048575,), packet6)), **known6, tunnel=f"mpls-in-udp 1048575 {BETWEEN6}"
        ),
        outer_only(over_udp4(port, links.mpls((100,), bytes(40))), port),
    ]


@group("tunnel-nested")
def nested() -> list[Sample]:
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    six = packets.ipv4("10.0.0.1", "10.0.0.2", 41, packet6)
    in_gre = over4(47, tunnels.gre(0x0800, six))
    vx = over_udp4(tunnels.VXLAN_PORT, tunnels.vxlan(plain_ethernet(packet4), 42))
    in_gtp = over_udp6(tunnels.GTP_U_PORT, tunnels.gtp_u(vx, 9))
    mixed = links.ethernet_head(0x8847, links.tag(50)) + links.mpls((16,), in_gtp)
    deep = packet4
    for _ in range(7):
        deep = over4(4, deep)
    seven = " / ".join([f"ipip {BETWEEN4}"] * 7)
    return [
        on_ethernet(in_gre, **known6, tunnel=f"gre {BETWEEN4} / 6in4 10.0.0.1>10.0.0.2"),
        Sample(mixed, {**known4, "vlan": 50, "tunnel": f"gtp-u 9 {BETWEEN6} / vxlan 42 {BETWEEN4}"}),
        on_ethernet(deep, **known4, tunnel=seven),
        on_ethernet(over4(4, deep), source=C4, protocol=4, tunnel=seven),
    ]


@group("tunnel-fragments")
def fragments() -> list[Sample]:
    """A first fragment of a tunnel packet is looked into, a later one is not, nor is a later one inside."""
    packet4, known4 = udp4(b"p" * 200)
    datagram = packets.udp(C4, D4, 49152, tunnels.VXLAN_PORT, tunnels.vxlan(plain_ethernet(packet4), 42))
    first = over4(UDP, datagram[:96], more_fragments=True)
    later = over4(UDP, datagram[96:], fragment_offset=96)
    inner_later = packets.ipv4(A4, B4, UDP, bytes(40), ip_id=9, fragment_offset=64)
    inner_first = packets.ipv4(A4, B4, 4, inner_later, ip_id=10, more_fragments=True)
    return [
        on_ethernet(first, **known4, tunnel=f"vxlan 42 {BETWEEN4}", fragment_offset=0, more_fragments=False),
        on_ethernet(later, source=C4, sport=None, tunnel=None, fragment_offset=96, ip_id=77),
        on_ethernet(
            over4(4, inner_later), source=A4, sport=None, ip_id=9, fragment_offset=64, tunnel=f"ipip {BETWEEN4}"
        ),
        on_ethernet(over4(4, inner_first), ip_id=9, fragment_offset=64, tunnel=f"ipip {BETWEEN4} / ipip {A4}>{B4}"),
    ]


@group("tunnel-superpackets")
def superpackets() -> list[Sample]:
    """The outer length is 0, as large offloads leave it; the inner length is right."""
    packet4, known4 = udp4()
    packet6, known6 = tcp6()
    outer4, outer6 = over4(41, packet6), over6(4, packet4)
    return [
        on_ethernet(outer4[:2] + bytes(2) + outer4[4:], **known6, tunnel=f"6in4 {BETWEEN4}"),
        on_ethernet(outer6[:4] + bytes(2) + outer6[6:], **known4, tunnel=f"ipip {BETWEEN6}"),
    ]


@group("tunnel-ipv6-carriers")
def ipv6_carriers() -> list[Sample]:
    """Carriers whose addresses differ in the lowest bits of a half, which a float of 64 bits does not hold."""
    packet4, known4 = udp4()
    sources = ("2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8::100:0:0:1", "2001:db8::100:0:0:2")
    return [
        on_ethernet(packets.ipv6(source, D6, 4, packet4), **known4, tunnel=f"ipip {source}>{D6}") for source in sources
    ]


@group("tunnel-doubtful")
def doubtful() -> list[Sample]:
    """What only a careful reader gets right: tags inside, padding behind the outer packet, AH around a packet."""
    packet4, known4 = udp4()
    packet6, known6 = tcp6()
    tagged_arp = tunnels.vxlan(packets.arp_request(vlans=(44,)), 42)
    short = over4(4, packet4[:24])
    protected = over4(tunnels.AH, tunnels.authentication(4, packet4))
    protected6 = packets.ipv6(C6, D6, tunnels.AH, tunnels.authentication(41, packet6))
    in_ethernet = links.ethernet_head(0x894F) + tunnels.nsh(packet4, 7, 1)
    pppoe = links.ethernet_head(0x8864, links.tag(45)) + links.pppoe(packet4)
    port = tunnels.VXLAN_PORT
    return [
        on_ethernet(over_udp4(port, tagged_arp), **ports_of(C4, D4, UDP, 49152, port, tunnel=None)),
        Sample(plain_ethernet(short) + bytes(range(1, 7)), {"source": A4, "sport": 1000, "payload_length": 7}),
        Sample(plain_ethernet(over4(4, packet4[:22])) + bytes(range(1, 7)), {"source": A4, "sport": None}),
        on_ethernet(protected, **known4, tunnel=f"ipip {BETWEEN4}"),
        on_ethernet(protected6, **known6, tunnel=f"6in6 {BETWEEN6}"),
        on_ethernet(over_udp4(port, tunnels.vxlan(in_ethernet, 42)), **known4, tunnel=f"vxlan 42 {BETWEEN4} / nsh 7"),
        on_ethernet(over_udp4(port, tunnels.vxlan(pppoe, 42)), **known4, tunnel=f"vxlan 42 {BETWEEN4}", vlan=45),
        on_ethernet(over4(47, b"\x40\0\x08\0" + bytes(4) + packet4), source=C4, protocol=47, tunnel=None),
        on_ethernet(over4(47, tunnels.gre(0x8100, b"\0\x07\x08\0" + packet4)), source=C4, tunnel=None),
        on_ethernet(packets.ipv6(A6, B6, 1, packets.icmp(8, 0, 1, 2)), protocol=1, icmp_type=8),
        on_ethernet(packets.ipv4(A4, B4, 58, packets.icmp(128, 0, 1, 2)), protocol=58, icmp_type=128),
        on_ethernet(packets.ipv6(A6, B6, 60, packets.ipv6_extension(60) * 20), protocol=60),
        on_ethernet(b"\x45" + over4(99, bytes(30))[1:2] + b"\x01\0" + over4(99, bytes(30))[4:], payload_length=236),
    ]


def cut_everywhere(frame: bytes, step: int) -> list[Sample]:
    """A frame under shorter and shorter snap lengths."""
    return [Sample(frame[:end], {}, length=len(frame)) for end in range(0, len(frame), step)]


@group("cut-plain")
def cut_plain() -> list[Sample]:
    packet, _ = tcp6(b"")
    return cut_everywhere(links.ethernet_head(0x86DD, links.tag(3)) + packet, 3)


@group("cut-extensions")
def cut_extensions() -> list[Sample]:
    chain = packets.ipv6_extension(44) + packets.ipv6_fragment(UDP, 0, True, 70000)
    packet = packets.ipv6("fd00::1", "fd00::2", 60, chain + packets.udp("fd00::1", "fd00::2", 1, 2, b"x" * 8))
    return cut_everywhere(plain_ethernet(packet), 3)


@group("cut-vxlan")
def cut_vxlan() -> list[Sample]:
    packet = over_udp4(tunnels.VXLAN_PORT, tunnels.vxlan(plain_ethernet(udp4(b"")[0]), 42))
    return cut_everywhere(plain_ethernet(packet), 3)


@group("cut-gre-gtp")
def cut_gre_gtp() -> list[Sample]:
    """Cut where the optional fields of GRE and GTP-U are."""
    packet, _ = udp4()
    keyed = plain_ethernet(over4(47, tunnels.gre(0x0800, packet, key=5, sequence=6)))
    extended = plain_ethernet(
        over_udp4(tunnels.GTP_U_PORT, tunnels.gtp_u(packet, 5, extensions=((0x85, struct.pack("!H", 9)),)))
    )
    return [
        *(Sample(keyed[:end], {}, length=len(keyed)) for end in range(32, 76, 2)),
        *(Sample(extended[:end], {}, length=len(extended)) for end in range(40, 92, 4)),
    ]


@group("cut-transports")
def cut_transports() -> list[Sample]:
    """Cut in TCP options, ICMP, SCTP, AH, an extension header that may be a protocol, and IPv4 options."""
    options = packets.tcp(A4, B4, 5, 6, b"x", options=bytes.fromhex("020405b4 0402 080a0000000100000000 01 030307"))
    frames = [
        packets.ipv4(A4, B4, packets.TCP, options),
        packets.ipv4(A4, B4, packets.ICMP, packets.icmp(8, 0, 1, 2)),
        packets.ipv4(A4, B4, tunnels.SCTP, tunnels.sctp(1, 2, 3)),
        packets.ipv4(A4, B4, tunnels.AH, tunnels.authentication(UDP, packets.udp(A4, B4, 1, 2))),
        packets.ipv4(A4, B4, 89, bytes(20), options=bytes([1]) * 12),
    ]
    samples = [
        Sample(plain_ethernet(packet)[:end], {}, length=14 + len(packet))
        for packet in frames
        for end in range(34, 14 + min(len(packet), 60), 5)
    ]
    host = packets.ipv6(A6, B6, 139, packets.ipv6_extension(UDP) + packets.udp(A6, B6, 1, 2))
    return samples + [Sample(plain_ethernet(host)[:end], {}, length=14 + len(host)) for end in range(54, 70, 3)]
