"""Link layers: from the first captured byte towards the network header.

Link types by their number in the tcpdump.org registry. Positions are offsets in the batch; `limit` is where the
captured bytes of the packet end. The payload of a layer is given by its EtherType, or one of the codes below.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined
from pktrace.decode.rows import HAS_VLAN, STACKED_VLANS
from pktrace.wire import byte, half, word

IPV4 = 0x0800
IPV6 = 0x86DD
NSH = 0x894F
# Codes below the EtherTypes (which begin at 1536): other payloads, and reasons why nothing can be decoded.
NOTHING = 0
ETHERNET = 1
LLC = 2
PPP = 3
MPLS = 4
RAW_IP = 5
PPPOE = 6
CUT = -1
UNKNOWN = -2
HIDDEN = -3
_MOST_SHIMS = 16


@inlined
def link_layer(data, at, limit, link_type, row):
    """The kind of payload of a packet's link layer, and its position."""
    if link_type == 1:
        return ETHERNET, at
    if link_type == 101 or link_type == 12 or link_type == 14 or link_type == 228:
        return RAW_IP, at
    if link_type == 229:
        return IPV6, at
    if link_type == 113:
        return _cooked(data, at, limit, row)
    if link_type == 276:
        return _cooked_2(data, at, limit, row)
    if link_type == 0 or link_type == 108:
        return _loopback(data, at, limit, link_type == 108)
    if link_type == 9 or link_type == 50:
        return PPP, at
    if link_type == 166 or link_type == 204:  # the byte before gives the direction
        if at >= limit:
            return CUT, at
        row["direction"] = 2 if byte(data, at) != 0 else 1
        at += 1
        if link_type == 166 and at < limit and byte(data, at) == 3:
            at += 1  # the direction stands in place of the address; the control byte follows
        return PPP, at
    if link_type == 51:
        return PPPOE, at
    if link_type == 219:
        return MPLS, at
    if link_type == 105:
        return _wireless(data, at, limit, False)
    if link_type == 127:
        return _radiotap(data, at, limit)
    if link_type == 119 or link_type == 163:
        return _wireless_header(data, at, limit)
    return UNKNOWN, at


@inlined
def _cooked(data, at, limit, row):
    """Linux cooked capture (SLL): packet type, ARPHRD type, address, protocol."""
    if at + 16 > limit:
        return CUT, at
    row["direction"] = 2 if half(data, at, True) == 4 else 1
    protocol = half(data, at + 14, True)
    return LLC if protocol == 4 else protocol if protocol >= 1536 else NOTHING, at + 16


@inlined
def _cooked_2(data, at, limit, row):
    """Linux cooked capture, version 2 (SLL2): protocol, interface index, ARPHRD type, packet type, address."""
    if at + 20 > limit:
        return CUT, at
    protocol = half(data, at, True)
    row["ifindex"] = word(data, at + 4, True)
    row["direction"] = 2 if byte(data, at + 10) == 4 else 1
    return LLC if protocol == 4 else protocol if protocol >= 1536 else NOTHING, at + 20


@inlined
def _loopback(data, at, limit, network_order):
    """BSD loopback: the address family, in network order for LOOP, in the byte order of the writer for NULL."""
    if at + 4 > limit:
        return CUT, at
    family = word(data, at, True)
    if family > 0xFFFF and not network_order:
        family = word(data, at, False)
    if family == 2:
        return IPV4, at + 4
    if family == 24 or family == 28 or family == 30:
        return IPV6, at + 4
    return NOTHING, at + 4


@inlined
def _radiotap(data, at, limit):
    """Radiotap header: its length, and True if the 802.11 header behind it is padded to four bytes (flag 0x20)."""
    if at + 8 > limit:
        return CUT, at
    length = half(data, at + 2, False)
    if length < 8:
        return NOTHING, at
    present = word(data, at + 4, False)
    flags_at = at + 8
    chained = present
    while chained & 0x80000000 and flags_at + 4 <= limit and flags_at + 4 <= at + length:
        chained = word(data, flags_at, False)
        flags_at += 4
    padded = False
    if present & 2:
        if present & 1:  # a 64 bit clock stands before, aligned to 8 bytes from the header's start
            flags_at = at + ((flags_at - at + 7) & ~7) + 8
        if flags_at < limit and flags_at < at + length:
            padded = byte(data, flags_at) & 0x20 != 0
    return _wireless(data, at + length, limit, padded)


@inlined
def _wireless_header(data, at, limit):
    """AVS or Prism header before the 802.11 header; both give their length, Prism in either byte order."""
    if at + 8 > limit:
        return CUT, at
    code = word(data, at, True)
    if code == 0x80211001 or code == 0x80211002:
        length = word(data, at + 4, True)
    else:
        length = word(data, at + 4, code == 0x44 or code == 0x41)
    if length < 8 or length > limit - at:
        return CUT, at
    return _wireless(data, at + length, limit, False)


@inlined
def _wireless(data, at, limit, padded):
    """IEEE 802.11 (9.2.3): data frames; encrypted ones, later fragments and aggregates hide their packets."""
    if at + 24 > limit:
        return (NOTHING if at < limit and byte(data, at) & 0x0C != 0x08 else CUT), at
    control = byte(data, at)
    flags = byte(data, at + 1)
    if control & 0x0F != 0x08 or control & 0x40:
        return NOTHING, at
    if flags & 0x40 or half(data, at + 22, False) & 15:
        return HIDDEN, at
    length = 24
    if flags & 3 == 3:
        length += 6
    if control & 0x80:
        if at + length + 2 > limit:
            return CUT, at
        if byte(data, at + length) & 0x80:
            return HIDDEN, at
        length += 2
        if flags & 0x80:
            length += 4
    if padded:
        length = (length + 3) & ~3
    return LLC, at + length


@inlined
def _llc(data, at, limit):
    """LLC (IEEE 802.2): SNAP with an EtherType, or IP by its own SAP."""
    if at + 3 > limit:
        return CUT, at
    if byte(data, at) == 6 and byte(data, at + 1) == 6 and byte(data, at + 2) == 3:
        return IPV4, at + 3
    if at + 8 > limit:
        return (CUT if half(data, at, True) == 0xAAAA and byte(data, at + 2) == 3 else NOTHING), at
    if word(data, at, True) != 0xAAAA0300 or (half(data, at + 4, True) != 0 and half(data, at + 4, True) != 0xF8):
        return NOTHING, at
    kind = half(data, at + 6, True)
    return kind if kind >= 1536 else NOTHING, at + 8


@inlined
def _ppp(data, at, limit):
    """PPP (RFC 1661, 1662): address and control bytes may be left out, protocol numbers compressed to one byte."""
    if at + 2 <= limit and byte(data, at) == 0xFF and byte(data, at + 1) == 3:
        at += 2
    if at >= limit:
        return CUT, at
    protocol = byte(data, at)
    if protocol & 1:
        at += 1
    else:
        if at + 2 > limit:
            return CUT, at
        protocol = half(data, at, True)
        at += 2
    if protocol == 0x21:
        return IPV4, at
    if protocol == 0x57:
        return IPV6, at
    if protocol == 0x281 or protocol == 0x283:
        return MPLS, at
    return NOTHING, at


@inlined
def _by_version(data, at, limit):
    """IP whose version is given by the packet alone: its first four bits."""
    if at >= limit:
        return CUT, at
    version = byte(data, at) >> 4
    return IPV4 if version == 4 else IPV6 if version == 6 else NOTHING, at


@inlined
def _note(row, number):
    """Add a tag that separates tenants to the tags before it."""
    row["inner_tags"] = (np.int64(row["inner_tags"]) * 31 + np.int64(number) + 1) & 0xFFFFFFFF


@inlined
def to_network(data, at, limit, kind, row):
    """Skip the shims before a network header: returns (IPV4, IPV6, NSH or the reason for none, position).

    VLAN tags, MPLS labels, PPPoE sessions: at most _MOST_SHIMS of them in all.
    """
    shims = 0
    while kind != IPV4 and kind != IPV6 and kind > 0:
        if kind == ETHERNET:
            if at + 14 > limit:
                return CUT, at
            kind = half(data, at + 12, True)
            at += 14
            if kind < 1536:
                kind = LLC if kind <= 1500 else NOTHING
        elif kind == 0x8100 or kind == 0x88A8 or kind == 0x9100:
            shims += 1
            if at + 4 > limit or shims > _MOST_SHIMS:
                return (CUT if at + 4 > limit else NOTHING), at
            if not row["has"] & HAS_VLAN:
                row["has"] |= HAS_VLAN
                row["vlan"] = half(data, at, True) & 0xFFF
            else:
                _note(row, half(data, at, True) & 0xFFF)
                if row["tunnel"] == 0:
                    row["has"] |= STACKED_VLANS
            kind = half(data, at + 2, True)
            at += 4
            if kind < 1536:
                kind = LLC if kind <= 1500 else NOTHING
        elif kind == LLC:
            kind, at = _llc(data, at, limit)
        elif kind == RAW_IP:
            kind, at = _by_version(data, at, limit)
        elif kind == MPLS or kind == 0x8847 or kind == 0x8848:
            kind = MPLS
            shims += 1
            if at + 4 > limit or shims > _MOST_SHIMS:
                return (CUT if at + 4 > limit else NOTHING), at
            if byte(data, at + 2) & 1:  # bottom of the stack (RFC 3032)
                kind = RAW_IP
                _note(row, word(data, at, True) >> 12)
            at += 4
        elif kind == PPPOE or kind == 0x8864:  # RFC 2516: version and type, code, session, length
            shims += 1
            if at + 6 > limit or shims > _MOST_SHIMS:
                return (CUT if at + 6 > limit else NOTHING), at
            if byte(data, at) != 0x11 or byte(data, at + 1) != 0:
                return NOTHING, at
            kind = PPP
            _note(row, half(data, at + 2, True))
            at += 6
        elif kind == PPP:
            kind, at = _ppp(data, at, limit)
        else:
            return kind if kind == NSH else NOTHING, at
    if kind == IPV4 and at < limit and byte(data, at) >> 4 == 6:
        kind = IPV6  # behind the code of IPv4, Wireshark trusts the version field, as raw sockets of kernels do
    return kind, at


@inlined
def bottom_label(data, at, limit):
    """The last label of the MPLS stack at `at` (RFC 3032), or -1."""
    for _ in range(_MOST_SHIMS):
        if at + 4 > limit:
            return np.int64(-1)
        if byte(data, at + 2) & 1:
            return word(data, at, True) >> 12
        at += 4
    return np.int64(-1)
