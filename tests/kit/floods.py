"""Captures of many packets that are made to be slow: each kind beside as many harmless packets of the same size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.kit import forgery

Array = np.ndarray[Any, Any]
FIRST_NS = 1_795_410_000 * 10**9
_ETHERNET, _IPV4, _IPV6 = 14, 20, 40
PAYLOAD = 64


def _big(values: Array | int, count: int, size: int) -> Array:
    """Numbers in network order, uint8 n x size."""
    whole = np.broadcast_to(np.asarray(values, np.uint64), count).astype(">u8")
    return whole.view(np.uint8).reshape(count, 8)[:, 8 - size :]


def _little(values: Array) -> Array:
    return np.ascontiguousarray(values.astype("<u8")).view(np.uint8).reshape(len(values), 8)


def _filled(parts: list[tuple[Array | int, int]], count: int) -> Array:
    return np.hstack([_big(value, count, size) for value, size in parts])


def ipv4(count: int, protocol: int, inside: Array, ip_id: Array | int = 1, fragment: Array | int = 0,
         source: Array | int = 0x0A000001, destination: Array | int = 0x0A000002) -> Array:  # fmt: skip
    """Frames of so many IPv4 packets."""
    length = 20 + inside.shape[1]
    head = [
        (0x45, 1), (0, 1), (length, 2), (ip_id, 2), (fragment, 2), (64, 1), (protocol, 1), (0, 2), (source, 4),
        (destination, 4),
    ]  # fmt: skip
    return np.hstack([_filled([(1, 6), (2, 6), (0x0800, 2)], count), _filled(head, count), inside])


def ipv6(count: int, protocol: int, inside: Array, source: tuple[Any, Any], destination: tuple[Any, Any]) -> Array:
    """Frames of so many IPv6 packets; addresses are two halves."""
    head = [
        (0x60000000, 4), (inside.shape[1], 2), (protocol, 1), (64, 1), (source[0], 8), (source[1], 8),
        (destination[0], 8), (destination[1], 8),
    ]  # fmt: skip
    return np.hstack([_filled([(1, 6), (2, 6), (0x86DD, 2)], count), _filled(head, count), inside])


def udp(count: int, payload: Array, sport: Array | int = 1000, dport: Array | int = 2000) -> Array:
    """So many UDP headers with their payloads."""
    return np.hstack([_filled([(sport, 2), (dport, 2), (8 + payload.shape[1], 2), (0, 2)], count), payload])


def tcp(count: int, payload: Array, seq: Array | int, ack: Array | int = 1, sport: Array | int = 1000) -> Array:
    """So many TCP headers with their payloads."""
    head = [(sport, 2), (80, 2), (seq, 4), (ack, 4), (0x5018, 2), (1000, 2), (0, 2), (0, 2)]
    return np.hstack([_filled(head, count), payload])


def capture(frames: Array, first_ns: int = FIRST_NS, gap_ns: int = 1000, captured: int | None = None) -> bytes:
    """A pcap file of frames of one length."""
    count, length = frames.shape
    times = first_ns + np.arange(count, dtype=np.int64) * gap_ns
    held = frames if captured is None else frames[:, :captured]
    record = np.zeros(
        count, [("s", "<u4"), ("ns", "<u4"), ("held", "<u4"), ("length", "<u4"), ("data", "u1", held.shape[1])]
    )
    record["s"], record["ns"] = times // 10**9, times % 10**9
    record["held"], record["length"], record["data"] = held.shape[1], length, held
    head = np.array([0xA1B23C4D, 4 << 16 | 2, 0, 0, 262144, 1], "<u4")
    return head.tobytes() + record.tobytes()


def random_payload(count: int, size: int = PAYLOAD, seed: int = 1) -> Array:
    """Random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (count, size), np.uint8)


def harmless(count: int) -> Array:
    """UDP packets with random payloads."""
    return ipv4(count, 17, udp(count, random_payload(count)), np.arange(count) & 0xFFFF)


def harmless_six(count: int) -> Array:
    """The same over IPv6."""
    return ipv6(count, 17, udp(count, random_payload(count)), (0xFD00 << 48, 1), (0xFD00 << 48, 2))


def one_place_digests(count: int) -> Array:
    """UDP packets whose digests once shared one place of the table that numbers keys."""
    digests = np.array(forgery.keys_in_one_place(count), np.uint64)
    first = np.zeros(56, np.uint8).tobytes()
    with np.errstate(over="ignore"):
        state = forgery.udp_state(0x0A000001, 0x0A000002, 4, 1, 1000, 2000, PAYLOAD)
        content = forgery.value_between(state, forgery.unfinished(digests))
        last = forgery.last_word(first, content)
    payload = np.hstack([np.zeros((count, 56), np.uint8), _little(last)])
    return ipv4(count, 17, udp(count, payload))


def one_place_addresses(count: int) -> Array:
    """UDP packets from IPv6 addresses that once shared one place of the table that numbers addresses."""
    found = forgery.addresses_in_one_place(count)
    high, low = (np.array([half(one) for one in found], np.uint64) for half in (_high, _low))
    return ipv6(count, 17, udp(count, random_payload(count)), (high, low), (0xFD00 << 48, 2))


def many_addresses(count: int) -> Array:
    """UDP packets from as many random IPv6 addresses."""
    low = np.random.default_rng(1).integers(1, 1 << 63, count).astype(np.uint64)
    high = np.random.default_rng(2).integers(0, 1 << 32, count).astype(np.uint64) | np.uint64(0x20010DB8 << 32)
    return ipv6(count, 17, udp(count, random_payload(count)), (high, low), (0xFD00 << 48, 2))


def _tunneled(count: int, source: tuple[Any, Any]) -> Array:
    inner = ipv6(count, 17, udp(count, random_payload(count)), (0xFD00 << 48, 1), (0xFD00 << 48, 2))[:, _ETHERNET:]
    return ipv6(count, 41, inner, source, (0x20010DB8 << 32, 7))


def one_place_tunnels(count: int) -> Array:
    """IPv6 in IPv6 from addresses whose tunnels once shared one place of the table of tunnels."""
    found = forgery.tunnels_in_one_place(count, 3, 0x20010DB8 << 32, (0x20010DB8 << 32) << 64 | 7)
    high, low = (np.array([half(one) for one in found], np.uint64) for half in (_high, _low))
    return _tunneled(count, (high, low))


def many_tunnels(count: int) -> Array:
    """As many tunnels from random addresses."""
    return _tunneled(count, (0x20010DB8 << 32, np.random.default_rng(1).integers(1, 1 << 63, count).astype(np.uint64)))


def identical(count: int) -> Array:
    """One UDP packet, again and again."""
    return ipv4(count, 17, udp(count, np.repeat(random_payload(1), count, axis=0)))


def _high(address: int) -> int:
    return address >> 64


def _low(address: int) -> int:
    return address & forgery.WORD


Maker = Callable[[int], Array]
