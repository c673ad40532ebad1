"""Packets whose digest, or another hash without a key, is a wanted one: what an attacker can make who knows the code.

Every round of these hashes can be undone, so that 8 bytes that may be chosen are enough. The hashes by which packets
were once taken for the same are written down here as they were: `content_hash` (of the first 64 payload bytes),
`header_hash` (of the network header), `column_hash` (of flows and other columns), the places of the hash tables.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WORD = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_GOLDEN = 0x9E3779B97F4A7C15


def inverse(odd: int) -> int:
    """The number that an odd one has to be multiplied with to become 1, modulo 2^64."""
    return pow(odd, -1, 1 << 64)


def mix(state: int, value: int) -> int:
    """One round of the digest: the state with a further word."""
    state = (state + value * _P2) & WORD
    return ((state << 31 | state >> 33) & WORD) * _P1 & WORD


def value_between(state: int, wanted: Any) -> Any:
    """The word that makes `wanted` of a state; also of an array of them (uint64)."""
    rotated = wanted * inverse(_P1) & WORD
    return ((rotated >> 31 | (rotated << 33) & WORD) - state) * inverse(_P2) & WORD


def state_before(value: int, wanted: int) -> int:
    """The state of which a word makes `wanted`."""
    rotated = wanted * inverse(_P1) & WORD
    return ((rotated >> 31 | rotated << 33) - value * _P2) & WORD


def _unshifted(value: Any, by: int) -> Any:
    """The number x of which x ^ (x >> by) is `value`."""
    found = value
    for _ in range(64 // by):
        found = value ^ found >> by
    return found


def finished(state: int) -> int:
    """The digest of the last state."""
    state ^= state >> 33
    state = state * _P2 & WORD
    state ^= state >> 29
    state = state * _P3 & WORD
    return state ^ state >> 32


def unfinished(digest: Any) -> Any:
    """The last state of a digest; also of an array of them."""
    state = _unshifted(digest, 32) * inverse(_P3) & WORD
    state = _unshifted(state, 29) * inverse(_P2) & WORD
    return _unshifted(state, 33)


def header_hash(
    source: int, destination: int, version: int, ip_id: int, protocol: int, length: int, fragment: int = 0
) -> int:
    """The hash of a network header with so many bytes behind it."""
    state = (_P3 + version) & WORD
    if version == 4:
        state = mix(state, source << 32 | destination)
    else:
        state = header_hash_begun(source)
        for word in (destination >> 64, destination & WORD):
            state = mix(state, word)
    return mix(mix(state, ip_id << 32 | fragment), protocol << 32 | length)


def header_hash_begun(source: int) -> int:
    """The state of that hash behind an IPv6 source."""
    return mix(mix(_P3 + 6, source >> 64), source & WORD)


def content_hash(payload: bytes) -> int:
    """The hash of the first 64 payload bytes."""
    payload = payload[:64]
    state = _P3
    whole = len(payload) // 8 * 8
    for (word,) in struct.iter_unpack("<Q", payload[:whole]):
        state = mix(state, word)
    return state if len(payload) == 64 else mix(state, int.from_bytes(payload[whole:], "little"))


def with_content_hash(first: bytes, wanted: int) -> bytes:
    """64 payload bytes that begin with 56 given ones and have a wanted hash."""
    return first[:56] + struct.pack("<Q", last_word(first, wanted))


def last_word(first: bytes, wanted: Any) -> Any:
    """The eighth word of a payload that begins with 56 given bytes and has a wanted hash; also of an array of these."""
    state = _P3
    for (word,) in struct.iter_unpack("<Q", first[:56]):
        state = mix(state, word)
    return value_between(state, wanted)


def udp_state(source: int, destination: int, version: int, ip_id: int, sport: int, dport: int, length: int) -> int:
    """The digest's state before the payload of a UDP packet, with so many payload bytes."""
    state = header_hash(source, destination, version, ip_id, 17, 8 + length)
    head = struct.pack("!HHH", sport, dport, 8 + length) + b"\0\0"
    return mix(mix(state, int.from_bytes(head, "little")), 0)


def udp_digest(source: int, destination: int, version: int, ip_id: int, sport: int, dport: int, payload: bytes) -> int:
    """The digest of a UDP packet, as docs/decoding.md defines it."""
    state = udp_state(source, destination, version, ip_id, sport, dport, len(payload))
    return finished(mix(state, content_hash(payload)))


def udp_payload_for(
    digest: int, source: int, destination: int, version: int, ip_id: int, sport: int, dport: int, first: bytes
) -> bytes:
    """64 payload bytes that begin with 56 given ones and give a UDP packet of other headers a wanted digest."""
    state = udp_state(source, destination, version, ip_id, sport, dport, 64)
    return with_content_hash(first, value_between(state, unfinished(digest)))


def column_hash(*columns: int) -> int:
    """The hash of columns of a row that once stood for flows, remains and other keys."""
    state = _GOLDEN
    for column in columns:
        state = _column_round(state, column)
    return state


def _column_round(state: int, column: int) -> int:
    state = (state ^ column) * _P2 & WORD
    state ^= state >> 29
    state = state * _P3 & WORD
    return state ^ state >> 32


def _column_round_undone(state: int) -> int:
    state = _unshifted(state, 32) * inverse(_P3) & WORD
    return _unshifted(state, 29) * inverse(_P2) & WORD


def column_for(wanted: int, before: tuple[int, ...], behind: tuple[int, ...]) -> int:
    """The column between others that gives all of them a wanted hash."""
    for column in reversed(behind):
        wanted = _column_round_undone(wanted) ^ column
    return _column_round_undone(wanted) ^ column_hash(*before)


def keys_in_one_place(count: int, start: int = 0) -> list[int]:
    """Different digests whose search began at one place of the table that numbers keys, whatever its size."""
    found = []
    for number in range(start, start + count):
        folded = (number >> 8 << 56 | number & 0xFF) * inverse(_GOLDEN) & WORD
        found.append(folded ^ folded >> 32)
    return found


def addresses_in_one_place(count: int) -> list[int]:
    """IPv6 addresses whose search began at one place of the table that numbers addresses, whatever its size."""
    found = []
    for number in range(1, count + 1):
        wanted = (number << 44 | number) & WORD & ~(0xFFFFFF << 20)
        state = _unshifted(wanted * inverse(_P2) & WORD, 32)
        high = 0x20010DB8 << 32 | number
        found.append(high << 64 | (high * _P1 & WORD) ^ state ^ 6)
    return found


def tunnels_in_one_place(count: int, kind: int, high: int, destination: int) -> list[int]:
    """IPv6 sources of tunnels (outermost, without a number) whose search began at one place of the table of tunnels."""

    def undone(state: int) -> int:
        return _unshifted(state, 29) * inverse(_P2) & WORD

    first = kind ^ high
    first = first * _P2 & WORD
    first ^= first >> 29
    found = []
    for number in range(1, count + 1):
        state = number << 40  # the place is in the lowest bits
        for value in (WORD, destination & WORD, destination >> 64):  # -1 stands for no number
            state = undone(state) ^ value
        found.append(high << 64 | undone(state) ^ first)
    return found
