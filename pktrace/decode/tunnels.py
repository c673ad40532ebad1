"""Tunnels: finds the innermost IP packet, and keeps the headers around it in a table without repetitions.

Sources: RFC 2003 (IP in IP), 4213 (6in4), 2784 and 2890 (GRE), 2637 (PPTP), 7348 (VXLAN), draft-ietf-nvo3-vxlan-gpe,
8926 (Geneve), 3GPP TS 29.281 (GTP-U), 8300 (NSH), 7510 (MPLS in UDP), draft-foschiano-erspan-03 (ERSPAN I to III), and
TZSP as Wireshark describes it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.decode.identity import TABLES, add_pair, finished, secret
from pktrace.decode.link import (
    ETHERNET,
    IPV4,
    IPV6,
    MPLS,
    NOTHING,
    NSH,
    PPP,
    RAW_IP,
    bottom_label,
    to_network,
)
from pktrace.decode.network import ipv4, ipv6, plausible_ipv4, plausible_ipv6
from pktrace.decode.rows import HAS_FRAGMENT, HAS_ID, HAS_IP, HAS_TUNNEL_ID
from pktrace.wire import byte, half, memory, word

# The search for the innermost packet passes at most this many IP headers.
MOST_IP_HEADERS = 8
_MOST_SERVICE_HEADERS = 4
# The most entries that one packet can add to the table.
ROOM = MOST_IP_HEADERS * (1 + _MOST_SERVICE_HEADERS)

NAMES = (
    "",
    "ipip",
    "6in4",
    "6in6",
    "gre",
    "vxlan",
    "vxlan-gpe",
    "geneve",
    "gtp-u",
    "nsh",
    "mpls-in-udp",
    "erspan",
    "tzsp",
)
_IPIP, _SIX_IN_4, _SIX_IN_6, _GRE, _VXLAN, _VXLAN_GPE, _GENEVE, _GTP_U, _NSH, _MPLS_IN_UDP, _ERSPAN, _TZSP = range(
    1, 13
)
_ERSPAN_2, _ERSPAN_3 = 0x88BE, 0x22EB  # EtherTypes; type I shares the EtherType of II
_TZSP_PORT = 37008
_NO_ID = np.int64(-1)
_ZERO = np.uint64(0)  # a plain 0 beside 64 unsigned bits would make both floating point numbers

# `parent` is 1 + the number of the entry around this one, 0 for none; `version` 0: no addresses of its own.
ENTRY = np.dtype(
    [
        ("source_high", np.uint64),
        ("source_low", np.uint64),
        ("destination_high", np.uint64),
        ("destination_low", np.uint64),
        ("id", np.int64),
        ("parent", np.uint32),
        ("kind", np.uint8),
        ("version", np.uint8),
    ],
    align=True,
)


class TunnelTable:
    """The tunnel headers of one file, each once: the first `count[0]` of `entries` (ENTRY) are used.

    `slots` is a hash table of 1 + entry numbers, twice as long as `entries`, so that it is never full.
    """

    def __init__(self) -> None:
        self.entries = np.zeros(2 * ROOM, ENTRY)
        self.slots = np.zeros(256, np.uint32)
        self.count = np.zeros(1, np.int64)

    def make_room(self) -> None:
        """Double the room for entries."""
        self.entries = np.concatenate([self.entries, np.zeros(len(self.entries), ENTRY)])
        self.slots = np.zeros(1 << (4 * len(self.entries) - 1).bit_length(), np.uint32)
        _fill_slots(self.entries, self.slots, self.count[0], secret())

    def chain(self, code: int) -> list[Any]:
        """The entries of a row's `tunnel`, outermost first."""
        found = []
        while code:
            found.append(self.entries[code - 1])
            code = int(self.entries[code - 1]["parent"])
        return found[::-1]


class Tunnels(NamedTuple):
    """The arrays of a TunnelTable for kernels.

    `used` is its count; `pending` (int64) holds kind and number of the tunnels between two IP headers.
    """

    entries: np.ndarray[Any, Any]
    slots: np.ndarray[Any, Any]
    used: np.ndarray[Any, Any]
    pending: np.ndarray[Any, Any]


@inlined
def _slot(entry, slots, key):
    """The slot of the hash table where the search for an entry begins; nobody can know it without the key."""
    place = (np.uint64(entry["parent"]) << np.uint64(8)) | np.uint64(entry["kind"])
    low, high = add_pair(_ZERO, _ZERO, key, TABLES + 4, entry["source_high"], entry["source_low"])
    low, high = add_pair(low, high, key, TABLES + 6, entry["destination_high"], entry["destination_low"])
    low, high = add_pair(low, high, key, TABLES + 8, np.uint64(entry["id"]), place)
    return np.int64(finished(low, high, key, TABLES) & np.uint64(len(slots) - 1))


@inlined
def _equal(one, other):
    return (
        one["parent"] == other["parent"]
        and one["kind"] == other["kind"]
        and one["version"] == other["version"]
        and one["id"] == other["id"]
        and one["source_high"] == other["source_high"]
        and one["source_low"] == other["source_low"]
        and one["destination_high"] == other["destination_high"]
        and one["destination_low"] == other["destination_low"]
    )


@kernel
def _fill_slots(entries, slots, count, secret):
    key = memory(secret)
    for number in range(count):
        slot = _slot(entries[number], slots, key)
        while slots[slot]:
            slot = (slot + 1) & (len(slots) - 1)
        slots[slot] = number + 1


@inlined
def _keep(entries, slots, count, key):
    """Code of the new entry behind the last one: the code of an equal entry, or its own; then the entry stays."""
    candidate = entries[count[0]]
    slot = _slot(candidate, slots, key)
    while slots[slot]:
        if _equal(entries[slots[slot] - 1], candidate):
            return np.int64(slots[slot])
        slot = (slot + 1) & (len(slots) - 1)
    count[0] += 1
    slots[slot] = count[0]
    return count[0]


@inlined
def may_carry(data, at, limit, protocol):
    """True if a packet with this transport protocol at `at` may be a tunnel; most are none, so the test is quick."""
    if protocol == 17:
        if at + 8 > limit:
            return False
        port = half(data, at + 2, True)
        known = port == 4789 or port == 8472 or port == 2152 or port == 6081 or port == 4790 or port == 6635
        return known or port == _TZSP_PORT
    if protocol == 51:  # in IPv4; in IPv6 it is one of the extension headers
        return at + 8 <= limit and (byte(data, at) == 4 or byte(data, at) == 41)
    return protocol == 47 or protocol == 4 or protocol == 41


@inlined
def _gre(data, at, limit):
    """GRE: returns (key or _NO_ID, kind of payload, its position)."""
    if at + 4 > limit:
        return _NO_ID, NOTHING, at
    flags = half(data, at, True)
    kind = half(data, at + 2, True)
    version = flags & 7
    if version > 1 or flags & 0x4000:  # source routing (RFC 1701) is not decoded
        return _NO_ID, NOTHING, at
    key = _NO_ID
    at += 4
    if flags & 0x8000 and version == 0:
        at += 4
    if flags & 0x2000:
        if at + 4 > limit:
            return _NO_ID, NOTHING, at
        key = word(data, at, True)
        if version == 1:
            key &= 0xFFFF
        at += 4
    if flags & 0x1000:
        at += 4
    if version == 1 and flags & 0x80:
        at += 4
    if kind == 0x6558:
        return key, ETHERNET, at
    if kind == 0x880B:
        return key, PPP, at
    if version == 0 and (kind == _ERSPAN_2 or kind == _ERSPAN_3):
        return key, kind, at
    if version == 0 and (kind == IPV4 or kind == IPV6 or kind == 0x8847 or kind == 0x8848 or kind == NSH):
        return key, kind, at
    return key, NOTHING, at


@inlined
def _erspan(data, at, limit, kind, numbered):
    """A mirrored frame: returns (session or _NO_ID, kind of payload, its position).

    Type I has no header and no GRE sequence number; type II has 8 bytes, type III 12 or, with its flag O, 20.
    """
    if kind == _ERSPAN_2 and not numbered:
        return _NO_ID, ETHERNET, at
    size = 8 if kind == _ERSPAN_2 else 12
    if at + size > limit or byte(data, at) >> 4 != (1 if kind == _ERSPAN_2 else 2):
        return _NO_ID, NOTHING, at
    session = half(data, at + 2, True) & 0x3FF
    inside = ETHERNET
    if kind == _ERSPAN_3:
        flags = half(data, at + 10, True)
        frame_type = (flags >> 10) & 31
        inside = ETHERNET if frame_type == 0 else (RAW_IP if frame_type == 2 else NOTHING)
        size += 8 * (flags & 1)
    return session, inside, at + size


@inlined
def _tzsp(data, at, limit):
    """A mirrored frame behind TZSP: returns (kind of payload, its position); type 0 (received), version 1, Ethernet
    inside.
    """
    if at + 4 > limit or byte(data, at) != 1 or byte(data, at + 1) != 0 or half(data, at + 2, True) != 1:
        return NOTHING, at
    at += 4
    while at < limit:
        tag = byte(data, at)
        if tag == 1:  # the end
            return ETHERNET, at + 1
        at += 1
        if tag:  # 0 is padding; others have a length
            at += 1 + byte(data, at) if at < limit else 1
    return NOTHING, at


@inlined
def _service(data, at, limit):
    """NSH: returns (service path, kind of payload, its position)."""
    if at + 8 > limit:
        return _NO_ID, NOTHING, at
    first = word(data, at, True)
    length = ((first >> 16) & 0x3F) * 4
    if first >> 30 or length < 8:
        return _NO_ID, NOTHING, at
    return word(data, at + 4, True) >> 8, _by_next_protocol(first & 0xFF), at + length


@inlined
def _by_next_protocol(number):
    """The next-protocol numbers that NSH and VXLAN-GPE share."""
    if number == 1:
        return IPV4
    if number == 2:
        return IPV6
    if number == 3:
        return ETHERNET
    if number == 4:
        return NSH
    return MPLS if number == 5 else NOTHING


@inlined
def _gtp(data, at, limit):
    """GTP-U: a G-PDU of version 1; returns (TEID, kind of payload, its position)."""
    if at + 8 > limit or byte(data, at) & 0xF0 != 0x30 or byte(data, at + 1) != 255:
        return _NO_ID, NOTHING, at
    tunnel = word(data, at + 4, True)
    flags = byte(data, at)
    at += 8
    if flags & 7:
        at += 4
        if at > limit:
            return tunnel, NOTHING, at
        following = byte(data, at - 1) if flags & 4 else np.int64(0)
        while following:
            if at + 4 > limit:
                return tunnel, NOTHING, at
            length = byte(data, at) * 4
            if length == 0 or at + length > limit:
                return tunnel, NOTHING, at
            at += length
            following = byte(data, at - 1)
    return tunnel, RAW_IP, at


@inlined
def _inside(data, at, limit, protocol, version):
    """The payload of a packet: returns (kind of tunnel or 0, its number or _NO_ID, kind of payload, its position)."""
    if protocol == 51:
        protocol = byte(data, at)
        at += (byte(data, at + 1) + 2) * 4
    if protocol == 4:
        return _IPIP, _NO_ID, IPV4, at
    if protocol == 41:
        return (_SIX_IN_4 if version == 4 else _SIX_IN_6), _NO_ID, IPV6, at
    if protocol == 47:
        numbered = at + 2 <= limit and half(data, at, True) & 0x1000 != 0
        number, kind, at = _gre(data, at, limit)
        if kind == _ERSPAN_2 or kind == _ERSPAN_3:
            number, kind, at = _erspan(data, at, limit, kind, numbered)
            return _ERSPAN, number, kind, at
        return _GRE, number, kind, at
    port = half(data, at + 2, True)
    at += 8
    if port == 2152:
        number, kind, at = _gtp(data, at, limit)
        return _GTP_U, number, kind, at
    if port == _TZSP_PORT:
        kind, at = _tzsp(data, at, limit)
        return _TZSP, _NO_ID, kind, at
    if port == 6635:
        return _MPLS_IN_UDP, bottom_label(data, at, limit), MPLS, at
    if at + 8 > limit:
        return 0, _NO_ID, NOTHING, at
    flags = byte(data, at)
    number = word(data, at + 4, True) >> 8
    if port == 6081:
        if flags >> 6:
            return 0, _NO_ID, NOTHING, at
        kind = half(data, at + 2, True)
        return _GENEVE, number, (ETHERNET if kind == 0x6558 else kind), at + 8 + (flags & 63) * 4
    if port == 4790:
        return _VXLAN_GPE, number, (_by_next_protocol(byte(data, at + 3)) if flags & 4 else NOTHING), at + 8
    return _VXLAN, number, (ETHERNET if flags & 8 else NOTHING), at + 8


@inlined
def descend(data, start, at, limit, kind, row, table, key):
    """Go down to the innermost IP packet.

    Args:
        at: the position of the payload of `row`'s IP header; without an IP header, of a header of the given `kind`
        (NSH).
        table: Tunnels; key: the memory of the secret.

    Returns:
        The position of the payload of the innermost IP header, -1 if there is none; and the end of the captured bytes
        of the layer around that packet.
    """
    entries, slots, count, pending = table
    outer = row["has"] & HAS_IP != 0
    below = at if outer else np.int64(-1)
    for _ in range(MOST_IP_HEADERS - 1 if outer else MOST_IP_HEADERS):
        known = 0
        wire_end = np.int64(row["length"])
        if outer:
            if row["fragment_offset"] > 0:
                return below, limit
            wire_end = np.int64(row["ip_end"])
            limit = min(limit, start + wire_end)
            if not may_carry(data, below, limit, row["protocol"]):
                return below, limit
            number = _NO_ID
            tunnel, number, kind, at = _inside(data, below, limit, row["protocol"], row["ip_version"])
            if tunnel == 0:
                return below, limit
            pending[0, 0] = tunnel
            pending[0, 1] = number
            known = 1
        for _ in range(_MOST_SERVICE_HEADERS):
            kind, at = to_network(data, at, limit, kind, row)
            if kind != NSH:
                break
            number, kind, at = _service(data, at, limit)
            pending[known, 0] = _NSH
            pending[known, 1] = number
            known += 1
        inner_4 = kind == IPV4 and plausible_ipv4(data, at, limit)
        if not inner_4 and not (kind == IPV6 and plausible_ipv6(data, at, limit)):
            return below, limit
        for step in range(known):
            entry = entries[count[0]]
            carrier = outer and step == 0
            entry["source_high"] = row["source_high"] if carrier else _ZERO
            entry["source_low"] = row["source_low"] if carrier else _ZERO
            entry["destination_high"] = row["destination_high"] if carrier else _ZERO
            entry["destination_low"] = row["destination_low"] if carrier else _ZERO
            entry["version"] = row["ip_version"] if carrier else 0
            entry["id"] = pending[step, 1]
            entry["kind"] = pending[step, 0]
            entry["parent"] = row["tunnel"]
            row["tunnel"] = _keep(entries, slots, count, key)
        number = pending[known - 1, 1]
        row["has"] &= ~np.uint32(HAS_TUNNEL_ID)
        if number >= 0:
            row["tunnel_id"] = number & 0xFFFFFFFF
            row["has"] |= np.uint32(HAS_TUNNEL_ID)
        row["has"] &= ~np.uint32(HAS_IP | HAS_ID | HAS_FRAGMENT)
        row["source_high"] = 0
        row["destination_high"] = 0
        row["ip_id"] = 0
        row["fragment_offset"] = 0
        row["more_fragments"] = 0
        if inner_4:
            below = ipv4(data, start, at, limit, wire_end, row)
        else:
            below = ipv6(data, start, at, limit, wire_end, row)
        if below < 0:
            return below, limit
        outer = True
    return below, limit
