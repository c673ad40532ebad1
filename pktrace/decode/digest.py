"""The digest: a 64 bit hash of the bytes of a packet that stay the same along its path (RFC 5475 6.2.4).

In: addresses, protocol, IP identification and fragment position, length of the transport segment, transport header, and
the first payload bytes. Out: fields that routing and offloads rewrite (RFC 5475 6.2.1.1): TTL, DSCP/ECN, checksums,
link layer, VLAN, IPv4 options, IPv6 flow label. All points must hash the same bytes. If the snap length of one point
cut packets, the digests of all packets with the same network header use no more bytes at any point (`kept`).

The mixing rounds are those of xxHash64; equal digests by chance: n^2 / 2^65, or 4e-5 for 40 million packets. The digest
has no key, so that it is the same for everybody, and anybody can make a packet with a chosen digest. The digest is
written into tables, and decides nothing. A row also has `identity`, a hash of the same fields and bytes and of the
number of bytes, with the key of this process (identity.py), and `content`, such a hash of the first payload bytes.
"""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel, unfolded
from pktrace.decode.identity import (
    HEADER,
    LENGTHS,
    NARROW_CONTENT,
    NARROW_HEADER,
    NARROW_IDENTITY,
    PAYLOAD,
    TRANSPORT,
    TRANSPORT_WORDS,
    add_pair,
    finished,
    key_word,
    narrowed,
)
from pktrace.decode.rows import HAS_ICMP, HAS_IP
from pktrace.wire import SLACK, little_double, memory

PAYLOAD_BYTES = 64
UNBOUNDED = np.int64(1 << 40)

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_NOTHING = np.uint64(0)


@inlined
def mix_word(state, value):
    """One round of xxHash64: the state with a further word."""
    state = state + value * _P2
    state = (state << np.uint64(31)) | (state >> np.uint64(33))
    return state * _P1


@inlined
def _header(row):
    """Hash of the network header's fields and the length of the data behind it."""
    state = _P3 + np.uint64(row["ip_version"])
    if row["ip_version"] == 4:
        state = mix_word(state, (row["source_low"] << np.uint64(32)) | row["destination_low"])
    else:
        state = mix_word(state, row["source_high"])
        state = mix_word(state, row["source_low"])
        state = mix_word(state, row["destination_high"])
        state = mix_word(state, row["destination_low"])
    fragment = (np.uint64(row["fragment_offset"]) << np.uint64(8)) | np.uint64(row["more_fragments"])
    state = mix_word(state, (np.uint64(row["ip_id"]) << np.uint64(32)) | fragment)
    length = max(np.int64(0), np.int64(row["ip_end"]) - np.int64(row["l4"]))
    return mix_word(state, (np.uint64(row["protocol"]) << np.uint64(32)) | np.uint64(length))


@inlined
def _identity_of_header(row, key, transport, payload):
    """The sums of an identity over the same fields, and over the numbers of transport header and payload bytes used."""
    fragment = (np.uint64(row["fragment_offset"]) << np.uint64(8)) | np.uint64(row["more_fragments"])
    place = (np.uint64(payload) << np.uint64(56)) | (np.uint64(row["ip_id"]) << np.uint64(24)) | fragment
    length = max(np.int64(0), np.int64(row["ip_end"]) - np.int64(row["l4"]))
    kind = (np.uint64(row["protocol"]) << np.uint64(40)) | (np.uint64(row["ip_version"]) << np.uint64(32))
    kind |= (np.uint64(transport) << np.uint64(48)) | np.uint64(length)
    low, high = add_pair(np.uint64(0), np.uint64(0), key, HEADER, row["source_low"], row["destination_low"])
    if row["ip_version"] != 4:
        low, high = add_pair(low, high, key, HEADER + 2, row["source_high"], row["destination_high"])
    return add_pair(low, high, key, HEADER + 4, place, kind)


@kernel
def headers_and_kept(rows, secret, header, kept):
    """The bytes that the snap length left of each packet that it cut before the digest's end.

    Args:
        rows: ROW; secret: as in identity.py; header: uint64 per row, filled with the identity of its network header;
        kept: int64 per row, filled with the bytes captured from the network header on, UNBOUNDED if the digest is not
        shortened.

    Returns:
        The fewest payload bytes that a digest covers, at most PAYLOAD_BYTES.
    """
    key = memory(secret)
    payload = np.int64(PAYLOAD_BYTES)
    for number in range(len(rows)):
        row = rows[number]
        kept[number] = UNBOUNDED
        if not row["has"] & HAS_IP:
            continue
        low, high = _identity_of_header(row, key, np.int64(0), np.int64(0))
        header[number] = finished(low, high, key, NARROW_HEADER)
        captured = np.int64(row["captured_length"])
        wanted = min(np.int64(row["payload"]) + PAYLOAD_BYTES, np.int64(row["ip_end"]))
        if captured < np.int64(row["length"]) and captured < wanted:
            kept[number] = captured - np.int64(row["l3"])
            payload = min(payload, max(np.int64(0), captured - np.int64(row["payload"])))
    return payload


@kernel
def header_digests(rows, found):
    """uint64 per row: a hash of the network header without a key, the same in every process; 0 without IP."""
    for number in range(len(rows)):
        if rows[number]["has"] & HAS_IP:
            found[number] = _header(rows[number])


@inlined
def _rest(data, at, stop):
    """The last bytes before `stop`, less than 8, as a number; 0 if there are none."""
    return little_double(data, at) & ((np.uint64(1) << np.uint64(8 * (stop - at))) - np.uint64(1))


@unfolded
def _payload(data, at, stop, key):
    """The bytes data[at:stop], at most PAYLOAD_BYTES: the digest's hash, and the sums of an identity.

    Most packets have PAYLOAD_BYTES bytes, and pass without a branch.
    """
    state, low, high = _P3, np.uint64(0), np.uint64(0)
    if stop - at == PAYLOAD_BYTES:
        for number in range(0, PAYLOAD_BYTES // 8, 2):
            one, other = little_double(data, at + 8 * number), little_double(data, at + 8 * number + 8)
            state = mix_word(mix_word(state, one), other)
            low, high = add_pair(low, high, key, PAYLOAD + number, one, other)
        return state, low, high
    number = np.int64(PAYLOAD)
    while at + 16 <= stop:
        one, other = little_double(data, at), little_double(data, at + 8)
        state = mix_word(mix_word(state, one), other)
        low, high = add_pair(low, high, key, number, one, other)
        number += 2
        at += 16
    one, other = _NOTHING, _NOTHING
    if at + 8 <= stop:
        one = little_double(data, at)
        state = mix_word(state, one)
        at += 8
        other = _rest(data, at, stop)
        state = mix_word(state, other)
    else:
        one = _rest(data, at, stop)
        state = mix_word(state, one)
    low, high = add_pair(low, high, key, number, one, other)
    return state, low, high


@inlined
def _content(low, high, size, key):
    """The `content` of a row from the sums over `size` bytes of its payload."""
    return finished(low, high, key, NARROW_CONTENT) + key_word(key, LENGTHS + size)


@unfolded
def _header_bytes(data, at, stop, holed, left, state, low, high, key):
    """Add the bytes data[at:stop] to the sums, in words of 8; only the bits in `left` of word number `holed` count."""
    number = np.int64(0)
    while at + 16 <= stop:
        one, other = little_double(data, at), little_double(data, at + 8)
        if number == holed:
            one &= left
        elif number + 1 == holed:
            other &= left
        state = mix_word(mix_word(state, one), other)
        if number < TRANSPORT_WORDS:
            low, high = add_pair(low, high, key, TRANSPORT + number, one, other)
        number += 2
        at += 16
    one, other = _NOTHING, _NOTHING
    if at + 8 <= stop:
        one = little_double(data, at)
        if number == holed:
            one &= left
        state = mix_word(state, one)
        at += 8
        other = _rest(data, at, stop)
        if number + 1 == holed:
            other &= left
        state = mix_word(state, other)
    else:
        one = _rest(data, at, stop)
        if number == holed:
            one &= left
        state = mix_word(state, one)
        if at == stop:
            return state, low, high
    if number < TRANSPORT_WORDS:
        low, high = add_pair(low, high, key, TRANSPORT + number, one, other)
    return state, low, high


@inlined
def digest_of(data, start, row, kept, key):
    """Fill `digest`, `identity` and `content` of a row whose packet begins at data[start], followed by SLACK bytes.

    Args:
        kept: bytes from the network header on that every capture kept of such packets, UNBOUNDED if unknown;
        key: the memory of the secret of identity.py.
    """
    state = _header(row)
    l4 = np.int64(row["l4"])
    if l4 > 0:
        payload = np.int64(row["payload"])
        stop = min(payload + PAYLOAD_BYTES, np.int64(row["ip_end"]))
        stop = min(min(stop, np.int64(row["l3"]) + kept), np.int64(row["captured_length"]))
        # The number of the word from l4 on with the checksum, and the bits of that word outside of the checksum.
        holed = np.int64(-1)
        left = np.uint64(0)
        if row["fragment_offset"] == 0:
            protocol = row["protocol"]
            if protocol == 6:
                holed, left = np.int64(2), np.uint64(0xFFFFFFFFFFFF0000)
            elif protocol == 17 or protocol == 136:
                holed, left = np.int64(0), np.uint64(0x0000FFFFFFFFFFFF)
            elif protocol == 1 or protocol == 58:
                holed, left = np.int64(0), np.uint64(0xFFFFFFFF0000FFFF)
            elif protocol == 132:
                holed, left = np.int64(1), np.uint64(0xFFFFFFFF00000000)
        payload = min(payload, stop)  # never begin to read behind the captured bytes
        l4 = min(l4, payload)
        content, low, high = _payload(data, start + payload, start + stop, key)
        row["content"] = _content(low, high, stop - payload, key)
        of_header = _identity_of_header(row, key, payload - l4, stop - payload)
        low, high = low + of_header[0], high + of_header[1]
        state, low, high = _header_bytes(data, start + l4, start + payload, holed, left, state, low, high, key)
        state = mix_word(state, content)
    else:
        low, high = _identity_of_header(row, key, np.int64(0), np.int64(0))
    row["identity"] = finished(low, high, key, NARROW_IDENTITY)
    state ^= state >> np.uint64(33)
    state *= _P2
    state ^= state >> np.uint64(29)
    state *= _P3
    state ^= state >> np.uint64(32)
    row["digest"] = state


@kernel
def digest_again(data, base, rows, kept, secret):
    """Digest rows anew over fewer bytes; `data` holds all their captured bytes, its first byte is at `base`.

    Args:
        kept: int64 per row, bytes from the network header on that every capture kept of such packets;
        secret: as in identity.py.
    """
    source, key = memory(data), memory(secret)
    for number in range(len(rows)):
        start = rows[number]["byte_offset"] - base
        if start < 0 or start + rows[number]["captured_length"] + SLACK > len(data):
            continue  # the file has changed since it was decoded; its reader is about to raise that
        if rows[number]["has"] & HAS_IP:
            digest_of(source, start, rows[number], kept[number], key)


@inlined
def is_icmp_error(protocol, has, icmp_type):
    """True for ICMP types that quote a packet: unreachable, too big, quench, redirect, time exceeded, parameter
    problem.
    """
    if has & HAS_ICMP == 0:
        return False
    if protocol == 58:
        return 1 <= icmp_type <= 4
    return 3 <= icmp_type <= 5 or icmp_type == 11 or icmp_type == 12


@inlined
def _left_of_quote(first, protocol, number):
    """The invariant bits of word `number` of a packet that an ICMP error quotes, set in a little-endian word.

    Addresses, ports or identifiers, and checksums are left out (RFC 792, RFC 4443 3; RFC 5508 4.2).

    Args:
        first: the first byte of the quoted packet; protocol: its protocol. With IPv4 options nothing is left out.
    """
    every = np.uint64(0xFFFFFFFFFFFFFFFF)
    if first == 0x45:
        if number == 1:
            return np.uint64(0x000000000000FFFF)
        if number == 2:
            return np.uint64(0)
        if number == 3 and protocol == 17:
            return np.uint64(0xFFFFFFFF0000FFFF)
        if number == 3 and protocol == 1:
            return np.uint64(0xFFFFFFFFFFFF0000)
        if number == 4 and protocol == 6:
            return np.uint64(0xFFFF0000FFFFFFFF)
    elif first >> 4 == 6:
        if 1 <= number <= 4:
            return np.uint64(0)
        if number == 5 and protocol == 6:
            return np.uint64(0xFFFFFFFF00000000)
        if number == 5 and protocol == 17:
            return np.uint64(0x0000FFFF00000000)
        if number == 5 and protocol == 58:
            return np.uint64(0xFFFF000000000000)
        if number == 7 and protocol == 6:
            return np.uint64(0xFFFFFFFFFFFF0000)
    return every


@inlined
def _quoted(data, at, stop, key):
    """The `content` of the invariant bits of the quoted packet data[at:stop]."""
    first, protocol = np.int64(0), np.int64(-1)
    if stop - at >= 10:
        first = np.int64(little_double(data, at) & np.uint64(0xFF))
        of_four, of_six = little_double(data, at + 2) >> np.uint64(56), little_double(data, at) >> np.uint64(48)
        protocol = np.int64(of_four if first >> 4 == 4 else of_six & np.uint64(0xFF))
    size, low, high = stop - at, np.uint64(0), np.uint64(0)
    for number in range(0, PAYLOAD_BYTES // 8, 2):
        one, other = _NOTHING, _NOTHING
        if at < stop:
            one = little_double(data, at) if at + 8 <= stop else _rest(data, at, stop)
            one &= _left_of_quote(first, protocol, number)
        at += 8
        if at < stop:
            other = little_double(data, at) if at + 8 <= stop else _rest(data, at, stop)
            other &= _left_of_quote(first, protocol, number + 1)
        at += 8
        low, high = add_pair(low, high, key, PAYLOAD + number, one, other)
    return _content(low, high, size, key)


@inlined
def _quoted_ports(data, at, stop, key):
    """A hash of the ports, or of the identifier, in a quoted packet; 0 if they were not captured."""
    six = stop - at > 0 and (little_double(data, at) & np.uint64(0xF0)) == 0x60
    place = at + (40 if six else 20)
    if place + 6 > stop:
        return np.uint16(0)
    # In ICMP these bytes are type, code, checksum and identifier; the checksum belongs to this packet alone.
    found = little_double(data, place)
    protocol = little_double(data, at + (6 if six else 9)) & np.uint64(0xFF)
    found = (found >> np.uint64(32)) & np.uint64(0xFFFF) if protocol == 1 or protocol == 58 else found
    return np.uint16(narrowed(key, PAYLOAD, found & np.uint64(0xFFFFFFFF)) >> np.uint64(48))


@kernel
def content_again(data, base, rows, payload_bytes, secret):
    """Hash the first payload bytes of rows anew, at most `payload_bytes` of them; data, base, secret as above.

    Only the invariant bits of packets that ICMP errors quote are hashed. The quoted ports identify the flow of the
    error, so `icmp_id` then holds a hash of them as part of the flow. HAS_ECHO stays unset, so that this hash is not
    shown.
    """
    source, key = memory(data), memory(secret)
    for number in range(len(rows)):
        row = rows[number]
        if row["has"] & HAS_IP and row["l4"] > 0:
            start = row["byte_offset"] - base
            if start < 0 or start + row["captured_length"] + SLACK > len(data):
                continue  # the file has changed
            payload = np.int64(row["payload"])
            stop = min(payload + payload_bytes, np.int64(row["ip_end"]))
            stop = min(stop, np.int64(row["captured_length"]))
            payload = min(payload, stop)
            if is_icmp_error(row["protocol"], row["has"], row["icmp_type"]) and row["fragment_offset"] == 0:
                row["content"] = _quoted(source, start + payload, start + stop, key)
                row["icmp_id"] = _quoted_ports(source, start + payload, start + stop, key)
            else:
                _, low, high = _payload(source, start + payload, start + stop, key)
                row["content"] = _content(low, high, stop - payload, key)


@kernel
def content_of(data, size, secret):
    """The hash in `content` of a row, over the first `size` bytes, at most PAYLOAD_BYTES; SLACK more bytes follow."""
    key = memory(secret)
    _, low, high = _payload(memory(data), np.int64(0), size, key)
    return _content(low, high, size, key)


@kernel
def contents_of(data, begins, sizes, secret, found):
    """The `content` of several places of one file; SLACK more bytes follow each place."""
    source, key = memory(data), memory(secret)
    for number in range(len(begins)):
        _, low, high = _payload(source, begins[number], begins[number] + sizes[number], key)
        found[number] = _content(low, high, sizes[number], key)
