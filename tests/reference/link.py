"""Link layers (docs/decoding.md, "Link types"): from the first captured byte to the IP header.

A :class:`Place` says where it is and what stands there: ``ipv4``, ``ipv6``, ``nsh``, ``none`` (no IP for us),
``hidden`` (encrypted or in pieces), ``cut`` (the captured bytes end before it can be said), ``unknown`` (a link type
that is not decoded).
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
    if linktype in (12, 14, 101, 228):
        return by_version(data, 0)
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
        if kind in VLAN_TAGS:
            tag, kind = data.number(at, 2), data.number(at + 2, 2)
            if tag is None or kind is None:
                return cut(vlans)
            if tags > MOST_TAGS:
                return nothing(vlans)
            vlans.append(tag & 0xFFF)
            at += 4
        elif kind in MPLS:
            label = data.number(at, 4)
            if label is None:
                return cut(vlans)
            at += 4
            if tags > MOST_TAGS:
                return nothing(vlans)
            if label >> 8 & 1:
                return by_version(data, at, vlans)
        else:
            code = data.number(at, 2)
            if code is None or data.number(at, 7) is None:
                return cut(vlans)
            if code != 0x1100 or tags > MOST_TAGS:
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
        return Place(at + 3, "ipv4")
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
    if len(data.data) < 16:
        return cut()
    return _cooked_content(data, 16, data.certain(14, 2), {"direction": cooked_direction(data.certain(0, 2))})


def _cooked_content(data: Bytes, at: int, kind: int, marks: dict[str, Any]) -> Place:
    """What follows a protocol of Linux: an EtherType, or 4 for LLC."""
    place = nothing() if kind <= 1500 and kind != 4 else ethertype(data, at, kind)
    place.marks = marks
    return place


def _cooked2(data: Bytes) -> Place:
    """Version 2: protocol, reserved, interface index, hardware type, packet type, address: 20 bytes."""
    if len(data.data) < 20:
        return cut()
    marks = {"direction": cooked_direction(data.certain(10, 1)), "interface_index": data.number(4, 4)}
    return _cooked_content(data, 20, data.certain(0, 2), marks)


def _wifi_behind_head(data: Bytes, linktype: int) -> Place:
    """Radiotap and Prism say their length in little endian, AVS, known by its magic number, in big endian."""
    magic = data.number(0, 4)
    if magic is None:
        return cut()
    if linktype == 127:
        length = data.little(2, 2)
        padded = _radiotap_flags(data) & 0x20 != 0
    else:
        length = data.number(4, 4) if magic in AVS_MAGIC else data.little(4, 4)
        padded = False
    if length is None:
        return cut()
    return _wifi(data, length, padded) if length >= 8 else nothing()


def _radiotap_flags(data: Bytes) -> int:
    """The flags field, 0 if there is none: behind all presence words, and behind the time if that is there."""
    at = 4
    present = first = data.little(4, 4)
    while present is not None and present >> 31:
        at += 4
        present = data.little(at, 4)
    if first is None or not first & 2:
        return 0
    at += 4
    if first & 1:
        at += -at % 8 + 8
    return data.number(at, 1) or 0


def _wifi(data: Bytes, at: int, padded: bool = False) -> Place:
    """An IEEE 802.11 data frame: three addresses or four, QoS control, HT control, then LLC.

    Encrypted frames, later fragments and aggregates of several packets do not show LLC.
    ``padded``: the header is filled up to a multiple of four.
    """
    first = data.number(at, 1)
    if first is None:
        return cut()
    if first & 3 or first >> 2 & 3 != 2:
        return nothing()
    if data.number(at, 24) is None:
        return cut()
    subtype, flags, sequence = first >> 4, data.certain(at + 1, 1), data.certain(at + 22, 1)
    if subtype & 4:
        return nothing()
    if flags & 0x40 or sequence & 15:
        return Place(0, "hidden")
    header = 24 + (6 if flags & 3 == 3 else 0)
    if subtype & 8:
        qos = data.number(at + header, 2)
        if qos is None:
            return cut()
        if qos >> 8 & 0x80:
            return Place(0, "hidden")
        header += 2 + (4 if flags & 0x80 else 0)
    if padded:
        header += -header % 4
    return _llc(data, at + header)
