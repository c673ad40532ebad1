"""Packets that bound the window: a few pings through the path before the traffic, and a few after it.

The recorder believes a capture that reports that it listens; sentinels prove it. Their payload has a unique pattern, so
they are found at each point. The window runs from the last sentinel before the traffic to the first one after it, by
the times of the first point on their way.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from ..processes import CannotStart, run
from ..processes import in_namespace as inside
from .points import check_namespace
from .raw_files import RawFile

NUMBER = 3
SMALLEST_SNAPLEN = 128  # Ethernet or cooked header, IPv6, ICMP, ping's time stamp, one whole pattern
START, END = "start", "end"
_MARKS = {START: b"pktrace<", END: b"pktrace>"}


@dataclass(frozen=True)
class Sightings:
    """Times of sentinels at one point, answers included."""

    start: tuple[int, ...]
    end: tuple[int, ...]


@dataclass(frozen=True)
class Sentinels:
    """Pings to ``address`` from ``namespace``."""

    address: str
    namespace: str | None = None
    nonce: bytes = field(default_factory=lambda: secrets.token_bytes(8))
    identifier: int = field(default_factory=lambda: 1 + secrets.randbelow(0xFFFF))

    def pattern(self, which: str) -> bytes:
        return _MARKS[which] + self.nonce

    def send(self, which: str) -> None:
        """Send the pings. An answer is not needed: the points on the way have to see them."""
        ping = ["ping", "-n", "-q", "-c", str(NUMBER), "-i", "0.02", "-W", "1", "-e", str(self.identifier)]
        run(inside(self.namespace, [*ping, "-p", self.pattern(which).hex(), self.address]), check=False)

    def beside(self, expression: str) -> str:
        """A capture filter for the packets of ``expression``, and for the sentinels with their answers."""
        if not expression:
            return ""
        if ip_address(self.address).version == 4:
            mine = f"icmp and icmp[4:2] = {self.identifier}"
        else:
            mine = f"icmp6 and ip6[44:2] = {self.identifier}"
        return f"({expression}) or ({mine})"

    def find(self, captures: Mapping[str, Sequence[Path]]) -> dict[str, Sightings]:
        """Sightings by name of the capture."""
        return {name: self._find_in(files) for name, files in captures.items()}

    def _find_in(self, files: Sequence[Path]) -> Sightings:
        times: dict[str, list[int]] = {START: [], END: []}
        patterns = {which: self.pattern(which) for which in times}
        for path in files:
            file = RawFile(path)
            try:
                for ts_ns, _, data in file:
                    if self.nonce in data:
                        for which, pattern in patterns.items():
                            if pattern in data:
                                times[which].append(ts_ns)
            finally:
                file.close()
        return Sightings(tuple(times[START]), tuple(times[END]))


def window(found: Mapping[str, Sightings]) -> tuple[int, int] | None:
    """Last start sentinel to first end sentinel at the point that saw them first; None if no point saw them."""
    whole = [sightings for sightings in found.values() if sightings.start and sightings.end]
    if not whole:
        return None
    first = min(whole, key=lambda sightings: min(sightings.start))
    span = max(first.start), min(first.end)
    return span if span[0] <= span[1] else None


def parse_sentinels(text: str, namespace: str | None) -> Sentinels:
    """Parse ``ADDR`` or ``ADDR@NETNS``. CannotStart if ADDR is no address."""
    address, at, given = text.partition("@")
    try:
        ip_address(address)
    except ValueError:
        raise CannotStart(f"--sentinels {text!r}: write an IPv4 or IPv6 address, or ADDRESS@NETNS") from None
    if at and not given:
        raise CannotStart(f"--sentinels {text!r}: write ADDRESS@NETNS, or leave out the '@'")
    check_namespace(given or namespace)
    return Sentinels(address, given or namespace)
