"""One packet to the fields of an observation, null as None, never reading past the captured bytes."""

from __future__ import annotations

import ipaddress
from typing import Any

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
# 8.
IPV6_EXTENSIONS = (0, 43, 60, 135, 139, 140)
IPV6_FRAGMENT = 44
IPV6_AUTHENTICATION = 51
CHECKSUM_AT = {6: 16, 17: 6, 1: 2, 58: 2}


class Bytes:
    """Captured bytes that know where they end: a number that is not all there is None."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def number(self, at: int, size: int) -> int | None:
        """Big-endian unsigned number of ``size`` bytes at ``at``."""
        if at < 0 or at + size > len(self.data):
            return None
        return int.from_bytes(self.data[at : at + size], "big")

    def address(self, at: int, size: int) -> str | None:
        """An address as text, None if cut."""
        if at + size > len(self.data):
            return None
        return str(ipaddress.ip_address(self.data[at : at + size]))


def decode(data: bytes, length: int, linktype: int = 1) -> dict[str, Any]:
    """The packet's fields (design 6, observations), and two more that only the reference uses.

    Design: "Null means the packet has no such field"; a field whose bytes were not captured is null too. A
    fixed IP header that was not captured whole gives null for everything but ``vlan``.

    ``_identity`` are the bytes that stay the same along the path, as far as they were captured: transport
    header with the checksum zeroed, and up to 64 payload bytes. ``_ip_length`` is the length of the IP
    packet.
    """
    fields: dict[str, Any] = dict.fromkeys(PACKET_FIELDS)
    fields["_identity"] = None
    fields["_ip_length"] = None
    packet = Bytes(data)
    at, ethertype = _link_layer(packet, linktype, fields)
    if at is None:
        return fields
    if ethertype == 0x0800:
        _ipv4(packet, at, length, fields)
    elif ethertype == 0x86DD:
        _ipv6(packet, at, length, fields)
    return fields


def _link_layer(packet: Bytes, linktype: int, fields: dict[str, Any]) -> tuple[int | None, int | None]:
    """Where the network layer starts and its ethertype. ``vlan`` is the outermost tag's 12-bit id."""
    if linktype == 1:
        at, ethertype = 14, packet.number(12, 2)
    elif linktype == 113:
        at, ethertype = 16, packet.number(14, 2)
    elif linktype == 276:
        at, ethertype = 20, packet.number(0, 2)
    elif linktype in (101, 228, 229):
        version = packet.number(0, 1)
        return 0, {4: 0x0800, 6: 0x86DD}.get((version or 0) >> 4)
    else:
        return None, None
    while ethertype in (0x8100, 0x88A8, 0x9100):
        tag = packet.number(at, 2)
        ethertype = packet.number(at + 2, 2)
        if fields["vlan"] is None and tag is not None:
            fields["vlan"] = tag & 0xFFF
        at += 4
    return at, ethertype


def _ipv4(packet: Bytes, at: int, length: int, fields: dict[str, Any]) -> None:
    """IPv4: total length bounds the packet (Ethernet pads); a total length of 0 is a superpacket: the frame
    bounds it.
    """
    first = packet.number(at, 1)
    if first is None or first >> 4 != 4 or (first & 15) < 5 or at + 20 > len(packet.data):
        return
    header = (first & 15) * 4
    total = packet.number(at + 2, 2) or length - at
    fragment = packet.number(at + 6, 2) or 0
    fields["ip_version"] = 4
    fields["dscp"] = (packet.number(at + 1, 1) or 0) >> 2
    fields["ip_id"] = packet.number(at + 4, 2)
    fields["more_fragments"] = bool(fragment & 0x2000)
    fields["fragment_offset"] = (fragment & 0x1FFF) * 8
    fields["ttl"] = packet.number(at + 8, 1)
    fields["protocol"] = packet.number(at + 9, 1)
    fields["source"] = packet.address(at + 12, 4)
    fields["destination"] = packet.address(at + 16, 4)
    _transport(packet, at + header, at + total, fields)
    fields["_ip_length"] = total


def _ipv6(packet: Bytes, at: int, length: int, fields: dict[str, Any]) -> None:
    """IPv6: ``protocol`` is what follows the extension headers; ``ip_id`` is the fragment header's
    identification.
    """
    first = packet.number(at, 1)
    if first is None or first >> 4 != 6 or at + 40 > len(packet.data):
        return
    payload = packet.number(at + 4, 2)
    end = at + 40 + payload if payload else length
    fields["ip_version"] = 6
    fields["dscp"] = ((packet.number(at, 2) or 0) >> 6) & 0x3F
    fields["ttl"] = packet.number(at + 7, 1)
    fields["source"] = packet.address(at + 8, 16)
    fields["destination"] = packet.address(at + 24, 16)
    fields["_ip_length"] = end - at
    protocol = packet.number(at + 6, 1)
    at += 40
    while protocol in (*IPV6_EXTENSIONS, IPV6_FRAGMENT, IPV6_AUTHENTICATION) and at < end:
        following, units = packet.number(at, 1), packet.number(at + 1, 1)
        if following is None or units is None:
            break
        if protocol == IPV6_FRAGMENT:
            word = packet.number(at + 2, 2)
            identification = packet.number(at + 4, 4)
            if word is None or identification is None:
                break
            fields["ip_id"] = identification
            fields["fragment_offset"] = word & 0xFFF8
            fields["more_fragments"] = bool(word & 1)
            at += 8
            if fields["fragment_offset"]:
                # What follows belongs to the middle of the packet; its first header is not here.
                protocol = following
                break
        elif protocol == IPV6_AUTHENTICATION:
            at += (units + 2) * 4
        else:
            at += (units + 1) * 8
        protocol = following
    fields["protocol"] = protocol
    _transport(packet, at, end, fields)


def _transport(packet: Bytes, at: int, end: int, fields: dict[str, Any]) -> None:
    """Ports, TCP, ICMP; nothing of it for a fragment that is not the first.

    ``payload_length`` follows from the IP lengths: less the TCP header (None if its length was not captured),
    the 8 bytes of UDP and ICMP; all bytes after the IP header for other protocols and for non-first
    fragments.
    """
    protocol, room = fields["protocol"], max(0, end - at)
    header: int | None = 0
    if not fields["fragment_offset"]:
        if protocol in (6, 17):
            fields["sport"] = packet.number(at, 2)
            fields["dport"] = packet.number(at + 2, 2)
        if protocol == 6:
            fields["tcp_seq"] = packet.number(at + 4, 4)
            fields["tcp_ack"] = packet.number(at + 8, 4)
            word = packet.number(at + 12, 2)
            fields["tcp_flags"] = None if word is None else word & 0xFFF
            offset = packet.number(at + 12, 1)
            header = None if offset is None else (offset >> 4) * 4
        elif protocol in (1, 58):
            fields["icmp_type"] = packet.number(at, 1)
            fields["icmp_code"] = packet.number(at + 1, 1)
            if fields["icmp_type"] in ((8, 0) if protocol == 1 else (128, 129)):
                fields["icmp_id"] = packet.number(at + 4, 2)
                fields["icmp_seq"] = packet.number(at + 6, 2)
            header = 8
        elif protocol == 17:
            header = 8
    fields["payload_length"] = None if header is None else max(0, room - header)
    fields["_identity"] = _identity(packet.data[at : min(end, len(packet.data))], header, fields)


def _identity(segment: bytes, header: int | None, fields: dict[str, Any]) -> bytes:
    """The bytes of the segment that stay the same along the path: checksum zeroed, 64 payload bytes at most
    (design 5).
    """
    checksum = CHECKSUM_AT.get(fields["protocol"])
    if checksum is not None and not fields["fragment_offset"]:
        before, after = segment[:checksum], segment[checksum + 2 :]
        segment = (before + b"\0\0" + after)[: len(segment)]
    return segment[: (20 if header is None else header) + 64]
