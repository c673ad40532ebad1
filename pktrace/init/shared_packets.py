"""Packets that several places saw: a row per packet with its sightings, and the numbers that pairs of places share.

Two observations are the same packet if their identities are equal, or if one recording session gave them the same
packet id (pcapng epb_packetid). Only certain packets are evidence of order. They were seen once at every place, or
twice at some places and once at another, as a packet that passes a place twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import group_numbers, groups_of, mixed
from pktrace.decode.packet_ids import keys_by_number, packet_numbers

Array = np.ndarray[Any, Any]
_TWICE_SHARE = 0.01  # second visits are considered if at least this share of a place's packets came twice


@dataclass(frozen=True)
class Sightings:
    """Certain packets, including packets that only one place saw.

    Columns are the places in their order, then second visits; `column_place` gives the place of each column. `row` is
    the observation (int64, -1: not seen), `time` its time, `flow` the source and destination as a number; `flow_row` is
    a row of each flow, `back` the flow of the other direction or -1.
    """

    column_place: Array
    row: Array
    time: Array
    frame: Array
    flow: Array
    flow_row: Array
    back: Array

    @property
    def seen(self) -> Array:
        """bool per packet and column."""
        return self.row >= 0

    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of columns, the smaller first, that share packets."""
        return _overlapping(self.seen)


@dataclass(frozen=True)
class Shared:
    """Numbers of shared packets: `common` (places x places) is symmetric, `packets` counts the IP packets of each
    place.
    """

    common: Array
    packets: Array
    repeated: Array  # per place: packets that it saw several times with the same bytes


def packet_keys(rows: Array, capture_session: Array) -> Array:
    """uint64 per row: equal for observations of one packet.

    Args:
        capture_session: per file, the number of its recording session; packet ids of different sessions mean nothing
        to each other.
    """
    identities = rows["identity"].astype(np.uint64)
    numbers = packet_numbers(rows, capture_session[rows["capture"]])
    return keys_by_number(rows, identities, numbers) if numbers.any() else identities


def sessions_of(rows: Array, captures: int) -> Array:
    """int64 per file: files whose packet ids number the same packets share a session."""
    session = np.arange(captures, dtype=np.int64)
    has = rows["has"] & field.HAS_PACKET_ID != 0
    files = np.unique(rows["capture"][has]).tolist()
    known = {}
    for file in files:
        mine = np.flatnonzero(has & (rows["capture"] == file))
        ids, first = np.unique(rows["packet_id"][mine], return_index=True)
        known[file] = ids, rows["identity"][mine[first]]
    for at, a in enumerate(files):
        for b in files[at + 1 :]:
            _, in_a, in_b = np.intersect1d(known[a][0], known[b][0], assume_unique=True, return_indices=True)
            equal = np.count_nonzero(known[a][1][in_a] == known[b][1][in_b])
            # Two sessions that both count from 1 have equal ids for different packets.
            if equal > 0 and 2 * equal > len(in_a):
                session[session == session[b]] = session[a]
    return session


def sightings_of(rows: Array, where: Array, keys: Array, places: int) -> tuple[Sightings, Shared]:
    """Group rows (IP packets with a time) by packet."""
    members = np.flatnonzero(where >= 0)
    of_packet = group_numbers(keys[members])
    members = members[np.lexsort((rows["frame"][members], rows["ts_ns"][members], where[members], of_packet))]
    key, place = keys[members], where[members]
    new_packet = np.append(True, key[1:] != key[:-1])[: len(key)]
    new_visit = new_packet | np.append(True, place[1:] != place[:-1])[: len(key)]
    packet = np.cumsum(new_packet) - 1
    starts = np.flatnonzero(new_visit)
    times_seen = np.diff(np.append(starts, len(key)))
    counts = np.zeros((int(packet[-1]) + 1 if len(key) else 0, places), np.int32)
    counts[packet[starts], place[starts]] = times_seen
    first = np.full(counts.shape, -1, np.int64)
    first[packet[starts], place[starts]] = members[starts]
    second = np.full(counts.shape, -1, np.int64)
    again = starts[times_seen == 2]
    second[packet[again], place[again]] = members[again + 1]

    common = np.zeros((places, places), np.int64)
    for one, other in _overlapping(counts > 0):
        common[one, other] = common[other, one] = int(np.minimum(counts[:, one], counts[:, other]).sum())
    shared = Shared(common, counts.sum(axis=0), np.where(counts > 1, counts, 0).sum(axis=0))
    most = counts.max(axis=1, initial=0)
    once = (counts == 1).any(axis=1)
    twice_at = np.flatnonzero((second >= 0)[once].sum(axis=0) > _TWICE_SHARE * np.maximum(1, (counts > 0).sum(axis=0)))
    certain = (most == 1) | ((most == 2) & once)
    row = np.hstack([first, second[:, twice_at]])[certain]
    column_place = np.concatenate([np.arange(places), twice_at]).astype(np.int64)
    flow, flow_row, back = _flows(rows, row)
    return (
        Sightings(
            column_place=column_place,
            row=row,
            time=rows["ts_ns"][row] if len(rows) else np.zeros(row.shape, np.int64),
            frame=rows["frame"][row] if len(rows) else np.zeros(row.shape, np.int64),
            flow=flow,
            flow_row=flow_row,
            back=back,
        ),
        shared,
    )


def _overlapping(seen: Array) -> list[tuple[int, int]]:
    """Pairs of columns that are both True in some row."""
    together = np.triu(seen.T.astype(np.float32) @ seen.astype(np.float32), 1)
    return [(int(a), int(b)) for a, b in zip(*np.nonzero(together), strict=True)]


def _flows(rows: Array, row: Array) -> tuple[Array, Array, Array]:
    """Number the (source, destination) pairs of the packets' first sightings."""
    if len(row) == 0:
        nothing = np.zeros(0, np.int64)
        return nothing, nothing, nothing
    times = np.where(row >= 0, rows["ts_ns"][row], np.iinfo(np.int64).max)
    earliest = rows[row[np.arange(len(row)), times.argmin(axis=1)]]
    ends = [(earliest[f"{end}_high"], earliest[f"{end}_low"]) for end in ("source", "destination")]
    names = mixed(*ends[0], *ends[1])
    first, flow = groups_of(names)
    names, other_way = names[first], mixed(*ends[1], *ends[0])[first]
    order = np.argsort(names)
    at = order[np.minimum(np.searchsorted(names[order], other_way), len(names) - 1)]
    back = np.where(names[at] == other_way, at, -1)
    flow_row = row[first, times.argmin(axis=1)[first]]
    return flow, flow_row, back.astype(np.int64)


def group_medians(groups: Array, values: Array) -> tuple[Array, Array, Array]:
    """(group, lower median, size) of every group present."""
    order = np.lexsort((values, groups))
    ordered = groups[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])
    sizes = np.diff(np.append(starts, len(ordered)))
    return ordered[starts], values[order][starts + (sizes - 1) // 2], sizes
