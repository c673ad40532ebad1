"""Spans: the bytes that each packet, and each part of a packet, holds.

TCP packets hold byte ranges of their flow's sequence space (RFC 9293 3.4). Fragments and whole packets with the same
addresses, protocol and identification hold byte ranges of one datagram (RFC 791 3.2, RFC 8200 4.5). The parts and the
merged frames of UDP packets that an offload split or merged hold byte ranges of the payload.

All functions take the same arguments: `rows`, the row numbers, and `chosen`, the rows; `flows`, the flow that each
row's flow began as, and `times` of each; `sent`, the number of packets as they were sent, which come first. All others
are arrivals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import among, group_numbers
from pktrace.decode.rows import is_fragment
from pktrace.observations.payloads import Payloads
from pktrace.protocols import TCP
from pktrace.trajectories.grouping import in_order_of
from pktrace.trajectories.reassembly.fragments import datagrams
from pktrace.trajectories.reassembly.udp_by_ip_id import segments_of_packets
from pktrace.trajectories.reassembly.udp_by_payload import packets_in_frames

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Spans:
    """Holders of bytes of one stream, datagram or payload: group, row, first byte and the byte behind the last.

    `sender` is the place among the packets that were sent, -1 for arrivals; `whole`: not divided into fragments, and so
    no match for another whole packet.
    """

    group: Array
    row: Array
    begin: Array
    end: Array
    sender: Array
    whole: Array


NO_SPANS = Spans(np.zeros(0, np.uint64), *(np.zeros(0, np.int64),) * 4, np.zeros(0, bool))


def spans_of_streams(rows: Array, chosen: Array, flows: Array, times: Array, sent: int) -> Spans:
    """TCP data by its place in the flow's sequence space, which is unrolled where it wraps.

    A fragment, the first one too, has its place in its datagram: if it had places in both, its bytes would count twice.
    """
    wanted = (chosen["protocol"] == TCP) & (chosen["payload_length"] > 0) & ~is_fragment(chosen)
    if not wanted.any():
        return NO_SPANS
    begin = np.zeros(len(rows), np.int64)
    order = in_order_of(group_numbers(flows), times)
    sequence = chosen["tcp_seq"][order]
    steps = np.zeros(len(rows), np.int64)
    # The cast to int32 makes each step the shortest way round the 32-bit space: a retransmission steps back.
    steps[1:] = (sequence[1:] - sequence[:-1]).astype(np.int32)
    total = np.cumsum(steps)
    starts = np.ones(len(rows), bool)
    starts[1:] = flows[order][1:] != flows[order][:-1]
    base = total[starts][np.cumsum(starts) - 1] if len(rows) else total
    begin[order] = total - base
    end = begin + chosen["payload_length"].astype(np.int64)
    return _chosen(flows, rows, begin, end, sent, np.zeros(len(rows), bool), wanted)


def spans_of_fragments(
    rows: Array, chosen: Array, flows: Array, times: Array, sent: int, threshold: int, payloads: Payloads
) -> tuple[Spans, Array]:
    """Fragments and whole packets by their place in the datagram.

    Returns:
        The spans, and the numbers of sent packets that may own an ambiguous fragment.
    """
    fragment = is_fragment(chosen)
    if not fragment.any():
        return NO_SPANS, np.zeros(0, np.int64)
    group, rivals = datagrams(rows, chosen, flows, times, sent, threshold, payloads)
    begin = chosen["fragment_offset"].astype(np.int64)
    end = begin + chosen["ip_end"].astype(np.int64) - chosen["l4"]
    wanted = (chosen["has"] & field.HAS_IP != 0) & (chosen["l4"] > 0) & (end > begin)
    # Whole packets count only if fragments share their identification. Two whole packets are never matched by byte
    # ranges, nor is a whole packet that ends before a fragment does.
    wanted &= fragment | among(group, group[fragment])
    in_doubt = np.flatnonzero(among(group[:sent], rivals))
    return _chosen(group, rows, begin, end, sent, ~fragment, wanted), in_doubt


def spans_of_segments(
    rows: Array, chosen: Array, flows: Array, times: Array, sent: int, threshold: int, payloads: Payloads
) -> tuple[Spans, Array, Array]:
    """UDP superpackets and merged frames, and the holders of their bytes, each by its place in the payload.

    They are matched by IP IDs that count on in bursts (udp_by_ip_id.py), or by bytes alone (udp_by_payload.py).

    Returns:
        The spans; the numbers of sent packets that may own an ambiguous part; the rows that are explained: they hold,
        or may hold, bytes of a sent packet, or a copy of these.
    """
    found, in_doubt = segments_of_packets(chosen, flows, times, sent, threshold, payloads)
    given = np.zeros(len(rows), bool)
    given[found[:, 1]] = True
    placed = packets_in_frames(chosen, flows, times, sent, given, threshold, payloads)
    found, in_doubt = np.concatenate([found, placed.found]), np.union1d(in_doubt, placed.doubtful)
    if not len(found):
        return NO_SPANS, in_doubt, rows[placed.explained]
    owner, segments, begins, ends = found.T
    packets = np.unique(owner)
    return (
        Spans(
            group=np.concatenate([packets, owner]).astype(np.uint64),
            row=rows[np.concatenate([packets, segments])],
            begin=np.concatenate([np.zeros(len(packets), np.int64), begins]),
            end=np.concatenate([chosen["payload_length"][packets].astype(np.int64), ends]),
            sender=np.concatenate([packets, np.full(len(segments), -1)]),
            whole=np.zeros(len(packets) + len(segments), bool),
        ),
        in_doubt,
        rows[placed.explained],
    )


def _chosen(group: Array, rows: Array, begin: Array, end: Array, sent: int, whole: Array, wanted: Array) -> Spans:
    """The spans of the wanted rows."""
    sender = np.arange(len(rows))
    sender[sent:] = -1
    return Spans(*(column[wanted] for column in (group, rows, begin, end, sender, whole)))
