"""The further columns of ``pktrace observe --details`` (docs/decoding.md, "Further fields")."""

from __future__ import annotations

from typing import Any

from tests.reference.bytes import Bytes

TCP, UDP, SCTP, UDP_LITE, ICMP, ICMPV6, ESP, IGMP = 6, 17, 132, 136, 1, 58, 50, 2
WITH_PORTS = (TCP, UDP, SCTP, UDP_LITE)
DETAILS = (
    *("tcp_mss", "tcp_window_scale", "tcp_sack_permitted", "tcp_sack_left", "tcp_sack_right", "tcp_tsval", "tcp_tsecr"),
    *("spi", "sequence", "sctp_tag"),
    *("quoted_source", "quoted_destination", "quoted_protocol", "quoted_ip_id", "quoted_sport", "quoted_dport"),
    *("igmp_type", "igmp_group", "interface_id", "interface_index", "direction"),
    *("packet_id", "queue", "verdict_type", "verdict"),
)


def details(data: Bytes, at: int, protocol: int) -> dict[str, Any]:
    """The details that the transport header has; absent ones are left out."""
    found: dict[str, Any] = {}
    if protocol == TCP:
        found = _tcp_options(data, at)
    elif protocol == ESP and data.number(at, 8) is not None:
        found = {"spi": data.number(at, 4), "sequence": data.number(at + 4, 4)}
    elif protocol == SCTP:
        found = {"sctp_tag": data.number(at + 4, 4)}
    elif protocol == IGMP:
        found = {"igmp_type": data.number(at, 1), "igmp_group": data.address(at + 4, 4)}
    elif protocol == ICMP and data.number(at, 1) in (3, 4, 5, 11, 12):
        found = _quoted4(data, at + 8)
    elif protocol == ICMPV6 and data.number(at, 1) in (1, 2, 3, 4):
        found = _quoted6(data, at + 8)
    return {name: value for name, value in found.items() if value is not None}


def _tcp_options(data: Bytes, at: int) -> dict[str, Any]:
    """Options up to the end mark, the header's end, or the first that makes no sense; of equal ones the first."""
    if data.number(at, 14) is None:
        return {}
    end = at + (data.certain(at + 12, 1) >> 4) * 4
    found: dict[str, Any] = {}
    at += 20
    while at < end:
        kind = data.number(at, 1)
        if kind is None or kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        size = data.number(at + 1, 1)
        if size is None or size < 2 or at + size > end or at + size > len(data.data):
            break
        option: dict[str, Any] = {}
        if (kind, size) == (2, 4):
            option = {"tcp_mss": data.number(at + 2, 2)}
        elif (kind, size) == (3, 3):
            option = {"tcp_window_scale": data.number(at + 2, 1)}
        elif (kind, size) == (4, 2):
            option = {"tcp_sack_permitted": True}
        elif kind == 5 and size >= 10:
            option = {"tcp_sack_left": data.number(at + 2, 4), "tcp_sack_right": data.number(at + 6, 4)}
        elif (kind, size) == (8, 10):
            option = {"tcp_tsval": data.number(at + 2, 4), "tcp_tsecr": data.number(at + 6, 4)}
        found = option | found
        at += size
    return {"tcp_sack_permitted": False} | found


def _quoted4(data: Bytes, at: int) -> dict[str, Any]:
    """The IPv4 packet in an ICMP error, as far as it is quoted."""
    first = data.number(at, 1)
    if data.number(at, 20) is None or first is None or first >> 4 != 4 or first & 15 < 5:
        return {}
    if 0 < data.certain(at + 2, 2) < (first & 15) * 4:
        return {}
    found: dict[str, Any] = {
        "quoted_source": data.address(at + 12, 4),
        "quoted_destination": data.address(at + 16, 4),
        "quoted_protocol": data.number(at + 9, 1),
        "quoted_ip_id": data.number(at + 4, 2),
    }
    if not data.certain(at + 6, 2) & 0x1FFF:
        found |= _quoted_ports(data, at + (first & 15) * 4, found["quoted_protocol"])
    return found


def _quoted6(data: Bytes, at: int) -> dict[str, Any]:
    """The IPv6 packet in an ICMPv6 error; only its fixed header is looked at."""
    first = data.number(at, 1)
    if data.number(at, 40) is None or first is None or first >> 4 != 6:
        return {}
    found: dict[str, Any] = {
        "quoted_source": data.address(at + 8, 16),
        "quoted_destination": data.address(at + 24, 16),
        "quoted_protocol": data.number(at + 6, 1),
    }
    return found | _quoted_ports(data, at + 40, found["quoted_protocol"])


def _quoted_ports(data: Bytes, at: int, protocol: int) -> dict[str, Any]:
    if protocol not in WITH_PORTS or data.number(at, 4) is None:
        return {}
    return {"quoted_sport": data.number(at, 2), "quoted_dport": data.number(at + 2, 2)}
