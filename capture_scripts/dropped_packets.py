"""Who a packet is, from its first bytes at the network header: what the kernel witness writes about a drop."""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

WORDS = 10  # of eight bytes each: IPv6, TCP with its usual options, or a marker behind UDP
MOST_BYTES = 8 * WORDS
_PAYLOAD_BYTES = 24
_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
_FRAGMENT = 44
_EXTENSIONS = (0, 43, 60)
_ECHO = {_ICMP: (0, 8), _ICMPV6: (128, 129)}


def identity(data: bytes, ethertype: int, length: int) -> dict[str, Any]:
    """The fields by which a packet is found again; those that it does not have, or that were not read, are left out.

    ``length`` is what the kernel held when it dropped it, from whichever header it was at.
    """
    packet: dict[str, Any] = {"held_bytes": length, "ip_version": 4 if ethertype == 0x0800 else 6}
    with suppress(struct.error, IndexError):  # no more bytes were read; what they told is in the packet
        (_version4 if ethertype == 0x0800 else _version6)(data, packet)
    return packet


def _version4(data: bytes, packet: dict[str, Any]) -> None:
    if not data or data[0] >> 4 != 4:
        return
    length, ip_id, fragment = struct.unpack_from(">HHH", data, 2)
    packet |= {"length": length, "ip_id": ip_id, "fragment_offset": (fragment & 0x1FFF) * 8}
    packet |= {"protocol": data[9], "source": _address(data, 12, 4), "destination": _address(data, 16, 4)}
    if fragment & 0x1FFF == 0:
        _transport(data, (data[0] & 15) * 4, length, packet)


def _version6(data: bytes, packet: dict[str, Any]) -> None:
    if not data or data[0] >> 4 != 6:
        return
    length = 40 + struct.unpack_from(">H", data, 4)[0]
    packet |= {"length": length, "source": _address(data, 8, 16), "destination": _address(data, 24, 16)}
    protocol, at = data[6], 40
    while protocol in (*_EXTENSIONS, _FRAGMENT):
        following = data[at]
        if protocol == _FRAGMENT:
            fragment, ip_id = struct.unpack_from(">HI", data, at + 2)
            packet |= {"ip_id": ip_id, "fragment_offset": fragment & 0xFFF8}
            at += 8
        else:
            at += 8 + 8 * data[at + 1]
        protocol = following
    packet["protocol"] = protocol
    if not packet.get("fragment_offset"):
        _transport(data, at, length, packet)


def _address(data: bytes, at: int, size: int) -> str:
    return str(ip_address(bytes(struct.unpack_from(f"{size}B", data, at))))


def _transport(data: bytes, at: int, end: int, packet: dict[str, Any]) -> None:
    protocol = packet["protocol"]
    if protocol == _TCP:
        packet["sport"], packet["dport"], packet["tcp_seq"], packet["tcp_ack"] = struct.unpack_from(">HHII", data, at)
        packet["tcp_flags"] = struct.unpack_from(">H", data, at + 12)[0] & 0xFFF
        at += (data[at + 12] >> 4) * 4
    elif protocol == _UDP:
        packet["sport"], packet["dport"] = struct.unpack_from(">HH", data, at)
        at += 8
    elif protocol in (_ICMP, _ICMPV6):
        packet["icmp_type"], packet["icmp_code"] = data[at], data[at + 1]
        if data[at] in _ECHO[protocol]:
            packet["icmp_id"], packet["icmp_seq"] = struct.unpack_from(">HH", data, at + 4)
        at += 8
    payload = data[at : min(at + _PAYLOAD_BYTES, end)]
    if payload:
        packet["payload"] = payload.hex()
