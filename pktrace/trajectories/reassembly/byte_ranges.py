"""The matcher `range`: one packet became several, or several became one; each byte finds the packet that held it.

Rule: TCP packets of one flow hold byte ranges of its sequence space (RFC 9293 3.4). Fragments and whole packets with
the same addresses, protocol and identification hold byte ranges of one datagram (RFC 791 3.2, RFC 8200 4.5). The
segments of a UDP superpacket hold its bytes at multiples of one size (udp_by_ip_id.py, udp_by_payload.py).
Each byte of an arrival belongs to the packet that was sent with that byte last before it, at most the loss threshold
before. The point must not have seen this byte of that packet yet.
Bound: a retransmission and its original with equal bytes, both under way at once, are distinguished by IP IDs that
count on (byte_ranges_kernel.py). Without IP IDs (IPv6), or behind a gateway that replaces them, the wrong one may be
taken; the number of bytes seen at a point is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES
from pktrace.decode.identity import group_numbers
from pktrace.decode.rows import is_fragment, rows_at
from pktrace.observations.payloads import Payloads
from pktrace.protocols import TCP
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.reassembly.byte_ranges_kernel import MOST_PARTS, Held, Pairs, Placed, match_bytes
from pktrace.trajectories.reassembly.superpackets import Spans, spans_of_fragments, spans_of_segments, spans_of_streams

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ranges:
    """Byte ranges: the observations that hold bytes of split and merged packets.

    Arrays of equal length: `trajectory`, `position`, `row`, `first`, `last`. Bytes are counted from the first of the
    packet's transport payload, for fragments from the first behind its own IP header; first and last are included.
    """

    trajectory: Array
    position: Array
    row: Array
    first: Array
    last: Array

    def __len__(self) -> int:
        return len(self.trajectory)

    def held(self, count: int, width: int) -> Array:
        """Bytes seen by trajectory (of `count`) and position (of `width`), -1 where no part was seen."""
        place = self.trajectory * width + self.position
        found = np.bincount(place, weights=self.last - self.first + 1, minlength=count * width).astype(np.int64)
        found[np.bincount(place, minlength=count * width) == 0] = -1
        return found.reshape(count, width)

    def whole(self, rows: Array, first_row: Array) -> Array:
        """bool per range: the observation is all of the packet and nothing else, so only the packet's content changed.

        Args:
            first_row: per trajectory.
        """
        sent, held = rows[first_row[self.trajectory]], rows[self.row]
        same = self.last - self.first + 1 == np.where(is_fragment(sent), _segment(sent), sent["payload_length"])
        for name in ("fragment_offset", "more_fragments", "payload_length"):
            same &= sent[name] == held[name]
        found: Array = same & (~is_fragment(sent) | (_segment(sent) == _segment(held)))
        return found

    def chosen(self, which: Array) -> Ranges:
        """The chosen ranges."""
        return Ranges(*(column[which] for column in (self.trajectory, self.position, self.row, self.first, self.last)))

    def renumbered(self, number: Array) -> Ranges:
        """The same with other numbers of the trajectories."""
        order = np.lexsort((self.first, self.position, number[self.trajectory]))
        columns = (number[self.trajectory], self.position, self.row, self.first, self.last)
        return Ranges(*(column[order] for column in columns))


def _segment(rows: Array) -> Array:
    """Bytes behind the IP header."""
    found: Array = rows["ip_end"].astype(np.int64) - rows["l4"]
    return found


NO_RANGES = Ranges(*(np.zeros(0, np.int64) for _ in range(5)))


def match_ranges(
    rows: Array, times: Array, flows: Array, loose: Array, seen: Array, path_of: Array, visits: Array, threshold: int,
    payloads: Payloads,
) -> tuple[Ranges, Array, Array]:  # fmt: skip
    """Match arrivals with the packets whose bytes they hold.

    Args:
        flows: uint64 per row, the flow that the row's flow began as; loose: rows without a trajectory, and rows of
        trajectories that begin behind the beginning of their path; seen, path_of: of the trajectories so far; visits:
        from paths.visits.

    Returns:
        Byte ranges in order of trajectory, position and first byte; trajectories that may own an ambiguous segment;
        rows that other matchers leave alone, because they are parts, or copies of parts, or may be.
    """
    count = len(path_of)
    if not count:
        return NO_RANGES, np.zeros(0, np.int64), np.zeros(0, np.int64)
    first = np.argmax(seen >= 0, axis=1)
    lengths = (visits[:, :, :].max(axis=(1, 2)) + 1)[path_of]
    gaps = (seen >= 0).sum(axis=1) < lengths
    open_ended = np.flatnonzero((first == 0) & gaps)
    sent = _readable(rows, seen[open_ended])
    both = np.concatenate([sent, loose])
    compared = both, rows_at(rows, both), flows[both], times[both], len(sent)
    segments, doubtful, explained = spans_of_segments(*compared, threshold, payloads)
    fragments, doubtful_too = spans_of_fragments(*compared, threshold, payloads)
    found = [
        _matched(rows, times, spans, open_ended, path_of, visits, seen, threshold)
        for spans in (spans_of_streams(*compared), fragments, segments)
    ]
    other = _other_bytes(rows, found[0], sent[np.searchsorted(open_ended, found[0][:, 0])], payloads)
    changed = np.unique(found[0][other, 0])
    found[0] = found[0][~np.isin(found[0][:, 0], changed)]
    together = np.concatenate(found)
    # Bytes of a packet that was sent as a fragment are counted from the first byte of the datagram.
    together[:, 3:5] += rows["fragment_offset"][seen[together[:, 0], 0]][:, None]
    order = np.lexsort((together[:, 3], together[:, 2], together[:, 0]))
    together = together[order]
    ranges = Ranges(together[:, 0], together[:, 2], together[:, 1], together[:, 3], together[:, 4])
    doubtful_too = open_ended[doubtful_too]
    doubtful_too = doubtful_too[_not_whole(rows, ranges, doubtful_too, seen, lengths)]
    # A packet with MOST_PARTS parts at a point may have further parts.
    place, many = np.unique(ranges.trajectory * seen.shape[1] + ranges.position, return_counts=True)
    crowded = place[many >= MOST_PARTS] // seen.shape[1]
    return ranges, np.concatenate([open_ended[doubtful], doubtful_too, crowded, changed]), explained


def _other_bytes(rows: Array, parts: Array, sent: Array, payloads: Payloads) -> Array:
    """bool per part of a TCP stream: its first or last bytes differ from the bytes that were sent with these numbers.

    Numbers that were shifted on the way lead to bytes of other segments. Bound: bytes that captures cut off.

    Args:
        parts: int64 n x 5, as `_matched` returns them; sent: per part the row of its packet.
    """
    packet, frame = rows_at(rows, sent), rows_at(rows, parts[:, 1])
    begin, size = parts[:, 3], parts[:, 4] - parts[:, 3] + 1
    inside = (packet["tcp_seq"] - frame["tcp_seq"]).astype(np.int32) + begin
    found = np.zeros(len(parts), bool)
    for skipped in (np.zeros(len(size), np.int64), np.maximum(size - PAYLOAD_BYTES, 0)):
        had, had_known = payloads.contents(packet, begin + skipped, size - skipped)
        held, held_known = payloads.contents(frame, inside + skipped, size - skipped)
        found |= had_known & held_known & (had != held)
    return found


def _readable(rows: Array, seen: Array) -> Array:
    """Per packet the first sighting with a captured transport header, because parts are assigned by ports; the very
    first sighting if no capture has the header.
    """
    found = seen[:, 0].copy()
    left = np.flatnonzero(rows["has"][found] & field.CUT_HEADER != 0)
    for position in range(1, seen.shape[1]):
        here = seen[left, position]
        good = (here >= 0) & (rows["has"][np.maximum(here, 0)] & field.CUT_HEADER == 0)
        found[left[good]] = here[good]
        left = left[~good]
    return found


def copies_of_parts(rows: Array, times: Array, ranges: Ranges, loose: Array, threshold: int) -> tuple[Array, Array]:
    """Loose rows that are copies of parts, and their trajectories: the point saw the same bytes as a part, at most the
    loss threshold before. Retransmissions are no copies: `match_ranges` has assigned them to the packets that were
    sent.
    """
    part, first = np.unique(ranges.row, return_index=True)
    loose = loose[~np.isin(loose, part)]
    loose = loose[np.isin(rows["identity"][loose], rows["identity"][part])]
    both = np.concatenate([part, loose])
    found = np.concatenate([ranges.trajectory[first], np.full(len(loose), -1, np.int64)])
    chosen = rows_at(rows, both)
    order = np.lexsort((both, times[both], chosen["point"], group_numbers(chosen["identity"])))
    both, found, chosen = both[order], found[order], chosen[order]
    begins = np.append(
        True, (chosen["identity"][1:] != chosen["identity"][:-1]) | (chosen["point"][1:] != chosen["point"][:-1])
    )
    # The last part before each row, if it has the same bytes at the same point.
    before = np.maximum.accumulate(np.where(begins | (found >= 0), np.arange(len(both)), 0))
    again = (found < 0) & (found[before] >= 0)
    again[again] = times[both[again]] - times[both[before[again]]] <= threshold
    return both[again], found[before[again]]


def _not_whole(rows: Array, ranges: Ranges, which: Array, seen: Array, lengths: Array) -> Array:
    """bool per datagram: some point of its path (of `lengths` positions) has not seen all of its bytes."""
    size = _segment(rows[seen[which, 0]])[:, None]
    held = ranges.held(len(seen), seen.shape[1])[which]
    there = (seen[which] >= 0) | (np.arange(seen.shape[1]) >= lengths[which][:, None])
    found: Array = np.any(~there & (held < size), axis=1)
    return found


def _matched(
    rows: Array, times: Array, spans: Spans, open_ended: Array, path_of: Array, visits: Array, seen: Array,
    threshold: int,
) -> Array:  # fmt: skip
    """int64 n x 5: trajectory, row, position, first and last byte."""
    is_sender = spans.sender >= 0
    group = group_numbers(spans.group)
    shared = np.intersect1d(group[is_sender], group[~is_sender])
    if not len(shared):
        return np.zeros((0, 5), np.int64)
    sides = []
    for side in (is_sender, ~is_sender):
        chosen = np.flatnonzero(side & np.isin(group, shared))
        chosen = chosen[np.lexsort((spans.row[chosen], times[spans.row[chosen]], group[chosen]))]
        sides.append(chosen)
    senders, arrivals = sides
    begins = np.stack([np.append(np.searchsorted(group[side], shared, "left"), len(side)) for side in sides], axis=1)
    points = rows["point"][spans.row[arrivals]].astype(np.int64)
    of_senders = _held(rows, times, spans, senders, open_ended[spans.sender[senders]])
    of_arrivals = _held(rows, times, spans, arrivals, points)
    size = 2 * len(arrivals) + 1024
    while True:
        pair = np.zeros((size, 6), np.int64)
        heads = np.full((len(senders), seen.shape[1]), -1, np.int64)
        pairs = match_bytes(
            begins, of_senders, of_arrivals, Placed(path_of, seen, visits), EARLY_NS, np.int64(threshold),
            Pairs(pair, heads, np.zeros(size, np.int64)),
        )  # fmt: skip
        if pairs >= 0:
            break
        size *= 4
    pair = pair[:pairs, :5]
    pair[:, 1] = spans.row[arrivals][pair[:, 1]]
    return pair


def _held(rows: Array, times: Array, spans: Spans, side: Array, of: Array) -> Held:
    """The byte ranges of senders or arrivals, as the kernel takes them."""
    row = spans.row[side]
    return Held(times[row], spans.begin[side], spans.end[side], _ids(rows, row), spans.whole[side], of)


def _ids(rows: Array, which: Array) -> Array:
    """int64 per row: the IP ID where it counts the packets of a TCP sender, else -1."""
    chosen = rows_at(rows, which)
    counts = (chosen["protocol"] == TCP) & (chosen["has"] & field.HAS_ID != 0) & (chosen["ip_version"] == 4)
    found: Array = np.where(counts & (chosen["fragment_offset"] == 0), chosen["ip_id"].astype(np.int64), -1)
    return found
