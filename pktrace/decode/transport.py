"""TCP (RFC 9293), UDP (768), UDP-Lite (3828), SCTP (9260), ICMP (792), ICMPv6 (4443), into one row.

A field is set only if all its bytes were captured and lie inside the packet by the IP header's length.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined
from pktrace.decode.rows import (
    CUT_HEADER,
    HAS_ECHO,
    HAS_ICMP,
    HAS_PORTS,
    HAS_TCP,
    MALFORMED,
    PARTIAL_CHECKSUM,
)
from pktrace.protocols import ESP, ICMP, ICMPV6, SCTP, TCP, UDP, UDP_LITE
from pktrace.wire import byte, half, word


@inlined
def header_length(protocol):
    """The least number of bytes of the transport header; 0 if the protocol is not decoded."""
    if protocol == TCP:
        return np.int64(20)
    if protocol == UDP or protocol == UDP_LITE or protocol == ICMP or protocol == ICMPV6:
        return np.int64(8)
    if protocol == SCTP:
        return np.int64(12)
    return np.int64(0)


@inlined
def transport(data, at, end, cut, protocol, row):
    """The transport header at `at`.

    Args:
        end: the end of the packet's bytes, captured and by the IP header; cut: True if the capture cut it before.

    Returns:
        The position of its payload (perhaps behind `end`).
    """
    header = header_length(protocol)
    if header == 0:
        if protocol == ESP and at + 4 <= end:
            # The SPI distinguishes flows, as ports do (RFC 4303 2.1). The packet itself has no ports.
            row["sport"] = half(data, at, True)
            row["dport"] = half(data, at + 2, True)
        return at
    if protocol == ICMP or protocol == ICMPV6:
        if at + 2 <= end:
            row["has"] |= HAS_ICMP
            kind = byte(data, at)
            row["icmp_type"] = kind
            row["icmp_code"] = byte(data, at + 1)
            if protocol == ICMPV6:
                echo = kind == 128 or kind == 129
            else:
                echo = kind == 0 or kind == 8 or (kind >= 13 and kind <= 18)
            if echo and at + 8 <= end:
                row["has"] |= HAS_ECHO
                row["icmp_id"] = half(data, at + 4, True)
                row["icmp_seq"] = half(data, at + 6, True)
    else:
        if at + 4 <= end:
            row["has"] |= HAS_PORTS
            row["sport"] = half(data, at, True)
            row["dport"] = half(data, at + 2, True)
        if protocol == TCP and at + 14 <= end:
            row["has"] |= HAS_TCP
            row["tcp_seq"] = word(data, at + 4, True)
            row["tcp_ack"] = word(data, at + 8, True)
            flags = half(data, at + 12, True)
            row["tcp_flags"] = flags & 0xFFF
            if at + 16 <= end:
                row["tcp_window"] = half(data, at + 14, True)
            header = (flags >> 12) * 4
            if header < 20:
                row["has"] |= MALFORMED
                header = np.int64(20)
        if protocol == TCP or protocol == UDP:
            field = at + 16 if protocol == TCP else at + 6
            if field + 2 <= end and half(data, field, True) == _pseudo_header(row, protocol):
                row["has"] |= PARTIAL_CHECKSUM
    if cut and at + header > end:
        row["has"] |= CUT_HEADER
    return at + header


@inlined
def _pseudo_header(row, protocol):
    """Sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1): the value of a checksum field that offload has to
    complete.
    """
    total = np.uint64(protocol) + np.uint64(row["ip_end"] - row["l4"])
    low, more = row["source_low"], row["destination_low"]
    total += (low >> np.uint64(32)) + (low & np.uint64(0xFFFFFFFF))
    total += (more >> np.uint64(32)) + (more & np.uint64(0xFFFFFFFF))
    if row["ip_version"] == 6:
        low, more = row["source_high"], row["destination_high"]
        total += (low >> np.uint64(32)) + (low & np.uint64(0xFFFFFFFF))
        total += (more >> np.uint64(32)) + (more & np.uint64(0xFFFFFFFF))
    total = (total >> np.uint64(32)) + (total & np.uint64(0xFFFFFFFF))
    total = (total >> np.uint64(16)) + (total & np.uint64(0xFFFF))
    total = (total >> np.uint64(16)) + (total & np.uint64(0xFFFF))
    total = (total >> np.uint64(16)) + (total & np.uint64(0xFFFF))
    return np.int64(total)
