"""The certainty of the matches: the matchers that made them, ambiguous packets, and expected matches by chance.

Two different packets are matched by chance if their keys are equal. For a key of b bits that are as good as random, n
packets make n (n - 1) / 2 pairs, and 2^-b of these are equal (the birthday bound): n^2 / 2^65 for a 64 bit hash. A
matcher that compares times can confuse only packets within the loss threshold of each other, so these pairs are
counted, too. Packets with equal invariant fields have equal keys without any chance. They are not counted here, since
`candidates` above 1 counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.protocols import TCP
from pktrace.schema import BASES
from pktrace.trajectories.flows import flow_of
from pktrace.trajectories.model import Trajectories
from pktrace.trajectories.outcome.duplicates import arrived_again
from pktrace.verdicts.verdicts import Verdicts

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class KeyQuality:
    """One kind of key: its fields, its bits, and the number of different packets that it had to distinguish.

    `pairs` counts the pairs of different packets that the key compares, `near` the pairs within the loss threshold of
    each other; `expected` is the number of equal keys by chance among the pairs.
    """

    name: str
    fields: str
    bits: int
    different: int
    pairs: int
    near: int

    @property
    def expected(self) -> float:
        return float(np.ldexp(float(self.pairs), -self.bits))

    @property
    def expected_near(self) -> float:
        return float(np.ldexp(float(self.near), -self.bits))


@dataclass(frozen=True)
class Duplication:
    """Duplicates at the last point of a path (RFC 5560 5.1 and 5.2); a packet arrived if the last point saw it.

    `fraction` is (arrivals / packets that arrived) - 1, `replicated` the share of these packets that arrived more than
    once, all within the loss threshold; both None if none arrived.
    """

    fraction: float | None
    replicated: float | None


def duplication(verdicts: Verdicts, path: int) -> Duplication:
    """Duplication of the packets of one path; a packet that came too late has not arrived."""
    trajectories = verdicts.trajectories
    last = len(trajectories.run.paths[path].points) - 1
    arrived = (trajectories.path == path) & (trajectories.seen[:, last] >= 0) & ~verdicts.packets_with("lost")
    again = arrived_again(trajectories)[arrived]
    if not len(again):
        return Duplication(None, None)
    return Duplication(float(again.sum() / len(again)), float(np.count_nonzero(again) / len(again)))


@dataclass(frozen=True)
class PathQuality:
    """Packets of a path by basis, with the packets of ambiguous fate and the packets that only order distinguishes."""

    packets: int
    basis: dict[str, int]
    ambiguous: int
    by_order: int

    def share(self, number: int) -> float | None:
        """A number of packets as a share of the path's packets."""
        return number / self.packets if self.packets else None


def path_quality(verdicts: Verdicts, path: int) -> PathQuality:
    """How the packets of one path were matched."""
    trajectories = verdicts.trajectories
    mine = trajectories.path == path
    counts = np.bincount(trajectories.basis[mine], minlength=len(BASES))
    return PathQuality(
        packets=int(mine.sum()),
        basis={name: int(counts[code]) for code, name in enumerate(BASES) if counts[code]},
        ambiguous=int((mine & verdicts.packets_with("ambiguous")).sum()),
        by_order=int((trajectories.candidates[mine] > 1).sum()),
    )


def key_qualities(trajectories: Trajectories) -> list[KeyQuality]:
    """The keys in use, with the expected number of chance matches of each."""
    threshold = trajectories.run.threshold_ns
    rows, basis = trajectories.first_rows, trajectories.basis
    digests = np.ascontiguousarray(trajectories.observations.rows["identity"])
    # A packet that is changed on its way has one more digest from there on.
    changed = 0
    latest = np.ascontiguousarray(rows["identity"])
    for at in trajectories.seen.T:
        now = np.where(at >= 0, digests[np.maximum(at, 0)], latest) if len(digests) else latest
        changed += int(np.count_nonzero(now != latest))
        latest = now
    near = _pairs_within(None, rows["ts_ns"], threshold)
    found = [
        KeyQuality(
            "digest",
            "addresses, protocol, IP ID, fragment position, length, transport header without checksum, first payload "
            "bytes",
            64,
            len(rows) + changed,
            _pairs(len(rows) + changed),
            near,
        )
    ]
    rewritten = np.flatnonzero(basis == BASES.index("rewritten"))
    if len(rewritten):
        flows, times = flow_of(rows[rewritten]), rows["ts_ns"][rewritten]
        fields = "flow, IP ID where it was kept, transport numbers, payload length and first payload bytes"
        pairs = _pairs_within(flows, times, None)
        found.append(KeyQuality("rewritten", fields, 64, len(rewritten), pairs, _pairs_within(flows, times, threshold)))
    # A packet without sequence numbers whose payload changed is matched by its IP ID within its flow only.
    numbered = (rows["protocol"] == TCP) | (rows["has"] & field.HAS_ECHO != 0)
    modified = np.flatnonzero((basis == BASES.index("modified")) & ~numbered)
    if len(modified):
        flows, times = flow_of(rows[modified]), rows["ts_ns"][modified]
        pairs = _pairs_within(flows, times, None)
        found.append(
            KeyQuality("modified", "flow and IP ID", 16, len(modified), pairs, _pairs_within(flows, times, threshold))
        )
    return found


def _pairs(count: int) -> int:
    return count * (count - 1) // 2


def _pairs_within(groups: Array | None, times: Array, span: int | None) -> int:
    """Pairs of packets of one group (None: of all) that are at most `span` ns apart (None: any time apart).

    Counted in microseconds, so that a day of a million groups fits 64 bits.
    """
    if not len(times):
        return 0
    since = (times - times.min()) // 1000
    reach = int(since.max()) if span is None else min(int(since.max()), span // 1000)
    place = since
    if groups is not None:
        # Groups are put further apart than any span.
        _, group = np.unique(groups, return_inverse=True)
        place = group.ravel() * (int(since.max()) + reach + 1) + since
    place = np.sort(place)
    return int((np.arange(len(place)) - np.searchsorted(place, place - reach, "left")).sum())
