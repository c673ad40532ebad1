"""The rung range: one packet became several or several one, matched byte for byte."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.reference.datagrams import datagram_keys, is_fragment
from tests.reference.run import Run
from tests.reference.sightings import EARLY_NS, TCP, Key, Range, Sighting, Trajectory


@dataclass(frozen=True)
class Span:
    """Bytes of a sequence space or datagram that a sighting holds, from ``begin`` to before ``end``.

    ``packet`` is set where the sighting is the first of a packet, which was sent with these bytes.
    """

    sighting: Sighting
    begin: int
    end: int
    packet: Trajectory | None = None
    whole: bool = False  # not divided into fragments, where these are asked for


Found = dict[Trajectory, list[Range]]


def match_ranges(
    run: Run,
    trajectories: Sequence[Trajectory],
    unplaced: Sequence[Sighting],
    first_flow: Callable[[Sighting], object],
) -> tuple[Found, list[Trajectory]]:
    """What begins nowhere on a path, and the packets whose bytes it holds; and packets that may have further parts.

    Asked are packets that were seen at the first point of their path and not everywhere on it.
    """
    senders = [p for p in trajectories if p.first == 0 and len(p.seen) < len(p.path.points)]
    loose = [s for p in trajectories if p.first > 0 for s in p.owned()] + list(unplaced)
    found: Found = {}
    fragments, doubtful = in_datagrams(run, senders, loose, first_flow)
    for spans in (*in_sequence(senders, loose, first_flow), *fragments):
        give_bytes(run, spans, found)
    return found, [packet for packet in doubtful if is_short(packet, found)]


def give_bytes(run: Run, spans: Sequence[Span], found: Found) -> None:
    """Each byte of what arrived belongs to the packet that was sent with it last before, at most the loss threshold
    before, which that point has not seen whole, nor this byte of it yet; to one whose IP ID fits before any other.
    """
    sent = [s for s in spans if s.packet is not None]
    arrived = [s for s in spans if s.packet is None]
    taken: set[tuple[Trajectory, int, int]] = set()
    for arrival in sorted(arrived, key=lambda s: (s.sighting.time, s.sighting.number)):
        time = arrival.sighting.time
        before = [s for s in sent if 0 <= time - s.sighting.time + EARLY_NS <= run.threshold_ns + EARLY_NS]
        before.sort(key=lambda s: (s.sighting.time, s.sighting.number), reverse=True)
        holders = [
            (s, s.packet, s.packet.path.points.index(arrival.sighting.point))
            for s in before
            if s.packet is not None
            and arrival.sighting.point in s.packet.path.points
            and s.begin < arrival.end
            and arrival.begin < s.end
        ]
        holders = [(s, packet, at) for s, packet, at in holders if at > 0 and at not in packet.seen]
        holders = [entry for entry in holders if may_hold(entry[0], arrival)]
        # A retransmission has the bytes of its original, and another IP ID: those whose ID fits go first. Of these,
        # what was stamped before it: stamps may be taken late. The sort is stable: then the last goes first.
        holders.sort(key=lambda entry: (not ids_fit(entry[0], arrival), entry[0].sighting.time > arrival.sighting.time))
        given: list[tuple[Span, Trajectory, int, int]] = []
        for byte in range(arrival.begin, arrival.end):
            for span, packet, position in holders:
                if span.begin <= byte < span.end and (packet, position, byte) not in taken:
                    taken.add((packet, position, byte))
                    given.append((span, packet, position, byte))
                    break
        # Neighbouring bytes of one packet are one range; bytes count from the packet's own first, those of a fragment
        # from the first of its datagram.
        given.sort(key=lambda entry: (entry[0].sighting.number, entry[3]))
        for _, run_of in itertools.groupby(enumerate(given), lambda e: (e[1][1], e[1][3] - e[0])):
            together = [entry for _, entry in run_of]
            span, packet, position, first = together[0]
            last = together[-1][3]
            ranges = found.setdefault(packet, [])
            begin = span.begin - (span.sighting.row["fragment_offset"] or 0)
            ranges.append(Range(position, arrival.sighting, first - begin, last - begin))


def may_hold(sent: Span, arrived: Span) -> bool:
    """A whole packet and a whole packet are no matter of fragments; nor is one that ends before the fragment does."""
    if sent.whole and arrived.whole:
        return False
    return not (sent.whole and arrived.end > sent.end) and not (arrived.whole and sent.end > arrived.end)


def ids_fit(sent: Span, arrived: Span) -> bool:
    """Whether IP IDs count on from one to the other as segments of one length do, or are the same."""
    if not all(
        span.sighting.row["protocol"] == TCP
        and span.sighting.row["ip_version"] == 4
        and span.sighting.row["ip_id"] is not None
        and not span.sighting.row["fragment_offset"]
        for span in (sent, arrived)
    ):
        return False
    steps = (arrived.sighting.ip_id - sent.sighting.ip_id + 0x8000) % 0x10000 - 0x8000
    if steps == 0:
        return True
    length = (arrived.begin - sent.begin) / steps
    if length <= 0 or length != int(length):
        return False
    later, earlier = (arrived, sent) if arrived.begin > sent.begin else (sent, arrived)
    return (later.end - later.begin) % int(length) == 0 or later.end >= earlier.end


def grouped(spans: Iterable[tuple[Key, Span]]) -> list[list[Span]]:
    groups: dict[Key, list[Span]] = {}
    for key, span in spans:
        groups.setdefault(key, []).append(span)
    return [
        group
        for group in groups.values()
        if any(s.packet is not None for s in group) and any(s.packet is None for s in group)
    ]


def in_sequence(
    senders: Sequence[Trajectory], loose: Sequence[Sighting], first_flow: Callable[[Sighting], object]
) -> list[list[Span]]:
    """TCP data by its place in the sequence space of its flow (RFC 9293 3.4), as the flow began.

    A fragment, the first one too, has its place in its datagram instead. Sequence numbers wrap: each counts from the
    one before it in time, forwards or backwards, whichever is nearer.
    """
    flows: dict[object, list[tuple[Sighting, Trajectory | None]]] = {}
    for sighting, packet in [(p.sighting(0), p) for p in senders] + [(s, None) for s in loose]:
        row = sighting.row
        fragment = row["fragment_offset"] or row["more_fragments"]
        if row["protocol"] == TCP and row["payload_length"] and not fragment:
            flows.setdefault(first_flow(sighting), []).append((sighting, packet))
    spans = []
    for flow, members in flows.items():
        members.sort(key=lambda entry: (entry[0].time, entry[0].number))
        place, before = 0, members[0][0].row["tcp_seq"]
        for sighting, packet in members:
            place += (sighting.row["tcp_seq"] - before + 2**31) % 2**32 - 2**31
            before = sighting.row["tcp_seq"]
            spans.append(((flow,), Span(sighting, place, place + sighting.row["payload_length"], packet)))
    return grouped(spans)


def in_datagrams(
    run: Run, senders: Sequence[Trajectory], loose: Sequence[Sighting], first_flow: Callable[[Sighting], object]
) -> tuple[list[list[Span]], list[Trajectory]]:
    """Fragments, and whole packets where fragments share their identification, by their place in the datagram.

    Returns also the senders of which it cannot be told whether some fragment is theirs.
    """
    both = [(p.sighting(0), p) for p in senders] + [(s, None) for s in loose]
    keys, rivals = datagram_keys([packet.sighting(0) for packet in senders], loose, first_flow, run.threshold_ns)
    spans = []
    fragmented = set()
    for sighting, packet in both:
        key, begin = keys[sighting], sighting.row["fragment_offset"] or 0
        if is_fragment(sighting):
            fragmented.add(key)
        span = Span(sighting, begin, begin + sighting.row["_segment_length"], packet, not is_fragment(sighting))
        spans.append((key, span))
    together = grouped((key, span) for key, span in spans if key in fragmented and span.end > span.begin)
    return together, [packet for packet in senders if keys[packet.sighting(0)] in rivals]


def is_short(packet: Trajectory, found: Found) -> bool:
    """Some point has not seen all of its bytes."""
    size = packet.sighting(0).row["_segment_length"]
    held = Counter[int]()
    for part in found.get(packet, []):
        held[part.position] += part.last - part.first + 1
    return any(held[at] < size for at in range(len(packet.path.points)) if at not in packet.seen)
