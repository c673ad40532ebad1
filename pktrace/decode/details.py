"""Fields that rules and matching do not need: options of TCP and of the file, security headers, quoted packets.

Sources: RFC 9293 3.2 and 7323 (TCP options), 2018 (SACK), 4303 (ESP), 4302 (AH), 9260 (SCTP), 792 and 4443 (the
packet that an ICMP error quotes), 2236 and 9776 (IGMP), draft-ietf-opsawg-pcapng 4.3 (options of a packet).
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.decode.network import MOST_EXTENSIONS, plausible_ipv4, plausible_ipv6
from pktrace.decode.rows import HAS_IP
from pktrace.wire import BIG_ENDIAN, byte, double, half, memory, word

DETAIL = np.dtype(
    [
        ("quoted_source_high", np.uint64),
        ("quoted_source_low", np.uint64),
        ("quoted_destination_high", np.uint64),
        ("quoted_destination_low", np.uint64),
        ("verdict", np.uint64),
        ("has", np.uint32),
        ("tcp_sack_left", np.uint32),
        ("tcp_sack_right", np.uint32),
        ("tcp_tsval", np.uint32),
        ("tcp_tsecr", np.uint32),
        ("spi", np.uint32),
        ("sequence", np.uint32),
        ("sctp_tag", np.uint32),
        ("igmp_group", np.uint32),
        ("queue", np.uint32),
        ("tcp_mss", np.uint16),
        ("quoted_ip_id", np.uint16),
        ("quoted_sport", np.uint16),
        ("quoted_dport", np.uint16),
        ("tcp_window_scale", np.uint8),
        ("quoted_version", np.uint8),
        ("quoted_protocol", np.uint8),
        ("igmp_type", np.uint8),
        ("verdict_type", np.uint8),
    ],
    align=True,
)
# Bits of `has`.
(
    HAS_MSS, HAS_SCALE, HAS_SACK_PERMITTED, HAS_SACK, HAS_TIMESTAMPS, HAS_SPI, HAS_TAG, HAS_IGMP, HAS_GROUP,
    HAS_QUOTED, HAS_QUOTED_ID, HAS_QUOTED_PORTS, HAS_QUEUE, HAS_VERDICT,
) = (1 << number for number in range(14))  # fmt: skip


@inlined
def _tcp_options(data, at, end, found):
    """Options of a TCP header; an option that exceeds the header ends the list. At most end - at steps."""
    while at < end:
        kind = byte(data, at)
        if kind == 0:
            return
        if kind == 1:
            at += 1
            continue
        if at + 2 > end:
            return
        length = byte(data, at + 1)
        if length < 2 or at + length > end:
            return
        if kind == 2 and length == 4:
            found["has"] |= HAS_MSS
            found["tcp_mss"] = half(data, at + 2, True)
        elif kind == 3 and length == 3:
            found["has"] |= HAS_SCALE
            found["tcp_window_scale"] = byte(data, at + 2)
        elif kind == 4 and length == 2:
            found["has"] |= HAS_SACK_PERMITTED
        elif kind == 5 and length >= 10:
            found["has"] |= HAS_SACK
            found["tcp_sack_left"] = word(data, at + 2, True)
            found["tcp_sack_right"] = word(data, at + 6, True)
        elif kind == 8 and length == 10:
            found["has"] |= HAS_TIMESTAMPS
            found["tcp_tsval"] = word(data, at + 2, True)
            found["tcp_tsecr"] = word(data, at + 6, True)
        at += length


@inlined
def _quoted(data, at, end, version, found):
    """The packet that an ICMP error quotes, as far as it is quoted."""
    if version == 4:
        if not plausible_ipv4(data, at, end):
            return
        found["quoted_protocol"] = byte(data, at + 9)
        found["quoted_source_low"] = word(data, at + 12, True)
        found["quoted_destination_low"] = word(data, at + 16, True)
        found["quoted_ip_id"] = half(data, at + 4, True)
        found["has"] |= HAS_QUOTED_ID
        later = half(data, at + 6, True) & 0x1FFF != 0
        at += (byte(data, at) & 15) * 4
    else:
        if not plausible_ipv6(data, at, end):
            return
        found["quoted_protocol"] = byte(data, at + 6)
        found["quoted_source_high"] = double(data, at + 8)
        found["quoted_source_low"] = double(data, at + 16)
        found["quoted_destination_high"] = double(data, at + 24)
        found["quoted_destination_low"] = double(data, at + 32)
        later = False
        at += 40
    found["has"] |= HAS_QUOTED
    found["quoted_version"] = version
    protocol = found["quoted_protocol"]
    ports = protocol == 6 or protocol == 17 or protocol == 132 or protocol == 136
    if ports and not later and at + 4 <= end:
        found["has"] |= HAS_QUOTED_PORTS
        found["quoted_sport"] = half(data, at, True)
        found["quoted_dport"] = half(data, at + 2, True)


@inlined
def _authentication(data, at, end, found):
    if at + 12 <= end:
        found["has"] |= HAS_SPI
        found["spi"] = word(data, at + 4, True)
        found["sequence"] = word(data, at + 8, True)


@inlined
def _extension_authentication(data, at, end, found):
    """The authentication header among the extension headers of IPv6."""
    protocol = byte(data, at - 34)
    for _ in range(MOST_EXTENSIONS):
        if at + 8 > end:
            return
        if protocol == 51:
            _authentication(data, at, end, found)
            return
        if protocol == 44:
            if half(data, at + 2, True) & 0xFFF8:
                return  # a later fragment: data follows
            length = np.int64(8)
        elif protocol == 0 or protocol == 43 or protocol == 60 or protocol == 135 or protocol == 139 or protocol == 140:
            length = (byte(data, at + 1) + 1) * 8
        else:
            return
        protocol = byte(data, at)
        at += length


@inlined
def _file_options(data, at, end, big, found):
    """epb_queue (6) and the first epb_verdict (7)."""
    while at + 4 <= end:
        code = half(data, at, big)
        length = half(data, at + 2, big)
        if code == 0 or at + 4 + length > end:
            return
        if code == 6 and length == 4:
            found["has"] |= HAS_QUEUE
            found["queue"] = word(data, at + 4, big)
        elif code == 7 and length >= 2 and not found["has"] & HAS_VERDICT:
            found["has"] |= HAS_VERDICT
            found["verdict_type"] = byte(data, at + 4)
            value = np.uint64(0)
            for number in range(min(length - 1, 8)):
                if big:
                    value = (value << np.uint64(8)) | np.uint64(byte(data, at + 5 + number))
                else:
                    value |= np.uint64(byte(data, at + 5 + number)) << np.uint64(8 * number)
            found["verdict"] = value
        at += 4 + ((length + 3) & ~3)


@kernel
def details(data, base, packets, rows, found):
    """Further fields of the packets of one batch.

    Args:
        data, base, packets: the batch; rows: ROW, its decoded packets;
        found: DETAIL, zeroed, one per packet, filled here.
    """
    source = memory(data)
    for number in range(len(rows)):
        row = rows[number]
        packet = packets[number]
        detail = found[number]
        if packet["options_end"] > packet["options"]:
            big = packet["marks"] & BIG_ENDIAN != 0
            _file_options(source, np.int64(packet["options"]), np.int64(packet["options_end"]), big, detail)
        if not row["has"] & HAS_IP:
            continue
        start = row["byte_offset"] - base
        end = start + min(np.int64(row["captured_length"]), np.int64(row["ip_end"]))
        if row["ip_version"] == 6 and (row["l4"] == 0 or row["l4"] > row["l3"] + 40):
            _extension_authentication(source, start + np.int64(row["l3"]) + 40, end, detail)
        if row["fragment_offset"] > 0 or row["l4"] == 0:
            continue
        at = start + np.int64(row["l4"])
        protocol = row["protocol"]
        version = row["ip_version"]
        if protocol == 6:
            if at + 20 <= end:
                _tcp_options(source, at + 20, min(end, start + np.int64(row["payload"])), detail)
        elif protocol == 50:
            if at + 8 <= end:
                detail["has"] |= HAS_SPI
                detail["spi"] = word(source, at, True)
                detail["sequence"] = word(source, at + 4, True)
        elif protocol == 51:
            _authentication(source, at, end, detail)
        elif protocol == 132:
            if at + 8 <= end:
                detail["has"] |= HAS_TAG
                detail["sctp_tag"] = word(source, at + 4, True)
        elif protocol == 2:
            if at < end:
                detail["has"] |= HAS_IGMP
                detail["igmp_type"] = byte(source, at)
                if at + 8 <= end and detail["igmp_type"] != 0x22:
                    detail["has"] |= HAS_GROUP
                    detail["igmp_group"] = word(source, at + 4, True)
        elif at + 8 <= end:
            kind = byte(source, at)
            if protocol == 1 and version == 4 and (kind == 3 or kind == 4 or kind == 5 or kind == 11 or kind == 12):
                _quoted(source, at + 8, end, 4, detail)
            elif protocol == 58 and version == 6 and kind >= 1 and kind <= 4:
                _quoted(source, at + 8, end, 6, detail)
