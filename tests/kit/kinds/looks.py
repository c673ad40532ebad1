"""Packets that one point sees twice, and that are one all the same."""

from __future__ import annotations

from collections.abc import Callable

from tests.kit.kinds.model import Kind, Look, Sent, datagram, ip_id, payload, segment
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


_HOSTS, _PUBLIC, _SERVERS = 4, "198.51.100.1", ("203.0.113.9", "203.0.113.10")


def _side(source: str, destination: str, ports: tuple[int, int], data: bytes, ttl: int, number: int) -> bytes:
    header = Header(source, destination, UDP, data, sport=ports[0], dport=ports[1], ip_id=number)
    return frame(header, ttl=ttl)


def _nat_at_one_point(first: bool, numbered: bool, answered: bool = False, hosts: int = 4) -> Kind:
    """A capture on all interfaces of a NAT: each packet is there with its addresses on either side."""

    def sent(number: int) -> Sent:
        host, server = number % hosts, _SERVERS[number // hosts % len(_SERVERS)]
        answers, identification = answered and number // 50 % 2 == 1, ip_id(number) if numbered else 0
        looks = []
        for address, port, ttl in ((f"192.168.1.{host + 1}", 20_000 + host, 64), (_PUBLIC, 40_000 + host, 63)):
            data = payload(number)
            if answers:
                looks.append(_side(server, address, (80, port), data, 59 if ttl == 64 else 60, identification))
            else:
                looks.append(_side(address, server, (port, 80), data, ttl, identification))
        if not first:
            # The gateway is the last point of the path; the first one is on the inside.
            return Sent([looks[0], looks[::-1] if answers else looks], back=answers)
        return Sent([looks[::-1] if answers else looks, looks[1]], back=answers)

    return Kind(("a", "gateway")[:: -1 if first else 1], sent, gap_ns=3_000_000)


def _tcp_nat_at_the_first_point(number: int) -> Sent:
    """A download: segments with payload come in, and acknowledgments go out."""
    step, answers = divmod(number, 2)
    fields = {"seq": 1000 if answers == 0 else 5000 + 1000 * step, "flags": 0x10}
    fields["ack"] = 5000 + 1000 * (step + 1) if answers == 0 else 1000
    looks = []
    for address, port in (("192.168.1.5", 40_000), (_PUBLIC, 50_000)):
        if answers:
            looks.append(segment(_SERVERS[0], address, 80, port, payload(number, 1000), ip_id(number), **fields))
        else:
            looks.append(segment(address, _SERVERS[0], port, 80, b"", ip_id(number), **fields))
    return Sent([looks[::-1] if answers else looks, looks[1]], back=bool(answers))


def _to_two_collectors(numbered: bool) -> Callable[[int], Sent]:
    """A host sends each datagram to two collectors, and one way is down behind the first point."""

    def sent(number: int) -> Sent:
        count, down = divmod(number, 2)
        server = _SERVERS[down]
        look = datagram("10.0.0.1", server, 514, 514, payload(count), ip_id(number) if numbered else 0)
        return Sent([look, None if down else look])

    return sent


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
    "nat-at-the-first-point": _nat_at_one_point(first=True, numbered=True),
    "nat-at-the-first-point-without-id": _nat_at_one_point(first=True, numbered=False),
    "nat-at-the-last-point": _nat_at_one_point(first=False, numbered=True),
    "nat-at-the-last-point-without-id": _nat_at_one_point(first=False, numbered=False),
    "twice-in-a-row-on-the-path": Kind(("a", "router", "b"), _twice_on_the_path, paths=_TWICE),
}

# On one path, answers come against it: of these, losses are not told.
ANSWERED = {
    "nat-at-the-first-point": _nat_at_one_point(first=True, numbered=True, answered=True),
    "nat-at-the-first-point-without-id": _nat_at_one_point(first=True, numbered=False, answered=True),
    "nat-at-the-last-point": _nat_at_one_point(first=False, numbered=False, answered=True),
    "tcp-nat-at-the-first-point": Kind(("gateway", "a"), _tcp_nat_at_the_first_point),
}

# Half of the packets are lost, and look like the other half.
ONE_WAY_DOWN = {
    "with-ip-ids": Kind(("a", "b"), _to_two_collectors(True)),
    "without-ip-ids": Kind(("a", "b"), _to_two_collectors(False)),
}
