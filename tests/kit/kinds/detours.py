"""Packets that are changed at one stage and restored at another, or that go through a tunnel in between."""

from __future__ import annotations

from collections.abc import Callable

from tests.kit import tunnels
from tests.kit.kinds.model import Kind, Sent, datagram, ip4, ip_id, payload, segment
from tests.kit.packets import ETHERTYPE_IPV6, ROUTING, UDP, address_bytes, ethernet, ipv6, udp

_CHAIN = ("uplink", "switch", "punt", "return", "vnic")
_PUNTED = [{"name": "path", "points": list(_CHAIN), "detour": ["punt", "return"], "default": "punt"}]
_A, _B = "10.0.0.1", "10.0.0.2"
_ESP = 50


def _twice_nat(number: int) -> Sent:
    outer, middle = (
        datagram(*addresses, 1000, 2000, payload(number), ip_id(number))
        for addresses in (("10.0.0.5", "10.1.0.9"), ("172.16.0.5", "172.17.0.9"))
    )
    return Sent([outer, middle, outer])


def _segment_routing(number: int) -> Sent:
    source, destination, router = "2001:db8::1", "2001:db8:9::2", "2001:db8:77::1"
    inner = udp(source, destination, 1000, 2000, payload(number))
    header = bytes([UDP, 4, 4, 1, 1, 0, 0, 0]) + address_bytes(destination) + address_bytes(router)
    plain = ethernet(ipv6(source, destination, UDP, inner), ETHERTYPE_IPV6)
    return Sent([plain, ethernet(ipv6(source, router, ROUTING, header + inner), ETHERTYPE_IPV6), plain])


def _in_the_detour(changed: Callable[[int], tuple[bytes, bytes]]) -> Kind:
    def sent(number: int) -> Sent:
        outside, inside = changed(number)
        return Sent([outside, outside, inside, inside, outside])

    return Kind(_CHAIN, sent, paths=_PUNTED)


def _other_payload(number: int) -> tuple[bytes, bytes]:
    return (
        datagram(_A, _B, 1000, 2000, payload(number), ip_id(number)),
        datagram(_A, _B, 1000, 2000, payload(number, salt=5), ip_id(number)),
    )


def _other_port(number: int) -> tuple[bytes, bytes]:
    return (
        datagram(_A, _B, 1000, 2000, payload(number), ip_id(number)),
        datagram(_A, _B, 1000, 9999, payload(number), ip_id(number)),
    )


def _other_numbers(number: int) -> tuple[bytes, bytes]:
    outside, inside = (
        segment(_A, _B, 1000, 2000, payload(number), ip_id(number), seq=first + 60 * number, ack=5)
        for first in (1000, 991_000)
    )
    return outside, inside


def _encrypted(number: int) -> tuple[bytes, bytes]:
    sealed = ip4("192.0.2.1", "192.0.2.2", _ESP, tunnels.esp(7, number, payload(number, 96, 9)))
    return datagram(_A, _B, 1000, 2000, payload(number), ip_id(number)), sealed


def _encrypted_link(number: int) -> Sent:
    outside, inside = _encrypted(number)
    return Sent([outside, inside, outside])


DETOURS = {
    "twice-nat-and-back": Kind(("a", "b", "d"), _twice_nat),
    "segment-routing-header": Kind(("a", "b", "d"), _segment_routing),
    "payload-changed-in-the-detour": _in_the_detour(_other_payload),
    "port-changed-in-the-detour": _in_the_detour(_other_port),
    "numbers-changed-in-the-detour": _in_the_detour(_other_numbers),
    "encrypted-in-the-middle": Kind(("a", "b", "d"), _encrypted_link, expected="never lost"),
}
ENCRYPTED_DETOUR = _in_the_detour(_encrypted)
