"""What is followed: sightings, and the packets that they are put together to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.reference.run import Path_

Key = tuple[Any, ...]
# How far before its cause a sighting may lie on one clock: stamps are taken late (docs, exact rung).
EARLY_NS = 1_000_000
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58


@dataclass(eq=False)
class Sighting:
    """An observation with what the follower needs: its point, clock, resolution and row.

    ``bytes_key`` are the bytes that stay the same along the path; ``time`` is its time stamp on the clock of the
    first point, as far as clocks can be aligned; ``path`` the path that its own point and headers fit;
    ``number`` counts all sightings in the order of time stamp, point, file and frame.
    """

    point: str
    clock: str
    resolution_ns: int
    row: dict[str, Any]
    bytes_key: Key = ()
    path: Path_ | None = None
    part: int = 0
    number: int = 0
    time: int = 0

    @property
    def ts_ns(self) -> int:
        return int(self.row["ts_ns"])

    @property
    def flow(self) -> Key:
        """Protocol, addresses and ports; of ICMP queries the identifier stands for the ports."""
        row = self.row
        return tuple(row[name] for name in ("protocol", "source", "destination", "sport", "dport", "icmp_id"))

    @property
    def answering_flow(self) -> Key:
        """The flow in the other direction."""
        row = self.row
        return tuple(row[name] for name in ("protocol", "destination", "source", "dport", "sport", "icmp_id"))

    @property
    def content(self) -> bytes:
        """The first payload bytes, at most 64."""
        return bytes(self.row["_content"] or b"")

    @property
    def ip_id(self) -> int:
        """The IP identification; 0, which identifies nothing, where there is none."""
        return int(self.row["ip_id"] or 0)


@dataclass(frozen=True)
class Range:
    """Bytes of a packet, both included, that a sighting at a position holds."""

    position: int
    sighting: Sighting
    first: int
    last: int


@dataclass(eq=False)
class Trajectory:
    """One packet: its first sighting at each position of the path, and the further copies of it.

    ``candidates`` counts the packets that it may be confused with, itself included; ``ambiguous`` says that it ends
    where something begins that it may have become. Of a split or merged packet ``ranges`` has the parts. ``forms``
    are sightings of it as it left a point that saw it come, with other headers.
    """

    path: Path_
    seen: dict[int, Sighting] = field(default_factory=dict)
    copies: list[Sighting] = field(default_factory=list)
    basis: str = "exact"
    candidates: int = 1
    ambiguous: bool = False
    ranges: list[Range] = field(default_factory=list)
    forms: list[Sighting] = field(default_factory=list)

    @property
    def first(self) -> int:
        return min(self.seen)

    @property
    def last(self) -> int:
        return max(self.seen)

    def sighting(self, position: int) -> Sighting:
        """The first sighting at a position."""
        return self.seen[position]

    def owned(self) -> list[Sighting]:
        """Everything that belongs to it, each sighting once."""
        everything = [*self.seen.values(), *self.copies, *(part.sighting for part in self.ranges), *self.forms]
        return list(dict.fromkeys(everything))

    @property
    def in_detour(self) -> bool:
        """Whether some point of the detour saw it."""
        path = self.path
        return path.enter is not None and any(path.enter <= p <= (path.leave or 0) for p in self.seen)

    @property
    def first_bytes(self) -> dict[int, Sighting]:
        """The sightings by position, but for those where parts were seen and not the one with the first byte."""
        first = self.seen.get(0)
        begin = first.row["fragment_offset"] or 0 if first is not None else 0
        parts: dict[int, list[int]] = {}
        for part in self.ranges:
            parts.setdefault(part.position, []).append(part.first)
        return {at: one for at, one in self.seen.items() if at not in parts or begin in parts[at]}

    @property
    def backwards(self) -> bool:
        """It passed points of its path in the opposite order, as far as points of one clock show that."""
        return any(
            a < b and one.clock == other.clock and other.ts_ns - one.ts_ns < -EARLY_NS
            for a, one in self.first_bytes.items()
            for b, other in self.first_bytes.items()
        )
