"""Packets that one point sees twice, and that are one all the same."""

from __future__ import annotations

from tests.kit.kinds.model import Kind, Look, Sent, datagram, ip_id, payload
from tests.kit.packets import UDP, Header, frame

_MACS = (b"\2\0\0\0\0\x0c", b"\2\0\0\0\0\x0d")


def _routed(number: int, ttl: int, numbered: bool = True) -> bytes:
    header = Header(
        "10.0.0.1", "10.9.0.2", UDP, payload(number), sport=5, dport=6, ip_id=ip_id(number) if numbered else 0
    )
    return frame(header, ttl=ttl) if ttl == 64 else frame(header, ttl=ttl, macs=_MACS)


def _one_armed(number: int) -> Sent:
    return Sent([[_routed(number, 64), (3_000_000, _routed(number, 63))], _routed(number, 63)])


def _late_loop(number: int) -> Sent:
    again = (2_500_000_000, _routed(number, 62, False))
    return Sent([_routed(number, 64, False), [_routed(number, 63, False), again]])


def _seen(*times: int, numbered: bool = True, same: bool = False) -> Kind:
    """Each point sees a packet so many times."""

    def sent(number: int) -> Sent:
        data = b"x" * 40 if same else payload(number)
        one = datagram("10.0.0.1", "10.0.0.2", 5, 6, data, ip_id(number) if numbered else 0)
        looks: list[Look] = [[one] * many for many in times]
        return Sent(looks)

    return Kind(tuple("abc"[: len(times)]), sent, gap_ns=5_000_000, may_overtake=not same)


def _reflected(number: int) -> Sent:
    one = datagram("10.0.0.1", "10.0.0.2", 5, 6, payload(number), ip_id(number))
    return Sent([[one, (900_000, one)], one])


def _twice_on_the_path(number: int) -> Sent:
    return Sent([_routed(number, 64), [_routed(number, 64), (200_000, _routed(number, 63))], _routed(number, 63)])


_TWICE = [{"name": "path", "points": ["a", "router", "router", "b"]}]

LOOKS = {
    "one-armed-router": Kind(("a", "b"), _one_armed),
    "loop-2.5-s-later": Kind(("a", "b"), _late_loop),
    "doubled-at-the-first-point": _seen(2, 1, 1),
    "doubled-at-the-last-point": _seen(1, 1, 2),
    "doubled-everywhere": _seen(2, 2, 2),
    "doubled-everywhere-without-id": _seen(2, 2, 2, numbered=False),
    "doubled-and-all-the-same": _seen(2, 2, numbered=False, same=True),
    "comes-back": Kind(("a", "b"), _reflected),
    "twice-in-a-row-on-the-path": Kind(("a", "router", "b"), _twice_on_the_path, paths=_TWICE),
}
