"""The changes of packets from one point to the next, found by comparing both sightings.

The comparison covers the decoded headers, and the fields that are read once more from the captures
(observations/changeable.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from pktrace.decode.digest import PAYLOAD_BYTES
from pktrace.decode.identity import mixed
from pktrace.observations.changeable import changeable_of
from pktrace.observations.contents import make_contents_comparable
from pktrace.observations.tunnels import address_text
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.outcome import changes_kernel as bit
from pktrace.trajectories.outcome.division import Parts

Array = np.ndarray[Any, Any]
_Values = list[tuple[str | None, str | None, int]]  # before, behind, packets
MOST_PAIRS = 1024  # values before and behind are listed for a kind at a stage, up to this many different pairs
ECN_NAMES = ("Not-ECT", "ECT(1)", "ECT(0)", "CE")  # RFC 3168 5


@dataclass(frozen=True)
class Transforms:
    """Changes in order of (trajectory, stage, kind): arrays of equal length; `kind` numbers `kinds`.

    `table` has (path, stage, kind, from, to, packets), in order of path, stage, kind, from and to. Its stage is None,
    and last, if a point between the two sightings missed the packets; `stage` is then the first possible one. From and
    to are None if values of single packets would be no news (IP IDs, payload), or if there are more than MOST_PAIRS of
    them.
    """

    trajectory: Array
    stage: Array
    kind: Array
    kinds: tuple[str, ...]
    table: tuple[tuple[int, int | None, str, str | None, str | None, int], ...]


@dataclass(frozen=True)
class _Kind:
    """A kind of change: its name, its bit, the columns of a sighting that make its value, and the value as text."""

    name: str
    bit: np.uint32
    columns: tuple[str, ...] = ()
    text: Callable[..., str] | None = None
    sides: tuple[bool, bool] = (True, True)  # it has a value before, and behind


def mac_text(address: int) -> str:
    """A MAC address as people write it."""
    return ":".join(f"{address >> shift & 0xFF:02x}" for shift in range(40, -1, -8))


def _address(end: str) -> tuple[str, ...]:
    return ("ip_version", f"{end}_high", f"{end}_low")


_ONLY_BEFORE, _ONLY_BEHIND = (True, False), (False, True)
# Names for TTL and tunnels come from the change itself, so they are not listed here.
KINDS = (
    _Kind("dscp", bit.DSCP, ("dscp",), str),
    _Kind("ecn", bit.ECN, ("ecn",), ECN_NAMES.__getitem__),
    _Kind("nat-source", bit.SOURCE, _address("source"), address_text),
    _Kind("nat-destination", bit.DESTINATION, _address("destination"), address_text),
    _Kind("nat-source-port", bit.SOURCE_PORT, ("sport",), str),
    _Kind("nat-destination-port", bit.DESTINATION_PORT, ("dport",), str),
    _Kind("icmp-id", bit.ICMP_ID),
    _Kind("ip-id", bit.IP_ID),
    _Kind("mac-source", bit.MAC_SOURCE, ("mac_source",), mac_text),
    _Kind("mac-destination", bit.MAC_DESTINATION, ("mac_destination",), mac_text),
    _Kind("vlan-push", bit.VLAN_PUSH, ("vlan",), str, _ONLY_BEHIND),
    _Kind("vlan-pop", bit.VLAN_POP, ("vlan",), str, _ONLY_BEFORE),
    _Kind("vlan-change", bit.VLAN_CHANGE, ("vlan",), str),
    _Kind("checksum-completion", bit.CHECKSUM_COMPLETION),
    _Kind("checksum-removal", bit.CHECKSUM_REMOVAL),
    _Kind("payload", bit.PAYLOAD),
    _Kind("tcp-mss", bit.MSS, ("mss",), str),
    _Kind("tcp-options", bit.OPTIONS),
    _Kind("tcp-window", bit.WINDOW),
    _Kind("tcp-flags", bit.FLAGS),
    _Kind("tcp-sequence", bit.SEQUENCE),
    _Kind("tcp-acknowledgment", bit.ACKNOWLEDGMENT),
    _Kind("split", bit.SPLIT),
    _Kind("merge", bit.MERGE),
    _Kind("fragmentation", bit.FRAGMENTATION),
    _Kind("reassembly", bit.REASSEMBLY),
)


class _Sightings:
    """Both sightings of the packets of one stage; columns come from the rows, or from the fields that are read once
    more.
    """

    def __init__(self, trajectories: Trajectories, unkept: Array, before: Array, behind: Array) -> None:
        self.rows = trajectories.observations.rows
        self.tunnels = trajectories.observations.tunnels
        self.unkept = unkept
        self.ends = (before, behind)

    def column(self, name: str, side: int, which: Array) -> Array:
        """One column of the chosen packets, before (0) or behind (1)."""
        source = self.unkept if name in (self.unkept.dtype.names or ()) else self.rows
        found: Array = source[name][self.ends[side][which]]
        return found

    def pairs(self, kind: _Kind, which: Array) -> _Values:
        """Values before and behind of the chosen packets with their counts, or the number of packets without values."""
        if kind.text is None:
            return [(None, None, len(which))]
        sides = [side for side in (0, 1) if kind.sides[side]]
        values = [self.column(name, side, which) for side in sides for name in kind.columns]
        first, counts = np.zeros(MOST_PAIRS, np.int64), np.zeros(MOST_PAIRS, np.int64)
        different = int(bit.count_distinct(mixed(*values), first, counts))
        if different < 0:
            return [(None, None, len(which))]
        found: _Values = []
        for place, count in zip(first[:different].tolist(), counts[:different].tolist(), strict=True):
            of_pair = [int(value[place]) for value in values]
            size = len(kind.columns)
            texts = {side: kind.text(*of_pair[at * size : (at + 1) * size]) for at, side in enumerate(sides)}
            found.append((texts.get(0), texts.get(1), count))
        return found


def transforms_of(trajectories: Trajectories, parts: Parts) -> Transforms:
    """All changes between neighbouring sightings of every packet, also if a point between them missed it.

    Raises:
        CaptureFileError: a capture cannot be read any more.
    """
    observations = trajectories.observations
    unkept = changeable_of(observations)
    found = _Found()
    for number, path in enumerate(trajectories.run.paths):
        mine = np.flatnonzero(trajectories.path == number)
        seen = trajectories.seen[mine]
        stages = {path.ends_of(stage): stage for stage in path.stage_numbers()}
        whole = (seen >= 0)[:, : len(path.points)].all()
        for a, b in stages if whole else combinations(range(len(path.points)), 2):
            # Neighbouring sightings stand at the ends of a stage, or all points between them have missed the packet.
            both = (seen[:, a] >= 0) & (seen[:, b] >= 0)
            if b > a + 1:
                both &= (seen[:, a + 1 : b] < 0).all(axis=1)
            packets = mine[both]
            if not len(packets):
                continue
            stage = stages.get((a, b))
            sightings = _Sightings(trajectories, unkept, seen[both, a], seen[both, b])
            changes = _compared(sightings, parts, packets, a, b)
            if (changes & bit.PAYLOAD).any() and observations.digest_payload_bytes < PAYLOAD_BYTES:
                # Only now it matters that each capture hashed as much of the payload as it had.
                make_contents_comparable(observations)
                changes = _compared(sightings, parts, packets, a, b)
            for kind, which, values in _kinds(sightings, changes):
                found.add(number, a if stage is None else stage, kind, packets[which], values, stage is not None)
    return found.ordered(len(trajectories))


def _compared(sightings: _Sightings, parts: Parts, packets: Array, a: int, b: int) -> Array:
    """uint32 per packet: bits of its changes."""
    changes = np.zeros(len(packets), np.uint32)
    parted = parts.divided[packets, a] | parts.divided[packets, b]
    bit.compare_sightings(sightings.rows, sightings.unkept, *sightings.ends, parted, changes)
    if parted.any():
        changes[parted] |= parts.changes(packets[parted], a, b)
    return changes


def _kinds(sightings: _Sightings, changes: Array) -> list[tuple[str, Array, _Values]]:
    """(kind, packets, values before and behind with counts) of every kind of change."""
    found: list[tuple[str, Array, _Values]] = []
    present = int(np.bitwise_or.reduce(changes))
    for kind in KINDS:
        if present & int(kind.bit):
            which = np.flatnonzero(changes & kind.bit)
            found.append((kind.name, which, sightings.pairs(kind, which)))
    if present & int(bit.TTL):
        which = np.flatnonzero(changes & bit.TTL)
        before, behind = (sightings.column("ttl", side, which).astype(np.int64) for side in (0, 1))
        for step in np.unique(behind - before).tolist():
            name = f"ttl{step:+d}"
            chosen = which[behind - before == step]
            found.append((name, chosen, sightings.pairs(_Kind(name, bit.TTL, ("ttl",), str), chosen)))
    if present & int(bit.TUNNEL):
        found += _tunnels(sightings, np.flatnonzero(changes & bit.TUNNEL))
    return found


def _tunnels(sightings: _Sightings, which: Array) -> list[tuple[str, Array, _Values]]:
    """Tunnels pushed, popped or changed; pairs of tunnels with one name are of one kind."""
    codes = [sightings.column("tunnel", side, which).astype(np.int64) for side in (0, 1)]
    pairs, of_pair, counts = np.unique(codes[0] << 32 | codes[1], return_inverse=True, return_counts=True)
    texts = ("", *sightings.tunnels)
    named: dict[str, list[int]] = {}
    values: _Values = []
    for number, (pair, count) in enumerate(zip(pairs.tolist(), counts.tolist(), strict=True)):
        was, now = texts[pair >> 32], texts[pair & 0xFFFFFFFF]
        if not was or now.endswith(f" / {was}"):
            kind, value = f"{now.split(' ')[0]}-push", (None, now, count)
        elif not now or was.endswith(f" / {now}"):
            kind, value = f"{was.split(' ')[0]}-pop", (was, None, count)
        else:
            kind, value = "tunnel-change", (was, now, count)
        named.setdefault(kind, []).append(number)
        values.append(value)
    found: list[tuple[str, Array, _Values]] = []
    for kind, numbers in named.items():
        chosen = np.zeros(len(pairs), bool)
        chosen[numbers] = True
        mine = which[chosen[of_pair.ravel()]]
        told = [values[number] for number in numbers]
        found.append((kind, mine, told if len(told) <= MOST_PAIRS else [(None, None, len(mine))]))
    return found


class _Found:
    """Changes as they are found, stage by stage."""

    def __init__(self) -> None:
        self._packets: list[Array] = []
        self._names: list[tuple[int, str]] = []
        self._table: dict[tuple[int, int | None, str, str | None, str | None], int] = {}

    def add(self, path: int, stage: int, kind: str, packets: Array, values: _Values, known: bool) -> None:
        """Add packets that changed in one way at a stage, or (if not `known`) at this stage or one behind it."""
        self._packets.append(packets)
        self._names.append((stage, kind))
        for before, behind, count in values:
            row = (path, stage if known else None, kind, before, behind)
            self._table[row] = self._table.get(row, 0) + count

    def ordered(self, count: int) -> Transforms:
        """Everything in its order, for so many trajectories."""
        kinds = tuple(sorted({kind for _, kind in self._names}))
        stages = 1 + max((stage for stage, _ in self._names), default=0)
        # One number holds trajectory, stage and kind, in this order: sorting it sorts by all three.
        each = max(1, stages * len(kinds))
        keys = [np.zeros(0, np.int64)]
        for packets, (stage, kind) in zip(self._packets, self._names, strict=True):
            keys.append(packets * each + (stage * len(kinds) + kinds.index(kind)))
        together = np.sort(np.concatenate(keys))
        trajectory, rest = np.divmod(together, each)
        stage_of, kind_of = np.divmod(rest, max(1, len(kinds)))
        table = sorted(((*row, packets) for row, packets in self._table.items()), key=_order)
        return Transforms(trajectory, stage_of, kind_of, kinds, tuple(table))


def _order(row: tuple[int, int | None, str, str | None, str | None, int]) -> tuple[int, bool, int, str, str, str]:
    path, stage, kind, before, behind, _ = row
    return path, stage is None, stage or 0, kind, before or "", behind or ""
