"""The result of following: for each packet the observation at each position of its path."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pktrace.decode.rows import is_fragment, rows_at
from pktrace.ledger import Ledger
from pktrace.observations.observe import Observations
from pktrace.run.model import Run
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.capture_evidence import CaptureEvidence
from pktrace.trajectories.clocks.alignment import Clocks
from pktrace.trajectories.numbering import further_rows
from pktrace.trajectories.reassembly.byte_ranges import Ranges

UNSEEN = np.int64(-(1 << 63))  # in arrays of times: not seen at that position


@dataclass(frozen=True)
class Trajectories:
    """All packets followed, in order of their first sighting.

    Arrays of n packets: `path` (index into the run's paths), `seen` (n x longest path: row of the first sighting at
    each position, -1 where not seen), `first_row`, `candidates`, `basis` (code of schema.BASES), `sightings`,
    `duplicates`, `ambiguous` (the packet departs, and an arrival may continue it), `unsure` (an unexplained frame
    passed a position where the packet was not seen, so the packet may have been there in another form).
    `owner` has one entry per observation row: its trajectory or -1. `forms` are the rows of egress sightings
    (both_sides.py): the packet leaves a point that saw it arrive, too.
    """

    observations: Observations
    run: Run
    path: np.ndarray[Any, Any]
    seen: np.ndarray[Any, Any]
    first_row: np.ndarray[Any, Any]
    candidates: np.ndarray[Any, Any]
    basis: np.ndarray[Any, Any]
    sightings: np.ndarray[Any, Any]
    duplicates: np.ndarray[Any, Any]
    owner: np.ndarray[Any, Any]
    forms: np.ndarray[Any, Any]
    ambiguous: np.ndarray[Any, Any]
    unsure: np.ndarray[Any, Any]
    ranges: Ranges
    clocks: Clocks
    reach: CaptureEvidence
    ledger: Ledger

    def __len__(self) -> int:
        return len(self.path)

    @cached_property
    def missing_bytes(self) -> np.ndarray[Any, Any]:
        """int64 n x longest path: bytes of a split packet that a position missed, although it saw other bytes of the
        packet.
        """
        held = self.ranges.held(len(self), self.seen.shape[1])
        rows, parts = self.first_rows, self.observations.rows[self.ranges.row]
        fragment = is_fragment(rows)
        # If a whole datagram became fragments, its bytes are counted from the transport header on.
        fragment[self.ranges.trajectory[is_fragment(parts)]] = True
        whole = np.where(fragment, rows["ip_end"] - rows["l4"], rows["payload_length"]).astype(np.int64)
        missing: np.ndarray[Any, Any] = np.where(held >= 0, np.maximum(0, whole[:, None] - held), 0)
        return missing

    @cached_property
    def further(self) -> np.ndarray[Any, Any]:
        """Rows of further sightings: copies of a packet at a position where it was seen already."""
        found = further_rows(self.owner, self.seen, self.ranges)
        return found[~np.isin(found, self.forms)] if len(self.forms) else found

    @cached_property
    def raw_times(self) -> np.ndarray[Any, Any]:
        """int64 n x longest path: time stamp at each position as captured, UNSEEN where not seen."""
        return self._times(self.observations.rows["ts_ns"])

    @cached_property
    def times(self) -> np.ndarray[Any, Any]:
        """As `raw_times`, on the clock of the first point of each point's group (offsets removed, see `Clocks`)."""
        return self._times(self.clocks.aligned(self.observations.rows))

    @cached_property
    def headless(self) -> np.ndarray[Any, Any]:
        """bool n x longest path: the position saw parts of a split packet, but not the part with its first byte."""
        found, ranges = np.zeros(self.seen.shape, bool), self.ranges
        found[ranges.trajectory, ranges.position] = True
        first = np.where(is_fragment(self.first_rows), self.first_rows["fragment_offset"], 0)
        begins = ranges.first == first[ranges.trajectory]
        found[ranges.trajectory[begins], ranges.position[begins]] = False
        return found

    @cached_property
    def raw_first_bytes(self) -> np.ndarray[Any, Any]:
        """As `raw_times`, but UNSEEN where the first byte of a split packet was not seen: latency is measured on one
        byte.
        """
        return self._with_head(self.raw_times)

    @cached_property
    def first_bytes(self) -> np.ndarray[Any, Any]:
        """As `times`, UNSEEN where the first byte of a split packet was not seen."""
        return self._with_head(self.times)

    @cached_property
    def backwards(self) -> np.ndarray[Any, Any]:
        """bool n: the packet passed points of its path in the opposite order, as far as points of one clock show it."""
        clock = self.clocks.clock
        times, found = self.raw_first_bytes, np.zeros(len(self), bool)
        for number, path in enumerate(self.run.paths):
            mine = self.path == number
            for a in range(len(path.points)):
                for b in range(a + 1, len(path.points)):
                    if clock[path.points[a]] == clock[path.points[b]]:
                        # Two stamps that differ by less than EARLY_NS prove nothing: captures stamp some packets late.
                        both = mine & (times[:, a] != UNSEEN) & (times[:, b] != UNSEEN)
                        found |= both & (times[:, b] - np.where(both, times[:, a], 0) < -EARLY_NS)
        return found

    def _with_head(self, times: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.where(self.headless, UNSEEN, times) if len(self.ranges) else times

    def _times(self, of_row: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if not len(of_row):
            return np.full(self.seen.shape, UNSEEN)
        found: np.ndarray[Any, Any] = np.where(self.seen >= 0, of_row[np.maximum(self.seen, 0)], UNSEEN)
        return found

    @cached_property
    def first_rows(self) -> np.ndarray[Any, Any]:
        """The decoded rows of the first sightings."""
        found: np.ndarray[Any, Any] = rows_at(self.observations.rows, self.first_row)
        return found
