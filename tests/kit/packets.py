"""Builders of frames with right checksums, in plain struct code, so that no dissector is trusted by the
tests.

A builder returns bytes: ``ethernet(ipv4(udp(...)))``. Transport builders need the addresses for the checksum,
so they are called by :func:`frame`, which builds a whole frame from one :class:`Header`.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP, ETHERTYPE_VLAN = 0x0800, 0x86DD, 0x0806, 0x8100
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60

CLIENT_MAC = bytes.fromhex("02000000000a")
MACHINE_MAC = bytes.fromhex("02000000000b")


def internet_checksum(data: bytes) -> int:
    """RFC 1071: one's complement of the one's complement sum of 16-bit words."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def address_bytes(address: str) -> bytes:
    """An IPv4 or IPv6 address in network order."""
    return ipaddress.ip_address(address).packed


def transport_checksum(source: str, destination: str, protocol: int, segment: bytes) -> int:
    """Checksum over pseudo header and segment (RFC 768, RFC 9293, RFC 8200 8.1)."""
    a, b = address_bytes(source), address_bytes(destination)
    if len(a) == 4:
        pseudo = a + b + struct.pack("!BBH", 0, protocol, len(segment))
    else:
        pseudo = a + b + struct.pack("!IHBB", len(segment), 0, 0, protocol)
    return internet_checksum(pseudo + segment)


def with_checksum(segment: bytes, at: int, value: int) -> bytes:
    """The segment with a 16-bit checksum put in."""
    return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]


def tcp(
    source: str,
    destination: str,
    sport: int,
    dport: int,
    payload: bytes = b"",
    *,
    seq: int = 0,
    ack: int = 0,
    flags: int = 0x18,
    window: int = 64240,
    options: bytes = b"",
) -> bytes:
    """A TCP segment; ``flags`` are the 12 low bits, ``options`` are filled up to four bytes."""
    options = options + bytes(-len(options) % 4)
    offset_and_flags = (5 + len(options) // 4) << 12 | flags & 0xFFF
    head = struct.pack("!HHIIHHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset_and_flags, window, 0, 0)
    segment = head + options + payload
    return with_checksum(segment, 16, transport_checksum(source, destination, TCP, segment))


def udp(source: str, destination: str, sport: int, dport: int, payload: bytes = b"") -> bytes:
    """A UDP datagram; a sum of zero is sent as all ones."""
    datagram = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return with_checksum(datagram, 6, transport_checksum(source, destination, UDP, datagram) or 0xFFFF)


def icmp(kind: int, code: int = 0, identifier: int = 0, sequence: int = 0, payload: bytes = b"") -> bytes:
    """An ICMP message with the echo form of the second word."""
    message = struct.pack("!BBHHH", kind, code, 0, identifier, sequence) + payload
    return with_checksum(message, 2, internet_checksum(message))


def icmpv6(
    source: str,
    destination: str,
    kind: int,
    code: int = 0,
    identifier: int = 0,
    sequence: int = 0,
    payload: bytes = b"",
) -> bytes:
    """An ICMPv6 message with the echo form of the second word."""
    message = struct.pack("!BBHHH", kind, code, 0, identifier, sequence) + payload
    return with_checksum(message, 2, transport_checksum(source, destination, ICMPV6, message))


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    ip_id: int = 0,
    ttl: int = 64,
    dscp: int = 0,
    ecn: int = 0,
    dont_fragment: bool = False,
    more_fragments: bool = False,
    fragment_offset: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet; ``fragment_offset`` in bytes (a multiple of 8)."""
    options = options + bytes(-len(options) % 4)
    words = 5 + len(options) // 4
    fragment = (dont_fragment << 14) | (more_fragments << 13) | fragment_offset // 8
    head = struct.pack(
        "!BBHHHBBH4s4s",
        4 << 4 | words,
        dscp << 2 | ecn,
        words * 4 + len(payload),
        ip_id,
        fragment,
        ttl,
        protocol,
        0,
        address_bytes(source),
        address_bytes(destination),
    )
    return with_checksum(head + options, 10, internet_checksum(head + options)) + payload


def ipv6_extension(next_header: int, content: bytes = b"") -> bytes:
    """A hop-by-hop, routing or destination options header: filled with PadN to a multiple of eight bytes."""
    missing = -(len(content) + 2) % 8
    if missing == 1:
        content += b"\0"
    elif missing:
        content += bytes([1, missing - 2]) + bytes(missing - 2)
    return bytes([next_header, (len(content) + 2) // 8 - 1]) + content


def ipv6_fragment(next_header: int, offset: int, more: bool, identification: int) -> bytes:
    """A fragment header; ``offset`` in bytes (a multiple of 8)."""
    return struct.pack("!BBHI", next_header, 0, offset | more, identification)


def ipv6(
    source: str,
    destination: str,
    next_header: int,
    payload: bytes,
    *,
    hop_limit: int = 64,
    dscp: int = 0,
    flow_label: int = 0,
) -> bytes:
    """An IPv6 packet; extension headers are part of ``payload``."""
    first = 6 << 28 | dscp << 22 | flow_label
    head = struct.pack("!IHBB", first, len(payload), next_header, hop_limit)
    return head + address_bytes(source) + address_bytes(destination) + payload


def ethernet(
    payload: bytes,
    ethertype: int,
    *,
    source: bytes = CLIENT_MAC,
    destination: bytes = MACHINE_MAC,
    vlans: tuple[int, ...] = (),
    minimum: int = 0,
) -> bytes:
    """An Ethernet frame; ``vlans`` from the outermost; ``minimum`` pads with zeros (60 on a real wire)."""
    tags = b"".join(struct.pack("!HH", ETHERTYPE_VLAN, vlan) for vlan in vlans)
    frame_bytes = destination + source + tags + struct.pack("!H", ethertype) + payload
    return frame_bytes + bytes(max(0, minimum - len(frame_bytes)))


def arp_request(sender: str = "10.77.0.10", target: str = "10.77.0.1", *, vlans: tuple[int, ...] = ()) -> bytes:
    """An ARP request, the usual noise that is no IP packet."""
    body = struct.pack("!HHBBH", 1, ETHERTYPE_IPV4, 6, 4, 1)
    body += CLIENT_MAC + address_bytes(sender) + bytes(6) + address_bytes(target)
    return ethernet(body, ETHERTYPE_ARP, destination=b"\xff" * 6, vlans=vlans, minimum=60)


@dataclass(frozen=True)
class Header:
    """Everything that a packet keeps along its way; what the way changes is an argument of :func:`frame`."""

    source: str
    destination: str
    protocol: int
    payload: bytes = b""
    sport: int = 0
    dport: int = 0
    ip_id: int = 0
    seq: int = 0
    ack: int = 0
    flags: int = 0x18
    icmp_type: int = 8
    icmp_code: int = 0
    icmp_id: int = 0
    icmp_seq: int = 0
    dont_fragment: bool = False

    @property
    def version(self) -> int:
        return 6 if ":" in self.source else 4


def transport(header: Header) -> bytes:
    """The transport segment of a packet, checksum right."""
    if header.protocol == TCP:
        return tcp(
            header.source,
            header.destination,
            header.sport,
            header.dport,
            header.payload,
            seq=header.seq,
            ack=header.ack,
            flags=header.flags,
        )
    if header.protocol == UDP:
        return udp(header.source, header.destination, header.sport, header.dport, header.payload)
    if header.protocol == ICMP:
        return icmp(header.icmp_type, header.icmp_code, header.icmp_id, header.icmp_seq, header.payload)
    if header.protocol == ICMPV6:
        return icmpv6(
            header.source,
            header.destination,
            header.icmp_type,
            header.icmp_code,
            header.icmp_id,
            header.icmp_seq,
            header.payload,
        )
    return header.payload


CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}


def frame(
    header: Header,
    *,
    ttl: int = 64,
    dscp: int = 0,
    vlans: tuple[int, ...] = (),
    macs: tuple[bytes, bytes] = (CLIENT_MAC, MACHINE_MAC),
    partial_checksum: bool = False,
    fragment: tuple[int, int] | None = None,
) -> bytes:
    """A whole Ethernet frame of a packet as one point sees it.

    ``partial_checksum`` leaves a wrong transport checksum, as a sender with checksum offload does (never for
    ICMP).
    ``fragment`` is (first byte, last byte + 1) of the transport segment that this fragment carries.
    """
    segment = transport(header)
    if partial_checksum and header.protocol in (TCP, UDP):
        segment = with_checksum(segment, CHECKSUM_AT[header.protocol], 0x1234)
    first, end = fragment or (0, len(segment))
    more = end < len(segment)
    if header.version == 4:
        packet = ipv4(
            header.source,
            header.destination,
            header.protocol,
            segment[first:end],
            ip_id=header.ip_id,
            ttl=ttl,
            dscp=dscp,
            dont_fragment=header.dont_fragment,
            more_fragments=more,
            fragment_offset=first,
        )
        ethertype = ETHERTYPE_IPV4
    else:
        body, next_header = segment[first:end], header.protocol
        if fragment is not None:
            body = ipv6_fragment(header.protocol, first, more, header.ip_id) + body
            next_header = FRAGMENT
        packet = ipv6(header.source, header.destination, next_header, body, hop_limit=ttl, dscp=dscp)
        ethertype = ETHERTYPE_IPV6
    return ethernet(packet, ethertype, source=macs[0], destination=macs[1], vlans=vlans)
