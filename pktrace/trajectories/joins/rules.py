"""Evidence: the rules by which two sightings at two points are one packet, from much evidence to little.

A rule names the features that agree; a feature that a box on the way changed is simply absent from the rule that hits.

- F: protocol, and the family of the flow (families.py): addresses and ports, or the identifier of an echo, or their
  known translations by a box;
- S, D: address and port of the source, of the destination;
- I: the IP ID, if it is not 0;
- N: TCP sequence and acknowledgment numbers and the flags SYN, FIN, RST and ACK, ICMP type and sequence, fragment
  offset; gateways change the other flags;
- P: payload length and first payload bytes;
- T: as N, with TCP numbers by a known translation (translations.py);
- E: payload length, and all bytes behind the 12 of an RTP header; e: the last 16 bytes;
- R: the destination of the one is the source of the other: a relay.

Every rule asks for packets that say enough (`Statements.asked`): 16 payload bytes, or both TCP numbers, or the random
number of a SYN. Rules with E or e ask for 28 payload bytes. Rule FI takes any payload, and behaviour.py then asks for 5
packets. A RST with numbers 0 and 1, a bare IP ID or a short heartbeat joins nothing (docs/matching.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import mixed
from pktrace.decode.rows import Fielded
from pktrace.observations.payloads import Payloads
from pktrace.protocols import ACK, SYN, TCP
from pktrace.trajectories.bounds import ENOUGH_BYTES
from pktrace.trajectories.flows import has_id, is_numbered, is_opening, side_of, stays_on_its_link
from pktrace.trajectories.invariants import numbers

Array = np.ndarray[Any, Any]
_TOLD = np.uint16(1 | SYN | 4 | ACK)  # flags that show the purpose of a segment; FIN and RST besides
_SOME_BYTES = 1  # enough if the IP ID, or both TCP numbers, agree beside them


@dataclass(frozen=True)
class Rule:
    """A rule: the letters of the features that have to agree."""

    features: str

    @property
    def of_ending(self) -> bool:
        """True if the rule compares the end of the payload."""
        return self.asks("E") or self.asks("e")

    def asks(self, feature: str) -> bool:
        """True if this feature has to agree."""
        return feature in self.features


def _rules(*features: str) -> tuple[Rule, ...]:
    return tuple(map(Rule, features))


# If flow and IP ID agree, the packet is whole, and no part of a packet with other numbers or bytes.
SAME_HEADERS = _rules("FINP", "FIP", "FITP", "FIT", "FIN")
RULES = _rules("FINP", "FIP", "FITP", "FIT", "FNP", "INP", "FIN", "IP", "FTP", "DNP", "SNP", "NP", "FP", "P", "FI")
# These rules read parts of the payload, for packets that the other rules left.
ENDINGS = _rules("IE", "FE", "DE", "SE", "RE", "Ie")
_RTP_HEADER, _LAST = 12, 16  # bytes (RFC 3550 5.1)


def keys_of(rule: Rule, rows: Fielded, family: Array, ending: Array | None = None, before: bool = True) -> Array:
    """A hash per row of the features that the rule compares; equal for sightings that agree in them.

    Args:
        family: uint64 per row; ending: uint64 per row, for rules that compare it (`ending_of`); before: the rows are
        those before a box, for a relay.
    """
    columns: list[Array] = [rows["protocol"] if rule.asks("F") else numbers(rows)[0]]
    if rule.asks("F"):
        columns.append(family)
    for side, name in (("S", "source"), ("D", "destination")):
        if rule.asks(side):
            columns += side_of(rows, name)
    if rule.asks("R"):
        columns += side_of(rows, "destination" if before else "source")[:2]
    if ending is not None:
        columns.append(ending)
    if rule.asks("I"):
        columns.append(rows["ip_id"])
    if rule.asks("T") and rule.asks("I"):
        columns.append(rows["tcp_flags"] & _TOLD)
    elif rule.asks("N") or rule.asks("T"):
        _, sequence, acknowledgment, flags, *others = numbers(rows)
        columns += [sequence, acknowledgment, flags & _TOLD, *others]
    if rule.asks("P"):
        columns += [rows["payload_length"], rows["content"], rows["mark"]]
    found: Array = mixed(*columns)
    return found


def ending_of(rule: Rule, rows: Fielded, payloads: Payloads) -> tuple[Array, Array]:
    """The end of payloads as the rule compares it: a hash per row; and bool, if the capture has these bytes."""
    length = rows["payload_length"].astype(np.int64)
    if rule.asks("e"):
        return payloads.rest(rows, length - _LAST, length)
    ending, there = payloads.rest(rows, np.full(len(rows), _RTP_HEADER), length)
    return mixed(ending, length), there


class Statements:
    """Statements: the features that each packet carries, and the rules that can use it."""

    def __init__(self, rows: Fielded) -> None:
        readable = rows["has"] & (field.HAS_IP | field.CUT_HEADER) == field.HAS_IP
        # Other fragments follow their first one: byte ranges match them.
        self._found = readable & (rows["fragment_offset"] == 0)
        self._tcp = rows["protocol"] == TCP
        self._numbered, self._opening, self._has_id = is_numbered(rows), is_opening(rows), has_id(rows)
        self._stays = stays_on_its_link(rows)
        self._some, self._enough, self._longer = (
            rows["payload_length"] >= least for least in (_SOME_BYTES, ENOUGH_BYTES, _RTP_HEADER + _LAST)
        )

    def asked(self, rule: Rule) -> Array:
        """bool per packet: it says enough for this rule."""
        found = self._found.copy()
        if rule.asks("I"):
            found &= self._has_id
        if rule.of_ending:
            return np.asarray(found & ~self._tcp & self._longer)
        if not rule.asks("F"):
            found &= ~self._stays
        if rule.asks("T"):
            found &= self._numbered | (self._opening & rule.asks("P"))
        elif rule.asks("N"):
            told = self._numbered & (self._some | (rule.asks("P") & rule.asks("F")))
            if rule.asks("P"):
                told |= self._enough
                told |= self._opening & (rule.asks("F") | rule.asks("I"))
            found &= told
        elif rule.asks("P"):
            told = self._enough | (self._numbered & self._some & rule.asks("F") & rule.asks("I"))
            # A proxy sends the payloads of its client in segments of its own: translations.py looks for further
            # evidence.
            found &= told & (self._tcp | rule.asks("I"))
        else:
            found &= ~self._tcp & self._some
        return np.asarray(found)
