"""Translations of addresses and ports that change in the course of time, or that hold for few packets."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

from tests.kit import tunnels
from tests.kit.kinds.model import Kind, Sent, datagram, ip4, ip_id, payload, segment

_SIDES = ("lan", "wan")
_CLIENT, _PUBLIC, _SERVER = "192.168.1.5", "198.51.100.1", "203.0.113.9"
_SYN, _ACK, _DATA, _FIN = 0x02, 0x10, 0x18, 0x11
_ESP = 50


def _port_again(numbered: bool) -> Callable[[int], Sent]:
    """A client uses one port for one connection of six segments after the other."""

    def sent(number: int) -> Sent:
        connection, step = divmod(number, 6)
        flags = (_SYN, _ACK, _DATA, _DATA, _DATA, _FIN)[step]
        first = random.Random(connection).randrange(1 << 31)
        fields = {
            "seq": first + (0 if step == 0 else 1 + 60 * max(0, step - 2)),
            "ack": 0 if step == 0 else 777 + connection,
            "flags": flags,
        }
        data = payload(number) if flags == _DATA else b""
        identification = ip_id(number) if numbered else 0
        return Sent(
            [
                segment(_CLIENT, _SERVER, 40_000, 80, data, identification, **fields),
                segment(_PUBLIC, _SERVER, 50_000 + connection % 3000, 80, data, identification, **fields),
            ]
        )

    return sent


def _begins(at: int, numbered: bool) -> Callable[[int], Sent]:
    """Packets pass as they are, and are translated from one packet on."""

    def sent(number: int) -> Sent:
        identification = ip_id(number) if numbered else 0
        inside = datagram(_CLIENT, _SERVER, 40_000, 80, payload(number), identification)
        outside = datagram(_PUBLIC, _SERVER, 41_111, 80, payload(number), identification)
        return Sent([inside, inside if number < at else outside])

    return sent


def _port_blocks(numbered: bool) -> Callable[[int], Sent]:
    """A carrier's NAT gives each host a block of ports; flows have three packets."""

    def sent(number: int) -> Sent:
        host, identification = number // 3, ip_id(number) if numbered else 0
        source, public = f"100.64.{host // 250}.{host % 250 + 1}", f"198.51.100.{host // 60 % 4 + 1}"
        return Sent(
            [
                datagram(source, _SERVER, 30_000 + host % 700, 53, payload(number, 40), identification),
                datagram(public, _SERVER, 1024 + host % 60 * 512, 53, payload(number, 40), identification),
            ]
        )

    return sent


def _queries(numbered: bool) -> Callable[[int], Sent]:
    """Each flow has one query; IP IDs are new behind the NAT."""

    def sent(number: int) -> Sent:
        name = b"\3www\10host%04d\0\0\1\0\1" % (number % 9000)
        query = struct.pack("!H", random.Random(number).randrange(65_536)) + b"\1\0\0\1" + bytes(6) + name
        server = f"203.0.113.{number % 3 + 1}"
        ids = (ip_id(number), ip_id(31 * number)) if numbered else (0, 0)
        return Sent(
            [
                datagram(f"192.168.1.{number % 40 + 1}", server, 20_000 + 7 * number % 40_000, 53, query, ids[0]),
                datagram(_PUBLIC, server, 1024 + 13 * number % 60_000, 53, query, ids[1]),
            ]
        )

    return sent


def _several_servers(number: int) -> Sent:
    """The same query goes to three servers."""
    query, server = divmod(number, 3)
    data = struct.pack("!H", random.Random(query).randrange(65_536)) + b"\1\0\0\1" + bytes(6) + b"\7example\0\0\1\0\1"
    address = f"203.0.113.{server + 1}"
    return Sent(
        [
            datagram("192.168.1.7", address, 20_000 + query % 40_000, 53, data),
            datagram(_PUBLIC, address, 1024 + 13 * query % 60_000, 53, data),
        ]
    )


def _sealed(numbered: bool, hosts: int) -> Callable[[int], Sent]:
    """ESP of several hosts behind one address: the SPI tells them apart."""

    def sent(number: int) -> Sent:
        host, identification = number % hosts, ip_id(number) if numbered else 0
        inside = tunnels.esp(0x1000 + host, number // hosts + 1, payload(number, 64))
        return Sent(
            [
                ip4(f"192.168.1.{5 + host}", _SERVER, _ESP, inside, identification),
                ip4(_PUBLIC, _SERVER, _ESP, inside, identification),
            ]
        )

    return sent


def _addresses_only(number: int) -> Sent:
    host = number % 5 + 1
    return Sent([datagram(f"{net}.{host}", _SERVER, 5000, 6000, payload(number)) for net in ("10.0.0", "198.51.100")])


def _counting_alike(number: int) -> Sent:
    """Two hosts behind one address send the same counter, with the same IP IDs."""
    count, host = divmod(number, 2)
    data = b"%060d" % count
    return Sent(
        [
            datagram(f"10.0.0.{host + 1}", "192.0.2.1", 1000, 2000, data, ip_id(count)),
            datagram(_PUBLIC, "192.0.2.1", 4000 + host, 2000, data, ip_id(count)),
        ]
    )


TRANSLATIONS = {
    "port-of-the-client-again": Kind(_SIDES, _port_again(True)),
    "port-of-the-client-again-without-id": Kind(_SIDES, _port_again(False)),
    "nat-begins": Kind(_SIDES, _begins(15, True)),
    "nat-begins-without-id": Kind(_SIDES, _begins(15, False)),
    "nat-begins-late-without-id": Kind(_SIDES, _begins(200, False)),
    "port-blocks": Kind(_SIDES, _port_blocks(True)),
    "port-blocks-without-id": Kind(_SIDES, _port_blocks(False), may_overtake=False),
    "queries-new-id": Kind(_SIDES, _queries(True), may_overtake=False),
    "queries-without-id": Kind(_SIDES, _queries(False), may_overtake=False),
    "one-query-to-several-servers": Kind(_SIDES, _several_servers, may_overtake=False),
    "esp": Kind(_SIDES, _sealed(True, 2)),
    "esp-without-id": Kind(_SIDES, _sealed(False, 2)),
    "esp-of-three-hosts": Kind(_SIDES, _sealed(False, 3)),
    "addresses-only-without-id": Kind(_SIDES, _addresses_only),
    "hosts-that-count-alike": Kind(_SIDES, _counting_alike, gap_ns=5_000_000),
}
