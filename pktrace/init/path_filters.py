"""The `match` of a path: the addresses that separate the packets of its chain from the packets of all others."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LISTED = 8  # up to this many addresses are listed one by one, more as prefixes
_MOST_PREFIXES = 24


@dataclass(frozen=True)
class Match:
    """The keys of a `match`; empty matches everything. `overlapping` packets of other chains fit it too."""

    source: tuple[str, ...] = ()
    destination: tuple[str, ...] = ()
    overlapping: int = 0


def match_of(mine: Sequence[tuple[Address, Address, int]], others: Sequence[tuple[Address, Address, int]]) -> Match:
    """The shortest match by destination, source or both that fits all own flows and as few others as possible.

    Args:
        mine, others: (source, destination, packets) of flows.
    """
    found: list[tuple[int, int, int, Match]] = []
    for rank, ends in enumerate(((1,), (0,), (0, 1))):
        prefixes = {}
        for end in ends:
            # Prefixes must not hold an address that only others have at this end.
            own = {flow[:2][end] for flow in mine}
            foreign = {flow[:2][end] for flow in others} - own
            prefixes[end] = _covering(own, foreign)
        if any(len(held) > _MOST_PREFIXES for held in prefixes.values()):
            continue
        nets = {end: list(held) for end, held in prefixes.items()}
        wrong = sum(
            packets
            for source, destination, packets in others
            if all(any((source, destination)[end] in net for net in held) for end, held in nets.items())
        )
        texts = {end: tuple(_text(net) for net in sorted(held, key=_order)) for end, held in nets.items()}
        # An address is more precise than a prefix, which may hold addresses not seen yet.
        cost = sum(len(held) + _LISTED * any("/" in text for text in held) for held in texts.values())
        found.append((wrong, cost, rank, Match(texts.get(0, ()), texts.get(1, ()), wrong)))
    if found:
        return min(found, key=lambda entry: entry[:3])[3]
    return Match(overlapping=sum(packets for _, _, packets in others))


def _covering(own: Iterable[Address], foreign: Iterable[Address]) -> list[Network]:
    """The addresses; many addresses become the fewest prefixes that hold them and none of the others."""
    result: list[Network] = []
    for version in (4, 6):
        mine = sorted(int(address) for address in own if address.version == version)
        theirs = sorted(int(address) for address in foreign if address.version == version)
        bits = 32 if version == 4 else 128
        kind: Callable[[tuple[int, int]], Network] = ipaddress.IPv4Network if version == 4 else ipaddress.IPv6Network
        if len(mine) <= _LISTED:
            result.extend(kind((value, bits)) for value in mine)
        else:
            result.extend(kind((base, length)) for base, length in _prefixes(mine, theirs, bits))
    return result


def _prefixes(mine: list[int], theirs: list[int], bits: int) -> list[tuple[int, int]]:
    """(first address, prefix length): the smallest prefix of all, halved until it holds no foreign address."""
    found: list[tuple[int, int]] = []
    pending = [(mine, theirs)]
    while pending and len(found) <= _MOST_PREFIXES:
        own, other = pending.pop()
        differing = (own[0] ^ own[-1]).bit_length()
        base = own[0] >> differing << differing
        inside = [value for value in other if base <= value < base + (1 << differing)]
        if not inside or differing == 0:
            found.append((base, bits - differing))
            continue
        middle = base + (1 << (differing - 1))
        low, high = [value for value in own if value < middle], [value for value in own if value >= middle]
        pending += [(part, inside) for part in (low, high) if part]
    return found if not pending else [(value, bits) for value in mine]


def _text(net: Network) -> str:
    return str(net.network_address) if net.prefixlen == net.max_prefixlen else str(net)


def _order(net: Network) -> tuple[int, int, int]:
    return net.version, int(net.network_address), net.prefixlen
