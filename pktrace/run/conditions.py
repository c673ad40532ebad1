"""A `Condition` from the keys of a rule or of a path's `match`: protocols, prefixes, port ranges, ICMP types."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import TypeVar

from pktrace.run.model import Condition, Network

Scalar = str | int
_Value = TypeVar("_Value")

# IANA protocol numbers by the names that rule files use.
PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "udp": 17,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ospf": 89,
    "sctp": 132,
    "udplite": 136,
}
PROTOCOL_NAMES = {number: name for name, number in reversed(PROTOCOLS.items())}

_ICMP_TYPES = {
    "echo-reply": (0, 129),
    "destination-unreachable": (3, 1),
    "redirect": (5, 137),
    "echo-request": (8, 128),
    "time-exceeded": (11, 3),
    "parameter-problem": (12, 4),
}


class BadValue(ValueError):
    """An invalid value of a condition; `key` is the key in the table."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key
        super().__init__(problem)


def condition_of(
    protocol: Scalar | Sequence[Scalar] | None,
    source: str | Sequence[str] | None,
    destination: str | Sequence[str] | None,
    sport: Scalar | Sequence[Scalar] | None,
    dport: Scalar | Sequence[Scalar] | None,
    icmp_type: Scalar | Sequence[Scalar] | None,
    vlan: Scalar | Sequence[Scalar] | None = None,
    tunnel_id: Scalar | Sequence[Scalar] | None = None,
) -> Condition:
    """A condition from the keys of a rule; raises BadValue with the wrong key."""
    return Condition(
        protocols=_each("protocol", protocol, _protocol),
        sources=_each("source", source, _network),
        destinations=_each("destination", destination, _network),
        sports=_each("sport", sport, _ports),
        dports=_each("dport", dport, _ports),
        icmp_types=_each("icmp_type", icmp_type, _icmp_types),
        vlans=_each("vlan", vlan, lambda item: _ranges(item, 4095, "VLAN")),
        tunnel_ids=_each("tunnel_id", tunnel_id, lambda item: _ranges(item, 2**32 - 1, "number of a tunnel")),
    )


def _each(
    key: str, value: Scalar | Sequence[Scalar] | None, parse: Callable[[Scalar], Sequence[_Value]]
) -> tuple[_Value, ...] | None:
    if value is None:
        return None
    items: Sequence[Scalar] = [value] if isinstance(value, (str, int)) else value
    if not items:
        raise BadValue(key, "is an empty list; leave the key out to allow anything")
    found: list[_Value] = []
    for item in items:
        try:
            found.extend(parse(item))
        except ValueError as problem:
            raise BadValue(key, str(problem)) from None
    return tuple(found)


def _protocol(item: Scalar) -> Sequence[int]:
    if isinstance(item, str) and not (item.isascii() and item.isdigit() and len(item) < 9):
        if item.lower() in PROTOCOLS:
            return [PROTOCOLS[item.lower()]]
        raise ValueError(f"{item!r} is no protocol; use one of {', '.join(sorted(PROTOCOLS))} or a number")
    number = int(item)
    if not 0 <= number <= 255:
        raise ValueError(f"{number} is no protocol number (0 to 255)")
    return [number]


def _network(item: Scalar) -> Sequence[Network]:
    try:
        network = ipaddress.ip_network(str(item), strict=False)
    except ValueError:
        raise ValueError(f"{item!r} is no address or prefix, such as 10.77.0.1 or fd77::/64") from None
    address, mask = int(network.network_address), int(network.netmask)
    low = (1 << 64) - 1
    return [Network(network.version, address >> 64, address & low, mask >> 64, mask & low)]


def _ports(item: Scalar) -> Sequence[tuple[int, int]]:
    return _ranges(item, 65535, "port")


def _icmp_types(item: Scalar) -> Sequence[tuple[int, int]]:
    if isinstance(item, str) and item.lower() in _ICMP_TYPES:
        return [(number, number) for number in _ICMP_TYPES[item.lower()]]
    return _ranges(item, 255, "ICMP type")


def _ranges(item: Scalar, largest: int, what: str) -> Sequence[tuple[int, int]]:
    found = []
    for part in str(item).split(","):
        first, dash, last = part.strip().partition("-")
        try:
            if len(part) > 40 or not part.isascii():
                raise ValueError
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise ValueError(f"{part.strip()!r} is no {what} or range, such as 5201 or 9000-9099") from None
        if not 0 <= low <= high <= largest:
            raise ValueError(f"{part.strip()!r} is no {what} range within 0 to {largest}")
        found.append((low, high))
    return found
