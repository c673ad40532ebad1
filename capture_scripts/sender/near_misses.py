"""Ways to hit a rule and to just miss it: each field at its bounds, inside them, and one step outside.

While one field varies, the others stay inside. A packet that cannot be sent, or would be on no path, is left out with
its reason. Nothing here decides the fate of a packet: a packet that misses a rule may hit another.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..filter_rules import Network, Range, Rule
from ..processes import LabError
from ..testbed.topology import CLIENT, PVM1
from .first_match import ICMP, ICMPV6, TCP, UDP

# Numbers of IPv6 extension headers, which a packet cannot carry as its protocol.
_EXTENSIONS = (0, 43, 44, 51, 60, 135, 139, 140)
_ANY_OTHER = 253  # for experiments (RFC 3692)
# Protocols with fields in the place of ports that a rule does not read as ports: SCTP and UDP-Lite.
_LIKE_PORTS = (132, 136)


@dataclass(frozen=True)
class Addresses:
    """The addresses of both ends: the client side, and the protected machine behind the filter."""

    client4: str = CLIENT.ipv4
    client6: str = CLIENT.ipv6
    target4: str = PVM1.ipv4
    target6: str = PVM1.ipv6

    def __post_init__(self) -> None:
        for name, text in asdict(self).items():
            try:
                fits = ipaddress.ip_address(text).version == int(name[-1])
            except ValueError:
                fits = False
            if not fits:
                raise LabError(f"{name}: {text!r} is no IPv{name[-1]} address")

    def target(self, version: int) -> str:
        return self.target4 if version == 4 else self.target6

    def client(self, version: int) -> str:
        return self.client4 if version == 4 else self.client6


@dataclass(frozen=True)
class Case:
    """One way to hit or just miss a rule. Ranges hold the values to draw from; None allows any value.

    ``peer`` is the address at the other end from the protected machine: source on ingress, destination on egress.
    """

    path: str
    about: str | None
    field: str
    where: str
    version: int
    protocol: int
    peer: tuple[Range, ...] | None = None
    sport: tuple[Range, ...] | None = None
    dport: tuple[Range, ...] | None = None
    icmp_type: tuple[Range, ...] | None = None


@dataclass(frozen=True)
class LeftOut:
    """A wanted case that is not in the plan, with the reason."""

    rule: str
    version: int
    field: str
    what: str
    reason: str


def cases(rules: Sequence[Rule], addresses: Addresses) -> tuple[list[Case], list[LeftOut]]:
    """Every way to hit or just miss each rule and the defaults of both paths; and the cases that cannot be sent."""
    found: list[Case] = []
    left_out: list[LeftOut] = []
    for rule in rules:
        for version in (4, 6):
            found += _cases_of(rule, version, addresses, left_out)
    for path in ("ingress", "egress"):
        for version in (4, 6):
            for protocol in _any_protocol(version):
                found.append(Case(path, None, "all", "inside", version, protocol))
    return list(dict.fromkeys(found)), left_out


def _cases_of(rule: Rule, version: int, addresses: Addresses, left_out: list[LeftOut]) -> Iterator[Case]:
    def leave(field: str, what: object, reason: str) -> None:
        left_out.append(LeftOut(rule.id, version, field, str(what), reason))

    ingress = rule.path == "ingress"
    own_field, peer_field = ("destination", "source") if ingress else ("source", "destination")
    own, peer = (rule.destinations, rule.sources) if ingress else (rule.sources, rule.destinations)
    target = addresses.target(version)
    elsewhere = "the path is that of the protected machine: a packet with another address there is on no path"
    for network in own:
        if network.version == version and network.num_addresses > 1:
            leave(own_field, f"bounds of {network}", elsewhere)
    protocols = rule.protocols or _any_protocol(version)
    if rule.sports or rule.dports:
        protocols = tuple(number for number in protocols if number in (TCP, UDP))
    if rule.icmp_types:
        protocols = tuple(number for number in protocols if number == icmp_of(version))
    if not protocols:
        protocols = rule.protocols or (icmp_of(version),)  # all are near misses: a type of the other version's ICMP
    if own and not any(ipaddress.ip_address(target) in network for network in own):
        if any(network.version == version for network in own):
            leave(own_field, ", ".join(map(str, own)), f"{target} is not in it, and {elsewhere}")
            return
        field, where = own_field, "other version"
    elif peer and not any(network.version == version for network in peer):
        field, where = peer_field, "other version"
    else:
        field, where = "all", "inside"
    spans = tuple(_span(network) for network in peer if network.version == version)
    for protocol in protocols:
        if version == 6 and protocol in _EXTENSIONS:
            leave("protocol", protocol, "in IPv6 this number is an extension header")
            continue
        base = Case(
            rule.path, rule.id, field, where, version, protocol, spans or None,
            rule.sports or None, rule.dports or None, rule.icmp_types or None,
        )  # fmt: skip
        yield base
        if field != "all":
            continue
        for name, ranges, largest in (
            ("sport", rule.sports, 65535),
            ("dport", rule.dports, 65535),
            ("icmp_type", rule.icmp_types, 255),
            ("peer", spans, 2 ** (32 if version == 4 else 128) - 1),
        ):
            shown = peer_field if name == "peer" else name
            for place, value in _bounds(ranges):
                if name == "peer" and value == int(ipaddress.ip_address(target)):
                    leave(shown, place, "that is the protected machine itself: such a packet fits both paths")
                elif 0 <= value <= largest:
                    chosen: dict[str, Any] = {name: ((value, value),)}
                    yield replace(base, field=shown, where=place, **chosen)
                else:
                    leave(shown, place, "the field has no such value")
    if field != "all":
        return
    example = Case(
        rule.path, rule.id, "protocol", "neighbour", version, 0, spans or None,
        rule.sports or None, rule.dports or None, rule.icmp_types or None,
    )  # fmt: skip
    for number in _neighbours(rule, version):
        if not 0 <= number <= 255:
            leave("protocol", number, "the field has no such value")
        elif version == 6 and number in _EXTENSIONS:
            leave("protocol", number, "in IPv6 this number is an extension header")
        else:
            yield replace(example, protocol=number)


def icmp_of(version: int) -> int:
    """The ICMP that belongs to an IP version."""
    return ICMP if version == 4 else ICMPV6


def _any_protocol(version: int) -> tuple[int, ...]:
    return (TCP, UDP, icmp_of(version), _ANY_OTHER)


def _neighbours(rule: Rule, version: int) -> list[int]:
    """Protocols with numbers next to the rule's own, and protocols that a sloppy filter would confuse with them."""
    named = set(rule.protocols)
    near = {number + step for number in named for step in (-1, 1)}
    near |= {other for number, other in ((TCP, UDP), (UDP, TCP), (ICMP, ICMPV6), (ICMPV6, ICMP)) if number in named}
    if rule.sports or rule.dports:
        named |= {TCP, UDP} if not named else set()
        near |= {*_LIKE_PORTS, icmp_of(version)}
    if rule.icmp_types:
        named |= {icmp_of(version)} if not named else set()
        near |= {ICMP, ICMPV6, UDP}
    return sorted(near - named)


def _bounds(ranges: Sequence[Range]) -> Iterator[tuple[str, int]]:
    for low, high in ranges:
        yield "first", low
        if high != low:
            yield "last", high
        yield "below", low - 1
        yield "above", high + 1


def _span(network: Network) -> Range:
    return int(network.network_address), int(network.broadcast_address)
