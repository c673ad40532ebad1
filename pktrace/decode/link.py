"""Link layers: from the first captured byte to the network header.

Link types by their number in the IANA/tcpdump registry. Each function returns
(ethertype, offset of the network header, VLAN id or -1); ethertype -1: header not captured whole,
0: no network protocol that we know, -2: link type not decoded.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined
from pktrace.wire import half, word

IPV4 = 0x0800
IPV6 = 0x86DD
_MOST_TAGS = 8


@inlined
def _ethernet(data, start, captured, at):
    """EtherType at `at`, with VLAN tags 802.1Q and 802.1ad before it, or an 802.3 length with a SNAP header."""
    vlan = -1
    if at + 2 > captured:
        return -1, 0, vlan
    kind = half(data, start + at, True)
    at += 2
    for _ in range(_MOST_TAGS):
        if kind != 0x8100 and kind != 0x88A8 and kind != 0x9100:
            break
        if at + 4 > captured:
            return -1, 0, vlan
        if vlan < 0:
            vlan = half(data, start + at, True) & 0xFFF
        kind = half(data, start + at + 2, True)
        at += 4
    if kind <= 1500:
        if at + 8 > captured:
            return 0, at, vlan
        snap = word(data, start + at, True) == 0xAAAA0300 and half(data, start + at + 4, True) == 0
        if not snap:
            return 0, at, vlan
        kind = half(data, start + at + 6, True)
        at += 8
    return kind, at, vlan


@inlined
def _by_version(data, start, captured):
    """Raw IP: the version is in the first four bits."""
    if captured < 1:
        return -1
    version = np.int64(data[start]) >> 4
    if version == 4:
        return IPV4
    if version == 6:
        return IPV6
    return 0


@inlined
def network_header(data, start, captured, link_type):
    """(ethertype, offset, vlan) for one packet of `captured` bytes at data[start]."""
    if link_type == 1 or link_type == 113:  # Ethernet; Linux cooked, version 1
        if link_type == 113 and captured < 16:
            return -1, 0, -1
        return _ethernet(data, start, captured, np.int64(12 if link_type == 1 else 14))
    if link_type == 276:  # Linux cooked, version 2: the protocol stands first, and 20 bytes of header around it
        if captured < 20:
            return -1, 0, -1
        return half(data, start, True), 20, -1
    if link_type == 101 or link_type == 12 or link_type == 14:  # raw IP
        return _by_version(data, start, captured), 0, -1
    if link_type == 228:
        return IPV4, 0, -1
    if link_type == 229:
        return IPV6, 0, -1
    if link_type == 0 or link_type == 108:  # BSD loopback: address family, in the byte order of the writer
        if captured < 4:
            return -1, 0, -1
        family = word(data, start, True)
        if family > 0xFFFF:
            family = word(data, start, False)
        if family == 2:
            return IPV4, 4, -1
        if family == 10 or family == 24 or family == 28 or family == 30:
            return IPV6, 4, -1
        return 0, 4, -1
    return -2, 0, -1
