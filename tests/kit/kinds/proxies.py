"""Proxies that end TCP, and strangers: nothing at one point is what the other point shows."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.kit.kinds.model import Kind, Sent, ip_id, payload, segment

_CLIENT, _SERVER, _PROXY = ("10.0.0.1", 1000), ("192.0.2.1", 80), ("192.0.2.200", 33_333)
_BOTH_WAYS = [
    {"name": "there", "points": ["lan", "wan"], "match": {"destination": _SERVER[0]}},
    {"name": "back", "points": ["wan", "lan"], "match": {"source": _SERVER[0]}},
]
_FIRST, _ACK = 5_000_000, 70_000


def _stamps(value: int, echo: int, wanted: bool) -> bytes:
    return bytes([1, 1, 8, 10]) + struct.pack("!II", value, echo) if wanted else b""


def _ends_tcp(numbered: bool, transparent: bool, stamped: bool = False) -> Kind:
    """The payloads of a client in segments of the proxy; each side has ACKs of its own."""
    from_address, from_port = _CLIENT if transparent else _PROXY

    def sent(number: int) -> Sent:
        turn, step = divmod(number, 3)
        one, other = (ip_id(number), ip_id(7919 * number + 13)) if numbered else (0, 0)
        seq, behind = 1000 + 60 * turn, _FIRST + 60 * turn
        if step == 0:
            return Sent(
                [
                    segment(
                        _CLIENT[0], _SERVER[0], _CLIENT[1], _SERVER[1], payload(turn), one, seq=seq, ack=900,
                        options=_stamps(1000 + number, 900 + number, stamped),
                    ),
                    segment(
                        from_address, _SERVER[0], from_port, _SERVER[1], payload(turn), other, seq=behind, ack=_ACK,
                        options=_stamps(77_000 + number // 2, 5000 + number, stamped),
                    ),
                ]
            )  # fmt: skip
        if step == 1:
            options = _stamps(900 + number, 1000 + number, stamped)
            fields = {"seq": 900, "ack": seq + 60, "flags": 0x10, "options": options}
            return Sent([segment(_SERVER[0], _CLIENT[0], _SERVER[1], _CLIENT[1], b"", one, **fields), None], True)
        options = _stamps(5000 + number, 77_000 + number // 2, stamped)
        fields = {"seq": _ACK, "ack": behind + 60, "flags": 0x10, "options": options}
        return Sent([None, segment(_SERVER[0], from_address, _SERVER[1], from_port, b"", other, **fields)], True)

    return Kind(("lan", "wan"), sent, paths=_BOTH_WAYS, expected="apart")


def _uploads(numbered: bool, transparent: bool) -> Kind:
    """Nothing but data of one direction is seen."""

    def sent(number: int) -> Sent:
        address, port = _CLIENT if transparent else _PROXY
        one, other = (ip_id(number), ip_id(7919 * number + 3)) if numbered else (0, 0)
        data = payload(number)
        return Sent(
            [
                segment(_CLIENT[0], _SERVER[0], _CLIENT[1], 80, data, one, seq=1000 + 60 * number, ack=900),
                segment(address, _SERVER[0], port, 80, data, other, seq=_FIRST + 60 * number, ack=_ACK),
            ]
        )

    return Kind(("lan", "wan"), sent, expected="apart")


def _either(one: Callable[[int], bytes], other: Callable[[int], bytes]) -> Callable[[int], Sent]:
    return lambda number: Sent([one(number), None] if number % 2 else [None, other(number)])


def _refusal(address: str, network: str) -> Callable[[int], bytes]:
    return lambda number: segment(
        address, f"{network}.{number % 200 + 1}", 80, 1000 + number % 5000, ack=1, flags=0x14
    )  # fmt: skip


PROXIES = {
    "proxy": _ends_tcp(True, False),
    "proxy-without-id": _ends_tcp(False, False),
    "proxy-stamped-without-id": _ends_tcp(False, False, stamped=True),
    "transparent-proxy": _ends_tcp(True, True),
    "transparent-proxy-without-id": _ends_tcp(False, True),
    "transparent-proxy-stamped-without-id": _ends_tcp(False, True, stamped=True),
    "uploads-by-a-proxy": _uploads(True, False),
    "uploads-by-a-proxy-without-id": _uploads(False, False),
    "uploads-by-a-transparent-proxy-without-id": _uploads(False, True),
    "refusals-of-strangers": Kind(
        ("a", "b"), _either(_refusal("203.0.113.9", "192.168.1"), _refusal("203.0.113.10", "198.51.100")),
        expected="strangers",
    ),
}  # fmt: skip
