"""Test generators: constant headers and fill, and what tells packets apart among the last bytes of the payload."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

from tests.kit.kinds.model import Kind, Sent, datagram, ip4, payload
from tests.kit.packets import ETHERTYPE_IPV6, UDP, ethernet, ipv6, udp

_FROM, _TO, _PRIVATE = "16.0.0.1", "48.0.0.1", "192.168.0.9"
_RAW = 253  # a protocol for experiments (RFC 3692)


def trex_mark(number: int) -> bytes:
    """0xAB, flow, stream, sequence number, time."""
    return struct.pack("<BBHIQ", 0xAB, 1, 7, number, 5_000_000 + 77 * number)


def _filled(size: int, mark: Callable[[int], bytes], identification: int) -> Callable[[int], Sent]:
    def sent(number: int) -> Sent:
        data = mark(number).rjust(size, b"\x55")
        return Sent([datagram(_FROM, _TO, 1025, 12, data, identification)] * 3)

    return sent


def _behind_nat(number: int) -> Sent:
    data = struct.pack("!IIQ", 0x49786961, number % 8, number).rjust(256, b"\x55")
    behind = datagram(_FROM, _PRIVATE, 1025, 12, data, 4)
    return Sent([datagram(_FROM, _TO, 1025, 12, data, 4), behind, behind])


def _six(number: int) -> Sent:
    source, destination = "2001:db8::1", "2001:db8:1::2"
    data = payload(number, 18).rjust(200, b"\0")
    frame = ethernet(ipv6(source, destination, UDP, udp(source, destination, 1, 2, data)), ETHERTYPE_IPV6)
    return Sent([frame] * 3)


def _in_the_middle(number: int) -> Sent:
    return Sent([datagram(_FROM, _TO, 1025, 12, bytes(100) + struct.pack("!Q", number) + bytes(300))] * 3)


def _without_ports(number: int) -> Sent:
    return Sent([ip4(_FROM, _TO, _RAW, bytes(200) + struct.pack("!QQ", 7, number))] * 3)


_LINE = Kind(("a", "b", "c"), _six, gap_ns=20_000, stage_ns=5_000, jitter_ns=3_000)

GENERATORS = {
    "generator-trex": replace(_LINE, sent=_filled(128, trex_mark, 4)),
    "generator-20-bytes": replace(_LINE, sent=_filled(1400, lambda number: payload(number, 20), 0)),
    "generator-two-flows": replace(_LINE, sent=_filled(82, lambda number: struct.pack("!QQ", number % 3, number), 0)),
    "generator-cut-in-the-middle": replace(_LINE, sent=_filled(512, trex_mark, 4), cut={"b": 96}),
    "generator-nat": replace(_LINE, sent=_behind_nat),
    "generator-ipv6": replace(_LINE, sent=_six),
    "generator-mark-in-the-middle": replace(_LINE, sent=_in_the_middle),
    "generator-without-ports": replace(_LINE, sent=_without_ports),
}
