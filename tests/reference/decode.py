"""One packet to the fields of an observation, null as None, never reading past the captured bytes.

Written from docs/decoding.md: the innermost IP packet is what a row describes. Link layers are in
:mod:`tests.reference.link`, tunnels in :mod:`tests.reference.tunnels`, the columns of ``--details`` in
:mod:`tests.reference.details`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from tests.reference.bytes import Bytes
from tests.reference.details import DETAILS, details
from tests.reference.link import Place, link_layer
from tests.reference.tunnels import inside_ip, inside_nsh

PACKET_FIELDS = (
    "ip_version",
    "protocol",
    "source",
    "destination",
    "sport",
    "dport",
    "ip_id",
    "ttl",
    "dscp",
    "fragment_offset",
    "more_fragments",
    "tcp_seq",
    "tcp_ack",
    "tcp_flags",
    "icmp_type",
    "icmp_code",
    "icmp_id",
    "icmp_seq",
    "payload_length",
    "vlan",
    "tunnel",
)

# Extension headers that have the common form: next header, length in units of 8 bytes not counting the first
# 8. The last three may also be what is carried.
IPV6_EXTENSIONS = (0, 43, 60, 135, 139, 140)
IPV6_PERHAPS_EXTENSIONS = (135, 139, 140)
IPV6_FRAGMENT = 44
AUTHENTICATION = 51
NO_NEXT_HEADER = 59
MOST_EXTENSIONS = 16
MOST_IP_HEADERS = 8
TCP, UDP, SCTP, UDP_LITE, ICMP, ICMPV6 = 6, 17, 132, 136, 1, 58
CHECKSUM_AT = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}
ECHO_TYPES = {ICMP: (0, 8, 13, 14, 15, 16, 17, 18), ICMPV6: (128, 129)}


@dataclass
class Packet:
    """An IP packet: its fields so far, where its transport header is and where it ends.

    ``protocol`` is what stands at ``transport``; in IPv4 behind an authentication header that is another number than
    the column has. ``end`` is by the IP header's length, and may be more than there are bytes;
    ``headers_end`` is how far its headers reach, as far as known.
    """

    fields: dict[str, Any]
    protocol: int
    transport: int
    end: int
    later_fragment: bool
    readable: Bytes
    details: dict[str, Any] = field(default_factory=dict)
    reached: bool = True
    headers_end: int = 0

    @property
    def addresses(self) -> str:
        return f"{self.fields['source']}>{self.fields['destination']}"


def decode(data: bytes, length: int, linktype: int = 1) -> dict[str, Any]:
    """The packet's fields (design 6, observations), its details, and more that only the reference uses.

    Design: "Null means the packet has no such field"; a field whose bytes were not captured is null too. A
    fixed IP header that was not captured whole gives null for everything but ``vlan``.

    ``_identity`` are the bytes that stay the same along the path, as far as they were captured: transport
    header with the checksum zeroed, and up to 64 payload bytes; ``_content`` is the payload part of it.
    ``_ip_length`` is the length of the IP packet, ``_segment_length`` what of it follows the IP header.
    ``_marks`` are the ledger's counters that this packet adds to.
    """
    more = ("_identity", "_content", "_ip_length", "_segment_length", "_tcp_window")
    fields: dict[str, Any] = dict.fromkeys((*PACKET_FIELDS, *DETAILS, *more))
    fields["_marks"] = marks = set[str]()
    captured = Bytes(data)
    place = link_layer(captured, linktype)
    fields |= place.marks
    if place.vlans:
        fields["vlan"] = place.vlans[0]
    if place.kind in ("unknown", "hidden"):
        marks.add("unknown_link_type" if place.kind == "unknown" else "hidden_packet")
        return fields
    tunnels: list[str] = []
    on_frame = place.kind != "nsh"
    while place.kind == "nsh":
        number, inner = inside_nsh(captured, place.at)
        if inner is None:
            break
        tunnels.append(f"nsh {number}")
        place = Place(inner.at, inner.kind, [*place.vlans, *inner.vlans])
    if place.kind == "cut" and on_frame:
        marks.add("cut_header")
        return fields
    if place.kind not in ("ipv4", "ipv6"):
        marks.add("not_ip")
        return fields
    outer = ip_packet(captured, place, length, marks if on_frame else None)
    if outer is None:
        if not on_frame:
            marks.add("not_ip")
        return fields
    vlans = place.vlans
    packet, tunnels_in, vlans_in = innermost(outer)
    fields |= packet.fields
    fields |= packet.details
    vlans = [*vlans, *vlans_in]
    fields["vlan"] = vlans[0] if vlans else None
    fields["tunnel"] = " / ".join([*tunnels, *tunnels_in]) or None
    transport(packet, fields, marks)
    if not packet.reached or min(packet.headers_end, packet.end) > len(packet.readable.data):
        marks.add("cut_header")
    return fields


def innermost(outer: Packet) -> tuple[Packet, list[str], list[int]]:
    """Down through the tunnels, as long as there is a whole and plausible IP header inside."""
    packet, texts, vlans = outer, list[str](), list[int]()
    for _ in range(MOST_IP_HEADERS - 1):
        if packet.later_fragment or not packet.reached:
            break
        found = inside_ip(packet.readable, packet.transport, packet.protocol, packet.fields["ip_version"])
        if found is None:
            break
        words, place = found
        kinds = [f"{words[0]} {packet.addresses}", *words[1:]]
        while place.kind == "nsh":
            number, inner = inside_nsh(packet.readable, place.at)
            if inner is None:
                break
            kinds.append(f"nsh {number}")
            place = Place(inner.at, inner.kind, [*place.vlans, *inner.vlans])
        vlans += place.vlans
        if place.kind not in ("ipv4", "ipv6"):
            break
        inside = ip_packet(packet.readable, place, packet.end, None)
        if inside is None:
            break
        texts += kinds
        packet = inside
    return packet, texts, vlans


def ip_packet(readable: Bytes, place: Place, frame_end: int, marks: set[str] | None) -> Packet | None:
    """The IP packet at a place, None if its fixed header is not whole or contradicts itself.

    ``marks`` is None inside a tunnel, where a header that makes no sense is just not one.
    """
    first = readable.number(place.at, 1)
    if place.kind == "ipv4" and first is not None and first >> 4 == 6:
        place = replace(place, kind="ipv6")  # the version decides where IPv4 is announced
    size = 20 if place.kind == "ipv4" else 40
    if place.at + size > len(readable.data):
        if marks is not None:
            marks.add("cut_header")
        return None
    read = _ipv4 if place.kind == "ipv4" else _ipv6
    packet = read(readable, place.at, frame_end)
    if packet is None and marks is not None:
        marks.add("malformed_ip")
    return packet


def _ipv4(readable: Bytes, at: int, frame_end: int) -> Packet | None:
    """IPv4: total length bounds the packet (Ethernet pads); a total length of 0 is a superpacket: the frame, or the
    packet around it, bounds it.
    """
    first, total = readable.certain(at, 1), readable.certain(at + 2, 2)
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20:
        return None
    if 0 < total < header or (total == 0 and frame_end < at + header):
        return None
    end = at + total if total else frame_end
    fragment = readable.certain(at + 6, 2)
    fields = {
        "ip_version": 4,
        "dscp": readable.certain(at + 1, 1) >> 2,
        "ip_id": readable.certain(at + 4, 2),
        "more_fragments": bool(fragment & 0x2000),
        "fragment_offset": (fragment & 0x1FFF) * 8,
        "ttl": readable.certain(at + 8, 1),
        "protocol": readable.certain(at + 9, 1),
        "source": readable.address(at + 12, 4),
        "destination": readable.address(at + 16, 4),
        "_ip_length": end - at,
    }
    packet = Packet(fields, fields["protocol"], at + header, end, bool(fragment & 0x1FFF), readable.until(end))
    if packet.protocol == AUTHENTICATION and not packet.later_fragment:
        # The column keeps 51: that is what a filter sees.
        _pass_authentication(packet)
    return packet


def _pass_authentication(packet: Packet) -> bool:
    """RFC 4302: next header, length in units of 4 bytes less 2, SPI, sequence number. False if it is not there."""
    at, readable = packet.transport, packet.readable
    following, units = readable.number(at, 1), readable.number(at + 1, 1)
    if readable.number(at, 12) is not None:
        packet.details = {"spi": readable.number(at + 4, 4), "sequence": readable.number(at + 8, 4)}
    if following is None or units is None or readable.number(at, 8) is None:
        packet.reached = False
        return False
    packet.protocol = following
    packet.transport = at + (units + 2) * 4
    return True


def _ipv6(readable: Bytes, at: int, frame_end: int) -> Packet | None:
    """IPv6: ``protocol`` is what follows the extension headers; ``ip_id`` is the fragment header's
    identification.
    """
    if readable.certain(at, 1) >> 4 != 6:
        return None
    payload, protocol = readable.certain(at + 4, 2), readable.certain(at + 6, 1)
    end = at + 40 + payload
    if payload == 0 and protocol != NO_NEXT_HEADER:
        end = max(frame_end, end)
    fields = {
        "ip_version": 6,
        "dscp": (readable.certain(at, 2) >> 6) & 0x3F,
        "ttl": readable.certain(at + 7, 1),
        "source": readable.address(at + 8, 16),
        "destination": readable.address(at + 24, 16),
        "_ip_length": end - at,
    }
    packet = Packet(fields, protocol, at + 40, end, False, readable.until(end))
    for _ in range(MOST_EXTENSIONS):
        if not _pass_extension(packet):
            break
    fields["protocol"] = packet.protocol
    return packet


def _pass_extension(packet: Packet) -> bool:
    """Step over one extension header; False where there is none, or none that can be passed over."""
    if packet.protocol not in (*IPV6_EXTENSIONS, IPV6_FRAGMENT, AUTHENTICATION):
        return False
    if packet.protocol == AUTHENTICATION:
        return _pass_authentication(packet)
    at, readable = packet.transport, packet.readable
    if packet.protocol in IPV6_PERHAPS_EXTENSIONS and at + 8 > packet.end:
        return False
    if readable.number(at, 8) is None:
        packet.reached = False
        return False
    following = readable.certain(at, 1)
    if packet.protocol in IPV6_PERHAPS_EXTENSIONS and following == NO_NEXT_HEADER:
        return False
    if packet.protocol == IPV6_FRAGMENT:
        word = readable.certain(at + 2, 2)
        packet.fields["ip_id"] = readable.certain(at + 4, 4)
        packet.fields["fragment_offset"] = word & 0xFFF8
        packet.fields["more_fragments"] = bool(word & 1)
        packet.later_fragment = bool(word & 0xFFF8)
        packet.transport = at + 8
    else:
        packet.transport = at + (readable.certain(at + 1, 1) + 1) * 8
    packet.protocol = following
    return not packet.later_fragment


def transport(packet: Packet, fields: dict[str, Any], marks: set[str]) -> None:
    """Ports, TCP, ICMP; nothing of it for a fragment that is not the first.

    ``payload_length`` follows from the IP lengths: less the TCP header (None if its length was not captured),
    the 8 bytes of UDP, UDP-Lite and ICMP, the 12 of SCTP; all bytes after the IP header for other protocols and for
    later fragments. None if the headers do not end inside the packet, or were not reached.
    """
    at, readable, protocol = packet.transport, packet.readable, packet.protocol
    header: int | None = 0
    if not packet.reached:
        header = None
    elif not packet.later_fragment:
        if protocol in (TCP, UDP, SCTP, UDP_LITE) and readable.number(at, 4) is not None:
            fields["sport"] = readable.number(at, 2)
            fields["dport"] = readable.number(at + 2, 2)
        if protocol == TCP:
            header = _tcp(packet, fields, marks)
        elif protocol in (ICMP, ICMPV6):
            header = 8
            if readable.number(at, 2) is not None:
                fields["icmp_type"] = readable.number(at, 1)
                fields["icmp_code"] = readable.number(at + 1, 1)
            if fields["icmp_type"] in ECHO_TYPES[protocol] and readable.number(at + 4, 4) is not None:
                fields["icmp_id"] = readable.number(at + 4, 2)
                fields["icmp_seq"] = readable.number(at + 6, 2)
        elif protocol in (UDP, UDP_LITE):
            header = 8
        elif protocol == SCTP:
            header = 12
        fields |= details(readable, at, protocol)
        if _partial_checksum(packet):
            marks.add("partial_checksum")
    # Of a TCP header whose length was not captured, 20 bytes are known to be there.
    packet.headers_end = at + (20 if header is None else header)
    if header is not None and at + header <= packet.end:
        fields["payload_length"] = packet.end - at - header
    fields["_identity"] = _identity(readable.data[at:], header, packet)
    fields["_content"] = fields["_identity"][20 if header is None else header :]
    fields["_segment_length"] = max(0, packet.end - at)


def _tcp(packet: Packet, fields: dict[str, Any], marks: set[str]) -> int | None:
    """The TCP fields, if 14 bytes are there; returns the header's length. RFC 9293 3.1."""
    at, readable = packet.transport, packet.readable
    if readable.number(at, 14) is None:
        return None
    fields["tcp_seq"] = readable.number(at + 4, 4)
    fields["tcp_ack"] = readable.number(at + 8, 4)
    word = readable.certain(at + 12, 2)
    fields["tcp_flags"] = word & 0xFFF
    fields["_tcp_window"] = readable.number(at + 14, 2)
    if word >> 12 < 5:
        marks.add("malformed_ip")
        return 20
    return (word >> 12) * 4


def _partial_checksum(packet: Packet) -> bool:
    """The checksum field holds the sum of the pseudo header, not complemented (RFC 9293 3.1, RFC 8200 8.1)."""
    if packet.protocol not in (TCP, UDP) or packet.fields.get("fragment_offset") or packet.fields.get("more_fragments"):
        return False
    value = packet.readable.number(packet.transport + CHECKSUM_AT[packet.protocol], 2)
    if not value:
        return False
    length = packet.end - packet.transport
    total = length // 65536 + length % 65536 + packet.protocol
    for name in ("source", "destination"):
        total += sum(Bytes.words_of(packet.fields[name]))
    while total > 0xFFFF:
        total = total // 65536 + total % 65536
    return value == total


def _identity(segment: bytes, header: int | None, packet: Packet) -> bytes:
    """The bytes of the segment that stay the same along the path: checksum zeroed, 64 payload bytes at most
    (design 5).
    """
    checksum = CHECKSUM_AT.get(packet.protocol)
    if checksum is not None and not packet.later_fragment:
        before, after = segment[:checksum], segment[checksum + 2 :]
        segment = (before + b"\0\0" + after)[: len(segment)]
    return segment[: (20 if header is None else header) + 64]
