"""IPv4 (RFC 791) and IPv6 with its extension headers (RFC 8200), into one row.

Positions are offsets in the batch, `limit` is the end of the captured bytes, `start` is the packet's first byte, and
`wire_end` is the end on the wire of the layer around the IP packet, counted from `start`.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined
from pktrace.decode.rows import CUT_HEADER, HAS_FRAGMENT, HAS_ID, HAS_IP, MALFORMED
from pktrace.wire import byte, double, half, word

MOST_EXTENSIONS = 16


@inlined
def plausible_ipv4(data, at, limit):
    """True if a complete IPv4 header lies here: its version, header length and total length are plausible."""
    if at + 20 > limit:
        return False
    first = byte(data, at)
    header = (first & 15) * 4
    total = half(data, at + 2, True)
    return first >> 4 == 4 and header >= 20 and (total == 0 or total >= header)


@inlined
def plausible_ipv6(data, at, limit):
    """True if a complete IPv6 header lies here."""
    return at + 40 <= limit and byte(data, at) >> 4 == 6


@inlined
def ipv4(data, start, at, limit, wire_end, row):
    """IPv4 header (3.1). Returns the position of its payload, or -1 if nothing can be decoded."""
    if not plausible_ipv4(data, at, limit):
        row["has"] |= CUT_HEADER if at + 20 > limit else MALFORMED
        return np.int64(-1)
    header = (byte(data, at) & 15) * 4
    total = half(data, at + 2, True)
    on_wire = wire_end - (at - start)
    if total == 0 and on_wire < header:
        row["has"] |= MALFORMED
        return np.int64(-1)
    if total == 0:
        total = on_wire  # a superpacket of a large offload: the length did not fit the field
    fragment = half(data, at + 6, True)
    row["has"] |= HAS_IP | HAS_ID | HAS_FRAGMENT
    row["ip_version"] = 4
    row["dscp"] = byte(data, at + 1) >> 2
    row["ip_id"] = half(data, at + 4, True)
    row["fragment_offset"] = (fragment & 0x1FFF) * 8
    row["more_fragments"] = (fragment >> 13) & 1
    row["ttl"] = byte(data, at + 8)
    row["protocol"] = byte(data, at + 9)
    row["source_low"] = word(data, at + 12, True)
    row["destination_low"] = word(data, at + 16, True)
    row["l3"] = at - start
    row["ip_end"] = at - start + total
    if at + header > limit:
        row["has"] |= CUT_HEADER
    return at + header


@inlined
def ipv6(data, start, at, limit, wire_end, row):
    """IPv6 header (3) and extension headers (4). Returns as `ipv4`."""
    if not plausible_ipv6(data, at, limit):
        row["has"] |= CUT_HEADER if at + 40 > limit else MALFORMED
        return np.int64(-1)
    total = half(data, at + 4, True) + 40
    on_wire = wire_end - (at - start)
    protocol = byte(data, at + 6)
    if total == 40 and protocol != 59:  # 59: there is no next header, the rest is padding
        total = max(on_wire, total)  # a jumbogram or a superpacket: the length did not fit the field
    row["has"] |= HAS_IP
    row["ip_version"] = 6
    row["dscp"] = (half(data, at, True) >> 6) & 63
    row["ttl"] = byte(data, at + 7)
    row["source_high"] = double(data, at + 8)
    row["source_low"] = double(data, at + 16)
    row["destination_high"] = double(data, at + 24)
    row["destination_low"] = double(data, at + 32)
    row["l3"] = at - start
    row["ip_end"] = at - start + total
    cut = limit < at + total
    limit = min(limit, at + total)
    at += 40
    for _ in range(MOST_EXTENSIONS):
        common = protocol == 0 or protocol == 43 or protocol == 60
        rare = protocol == 135 or protocol == 139 or protocol == 140
        if not common and not rare and protocol != 44 and protocol != 51:
            break
        if at + 8 > limit:
            if cut or not rare:
                row["has"] |= CUT_HEADER
                row["protocol"] = protocol
                return np.int64(-1)
            break
        following = byte(data, at)
        if rare and following == 59:
            break  # the message itself is the payload of the packet
        if protocol == 44:
            fragment = half(data, at + 2, True)
            row["has"] |= HAS_FRAGMENT | HAS_ID
            row["fragment_offset"] = fragment & 0xFFF8
            row["more_fragments"] = fragment & 1
            row["ip_id"] = word(data, at + 4, True)
            at += 8
        elif protocol == 51:
            at += (byte(data, at + 1) + 2) * 4
        else:
            at += (byte(data, at + 1) + 1) * 8
        protocol = following
        if row["fragment_offset"] > 0:
            break  # data follows the header of a later fragment
    row["protocol"] = protocol
    return at
