"""Split and merged packets: the stages that split or merged them, and the time at which the last of their bytes was
seen.

Rule: between two positions a packet was *split* if a frame behind holds less than all of a frame before. It was
*merged* if a frame behind holds more than was in one before. If frames are fragments, the names are fragmentation and
reassembly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.rows import is_fragment
from pktrace.trajectories.model import UNSEEN, Trajectories
from pktrace.trajectories.outcome.changes_kernel import FRAGMENTATION, MERGE, REASSEMBLY, SPLIT

Array = np.ndarray[Any, Any]
_MOST_BYTES = np.int64(1 << 24)  # no packet is as long


@dataclass(frozen=True)
class Parts:
    """The frames that held bytes of the packets in `ranges`, also at positions where the packet was whole.

    Arrays of equal length, in order of (trajectory, position, first byte): `trajectory`, `position`, `row`, `first`,
    `last`, `size` (bytes of the frame, also those of other packets), `identity`, `fragment`. `divided` is bool by
    trajectory and position: the packet was not whole in one frame of its own there.
    """

    trajectory: Array
    position: Array
    row: Array
    first: Array
    last: Array
    size: Array
    identity: Array
    fragment: Array
    divided: Array

    def changes(self, packets: Array, a: int, b: int) -> Array:
        """uint32: bits of the changes of these packets between two positions that both saw them."""
        found = np.zeros(len(self.divided), np.uint32)
        before, behind = np.flatnonzero(self.position == a), np.flatnonzero(self.position == b)
        if len(before) and len(behind):
            # Parts at one position do not overlap, so the parts before that reach into one behind follow each other.
            begins = self.trajectory[before] * _MOST_BYTES + self.first[before]
            ends = self.trajectory[before] * _MOST_BYTES + self.last[before]
            of_behind = self.trajectory[behind] * _MOST_BYTES
            low = np.searchsorted(ends, of_behind + self.first[behind], "left")
            high = np.searchsorted(begins, of_behind + self.last[behind], "right")
            many = np.maximum(high - low, 0)
            new = np.repeat(behind, many)
            old = before[np.repeat(low, many) + np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)]
            shared = self._shared(old, new)
            for which, usual, of_fragments, fragment in (
                (shared < self.size[old], SPLIT, FRAGMENTATION, self.fragment[new]),
                (shared < self.size[new], MERGE, REASSEMBLY, self.fragment[old]),
            ):
                for bit, chosen in ((of_fragments, which & fragment), (usual, which & ~fragment)):
                    owners = np.zeros(len(found), bool)
                    owners[self.trajectory[new[chosen]]] = True
                    found[owners] |= bit
        taken: Array = found[packets]
        return taken

    def _shared(self, old: Array, new: Array) -> Array:
        """Bytes that the frame of one part and the frame of another have in common, including those of other
        packets.
        """
        both = np.minimum(self.last[old], self.last[new]) - np.maximum(self.first[old], self.first[new]) + 1
        frames = np.stack([self.row[old], self.row[new]])
        _, pair = np.unique(frames, axis=1, return_inverse=True)
        found = np.bincount(pair.ravel(), weights=both).astype(np.int64)[pair.ravel()]
        # A frame that passed unchanged is shared as a whole, even if some of its bytes belong to packets that were not
        # followed.
        return np.where(self.identity[old] == self.identity[new], self.size[old], found)


def parts_of(trajectories: Trajectories) -> Parts:
    """The parts of all packets that were split or merged somewhere."""
    ranges, rows = trajectories.ranges, trajectories.observations.rows
    count, width = trajectories.seen.shape
    divided = np.zeros((count, width), bool)
    divided[ranges.trajectory, ranges.position] = True
    some = np.unique(ranges.trajectory)
    # A whole packet is one part.
    at, position = np.nonzero((trajectories.seen[some] >= 0) & ~divided[some])
    trajectory = np.concatenate([ranges.trajectory, some[at]])
    row = np.concatenate([ranges.row, trajectories.seen[some[at], position]])
    held = rows[row]
    fragment = is_fragment(held)
    # Bytes of a packet that is a fragment anywhere are counted in the datagram, all others in the payload.
    of_datagram = np.zeros(count, bool)
    of_datagram[trajectory[fragment]] = True
    in_datagram = of_datagram[trajectory]
    size = np.where(in_datagram, held["ip_end"].astype(np.int64) - held["l4"], held["payload_length"])
    begin = np.where(in_datagram, held["fragment_offset"], 0).astype(np.int64)
    known = len(ranges.trajectory)
    position = np.concatenate([ranges.position, position])
    first = np.concatenate([ranges.first, begin[known:]])
    last = np.concatenate([ranges.last, (begin + size)[known:] - 1])
    order = np.lexsort((first, position, trajectory))
    return Parts(
        trajectory[order], position[order], row[order], first[order], last[order], size[order],
        held["identity"][order], fragment[order], divided,
    )  # fmt: skip


def completed(trajectories: Trajectories, parts: Parts) -> Array:
    """int64 by trajectory and position: raw time of the sighting that completed the packet there.

    A whole packet is completed by its first sighting, a divided one by the latest of the first sightings of its bytes;
    UNSEEN if some of its bytes were not seen.
    """
    times = trajectories.raw_times
    if not len(parts.trajectory):
        return times
    found = times.copy()
    inside = parts.divided[parts.trajectory, parts.position]
    where = parts.trajectory[inside], parts.position[inside]
    np.maximum.at(found, where, trajectories.observations.rows["ts_ns"][parts.row[inside]])
    found[trajectories.missing_bytes > 0] = UNSEEN
    return found
