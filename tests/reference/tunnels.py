"""Tunnels (docs/decoding.md, "Tunnels"): from an IP payload to what is inside."""

from __future__ import annotations

from tests.reference.bytes import Bytes
from tests.reference.link import MPLS, NSH, Place, by_version, ethernet, ethertype, nothing, ppp

IPV4_IN_IP, IPV6_IN_IP, GRE, UDP = 4, 41, 47, 17
TRANSPARENT_ETHERNET, PPP_IN_GRE = 0x6558, 0x880B

# The kind and number of the tunnel, as the column shows them, and what is inside.
Found = tuple[list[str], Place] | None


def inside_ip(data: Bytes, at: int, protocol: int, ip_version: int) -> Found:
    """What an IP packet carries, if it is a tunnel's."""
    if protocol == IPV4_IN_IP:
        return ["ipip"], Place(at, "ipv4")
    if protocol == IPV6_IN_IP:
        return ["6in4" if ip_version == 4 else "6in6"], Place(at, "ipv6")
    if protocol == GRE:
        return _gre(data, at)
    if protocol == UDP:
        port = data.number(at + 2, 2)
        known = {4789: _vxlan, 8472: _vxlan, 4790: _vxlan_gpe, 6081: _geneve, 2152: _gtp_u, 6635: _mpls, 37008: _tzsp}
        if port in known:
            return known[port](data, at + 8)
    return None


def _gre(data: Bytes, at: int) -> Found:
    """RFC 2784 and 2890; version 1 is that of RFC 2637. The old routing field is not passed over."""
    flags, kind = data.number(at, 2), data.number(at + 2, 2)
    if flags is None or kind is None or flags & 0x4000:
        return None
    key: int | None = None
    at += 4
    if flags & 7 == 0:
        at += 4 * bool(flags & 0x8000)
        if flags & 0x2000:
            key = data.number(at, 4)
            if key is None:
                return None
            at += 4
        at += 4 * bool(flags & 0x1000)
    elif flags & 7 == 1:
        if kind != PPP_IN_GRE or not flags & 0x2000:
            return None
        key = data.number(at + 2, 2)
        at += 4 + 4 * bool(flags & 0x1000) + 4 * bool(flags & 0x0080)
    else:
        return None
    if flags & 7 == 0 and kind in (0x88BE, 0x22EB):
        return _erspan(data, at, kind, bool(flags & 0x1000))
    words = ["gre" if key is None else f"gre {key}"]
    if kind == TRANSPARENT_ETHERNET:
        return words, ethernet(data, at)
    if kind == PPP_IN_GRE:
        return words, ppp(data, at)
    if kind in (0x0800, 0x86DD, NSH, *MPLS):
        return words, ethertype(data, at, kind)
    return None


def _erspan(data: Bytes, at: int, kind: int, numbered: bool) -> Found:
    """draft-foschiano-erspan-03: type I is bare; II has 8 bytes, III 12, and 8 more with its last bit."""
    if kind == 0x88BE and not numbered:
        return ["erspan"], ethernet(data, at)
    first, session, end = data.number(at, 1), data.number(at + 2, 2), data.number(at + (4 if kind == 0x88BE else 8), 4)
    if first is None or session is None or end is None or first >> 4 != (1 if kind == 0x88BE else 2):
        return None
    words = [f"erspan {session & 0x3FF}"]
    if kind == 0x88BE:
        return words, ethernet(data, at + 8)
    inside = at + 12 + 8 * (end & 1)
    frame_type = end >> 10 & 31
    if frame_type == 0:
        return words, ethernet(data, inside)
    return (words, by_version(data, inside)) if frame_type == 2 else None


def _tzsp(data: Bytes, at: int) -> Found:
    """As Wireshark's packet-tzsp.c reads it: version 1, type 0, Ethernet; tags up to the one that ends them."""
    if (data.number(at, 1), data.number(at + 1, 1), data.number(at + 2, 2)) != (1, 0, 1):
        return None
    at += 4
    while (tag := data.number(at, 1)) is not None:
        if tag == 1:
            return ["tzsp"], ethernet(data, at + 1)
        length = 0 if tag == 0 else data.number(at + 1, 1)
        if length is None:
            return None
        at += 1 if tag == 0 else 2 + length
    return None


def _vxlan(data: Bytes, at: int) -> Found:
    """RFC 7348."""
    flags, vni = data.number(at, 1), data.number(at + 4, 3)
    if flags is None or vni is None or not flags & 0x08:
        return None
    return [f"vxlan {vni}"], ethernet(data, at + 8)


def _next_protocol(data: Bytes, at: int, number: int | None) -> Place:
    """The next protocols that VXLAN-GPE and NSH (RFC 8300 6.1) share."""
    if number == 1:
        return Place(at, "ipv4")
    if number == 2:
        return Place(at, "ipv6")
    if number == 3:
        return ethernet(data, at)
    if number == 4:
        return Place(at, "nsh")
    if number == 5:
        return ethertype(data, at, MPLS[0])
    return nothing()


def _vxlan_gpe(data: Bytes, at: int) -> Found:
    """draft-ietf-nvo3-vxlan-gpe."""
    flags, following, vni = data.number(at, 1), data.number(at + 3, 1), data.number(at + 4, 3)
    if flags is None or vni is None or not flags & 0x04:
        return None
    return [f"vxlan-gpe {vni}"], _next_protocol(data, at + 8, following)


def _geneve(data: Bytes, at: int) -> Found:
    """RFC 8926."""
    first, kind, vni = data.number(at, 1), data.number(at + 2, 2), data.number(at + 4, 3)
    if first is None or vni is None or first >> 6 != 0:
        return None
    at += 8 + (first & 0x3F) * 4
    if kind == TRANSPARENT_ETHERNET:
        return [f"geneve {vni}"], ethernet(data, at)
    if kind in (0x0800, 0x86DD):
        return [f"geneve {vni}"], ethertype(data, at, kind)
    return None


def _gtp_u(data: Bytes, at: int) -> Found:
    """TS 29.281: version 1, message 255; four more bytes if any of E, S and PN is set, then extension headers."""
    flags, kind, tunnel = data.number(at, 1), data.number(at + 1, 1), data.number(at + 4, 4)
    if flags is None or tunnel is None or kind != 255 or flags >> 5 != 1 or not flags & 0x10:
        return None
    at += 8
    if flags & 0x07:
        following = data.number(at + 3, 1)
        at += 4
        while flags & 0x04 and following != 0:
            units = data.number(at, 1)
            if following is None or not units:
                return None
            at += units * 4
            following = data.number(at - 1, 1)
    return [f"gtp-u {tunnel}"], by_version(data, at)


def _mpls(data: Bytes, at: int) -> Found:
    """RFC 7510; the number is the label with the bottom bit."""
    bottom = at
    while True:
        label = data.number(bottom, 4)
        if label is None:
            return None
        if label >> 8 & 1:
            return [f"mpls-in-udp {label >> 12}"], ethertype(data, at, MPLS[0])
        bottom += 4


def inside_nsh(data: Bytes, at: int) -> tuple[int | None, Place | None]:
    """RFC 8300: the service path and what is inside; None if the header is not whole or of another version."""
    first, following, path = data.number(at, 2), data.number(at + 3, 1), data.number(at + 4, 3)
    if first is None or path is None or first >> 14 != 0 or first & 0x3F < 2:
        return None, None
    return path, _next_protocol(data, at + (first & 0x3F) * 4, following)
