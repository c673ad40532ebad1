"""UDP by IP ID: the segments of UDP superpackets, as one point saw them in bursts.

Rule: the first segment of a burst has the ID and the first bytes of its packet. Segment i has the ID + i, and the bytes
from i times the size of the first on. Its bytes show the packet of a segment (payload_match.py). If they do not, and
the first segment of a burst is missing, the burst belongs to the packet sent last before it, among the packets between
those of the bursts before and behind it, if sizes and IDs fit.
Bound: segments of equal bytes of several packets, under way at once, one of them lost, may be taken for another's.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import among, group_numbers, mixed
from pktrace.decode.rows import is_fragment
from pktrace.observations.payloads import Payloads
from pktrace.protocols import UDP
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.grouping import in_order_of
from pktrace.trajectories.reassembly.payload_match import packets_of_segments

Array = np.ndarray[Any, Any]
_AT_ONCE = 8  # bursts of one flow that may be under way at the same time
_MOST_LOOKS = 256  # packets sent before a burst among which its own is looked for


_Placed = tuple[int, int, int, int]  # packet, segment, first byte and the one behind the last


def segments_of_packets(
    chosen: Array, flows: Array, times: Array, sent: int, threshold: int, payloads: Payloads
) -> tuple[Array, Array]:
    """Assign segments to packets.

    Args:
        chosen: rows; flows, times: of each; sent: the number of packets as they were sent, which come first; threshold:
        loss threshold in ns.

    Returns:
        int64 n x 4: packet, segment, first byte and the one behind the last; packets that may own an ambiguous segment.
    """
    is_sender = np.arange(len(chosen)) < sent
    ordered = _of_split_flows(chosen, flows, times, is_sender)
    nothing = np.zeros((0, 4), np.int64)
    if not len(ordered):
        return nothing, np.zeros(0, np.int64)
    told = packets_of_segments(chosen, flows, times, sent, ordered, threshold, payloads)
    found: list[_Placed] = []
    doubtful: set[int] = set()
    for mine in np.split(ordered, np.flatnonzero(np.diff(flows[ordered])) + 1):
        found += _in_flow(chosen, times, mine, is_sender, told, doubtful)
    return np.array(found, np.int64) if found else nothing, np.array(sorted(doubtful), np.int64)


def _of_split_flows(chosen: Array, flows: Array, times: Array, is_sender: Array) -> Array:
    """UDP packets without fragments, flow by flow in order of time, of flows with an arrival that begins as a sent
    packet.
    """
    udp = (chosen["protocol"] == UDP) & (chosen["has"] & field.HAS_ID != 0) & ~is_fragment(chosen)
    udp &= chosen["payload_length"] > 0
    first_bytes = mixed(flows, chosen["ip_id"], chosen["content"])
    split = flows[udp & ~is_sender & among(first_bytes, first_bytes[udp & is_sender])]
    ordered = np.flatnonzero(udp & among(flows, split))
    found: Array = ordered[in_order_of(group_numbers(flows[ordered]), times[ordered])]
    return found


def _in_flow(
    chosen: Array, times: Array, mine: Array, is_sender: Array, told: tuple[Array, Array, Array], doubtful: set[int]
) -> list[_Placed]:
    """Segments of one flow, point by point; packets in doubt are added to `doubtful`.

    Args:
        mine: the packets of the flow, in order of time; told: the result of `packets_of_segments`.
    """
    packet, place, open_to = told
    rows, sizes = chosen[mine], chosen["payload_length"][mine].astype(np.int64)
    senders, others = np.flatnonzero(is_sender[mine]), np.flatnonzero(~is_sender[mine])
    at_of = {number: at for at, number in enumerate(mine.tolist())}
    points, first_place = np.unique(rows["point"][others], return_index=True)
    found: list[_Placed] = []
    # A segment that one point has placed has the same bytes at the next points, and so the same packet.
    known_segments: dict[int, tuple[int, int, int]] = {}
    nobodys: set[int] = set()  # an identity that is undecided at one point is undecided at all
    for point in points[np.argsort(first_place)]:
        arrivals = others[rows["point"][others] == point]
        identities = rows["identity"][arrivals].tolist()
        known = [known_segments.get(identity) for identity in identities]
        again = [(whose[0], at, *whose[1:]) for at, whose in zip(arrivals.tolist(), known, strict=True) if whose]
        new = [not whose and one not in nobodys for whose, one in zip(known, identities, strict=True)]
        left = arrivals[np.array(new, bool)]
        whose = packet[mine[left]]
        fresh: list[_Placed] = [
            (at_of[int(packet[mine[at]])], int(at), int(place[mine[at]]), int(place[mine[at]] + sizes[at]))
            for at in left[whose >= 0]
        ]
        if (open_to[mine[left]] & (whose < 0)).any():
            guessed, doubts, undecided = _bursts(rows, times[mine], senders, left)
            # A frame with other bytes is no segment of these packets, though IP ID and size may fit: it may be merged
            # from others.
            guessed = [one for one in guessed if open_to[mine[one[1]]]]
            fresh = _beside(fresh, guessed)
            doubtful.update(int(mine[sender]) for sender in doubts)
            nobodys.update(rows["identity"][undecided].tolist())
        if all(begin == 0 for *_, begin, _ in fresh):
            # Without any second segment the evidence is weak: with ID 0, which identifies nothing, equal first bytes
            # may be chance.
            fresh = [one for one in fresh if rows["ip_id"][one[0]] != 0]
        found += again + fresh
        for sender, segment, begin, end in fresh:
            known_segments[int(rows["identity"][segment])] = (sender, begin, end)
    return [(int(mine[sender]), int(mine[at]), begin, end) for sender, at, begin, end in found]


def _beside(told: list[_Placed], guessed: list[_Placed]) -> list[_Placed]:
    """Segments placed by their bytes, and those placed by bursts, except bytes that one of the first holds already."""
    segments = {segment for _, segment, _, _ in told}
    bytes_seen = {(sender, begin) for sender, _, begin, _ in told}
    return told + [one for one in guessed if one[1] not in segments and (one[0], one[2]) not in bytes_seen]


def _bursts(rows: Array, times: Array, senders: Array, arrivals: Array) -> tuple[list[_Placed], set[int], list[int]]:
    """Assign segments to packets by IDs, sizes and order.

    Args:
        rows, times: of one flow, since all packets are compared; senders: packets that were sent, arrivals: packets
        that one point saw, both in order of time.

    Returns:
        (sender, segment, first byte, end) of every assigned segment; senders that may own an ambiguous segment, and
        these segments: they fit several.
    """
    size = rows["payload_length"].astype(np.int64).tolist()
    ids = rows["ip_id"].astype(np.int64).tolist()
    content = rows["content"].tolist()
    at = times.tolist()
    early = int(EARLY_NS)
    begins: dict[tuple[int, int], list[int]] = {}
    for place, sender in enumerate(senders.tolist()):
        begins.setdefault((ids[sender], content[sender]), []).append(place)
    order = senders.tolist()
    sent = [at[sender] for sender in order]
    found: list[_Placed] = []
    doubtful: set[int] = set()
    undecided: list[int] = []
    waiting: list[list[int]] = []  # bursts without their first segment
    under_way: list[list[int]] = []  # (place of the packet, size of its segments, the next index) of the last bursts
    open_from = 0
    step = 0
    for segment in arrivals.tolist():
        # Several bursts may be under way: the segment continues the burst that it fits with the fewest segments left
        # out.
        indices = [(ids[segment] - ids[order[burst[0]]]) & 0xFFFF for burst in under_way]
        fitting = [
            (index - burst[2], -number, burst)
            for number, (index, burst) in enumerate(zip(indices, under_way, strict=True))
            if index >= burst[2] and _fits(index, size[segment], burst[1], size[order[burst[0]]])
        ]
        alike = begins.get((ids[segment], content[segment]), [])
        # Among the packets that begin with these bytes, the last one counts that was sent before and is longer. A
        # segment that continues a burst begins no packet that was stamped later.
        last = bisect_right(alike, at[segment] + (0 if fitting else early), key=sent.__getitem__)
        place = next(
            (
                place
                for place in alike[max(0, last - _MOST_LOOKS) : last][::-1]
                if place >= open_from and size[segment] < size[order[place]]
            ),
            -1,
        )
        if place >= 0:
            _place_waiting(waiting, open_from, place, order, sent, ids, size, at, step, found)
            waiting = []
            step = size[segment]
            open_from = place + 1
            under_way = [*under_way[1 - _AT_ONCE :], [place, step, 1]]
            found.append((order[place], segment, 0, step))
            continue
        if len(fitting) > 1:
            doubtful.update(order[burst[0]] for _, _, burst in fitting)
            undecided.append(segment)
            continue
        gap, _, best = min(fitting, default=(0, 0, None))
        continues = bool(waiting) and 1 <= (ids[segment] - ids[waiting[-1][-1]]) & 0xFFFF < 64
        if best is not None and not (gap and continues):
            index = best[2] + gap
            best[2] = index + 1
            found.append((order[best[0]], segment, index * best[1], index * best[1] + size[segment]))
        elif continues:
            waiting[-1].append(segment)
        else:
            waiting.append([segment])
    _place_waiting(waiting, open_from, len(order), order, sent, ids, size, at, step, found)
    return found, doubtful, undecided


def _fits(index: int, length: int, step: int, whole: int) -> bool:
    """True if segment number `index` of a packet of `whole` bytes in steps of `step` has this length."""
    return index >= 0 and step > 0 and index * step < whole and length == min(step, whole - index * step)


def _place_waiting(
    waiting: list[list[int]], low: int, high: int, order: list[int], sent: list[int], ids: list[int], size: list[int],
    at: list[int], step: int, found: list[_Placed],
) -> None:  # fmt: skip
    """Assign bursts without their first segment to packets of order[low:high]: each to the last one before that
    fits.
    """
    for burst in waiting:
        last = bisect_right(sent, at[burst[0]] + int(EARLY_NS), low, high)
        for place in range(last - 1, max(low, last - _MOST_LOOKS) - 1, -1):
            sender = order[place]
            first = (ids[burst[0]] - ids[sender]) & 0xFFFF
            # The first segment would have been known by its bytes: without identification (ID 0 in all) none fits.
            if first == 0 or not _fits(first, size[burst[0]], step, size[sender]):
                continue
            indices = [(ids[segment] - ids[sender]) & 0xFFFF for segment in burst]
            if all(
                _fits(index, size[segment], step, size[sender]) for index, segment in zip(indices, burst, strict=True)
            ):
                found += [
                    (sender, segment, index * step, index * step + size[segment])
                    for index, segment in zip(indices, burst, strict=True)
                ]
                break
