"""The first rule that fits a packet, read straight from the TOML tables: a second opinion that is easy to check.

It shares no code with the compiler of the rules (``filter_rules.py``) or with the analysis. The three were written
apart, so their agreement about a packet is evidence.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
_NUMBERS = {"icmp": ICMP, "tcp": TCP, "udp": UDP, "icmpv6": ICMPV6}
DEFAULT_ACTION = "forward"


@dataclass(frozen=True)
class Headers:
    """The header fields of a rule. ``first`` and ``second`` are the 16 bit words in the place of the ports."""

    version: int
    protocol: int
    source: str
    destination: str
    first: int
    second: int

    @property
    def sport(self) -> int | None:
        """The source port; None unless the protocol is TCP or UDP."""
        return self.first if self.protocol in (TCP, UDP) else None

    @property
    def dport(self) -> int | None:
        return self.second if self.protocol in (TCP, UDP) else None

    @property
    def icmp_type(self) -> int | None:
        """The ICMP type; None unless the protocol is the ICMP of this IP version."""
        own = ICMP if self.version == 4 else ICMPV6
        return self.first >> 8 if self.protocol == own else None


def first_match(tables: Sequence[Mapping[str, Any]], path: str, headers: Headers) -> tuple[str | None, str]:
    """(id of the first rule of ``path`` that fits, its action); (None, "forward") when none does."""
    for table in tables:
        if table["path"] == path and fits(table, headers):
            return str(table["id"]), str(table["action"])
    return None, DEFAULT_ACTION


def fits(table: Mapping[str, Any], headers: Headers) -> bool:
    """True if every key of the rule fits, by any of its values; a field that the packet lacks never fits."""
    tests: dict[str, Callable[[Any], bool]] = {
        "protocol": lambda value: _NUMBERS.get(value, value) in (headers.protocol, str(headers.protocol)),
        "source": lambda value: ipaddress.ip_address(headers.source) in _network(value),
        "destination": lambda value: ipaddress.ip_address(headers.destination) in _network(value),
        "sport": lambda value: _in_ranges(headers.sport, value),
        "dport": lambda value: _in_ranges(headers.dport, value),
        "icmp_type": lambda value: _in_ranges(headers.icmp_type, value),
    }
    return all(
        any(test(value) for value in (table[key] if isinstance(table[key], list) else [table[key]]))
        for key, test in tests.items()
        if key in table
    )


@functools.cache
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def _in_ranges(number: int | None, text: object) -> bool:
    if number is None:
        return False
    for part in str(text).split(","):
        low, _, high = part.partition("-")
        if int(low) <= number <= int(high or low):
            return True
    return False
