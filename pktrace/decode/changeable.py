"""Mutable fields outside of the row: MAC addresses, ECN, TCP options, 802.11 retries, checksums.

Only the comparison of two sightings needs these fields. They are read from the file once more, beside its rows, and not
kept for every packet of a run. MAC addresses belong to the captured frame, outside of any tunnel; ECN and TCP options
belong to the innermost packet, as all fields of a row. 802.11 addresses are left out, since the role of each one
depends on the hop (IEEE 802.11 9.3.2.1).
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.decode.identity import TCP_OPTION_WORDS, TCP_OPTIONS, narrowed
from pktrace.decode.rows import HAS_IP, HAS_TCP, PARTIAL_CHECKSUM
from pktrace.protocols import TCP, UDP
from pktrace.wire import byte, half, memory, word

# `options` hashes the TCP options but for the value of the MSS; `sequence` holds transmitter, sequence control and
# traffic class of an 802.11 frame.
CHANGEABLE = np.dtype(
    [
        ("mac_source", np.uint64),
        ("mac_destination", np.uint64),
        ("options", np.uint64),
        ("mss", np.uint16),
        ("sequence", np.uint64),
        ("ecn", np.uint8),
        ("known", np.uint8),
    ],
    align=True,
)
# Bits of `known`; CHECKED: the checksum looks like one that offload has to complete, but is complete.
MAC_SOURCE, MAC_DESTINATION, ECN, OPTIONS, MSS, RETRIED, CHECKED, SEQUENCE = (1 << number for number in range(8))

WIRELESS = (105, 127)  # link types of 802.11 frames, without and with a radiotap header
_ETHERNET, _COOKED, _COOKED_2 = 1, 113, 276
_MAC_BYTES = 6
_RETRY = 0x08


@inlined
def _mac(data, at):
    """Six bytes as a number."""
    return (np.uint64(half(data, at, True)) << np.uint64(32)) | np.uint64(word(data, at + 2, True))


@inlined
def _link(data, at, limit, link_type, found):
    """MAC addresses of the frame; Linux cooked captures keep the sender's address only."""
    if link_type == _ETHERNET:
        if at + 12 <= limit:
            found["mac_destination"] = _mac(data, at)
            found["mac_source"] = _mac(data, at + 6)
            found["known"] |= MAC_SOURCE | MAC_DESTINATION
    elif link_type == _COOKED:
        if at + 12 <= limit and half(data, at + 4, True) == _MAC_BYTES:
            found["mac_source"] = _mac(data, at + 6)
            found["known"] |= MAC_SOURCE
    elif link_type == _COOKED_2:
        if at + 18 <= limit and byte(data, at + 11) == _MAC_BYTES:
            found["mac_source"] = _mac(data, at + 12)
            found["known"] |= MAC_SOURCE
    elif link_type == 105:
        _retry(data, at, limit, found)
    elif link_type == 127 and at + 4 <= limit:
        _retry(data, at + half(data, at + 2, False), limit, found)


@inlined
def _retry(data, at, limit, found):
    """The number of an 802.11 frame (IEEE 802.11 9.2.4.4), and the mark of a retry: the frame was sent once more with
    this number because nobody acknowledged it (9.2.4.1.6).
    """
    if at + 2 <= limit and byte(data, at + 1) & _RETRY:
        found["known"] |= RETRIED
    if at + 24 <= limit:
        # The transmitter (address 2), its number, and the traffic class that counts by itself in QoS frames.
        found["sequence"] = _mac(data, at + 10) << np.uint64(16) | np.uint64(half(data, at + 22, False))
        qos = at + (30 if byte(data, at + 1) & 3 == 3 else 24)
        if byte(data, at) & 0x8C == 0x88 and qos + 2 <= limit:
            found["sequence"] ^= np.uint64(byte(data, qos) & 15) << np.uint64(60)
        found["known"] |= SEQUENCE


@inlined
def _options(data, at, end, found, key):
    """Hash of the options, without the value of the MSS and without padding (RFC 9293 3.1)."""
    state, number = np.uint64(0), np.int64(TCP_OPTIONS)
    end = min(end, at + TCP_OPTION_WORDS // 2)  # a TCP header has no more than 40 bytes of them
    while at < end:
        kind = byte(data, at)
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 2 > end:
            break
        length = byte(data, at + 1)
        if length < 2 or at + length > end:
            break
        state += narrowed(key, number, np.uint64(1 << 16 | kind << 8 | length))
        number += 2
        if kind == 2 and length == 4:
            found["mss"] = half(data, at + 2, True)
            found["known"] |= MSS
        else:
            for place in range(at + 2, at + length):
                state += narrowed(key, number, np.uint64(1 << 8 | byte(data, place)))
                number += 2
        at += length
    found["options"] = state
    found["known"] |= OPTIONS


@inlined
def _adds_up(data, start, row):
    """True if the checksum of a completely captured TCP or UDP packet is correct (RFC 1071, RFC 8200 8.1)."""
    at = start + np.int64(row["l4"])
    end = start + np.int64(row["ip_end"])
    total = np.uint64(row["protocol"]) + np.uint64(end - at)
    for half_address in (row["source_high"], row["source_low"], row["destination_high"], row["destination_low"]):
        total += (half_address >> np.uint64(32)) + (half_address & np.uint64(0xFFFFFFFF))
    while at + 4 <= end:
        total += np.uint64(word(data, at, True))
        at += 4
    for shift in (24, 16, 8):
        if at < end:
            total += np.uint64(byte(data, at)) << np.uint64(shift)
            at += 1
    while total > np.uint64(0xFFFF):
        total = (total & np.uint64(0xFFFF)) + (total >> np.uint64(16))
    return total == np.uint64(0xFFFF)


@kernel
def read_changeable(data, base, rows, which, offsets, link_types, secret, found):
    """Fill `found` (CHANGEABLE, zeroed, one per row of all) for some rows.

    Args:
        data, base: a batch; rows: ROW, all; which: the numbers of the rows whose bytes `data` holds;
        offsets: int64, the offset in the file of each of these; link_types: int64, one per interface of the file;
        secret: as in identity.py.
    """
    source, key = memory(data), memory(secret)
    for number in range(len(which)):
        row = rows[which[number]]
        into = found[which[number]]
        start = offsets[number] - base
        limit = start + np.int64(row["captured_length"])
        if start < 0 or limit > len(data) or row["interface"] >= len(link_types):
            continue  # the file has changed since it was decoded; its reader is about to raise that
        _link(source, start, limit, link_types[row["interface"]], into)
        has = row["has"]
        if not has & HAS_IP:
            continue
        network = start + np.int64(row["l3"])
        if network + 2 <= limit:
            into["ecn"] = (byte(source, network + 1) >> (4 if row["ip_version"] == 6 else 0)) & 3
            into["known"] |= ECN
        # The end of a header is unknown if the header was cut, or lies below AH.
        first = start + np.int64(row["l4"]) + 20
        end = start + np.int64(row["payload"])
        if has & HAS_TCP and row["protocol"] == TCP and end <= limit and first <= end:
            _options(source, first, end, into, key)
        # One checksum in 65,536 equals the sum of its pseudo header, as if the interface were still to complete it.
        kind = row["protocol"]
        seems_partial = has & PARTIAL_CHECKSUM != 0 and (kind == TCP or kind == UDP)
        # An interface does not complete the checksum of a datagram that it gets in fragments either.
        fragment = row["fragment_offset"] > 0 or row["more_fragments"]
        whole = start + np.int64(row["ip_end"]) <= limit
        if seems_partial and (fragment or (whole and _adds_up(source, start, row))):
            into["known"] |= CHECKED
