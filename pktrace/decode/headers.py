"""Decodes network and transport headers: IPv4, IPv6 with extension headers, TCP, UDP, ICMP, ICMPv6.

Sources: RFC 791, RFC 8200, RFC 9293 3.1, RFC 768, RFC 792, RFC 4443. A field is set only if all its bytes were
captured; reads are bounded by the captured length of the packet, which the index has bounded by the file.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.decode.link import IPV4, IPV6, network_header
from pktrace.decode.rows import (
    BAD_TIME,
    CUT_HEADER,
    HAS_ECHO,
    HAS_FRAGMENT,
    HAS_ICMP,
    HAS_ID,
    HAS_IP,
    HAS_PAYLOAD,
    HAS_PORTS,
    HAS_TCP,
    HAS_TIME,
    HAS_VLAN,
    MALFORMED,
    NOT_IP,
    UNKNOWN_INTERFACE,
    UNKNOWN_LINK,
)
from pktrace.wire import NO_TIME, OUT_OF_RANGE, half, word

_MOST_EXTENSIONS = 16


@inlined
def _double(data, at):
    """Unsigned 64 bit word in network order."""
    return (np.uint64(word(data, at, True)) << np.uint64(32)) | np.uint64(word(data, at + 4, True))


@inlined
def _ipv4(data, start, captured, row, l3):
    """IPv4 header (RFC 791 3.1). Returns (offset of what follows it, or -1 where there is nothing to decode)."""
    if captured < l3 + 20:
        row["has"] |= CUT_HEADER
        return -1
    at = start + l3
    header = (np.int64(data[at]) & 15) * 4
    if (np.int64(data[at]) >> 4) != 4 or header < 20:
        row["has"] |= MALFORMED
        return -1
    total = half(data, at + 2, True)
    on_wire = np.int64(row["length"]) - l3
    if total == 0:
        total = on_wire  # a superpacket of a large offload: the length did not fit the field
    if total < header or total > on_wire:
        row["has"] |= MALFORMED
        if total < header:
            return -1
    fragment = half(data, at + 6, True)
    row["has"] |= HAS_IP | HAS_ID | HAS_FRAGMENT
    row["ip_version"] = 4
    row["dscp"] = data[at + 1] >> 2
    row["ip_id"] = half(data, at + 4, True)
    row["fragment_offset"] = (fragment & 0x1FFF) * 8
    row["more_fragments"] = (fragment >> 13) & 1
    row["ttl"] = data[at + 8]
    row["protocol"] = data[at + 9]
    row["source_low"] = word(data, at + 12, True)
    row["destination_low"] = word(data, at + 16, True)
    row["l3"] = l3
    row["ip_end"] = l3 + total
    return l3 + header


@inlined
def _ipv6(data, start, captured, row, l3):
    """IPv6 header and its extension headers (RFC 8200 3, 4). Returns as `_ipv4`."""
    if captured < l3 + 40:
        row["has"] |= CUT_HEADER
        return -1
    at = start + l3
    if (np.int64(data[at]) >> 4) != 6:
        row["has"] |= MALFORMED
        return -1
    total = half(data, at + 4, True) + 40
    on_wire = np.int64(row["length"]) - l3
    if total == 40 and on_wire > 40 and data[at + 6] != 59:  # 59: there is no next header, the rest is padding
        total = on_wire  # a jumbogram or a superpacket: the length did not fit the field
    if total > on_wire:
        row["has"] |= MALFORMED
    row["has"] |= HAS_IP
    row["ip_version"] = 6
    row["dscp"] = (half(data, at, True) >> 6) & 63
    row["ttl"] = data[at + 7]
    row["source_high"] = _double(data, at + 8)
    row["source_low"] = _double(data, at + 16)
    row["destination_high"] = _double(data, at + 24)
    row["destination_low"] = _double(data, at + 32)
    row["l3"] = l3
    row["ip_end"] = l3 + total
    protocol = np.int64(data[at + 6])
    next_header = l3 + 40
    for _ in range(_MOST_EXTENSIONS):
        known = protocol == 0 or protocol == 43 or protocol == 60 or protocol == 135
        known = known or protocol == 139 or protocol == 140
        if not known and protocol != 44 and protocol != 51:
            break
        if row["fragment_offset"] > 0:
            break  # what follows the header of a later fragment is data
        if next_header + 8 > captured:
            row["has"] |= CUT_HEADER
            row["protocol"] = protocol
            return -1
        at = start + next_header
        if protocol == 44:
            fragment = half(data, at + 2, True)
            row["has"] |= HAS_FRAGMENT | HAS_ID
            row["fragment_offset"] = fragment & 0xFFF8
            row["more_fragments"] = fragment & 1
            row["ip_id"] = word(data, at + 4, True)
            step = np.int64(8)
        elif protocol == 51:
            step = (np.int64(data[at + 1]) + 2) * 4
        else:
            step = (np.int64(data[at + 1]) + 1) * 8
        protocol = np.int64(data[at])
        next_header += step
    row["protocol"] = protocol
    return next_header


@inlined
def _transport(data, start, captured, row, l4):
    """TCP, UDP, ICMP or ICMPv6 at l4; `payload` is where its payload begins."""
    protocol = row["protocol"]
    version = row["ip_version"]
    end = min(np.int64(row["ip_end"]), captured)
    at = start + l4
    header = np.int64(0)
    if protocol == 6:
        header = np.int64(20)
    elif protocol == 17 or protocol == 136 or (protocol == 1 and version == 4) or (protocol == 58 and version == 6):
        header = np.int64(8)
    elif protocol == 132:
        header = np.int64(12)
    if header == 0:
        return l4
    if protocol == 6 or protocol == 17 or protocol == 136 or protocol == 132:
        if l4 + 4 <= end:
            row["has"] |= HAS_PORTS
            row["sport"] = half(data, at, True)
            row["dport"] = half(data, at + 2, True)
        if protocol == 6 and l4 + 14 <= end:
            row["has"] |= HAS_TCP
            row["tcp_seq"] = word(data, at + 4, True)
            row["tcp_ack"] = word(data, at + 8, True)
            row["tcp_flags"] = half(data, at + 12, True) & 0xFFF
            header = (np.int64(data[at + 12]) >> 4) * 4
            if header < 20:
                row["has"] |= MALFORMED
                header = np.int64(20)
    elif l4 + 2 <= end:
        row["has"] |= HAS_ICMP
        kind = data[at]
        row["icmp_type"] = kind
        row["icmp_code"] = data[at + 1]
        echo = kind == 128 or kind == 129 if version == 6 else kind == 0 or kind == 8
        if echo and l4 + 8 <= end:
            row["has"] |= HAS_ECHO
            row["icmp_id"] = half(data, at + 4, True)
            row["icmp_seq"] = half(data, at + 6, True)
    if l4 + header > end and end < np.int64(row["ip_end"]):
        row["has"] |= CUT_HEADER
    return l4 + header


@kernel
def decode(data, packets, link_types, rows):
    """Decode the packets of one capture file.

    Args:
        data: uint8, the file; packets: the index of the file; link_types: int64, one per interface;
        rows: ROW, zeroed, one per packet, filled here (all but point, capture and digest).
    """
    for number in range(len(packets)):
        packet = packets[number]
        row = rows[number]
        row["frame"] = number + 1
        start = packet["offset"]
        captured = np.int64(packet["captured"])
        row["byte_offset"] = start
        row["captured_length"] = captured
        row["length"] = packet["length"]
        row["direction"] = packet["direction"]
        interface = packet["interface"]
        row["interface"] = interface
        ts = packet["ts"]
        row["ts_ns"] = ts
        if ts == OUT_OF_RANGE:
            row["has"] |= BAD_TIME
        elif ts != NO_TIME:
            row["has"] |= HAS_TIME
        if interface < 0:
            row["has"] |= UNKNOWN_INTERFACE
            continue
        kind, l3, vlan = network_header(data, start, captured, link_types[interface])
        if vlan >= 0:
            row["has"] |= HAS_VLAN
            row["vlan"] = vlan
        if kind == IPV4:
            l4 = _ipv4(data, start, captured, row, np.int64(l3))
        elif kind == IPV6:
            l4 = _ipv6(data, start, captured, row, np.int64(l3))
        else:
            if kind == -2:
                row["has"] |= UNKNOWN_LINK
            elif kind == -1:
                row["has"] |= CUT_HEADER
            else:
                row["has"] |= NOT_IP
            continue
        if l4 < 0:
            continue
        row["l4"] = l4
        payload = l4
        if row["fragment_offset"] == 0:
            payload = _transport(data, start, captured, row, l4)
        row["payload"] = payload
        # Without the data offset nobody knows where a TCP header ends.
        known = row["protocol"] != 6 or row["fragment_offset"] > 0 or row["has"] & HAS_TCP
        if known and payload <= np.int64(row["ip_end"]):
            row["has"] |= HAS_PAYLOAD
            row["payload_length"] = np.int64(row["ip_end"]) - payload
