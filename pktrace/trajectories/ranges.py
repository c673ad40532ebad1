"""The rung range: one packet became several or several one, matched by the bytes that each of them holds.

Rule: TCP packets of one flow hold ranges of its sequence space (RFC 9293 3.4), fragments and whole packets with the
same addresses, protocol and identification hold ranges of one datagram (RFC 791 3.2, RFC 8200 4.5), the segments of a
UDP packet that an offload split follow each other with IP IDs from its own on. What begins nowhere on a path belongs,
with each byte, to the packet that was sent with that byte last before it, at most the loss threshold before, and that
has not been seen with it at that point yet.
Bound: a retransmission and its original with equal bytes, both under way at once, are told apart by IP IDs that count
on (`range_kernel`). Where there are none (IPv6), or a gateway gives others, the wrong one may be taken; the number of
bytes seen at a point is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.rows import is_fragment, rows_at
from pktrace.observations.payloads import Payloads
from pktrace.trajectories.bursts import bursts
from pktrace.trajectories.datagrams import datagrams
from pktrace.trajectories.exact import EARLY_NS
from pktrace.trajectories.hashing import mixed
from pktrace.trajectories.part_bytes import packets_of_segments
from pktrace.trajectories.range_kernel import MOST_PARTS, match_bytes

Array = np.ndarray[Any, Any]
_TCP, _UDP = 6, 17
_Placed = tuple[int, int, int, int]  # packet, segment, first byte and the one behind the last


@dataclass(frozen=True)
class Ranges:
    """Which observations hold which bytes of split and merged packets.

    Arrays of equal length: `trajectory`, `position`, `row`, `first`, `last` (bytes from the first of the packet's
    transport payload, where fragments are concerned from the first behind its own IP header; both included).
    """

    trajectory: Array
    position: Array
    row: Array
    first: Array
    last: Array

    def __len__(self) -> int:
        return len(self.trajectory)

    def held(self, count: int, width: int) -> Array:
        """Bytes seen by trajectory (of `count`) and position (of `width`), -1 where none of its parts were seen."""
        place = self.trajectory * width + self.position
        found = np.bincount(place, weights=self.last - self.first + 1, minlength=count * width).astype(np.int64)
        found[np.bincount(place, minlength=count * width) == 0] = -1
        return found.reshape(count, width)

    def whole(self, rows: Array, first_row: Array) -> Array:
        """bool per range: the observation is all of the packet and nothing else, so that only its content changed.

        Args:
            first_row: of each trajectory.
        """
        sent, held = rows[first_row[self.trajectory]], rows[self.row]
        same = self.last - self.first + 1 == np.where(is_fragment(sent), _segment(sent), sent["payload_length"])
        for name in ("fragment_offset", "more_fragments", "payload_length"):
            same &= sent[name] == held[name]
        found: Array = same & (~is_fragment(sent) | (_segment(sent) == _segment(held)))
        return found

    def chosen(self, which: Array) -> Ranges:
        """Some of them."""
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
) -> tuple[Ranges, Array]:  # fmt: skip
    """Match what begins nowhere with the packets whose bytes it holds.

    Args:
        flows: uint64 per row, the flow that each row's began as; loose: rows that are of no trajectory, or of one that
        begins behind the beginning of its path; seen, path_of: of the trajectories so far; visits: of paths.visits.

    Returns:
        Ranges in order of trajectory, position and first byte; trajectories of which it cannot be told whether some
        segment is theirs.
    """
    count = len(path_of)
    if not count:
        return NO_RANGES, np.zeros(0, np.int64)
    first = np.argmax(seen >= 0, axis=1)
    lengths = (visits[:, :, :].max(axis=(1, 2)) + 1)[path_of]
    gaps = (seen >= 0).sum(axis=1) < lengths
    open_ended = np.flatnonzero((first == 0) & gaps)
    sent = seen[open_ended, 0]
    chosen = rows_at(rows, np.concatenate([sent, loose]))
    bursts_seen, doubtful = _in_bursts(chosen, flows, times, sent, loose, threshold, payloads)
    of_datagrams, doubtful_too = _in_datagrams(chosen, flows, times, sent, loose, threshold, payloads)
    found = [
        _matched(
            rows, times, _in_sequence(chosen, flows, times, sent, loose), open_ended, path_of, visits, seen, threshold
        ),
        _matched(rows, times, of_datagrams, open_ended, path_of, visits, seen, threshold),
        _matched(rows, times, bursts_seen, open_ended, path_of, visits, seen, threshold),
    ]
    together = np.concatenate(found)
    # Bytes of what was sent as a fragment are counted from the first of the datagram.
    together[:, 3:5] += rows["fragment_offset"][seen[together[:, 0], 0]][:, None]
    order = np.lexsort((together[:, 3], together[:, 2], together[:, 0]))
    together = together[order]
    ranges = Ranges(together[:, 0], together[:, 2], together[:, 1], together[:, 3], together[:, 4])
    doubtful_too = open_ended[doubtful_too]
    doubtful_too = doubtful_too[_not_whole(rows, ranges, doubtful_too, seen, lengths)]
    # Where the bound is reached, there may be further parts.
    place, many = np.unique(ranges.trajectory * seen.shape[1] + ranges.position, return_counts=True)
    crowded = place[many >= MOST_PARTS] // seen.shape[1]
    return ranges, np.concatenate([open_ended[doubtful], doubtful_too, crowded])


def copies_of_parts(rows: Array, times: Array, ranges: Ranges, loose: Array, threshold: int) -> tuple[Array, Array]:
    """Which loose rows are copies of parts, and of which trajectories: their point saw the same bytes as a part at most
    the loss threshold before. What was sent again has been given to what was sent (`match_ranges`).
    """
    part, first = np.unique(ranges.row, return_index=True)
    loose = loose[~np.isin(loose, part)]
    loose = loose[np.isin(rows["digest"][loose], rows["digest"][part])]
    both = np.concatenate([part, loose])
    found = np.concatenate([ranges.trajectory[first], np.full(len(loose), -1, np.int64)])
    chosen = rows_at(rows, both)
    order = np.lexsort((both, times[both], chosen["point"], chosen["digest"]))
    both, found, chosen = both[order], found[order], chosen[order]
    begins = np.append(
        True, (chosen["digest"][1:] != chosen["digest"][:-1]) | (chosen["point"][1:] != chosen["point"][:-1])
    )
    # The last part before each, if it is of the same bytes at the same point.
    before = np.maximum.accumulate(np.where(begins | (found >= 0), np.arange(len(both)), 0))
    again = (found < 0) & (found[before] >= 0)
    again[again] = times[both[again]] - times[both[before[again]]] <= threshold
    return both[again], found[before[again]]


def _not_whole(rows: Array, ranges: Ranges, which: Array, seen: Array, lengths: Array) -> Array:
    """bool per datagram: some point of its path, of so many positions, has not seen all of its bytes."""
    size = _segment(rows[seen[which, 0]])[:, None]
    held = ranges.held(len(seen), seen.shape[1])[which]
    there = (seen[which] >= 0) | (np.arange(seen.shape[1]) >= lengths[which][:, None])
    found: Array = np.any(~there & (held < size), axis=1)
    return found


@dataclass(frozen=True)
class _Spans:
    """What holds bytes of something: group, row, first byte and the one behind the last; `sender` numbers open ends."""

    group: Array
    row: Array
    begin: Array
    end: Array
    sender: Array  # -1 for arrivals
    whole: Array  # not divided into fragments: no match for another such


_NO_SPANS = _Spans(np.zeros(0, np.uint64), *(np.zeros(0, np.int64),) * 4, np.zeros(0, bool))


def _matched(
    rows: Array, times: Array, spans: _Spans, open_ended: Array, path_of: Array, visits: Array, seen: Array,
    threshold: int,
) -> Array:  # fmt: skip
    """int64 n x 5: trajectory, row, position, first and last byte."""
    is_sender = spans.sender >= 0
    shared = np.intersect1d(spans.group[is_sender], spans.group[~is_sender])
    if not len(shared):
        return np.zeros((0, 5), np.int64)
    sides = []
    for side in (is_sender, ~is_sender):
        chosen = np.flatnonzero(side & np.isin(spans.group, shared))
        chosen = chosen[np.lexsort((spans.row[chosen], times[spans.row[chosen]], spans.group[chosen]))]
        sides.append(chosen)
    senders, arrivals = sides
    begins = np.stack(
        [np.append(np.searchsorted(spans.group[side], shared, "left"), len(side)) for side in sides], axis=1
    )
    size = 2 * len(arrivals) + 1024
    while True:
        pair = np.zeros((size, 6), np.int64)
        heads = np.full((len(senders), seen.shape[1]), -1, np.int64)
        pairs = match_bytes(
            begins, open_ended[spans.sender[senders]], times[spans.row[senders]], spans.begin[senders],
            spans.end[senders], _ids(rows, spans.row[senders]), spans.whole[senders], times[spans.row[arrivals]],
            spans.begin[arrivals], spans.end[arrivals], _ids(rows, spans.row[arrivals]), spans.whole[arrivals],
            rows["point"][spans.row[arrivals]].astype(np.int64), path_of, visits, seen, EARLY_NS, np.int64(threshold),
            pair, heads, np.zeros(size, np.int64),
        )  # fmt: skip
        if pairs >= 0:
            break
        size *= 4
    pair = pair[:pairs, :5]
    pair[:, 1] = spans.row[arrivals][pair[:, 1]]
    return pair


def _ids(rows: Array, which: Array) -> Array:
    """int64 per row: the IP ID where it counts the packets of a TCP sender, else -1."""
    chosen = rows_at(rows, which)
    counts = (chosen["protocol"] == _TCP) & (chosen["has"] & field.HAS_ID != 0) & (chosen["ip_version"] == 4)
    found: Array = np.where(counts & (chosen["fragment_offset"] == 0), chosen["ip_id"].astype(np.int64), -1)
    return found


def _spans(
    group: Array, sent: Array, loose: Array, begin: Array, end: Array, wanted: Array, whole: Array | None = None
) -> _Spans:
    """Spans of the wanted among the sent and the loose rows, which stand one after the other in all arrays."""
    sender = np.concatenate([np.arange(len(sent)), np.full(len(loose), -1)])
    row = np.concatenate([sent, loose])
    if whole is None:
        whole = np.zeros(len(row), bool)
    return _Spans(group[wanted], row[wanted], begin[wanted], end[wanted], sender[wanted], whole[wanted])


def _in_sequence(chosen: Array, flows: Array, times: Array, sent: Array, loose: Array) -> _Spans:
    """TCP data by its place in the flow's sequence space, which is unrolled where it wraps.

    A fragment, the first one too, has its place in its datagram: with one in both, its bytes would count twice.
    """
    both = np.concatenate([sent, loose])
    wanted = (chosen["protocol"] == _TCP) & (chosen["payload_length"] > 0)
    wanted &= (chosen["fragment_offset"] == 0) & (chosen["more_fragments"] == 0)
    group = flows[both]
    begin = np.zeros(len(both), np.int64)
    order = np.lexsort((times[both], group))
    sequence = chosen["tcp_seq"][order]
    steps = np.zeros(len(both), np.int64)
    steps[1:] = (sequence[1:] - sequence[:-1]).astype(np.int32)
    total = np.cumsum(steps)
    starts = np.ones(len(both), bool)
    starts[1:] = group[order][1:] != group[order][:-1]
    base = total[starts][np.cumsum(starts) - 1] if len(both) else total
    begin[order] = total - base
    return _spans(group, sent, loose, begin, begin + chosen["payload_length"].astype(np.int64), wanted)


def _in_datagrams(
    chosen: Array, flows: Array, times: Array, sent: Array, loose: Array, threshold: int, payloads: Payloads
) -> tuple[_Spans, Array]:
    """Fragments and whole packets by their place in the datagram.

    Returns:
        The spans, and numbers of the sent of which it cannot be told whether some fragment is theirs.
    """
    both = np.concatenate([sent, loose])
    fragment = is_fragment(chosen)
    if not fragment.any():
        return _NO_SPANS, np.zeros(0, np.int64)
    group, rivals = datagrams(both, chosen, flows[both], times[both], len(sent), threshold, payloads)
    begin = chosen["fragment_offset"].astype(np.int64)
    end = begin + chosen["ip_end"].astype(np.int64) - chosen["l4"]
    wanted = (chosen["has"] & field.HAS_IP != 0) & (chosen["l4"] > 0) & (end > begin)
    # Whole packets count only where fragments share their identification.
    wanted &= fragment | np.isin(group, group[fragment])
    # A whole packet and a whole packet are no matter of fragments, nor is one that ends before a fragment does.
    in_doubt = np.flatnonzero(np.isin(group[: len(sent)], rivals))
    return _spans(group, sent, loose, begin, end, wanted, ~fragment), in_doubt


def _in_bursts(
    chosen: Array, flows: Array, times: Array, sent: Array, loose: Array, threshold: int, payloads: Payloads
) -> tuple[_Spans, Array]:
    """Segments of UDP packets that an offload split: IDs from the packet's own on, in one burst at one point.

    The first segment of a burst has the ID and the first bytes of its packet; segment i the ID + i, and the bytes from
    i times the size of the first on. Where the first is missing, the burst belongs to the packet sent last before it
    among those between the packets of the bursts before and behind it, if sizes and IDs fit. So it is told where the
    bytes do not (part_bytes.py).

    Returns:
        The spans, and numbers of the sent of which it cannot be told whether some segment is theirs.
    """
    both = np.concatenate([sent, loose])
    udp = (chosen["protocol"] == _UDP) & (chosen["has"] & field.HAS_ID != 0) & ~is_fragment(chosen)
    udp &= chosen["payload_length"] > 0
    is_sender = np.arange(len(both)) < len(sent)
    first_bytes = mixed(flows[both], chosen["ip_id"], chosen["content"])
    # Only flows in which some loose packet begins as one that was sent, and is shorter.
    known = np.unique(first_bytes[udp & is_sender])
    split = np.unique(flows[both][udp & ~is_sender & np.isin(first_bytes, known)])
    found: list[tuple[int, int, int, int]] = []
    doubtful: set[int] = set()
    # The rows of these flows, flow by flow in order of time.
    chosen_flows = flows[both]
    ordered = np.flatnonzero(udp & np.isin(chosen_flows, split))
    ordered = ordered[np.lexsort((times[both[ordered]], chosen_flows[ordered]))]
    if not len(ordered):
        return _NO_SPANS, np.zeros(0, np.int64)
    packet, place, open_to = packets_of_segments(
        chosen, chosen_flows, times[both], len(sent), ordered, threshold, payloads
    )
    for mine in np.split(ordered, np.flatnonzero(np.diff(chosen_flows[ordered])) + 1):
        of_flow, times_of_flow = chosen[mine], times[both[mine]]
        senders, loose_here = np.flatnonzero(is_sender[mine]), np.flatnonzero(~is_sender[mine])
        at_of = {number: at for at, number in enumerate(mine.tolist())}
        sizes = of_flow["payload_length"].astype(np.int64)
        points, first_place = np.unique(of_flow["point"][loose_here], return_index=True)
        # Where a point has seen a segment that one before had placed, the bytes are the same: so is its packet.
        known_segments: dict[int, tuple[int, int, int]] = {}
        nobodys: set[int] = set()  # and where it could not be told there, it cannot be told here
        for point in points[np.argsort(first_place)]:
            arrivals = loose_here[of_flow["point"][loose_here] == point]
            digests = of_flow["digest"][arrivals].tolist()
            placed = [known_segments.get(digest) for digest in digests]
            again = [
                (whose[0], at, whose[1], whose[2]) for at, whose in zip(arrivals.tolist(), placed, strict=True) if whose
            ]
            left = arrivals[
                np.array([not whose and one not in nobodys for whose, one in zip(placed, digests, strict=True)], bool)
            ]
            told = [
                (at_of[int(packet[mine[at]])], int(at), int(place[mine[at]]), int(place[mine[at]] + sizes[at]))
                for at in left[packet[mine[left]] >= 0]
            ]
            fresh, doubts, undecided = told, set[int](), list[int]()
            if (open_to[mine[left]] & (packet[mine[left]] < 0)).any():
                guessed, doubts, undecided = bursts(of_flow, times_of_flow, senders, left)
                fresh = _beside(told, guessed)
            doubtful.update(int(mine[sender]) for sender in doubts)
            nobodys.update(of_flow["digest"][undecided].tolist())
            if all(begin == 0 for *_, begin, _ in fresh):
                # Never a second segment: equal first bytes alone, where ID 0 identifies nothing, may be chance.
                fresh = [one for one in fresh if of_flow["ip_id"][one[0]] != 0]
            found += [(int(mine[sender]), int(mine[at]), begin, end) for sender, at, begin, end in again + fresh]
            for sender, segment, begin, end in fresh:
                known_segments[int(of_flow["digest"][segment])] = (sender, begin, end)
    senders_in_doubt = np.array(sorted(doubtful), np.int64)
    if not found:
        return _NO_SPANS, senders_in_doubt
    owner, segments, begins, ends = (np.array(column, np.int64) for column in zip(*found, strict=True))
    unique = np.unique(owner)
    number = np.concatenate([np.arange(len(sent)), np.full(len(loose), -1)])
    return _Spans(
        group=np.concatenate([unique, owner]).astype(np.uint64),
        row=both[np.concatenate([unique, segments])],
        begin=np.concatenate([np.zeros(len(unique), np.int64), begins]),
        end=np.concatenate([chosen["payload_length"][unique].astype(np.int64), ends]),
        sender=np.concatenate([number[unique], np.full(len(segments), -1)]),
        whole=np.zeros(len(unique) + len(segments), bool),
    ), senders_in_doubt


def _beside(told: list[_Placed], guessed: list[_Placed]) -> list[_Placed]:
    """What the bytes tell of segments, and of others what bursts do, unless these bytes came in one of the first."""
    segments = {segment for _, segment, _, _ in told}
    bytes_seen = {(sender, begin) for sender, _, begin, _ in told}
    return told + [one for one in guessed if one[1] not in segments and (one[0], one[2]) not in bytes_seen]
