"""Evidence: the rules by which two sightings at two points are one packet, from much evidence to little.

A rule names the features that agree; a feature that a box on the way changed is simply absent from the rule that hits.

- F: protocol, addresses and ports, or the identifier of an echo;
- S, D: address and port of the source, of the destination;
- I: the IP ID, where it is not 0;
- N: TCP sequence and acknowledgment numbers and flags, ICMP type and sequence, fragment offset;
- P: payload length and first payload bytes;
- T: TCP flags, and both numbers by a translation that is known (`renumbering_of`).

Every rule asks for packets that say enough: 16 payload bytes, or both TCP numbers. A RST with numbers 0 and 1, a SYN,
a bare IP ID or a short heartbeat joins nothing (docs/matching.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import mixed
from pktrace.trajectories.remains import flow_of, numbers, side_of, stays_on_its_link

Array = np.ndarray[Any, Any]
_TCP = 6
ENOUGH_BYTES = 16  # payload bytes that tell a packet from those of strangers
_SOME_BYTES = 1  # where IP ID, or both TCP numbers, agree beside them


@dataclass(frozen=True)
class Rule:
    """A rule: the letters of the features that have to agree."""

    features: str

    def asks(self, feature: str) -> bool:
        """Whether this feature has to agree."""
        return feature in self.features


def _rules(*features: str) -> tuple[Rule, ...]:
    return tuple(map(Rule, features))


# Flow and IP ID agree: a packet is whole, and no part of another, whose numbers or bytes are others.
SAME_HEADERS = _rules("FINP", "FIP", "FIT", "FIN")
RULES = _rules("FINP", "FIP", "FIT", "FNP", "INP", "FIN", "IP", "DNP", "SNP", "NP")


def keys_of(rule: Rule, rows: Array) -> Array:
    """A hash per row of the features that the rule asks for; equal for sightings that agree in them."""
    columns: list[Array] = [rows["protocol"] if rule.asks("F") else numbers(rows)[0]]
    if rule.asks("F"):
        columns.append(flow_of(rows))
    for side, name in (("S", "source"), ("D", "destination")):
        if rule.asks(side):
            columns += side_of(rows, name)
    if rule.asks("I"):
        columns.append(rows["ip_id"])
    if rule.asks("N"):
        columns += numbers(rows)[1:]
    if rule.asks("P"):
        columns += [rows["payload_length"], rows["content"]]
    if rule.asks("T"):
        columns.append(rows["tcp_flags"])
    found: Array = mixed(*columns)
    return found


def is_numbered(rows: Array) -> Array:
    """bool per row: a TCP segment with both numbers, neither of them 0 (the RST of a refused SYN has 0 and 1)."""
    found: Array = (rows["protocol"] == _TCP) & (rows["tcp_seq"] > 1) & (rows["tcp_ack"] > 1)
    return found


def has_id(rows: Array) -> Array:
    """bool per row: an IP ID that is not 0."""
    found: Array = (rows["has"] & field.HAS_ID != 0) & (rows["ip_id"] != 0)
    return found


def can_be_asked(rule: Rule, rows: Array) -> Array:
    """bool per row: the packet says enough for this rule."""
    found: Array = rows["has"] & (field.HAS_IP | field.CUT_HEADER) == field.HAS_IP
    found &= rows["fragment_offset"] == 0  # other fragments follow their first one: a matter of byte ranges
    numbered, payload = is_numbered(rows), rows["payload_length"]
    if rule.asks("I"):
        found &= has_id(rows)
    if rule.asks("T"):
        found &= numbered | ((rows["protocol"] == _TCP) & (rows["tcp_seq"] > 1) & (rows["tcp_ack"] == 0))  # a SYN
        return found
    if not rule.asks("P"):
        found &= numbered & (payload >= _SOME_BYTES)
        return found
    told = payload >= ENOUGH_BYTES
    if rule.asks("N") or rule.asks("F"):
        told |= numbered & ((payload >= _SOME_BYTES) | (rule.asks("N") & rule.asks("F")))
    if not rule.asks("N"):
        # A proxy sends the payloads of its client in segments of its own; IP IDs and the flow tell them apart.
        told &= (rows["protocol"] != _TCP) | rule.asks("F")
    if not rule.asks("F"):
        found &= ~stays_on_its_link(rows)
    found &= told
    return found


def connection_of(one: Array, other: Array) -> Array:
    """A hash per pair of sightings of the TCP connection, whichever way they go, and of the two points."""
    forward, back = flow_of(one), flow_of(one, answering=True)
    points = [one["point"].astype(np.uint64), other["point"].astype(np.uint64)]
    found: Array = mixed(np.minimum(forward, back), np.maximum(forward, back), np.minimum(*points), np.maximum(*points))
    return found


def renumbering_of(one: Array, other: Array) -> Array:
    """A hash per pair of TCP segments of one connection at two points: what was added to the numbers of either side.

    It is the same for both directions: one's sequence numbers are what the other acknowledges.
    """
    sequence, acknowledgment = _added(one, other)
    turned = _turned(one)
    first, second = np.where(turned, acknowledgment, sequence), np.where(turned, sequence, acknowledgment)
    found: Array = mixed(connection_of(one, other), first, second)
    return found


def renumbered_side_of(one: Array, other: Array, side: str = "tcp_seq") -> Array:
    """The same of one side alone, by what was added to the sequence or to the acknowledgment numbers of the pairs.

    A SYN acknowledges nothing: the numbers of its side are all that it has.
    """
    added = _added(one, other)[0 if side == "tcp_seq" else 1]
    sender = _turned(one) if side == "tcp_seq" else ~_turned(one)
    found: Array = mixed(connection_of(one, other), sender, added)
    return found


def _added(one: Array, other: Array) -> list[Array]:
    """What was added to sequence and acknowledgment numbers between the lower and the higher of the two points."""
    swapped = one["point"] > other["point"]
    return [np.where(swapped, one[name] - other[name], other[name] - one[name]) for name in ("tcp_seq", "tcp_ack")]


def _turned(one: Array) -> Array:
    """bool per row: it goes the way whose flow has the higher hash."""
    found: Array = flow_of(one) > flow_of(one, answering=True)
    return found
