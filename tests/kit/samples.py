"""Packets of every link type and protocol that docs/decoding.md names, each with what is known of it beforehand.

``fields`` holds columns of the observations table as the builder knows them; a column that is not in it is not
claimed. Packets in tunnels, and packets that are cut, are in :mod:`tests.kit.tunnel_samples`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.kit import links, packets
from tests.kit.packets import TCP, UDP

A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
ETHERNET = 1
NOTHING = {"ip_version": None, "source": None, "destination": None, "protocol": None, "sport": None, "tunnel": None}


@dataclass(frozen=True)
class Sample:
    """One packet: its captured bytes, what is known of it, its link type, its length on the wire (default: all)."""

    data: bytes
    fields: dict[str, Any] = field(default_factory=dict)
    linktype: int = ETHERNET
    length: int | None = None

    def saying(self, **fields: Any) -> Sample:
        """The same packet, with more known of it."""
        return replace(self, fields={**self.fields, **fields})


Group = Callable[[], list[Sample]]
GROUPS: dict[str, Group] = {}


def group(name: str) -> Callable[[Group], Group]:
    """Register a function that builds the packets of one capture."""

    def register(function: Group) -> Group:
        if name in GROUPS:
            raise ValueError(f"two groups named {name}")
        GROUPS[name] = function
        return function

    return register


def ports_of(source: str, destination: str, protocol: int, sport: int, dport: int, **more: Any) -> dict[str, Any]:
    known = {"ip_version": 6 if ":" in source else 4, "source": source, "destination": destination}
    return {**known, "protocol": protocol, "sport": sport, "dport": dport, **more}


def udp4(payload: bytes = b"payload", ip_id: int = 7, **more: Any) -> tuple[bytes, dict[str, Any]]:
    """A whole IPv4 packet with UDP, and what is known of it."""
    packet = packets.ipv4(A4, B4, UDP, packets.udp(A4, B4, 1000, 2000, payload), ip_id=ip_id, **more)
    return packet, ports_of(A4, B4, UDP, 1000, 2000, ip_id=ip_id, payload_length=len(payload))


def tcp6(payload: bytes = b"payload") -> tuple[bytes, dict[str, Any]]:
    """A whole IPv6 packet with TCP, and what is known of it."""
    segment = packets.tcp(A6, B6, 1001, 2001, payload, seq=5, ack=6, flags=0x12)
    known = ports_of(A6, B6, TCP, 1001, 2001, tcp_seq=5, tcp_ack=6, tcp_flags=0x12, payload_length=len(payload))
    return packets.ipv6(A6, B6, TCP, segment, hop_limit=9), known


def both(wrap: Callable[[bytes], bytes], linktype: int = ETHERNET, **more: Any) -> list[Sample]:
    """An IPv4 and an IPv6 packet, each in the given wrapping."""
    return [Sample(wrap(packet), {**known, **more}, linktype) for packet, known in (udp4(), tcp6())]


def on_ethernet(packet: bytes, **fields: Any) -> Sample:
    return Sample(links.ethernet_head(links.ethertype(packet)) + packet, fields)


def plain_ethernet(packet: bytes) -> bytes:
    return links.ethernet_head(links.ethertype(packet)) + packet
