"""Link layers (docs/decoding.md, "Link types"): from the first captured byte to the IP header.

A :class:`Place` says where it is and what stands there: ``ipv4``, ``ipv6``, ``nsh``, ``none`` (no IP for us), ``cut``
(the captured bytes end before it can be said), ``unknown`` (a link type that is not decoded).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.reference.bytes import Bytes
from tests.reference.capture import cooked_direction

VLAN_TAGS = (0x8100, 0x88A8, 0x9100)
MPLS = (0x8847, 0x8848)
PPPOE_SESSION, NSH = 0x8864, 0x894F
MOST_TAGS = 16
PPP_TO_ETHERTYPE = {0x0021: 0x0800, 0x0057: 0x86DD, 0x0281: 0x8847, 0x0283: 0x8848}
AVS_MAGIC = (0x80211001, 0x80211002)


@dataclass
class Place:
    """Where something stands in the packet, what it is, and the VLAN ids met on the way."""

    at: int
    kind: str
    vlans: list[int] = field(default_factory=list)
    marks: dict[str, Any] = field(default_factory=dict)


def nothing(vlans: list[int] | None = None) -> Place:
    return Place(0, "none", vlans or [])


def cut(vlans: list[int] | None = None) -> Place:
    return Place(0, "cut", vlans or [])


def link_layer(data: Bytes, linktype: int) -> Place:
    """What the link layer of a frame carries."""
    if linktype == 1:
        return ethernet(data, 0)
    if linktype in (0, 108):
        return _loopback(data, linktype)
    if linktype in (12, 14, 101):
        return by_version(data, 0)
    if linktype == 228:
        return Place(0, "ipv4")
    if linktype == 229:
        return Place(0, "ipv6")
    if linktype in (9, 50):
        return ppp(data, 0)
    if linktype in (166, 204):
        return _ppp_with_direction(data, linktype)
    if linktype == 51:
        return ethertype(data, 0, PPPOE_SESSION)
    if linktype == 105:
        return _wifi(data, 0)
    if linktype in (127, 119, 163):
        return _wifi_behind_head(data, linktype)
    if linktype == 113:
        return _cooked(data)
    if linktype == 276:
        return _cooked2(data)
    if linktype == 219:
        return ethertype(data, 0, MPLS[0])
    return Place(0, "unknown")


def by_version(data: Bytes, at: int, vlans: list[int] | None = None) -> Place:
    """The first four bits decide."""
    first = data.number(at, 1)
    if first is None:
        return cut(vlans)
    return Place(at, {4: "ipv4", 6: "ipv6"}.get(first >> 4, "none"), vlans or [])


def ethernet(data: Bytes, at: int) -> Place:
    """Two addresses and an EtherType."""
    return ethertype(data, at + 14, data.number(at + 12, 2))


def ethertype(data: Bytes, at: int, kind: int | None) -> Place:
    """What follows an EtherType, past up to 16 VLAN tags, MPLS labels and PPPoE headers."""
    vlans: list[int] = []
    tags = 0
    while kind in (*VLAN_TAGS, *MPLS, PPPOE_SESSION):
        tags += 1
        if tags > MOST_TAGS:
            return nothing(vlans)
        if kind in VLAN_TAGS:
            tag = data.number(at, 2)
            if tag is None:
                return cut(vlans)
            vlans.append(tag & 0xFFF)
            kind = data.number(at + 2, 2)
            at += 4
        elif kind in MPLS:
            label = data.number(at, 4)
            if label is None:
                return cut(vlans)
            at += 4
            if label >> 8 & 1:
                return by_version(data, at, vlans)
        else:
            code, protocol = data.number(at, 2), data.number(at + 6, 1)
            if code is None or protocol is None:
                return cut(vlans)
            if code != 0x1100:
                return nothing(vlans)
            at, number = _ppp_protocol(data, at + 6)
            if number is None:
                return cut(vlans)
            kind = PPP_TO_ETHERTYPE.get(number, 0xFFFF)
    if kind is None:
        return cut(vlans)
    if kind <= 1500:
        place = _llc(data, at)
        return Place(place.at, place.kind, vlans + place.vlans)
    return Place(at, {0x0800: "ipv4", 0x86DD: "ipv6", NSH: "nsh"}.get(kind, "none"), vlans)


def _llc(data: Bytes, at: int) -> Place:
    """IEEE 802.2: SNAP with an EtherType (organisation 0), or SAP 6, which is IP."""
    head = data.number(at, 3)
    if head is None:
        return cut()
    if head == 0x060603:
        return by_version(data, at + 3)
    if head != 0xAAAA03:
        return nothing()
    organisation, kind = data.number(at + 3, 3), data.number(at + 6, 2)
    if organisation is None or kind is None:
        return cut()
    if organisation != 0 or kind <= 1500:
        return nothing()
    return ethertype(data, at + 8, kind)


def _loopback(data: Bytes, linktype: int) -> Place:
    """The address family; NULL has it in either byte order."""
    family = data.number(0, 4)
    if family is None:
        return cut()
    kinds = {2: "ipv4", 24: "ipv6", 28: "ipv6", 30: "ipv6"}
    swapped = int.from_bytes(family.to_bytes(4, "big"), "little")
    return Place(4, kinds.get(family) or (kinds.get(swapped) if linktype == 0 else None) or "none")


def _ppp_protocol(data: Bytes, at: int) -> tuple[int, int | None]:
    """The protocol number: one byte if it is odd (compressed), else two. Returns what stands behind it, too."""
    first = data.number(at, 1)
    if first is not None and first & 1:
        return at + 1, first
    return at + 2, data.number(at, 2)


def ppp(data: Bytes, at: int) -> Place:
    """PPP: address and control bytes if they are there, then the protocol number."""
    if data.number(at, 2) == 0xFF03:
        at += 2
    at, number = _ppp_protocol(data, at)
    if number is None:
        return cut()
    return ethertype(data, at, PPP_TO_ETHERTYPE.get(number, 0xFFFF))


def _ppp_with_direction(data: Bytes, linktype: int) -> Place:
    """A byte 0 (received) or not (sent); with link type 166 it stands in the place of the address byte."""
    direction = data.number(0, 1)
    if direction is None:
        return cut()
    at = 2 if linktype == 166 and data.number(1, 1) == 3 else 1
    place = ppp(data, at)
    place.marks = {"direction": "out" if direction else "in"}
    return place


def _cooked(data: Bytes) -> Place:
    """Linux cooked capture: packet type, hardware type, address, protocol: 16 bytes."""
    packet_type, kind = data.number(0, 2), data.number(14, 2)
    place = ethertype(data, 16, 1 if kind == 4 else kind) if kind is None or kind > 1500 or kind == 4 else nothing()
    place.marks = {"direction": cooked_direction(packet_type)}
    return place


def _cooked2(data: Bytes) -> Place:
    """Version 2: protocol, reserved, interface index, hardware type, packet type, address: 20 bytes."""
    kind, index, packet_type = data.number(0, 2), data.number(4, 4), data.number(10, 1)
    if len(data.data) < 20:
        place = cut()
    elif kind is None or kind > 1500 or kind == 4:
        place = ethertype(data, 20, 1 if kind == 4 else kind)
    else:
        place = nothing()
    place.marks = {"direction": cooked_direction(packet_type), "interface_index": index}
    return place


def _wifi_behind_head(data: Bytes, linktype: int) -> Place:
    """Radiotap says its length in little endian, AVS in big endian, Prism has 144 bytes (or is AVS after all)."""
    magic = data.number(0, 4)
    if magic is None:
        return cut()
    if linktype == 127:
        version, length = data.number(0, 1), data.number(2, 2)
        if version != 0 or length is None:
            return nothing()
        length = (length & 0xFF) << 8 | length >> 8
        return _wifi(data, length) if length >= 8 else nothing()
    if linktype == 119 and magic not in AVS_MAGIC:
        return _wifi(data, 144)
    length = data.number(4, 4)
    if length is None:
        return cut()
    return _wifi(data, length) if length >= 8 else nothing()


def _wifi(data: Bytes, at: int) -> Place:
    """An IEEE 802.11 data frame: three addresses or four, QoS control, HT control, then LLC."""
    control = data.number(at, 2)
    if control is None:
        return cut()
    kind, subtype, flags = control >> 10 & 3, control >> 12, control & 0xFF
    if kind != 2 or subtype & 4 or flags & 0x40:
        return nothing()
    header = 24 + (6 if flags & 3 == 3 else 0)
    if subtype & 8:
        qos = data.number(at + header, 2)
        if qos is None:
            return cut()
        if qos >> 8 & 0x80:
            return nothing()
        header += 2 + (4 if flags & 0x80 else 0)
    return _llc(data, at + header)
