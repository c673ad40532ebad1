"""UDP by payload: frames that hold bytes of UDP packets that an offload split or merged.

Rule: an offload cuts and joins at multiples of one size. All parts have this size but the last, and that one is not
longer (UDP GSO and GRO). Packets as they were sent, and arrivals, are therefore divided into *pieces* of this size. A
frame holds the bytes of a packet that are equal piece by piece: flow, length, first bytes, and the IP ID if it counts
on from piece to piece.
The size is the length of a shorter packet that begins with the same bytes. Other sizes that are usual in the flow count
if just one packet fits. Pieces that are the same in several places are assigned in the order in which they were sent,
if as many arrived. If one is missing, they belong to their packet if there is only one; otherwise they are ambiguous.
Bound: pieces are compared by their first 64 bytes, and by their last if captures have these for all of the flow. If
nothing but the first piece of a longer packet is equal, in all of a flow, it may be chance: the packet is ambiguous,
too. The rest of frames that captures have cut off is assigned by IP IDs, else by order if nothing of the flow is
missing; datagrams that change places before they are merged are mixed up then. A frame that was merged from a part of a
packet, without its other parts, looks like its beginning if its bytes are cut off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.digest import PAYLOAD_BYTES
from pktrace.decode.identity import among, group_numbers, groups_of, mixed
from pktrace.decode.rows import is_fragment
from pktrace.observations.payloads import Payloads
from pktrace.protocols import UDP
from pktrace.trajectories.bounds import EARLY_NS

Array = np.ndarray[Any, Any]
_LONGEST = 0xFFFF  # bytes of a UDP packet
_MOST_PIECES = 128  # of one packet: UDP_MAX_SEGMENTS of Linux
_USUAL = 6  # sizes of a flow that are tried, too
_TELLING = 16  # bytes that are hardly equal by chance
_AT_ONCE = 1 << 16  # pieces whose bytes are read
_MOST = 1 << 23  # pieces that are compared at a time


@dataclass(frozen=True)
class Placed:
    """The bytes of packets that frames hold.

    `found`: int64 n x 4: packet, frame, first byte of the packet and the one behind the last; `doubtful`: packets that
    may own ambiguous bytes of a frame; `explained`: frames that hold, or may hold, bytes of a sent packet, or a copy of
    these.
    """

    found: Array
    doubtful: Array
    explained: Array


_NOTHING = np.zeros(0, np.int64)
NOT_PLACED = Placed(np.zeros((0, 4), np.int64), _NOTHING, _NOTHING)


@dataclass(frozen=True)
class _Pieces:
    """Pieces of packets or of frames.

    `of`: the row; `number`: the number of the piece in it; `place` and `length`: its bytes; `content`: a hash of its
    first bytes, and `known`, if captures have them; `whole`: the piece is all of the row; `usual`: its size is only a
    usual one.
    """

    of: Array
    number: Array
    place: Array
    length: Array
    content: Array
    known: Array
    whole: Array
    usual: Array

    def __len__(self) -> int:
        return len(self.of)

    def chosen(self, which: Array) -> _Pieces:
        """The chosen pieces."""
        columns = (self.of, self.number, self.place, self.length, self.content, self.known, self.whole, self.usual)
        return _Pieces(*(column[which] for column in columns))


@dataclass(frozen=True)
class _Found:
    """Bytes of packets found in frames: packet, frame, the first byte in either (`begin`, `at`), the number of bytes
    (`size`); `alone`: just this packet has them; `evident`: chance is no explanation.
    """

    packet: Array
    frame: Array
    begin: Array
    at: Array
    size: Array
    alone: Array
    evident: Array

    def __len__(self) -> int:
        return len(self.packet)

    @classmethod
    def none(cls) -> _Found:
        return cls(*(_NOTHING,) * 5, *(np.zeros(0, bool),) * 2)

    def _columns(self) -> tuple[Array, ...]:
        return self.packet, self.frame, self.begin, self.at, self.size, self.alone, self.evident

    def chosen(self, which: Array) -> _Found:
        return _Found(*(column[which] for column in self._columns()))

    def joined(self, other: _Found) -> _Found:
        return _Found(*(np.concatenate(pair) for pair in zip(self._columns(), other._columns(), strict=True)))

    def together(self) -> Array:
        """As `Placed.found`: parts of one packet in one frame that overlap or are neighbours become one."""
        some = self.chosen(np.lexsort((self.begin, self.at - self.begin, self.frame, self.packet)))
        if not len(some):
            return NOT_PLACED.found
        new = np.ones(len(some), bool)
        for column in (some.packet, some.frame, some.at - some.begin):
            new[1:] &= column[1:] == column[:-1]
        new[1:] = ~new[1:]
        # The number of the group goes into the bits above 20, so the running maximum of ends starts anew in each group:
        # a place in a packet is below 2^16.
        group = np.cumsum(new) << 20
        furthest = np.maximum.accumulate(group + some.begin + some.size)
        new[1:] |= (group + some.begin)[1:] > furthest[:-1]
        first = np.flatnonzero(new)
        end = (furthest - group)[np.append(first[1:], len(some)) - 1]
        return np.stack([some.packet[first], some.frame[first], some.begin[first], end], axis=1)


def packets_in_frames(
    chosen: Array, flows: Array, times: Array, sent: int, given: Array, threshold: int, payloads: Payloads
) -> Placed:
    """Find the bytes of packets in frames.

    Args:
        chosen: rows; flows, times: of each; sent: the number of packets as they were sent, which come first; given:
        bool per row, frames that are parts of a packet already; threshold: loss threshold in ns.
    """
    udp = (chosen["protocol"] == UDP) & (chosen["payload_length"] > 0) & (chosen["payload_length"] <= _LONGEST)
    udp &= ~is_fragment(chosen)
    some = _of_divided_flows(chosen, flows, np.flatnonzero(udp), sent)
    if not len(some):
        return NOT_PLACED
    sizes = _sizes(chosen, group_numbers(flows[some]), some)
    asked = ~given[some] & _asked_for(flows, times, some, given, sent, threshold)
    some, sizes = some[asked], sizes[asked]
    if not len(some):
        return NOT_PLACED
    flow = group_numbers(flows[some])
    length = chosen["payload_length"][some].astype(np.int64)
    pieces = 1 + np.where(sizes > 0, -(-length[:, None] // np.maximum(sizes, 1)), 0).sum(axis=1)
    turns, too_many = _in_turn(flow, pieces)
    parts = [
        _Flows(chosen, flows, times, sent, some[mine], threshold, payloads).placed(sizes[mine])
        for mine in turns
        if len(mine)
    ]
    left = some[too_many]
    parts.append(Placed(NOT_PLACED.found, left[left < sent], left[left >= sent]))
    return Placed(
        np.concatenate([part.found for part in parts]), np.concatenate([part.doubtful for part in parts]),
        np.concatenate([part.explained for part in parts]),
    )  # fmt: skip


def _of_divided_flows(chosen: Array, flows: Array, udp: Array, sent: int) -> Array:
    """Rows of flows in which a longer packet begins with the same bytes as a shorter one."""
    before, behind = flows[udp[udp < sent]], flows[udp[udp >= sent]]
    udp = udp[among(flows[udp], before[among(before, behind)])]
    if not len(udp):
        return udp
    different, which = groups_of(flows[udp], chosen["content"][udp])
    shortest, longest = np.full(len(different), _LONGEST), np.zeros(len(different), np.int64)
    length = chosen["payload_length"][udp].astype(np.int64)
    np.minimum.at(shortest, which, length)
    np.maximum.at(longest, which, length)
    found: Array = udp[among(flows[udp], flows[udp[(shortest < longest)[which]]])]
    return found


def _asked_for(flows: Array, times: Array, some: Array, given: Array, sent: int, threshold: int) -> Array:
    """bool per row: a frame, or a packet that was sent at most the threshold before a frame that is no part yet."""
    frame = (some >= sent) & ~given[some]
    time = np.where(some < sent, times[some] - EARLY_NS, times[some])
    order = np.lexsort((frame, time, flows[some]))
    # The place of the next frame in this order, behind the last if there is none.
    following = np.where(frame[order], np.arange(len(order)), len(order))
    following = np.minimum.accumulate(following[::-1])[::-1]
    there = following < len(order)
    next_one = some[order][np.minimum(following, len(order) - 1)]
    packet = some[order]
    near = there & (flows[next_one] == flows[packet]) & (times[next_one] - times[packet] <= threshold)
    found = np.empty(len(some), bool)
    found[order] = near | (packet >= sent)
    return found


def _sizes(chosen: Array, flow: Array, some: Array) -> Array:
    """int64 rows x (1 + _USUAL): sizes of pieces of each row, 0 for none.

    The first is the length of a shorter packet with the same first bytes, the most usual such length in the flow. The
    others are the most usual lengths in the flow.
    """
    length = chosen["payload_length"][some].astype(np.int64)
    kind, which, many = np.unique(flow << 16 | length, return_inverse=True, return_counts=True)
    usual = np.zeros((int(flow.max()) + 1, _USUAL), np.int64)
    order = np.lexsort((-kind, -many, kind >> 16))
    rank = np.arange(len(order)) - np.searchsorted(kind[order] >> 16, kind[order] >> 16)
    first = order[rank < _USUAL]
    usual[kind[first] >> 16, rank[rank < _USUAL]] = kind[first] & _LONGEST
    beginning = group_numbers(flow, chosen["content"][some])
    # For each beginning, from the shortest on, the most usual length so far.
    order = np.lexsort((length, beginning))
    found = np.zeros((len(some), 1 + _USUAL), np.int64)
    found[:, 0] = _most_usual_before(beginning[order], length[order], many[which][order], np.argsort(order))
    found[:, 1:] = usual[flow]
    # A size divides only longer packets, and makes no more pieces than an offload does.
    found[found >= length[:, None]] = 0
    found[-(-length[:, None] // np.maximum(found, 1)) > _MOST_PIECES] = 0
    return found


def _most_usual_before(group: Array, length: Array, many: Array, place: Array) -> Array:
    """Per row the most frequent length among the shorter ones of its group, 0 for none.

    Args:
        group, length: in this order; many: per row, the number of rows with its length; place: of the results.
    """
    starts = np.append(True, (group[1:] != group[:-1]) | (length[1:] != length[:-1]))
    first = np.flatnonzero(starts)
    begins = np.append(True, group[first][1:] != group[first][:-1])
    number = np.cumsum(begins) - 1
    values, rank = np.unique(many[first] << 16 | length[first], return_inverse=True)
    # A running maximum within each group: the number of the group goes before all counts.
    most = np.maximum.accumulate(number * len(values) + rank) - number * len(values)
    before = np.zeros(len(first), np.int64)
    before[1:] = np.where(begins[1:], 0, values[most[:-1]] & _LONGEST)
    found: Array = before[np.cumsum(starts) - 1][place]
    return found


def _in_turn(flow: Array, pieces: Array) -> tuple[list[Array], Array]:
    """Rows that are looked at together, whole flows at a time; and the rows of flows with too many pieces."""
    many = np.bincount(flow, weights=pieces)
    order = np.argsort(flow, kind="stable")
    order = order[many[flow[order]] <= _MOST]
    turn = (np.cumsum(np.where(many <= _MOST, many, 0)) // _MOST)[flow[order]]
    return np.split(order, np.flatnonzero(np.diff(turn)) + 1), np.flatnonzero(many[flow] > _MOST)


class _Flows:
    """Some flows: the packets that were sent in them, and their arrivals."""

    def __init__(
        self, chosen: Array, flows: Array, times: Array, sent: int, some: Array, threshold: int, payloads: Payloads
    ) -> None:
        """Args as for `packets_in_frames`; some: the rows of these flows."""
        self.chosen, self.flows, self.times, self.sent = chosen, flows, times, sent
        self.some, self.threshold, self.payloads = some, threshold, payloads
        self.length = chosen["payload_length"].astype(np.int64)
        self.numbered = np.isin(flows, self._numbered())

    def placed(self, sizes: Array) -> Placed:
        """The bytes of packets that frames hold; sizes of pieces: from `_sizes`."""
        pieces = self._pieces(sizes)
        senders, arrivals = pieces.chosen(pieces.of < self.sent), pieces.chosen(pieces.of >= self.sent)
        points = self.chosen["point"][arrivals.of]
        found, doubtful, explained, decided = _Found.none(), [_NOTHING], [_NOTHING], [_NOTHING]
        for point in np.unique(points):
            here, parts = arrivals.chosen(points == point), _Found.none()
            # The least changed goes first: frames that are one piece, then packets that are one piece.
            for of_packet, of_frame in ((False, True), (True, False), (False, False)):
                asked = senders.chosen(senders.known & (senders.whole == of_packet) & ~senders.usual)
                asking = here.chosen(here.known & (here.whole == of_frame) & ~here.usual)
                new, doubts, may = self._given(_left(asked, parts, False), _left(asking, parts, True), True)
                parts = parts.joined(new)
                doubtful.append(doubts)
                explained.append(may)
                if of_frame:
                    decided.append(may)
                    here = here.chosen(~np.isin(here.of, may))
            # Other sizes count if just one packet fits. IP IDs may be equal in merged datagrams where others count on:
            # if they assign some bytes of a frame, the payload assigns the rest.
            for by_id in (True, False):
                asked = senders.chosen(senders.known & (by_id | self.numbered[senders.of]))
                asking = here.chosen(here.known & (by_id | np.isin(here.of, parts.frame)))
                new, _, _ = self._given(_left(asked, parts, False), _left(asking, parts, True), True, by_id)
                parts = parts.joined(new.chosen(new.alone))
            found = found.joined(parts)
        # Captures lack bytes of the packets, or of the frames. Only flows with a known beginning are looked at.
        begun = np.unique(self.flows[found.packet[(found.begin == 0) & (found.at == 0)]])
        senders = senders.chosen(np.isin(self.flows[senders.of], begun) & ~senders.usual)
        arrivals = arrivals.chosen(
            np.isin(self.flows[arrivals.of], begun) & ~np.isin(arrivals.of, np.concatenate(decided))
        )
        for known in (False, True):
            asked = senders.chosen(senders.known == known)
            asking = arrivals.chosen(~arrivals.known) if known else arrivals
            points = self.chosen["point"][asking.of]
            for point in np.unique(points) if len(asked) else ():
                there = self.chosen["point"][found.frame] == point
                parts = found.chosen(there)
                left = _left(asked, parts, False), _left(asking.chosen(points == point), parts, True)
                new, doubts, may = self._given(*left, False)
                # Only lengths and the order are evidence here, unless IP IDs agree: without these, nothing may be
                # missing.
                pieces_left = _left(left[0], new, False)
                missing = np.append(self.flows[pieces_left.of], self.flows[doubts])
                certain = self.numbered[new.packet] | ~np.isin(self.flows[new.packet], missing)
                doubtful += [doubts, new.packet[~certain], pieces_left.of[np.isin(pieces_left.of, doubts)]]
                explained.append(may)
                found = found.joined(new.chosen(certain))
        # In a flow that is divided and shows no IP IDs, two packets are never one packet that was changed.
        divided = np.isin(self.flows[self.some], self.flows[found.packet[found.evident]])
        explained.append(self.some[divided & ~self.numbered[self.some] & (self.some >= self.sent)])
        believed = self._believed(found)
        doubtful.append(found.packet[~believed])
        return Placed(
            found.chosen(believed).together(), np.unique(np.concatenate(doubtful)), np.unique(np.concatenate(explained))
        )

    def _numbered(self) -> Array:
        """Flows whose IP IDs count on: IPv4, and not the same in all packets that were sent; a single packet counts,
        too.
        """
        mine = self.some[self.some < self.sent]
        four = mine[(self.chosen["ip_version"][mine] == 4) & (self.chosen["ip_id"][mine] != 0)]
        unique, which, many = np.unique(self.flows[four], return_inverse=True, return_counts=True)
        least, most = np.full(len(unique), _LONGEST), np.zeros(len(unique), np.int64)
        np.minimum.at(least, which, self.chosen["ip_id"][four].astype(np.int64))
        np.maximum.at(most, which, self.chosen["ip_id"][four].astype(np.int64))
        found: Array = unique[(least < most) | (many == 1)]
        return found

    def _pieces(self, sizes: Array) -> _Pieces:
        """All pieces of all rows, and each row as one piece."""
        length = self.length[self.some]
        codes = [np.arange(len(length)) << 39 | length]
        many = [len(length)]
        for size in sizes.T:
            cut = np.flatnonzero(size)
            count = -(-length[cut] // size[cut])
            of = np.repeat(cut, count)
            number = np.arange(len(of)) - np.repeat(np.cumsum(count) - count, count)
            place = number * size[of]
            number[~self.numbered[self.some[of]]] = 0  # the same piece, even if several sizes make it
            codes.append(of << 39 | number << 32 | place << 16 | np.minimum(size[of], length[of] - place))
            many.append(len(of))
        code, first = np.unique(np.concatenate(codes), return_index=True)
        usual = first >= many[0] + many[1]
        of, number, place, piece = self.some[code >> 39], code >> 32 & 0x7F, code >> 16 & _LONGEST, code & _LONGEST
        content, known = np.zeros(len(code), np.uint64), np.zeros(len(code), bool)
        last, all_known = np.zeros(len(code), np.uint64), np.zeros(len(code), bool)
        skipped = np.maximum(piece - PAYLOAD_BYTES, 0)
        for low in range(0, len(code), _AT_ONCE):
            now = slice(low, low + _AT_ONCE)
            rows = self.chosen[of[now]]
            content[now], known[now] = self.payloads.contents(rows, place[now], piece[now])
            last[now], all_known[now] = self.payloads.contents(rows, (place + skipped)[now], (piece - skipped)[now])
        cut_off = np.isin(self.flows[of], self.flows[of[~(known & all_known)]])
        content = np.where(cut_off, content, mixed(content, last))
        return _Pieces(of, number, place, piece, content, known, piece == self.length[of], usual)

    def _given(
        self, senders: _Pieces, arrivals: _Pieces, by_bytes: bool, by_id: bool = True
    ) -> tuple[_Found, Array, Array]:
        """The bytes found, packets in doubt, and frames that hold, or may hold, bytes of some packet."""
        from pktrace.trajectories.reassembly.udp_by_payload_kernel import (
            OF_ONE,
            Assigned,
            Runs,
            Senders,
            give_in_order,
        )  # seldom needed, and slow to load

        of_both = group_numbers(np.concatenate([self._keys(part, by_bytes, by_id) for part in (senders, arrivals)]))
        of_sender, of_arrival = of_both[: len(senders)], of_both[len(senders) :]
        sent, arrived = np.isin(of_sender, of_arrival), np.isin(of_arrival, of_sender)
        if not sent.any():
            return _Found.none(), _NOTHING, _NOTHING
        senders, arrivals = senders.chosen(sent), arrivals.chosen(arrived)
        of_sender, of_arrival = of_sender[sent], of_arrival[arrived]
        order = np.lexsort((senders.place, senders.of, self.times[senders.of], of_sender))
        senders, of_sender = senders.chosen(order), of_sender[order]
        point = self.chosen["point"][arrivals.of].astype(np.int64)
        order = np.lexsort((arrivals.place, arrivals.of, self.times[arrivals.of], point, of_arrival))
        arrivals, of_arrival, point = arrivals.chosen(order), of_arrival[order], point[order]
        starts = np.ones(len(order), bool)
        starts[1:] = (of_arrival[1:] != of_arrival[:-1]) | (point[1:] != point[:-1])
        begins = np.flatnonzero(starts)
        firsts = np.searchsorted(of_sender, of_arrival[begins], "left")
        lasts = np.searchsorted(of_sender, of_arrival[begins], "right")
        given, sure = np.full(len(order), -1, np.int64), np.zeros(len(order), np.uint8)
        doubted, undecided, may = np.zeros(len(of_sender), bool), *(np.zeros(len(order), bool) for _ in range(2))
        give_in_order(
            Runs(firsts, lasts, begins, np.append(begins[1:], len(order))),
            Senders(self.times[senders.of], senders.of), self.times[arrivals.of], EARLY_NS, np.int64(self.threshold),
            Assigned(given, sure, undecided, may, doubted),
        )  # fmt: skip
        # All of a packet in all of a frame is one unchanged packet, and no byte range.
        alike = given >= 0
        alike[alike] = senders.whole[given[alike]] & arrivals.whole[alike]
        # The packet is certain, but only its bytes could show which of its equal parts is lost.
        unsure = (sure == OF_ONE) & (not by_bytes)
        told = np.flatnonzero((given >= 0) & ~alike & ~unsure)
        pair = given[told]
        rivals = (lasts - firsts)[np.cumsum(starts) - 1][told]
        alone = by_bytes & (rivals == 1)
        alone &= by_id | (senders.length[pair] >= _TELLING)
        evident = alone & (senders.length[pair] >= _TELLING) & ((senders.place[pair] > 0) | (arrivals.place[told] > 0))
        found = _Found(
            senders.of[pair], arrivals.of[told], senders.place[pair], arrivals.place[told], senders.length[pair],
            alone, evident,
        )  # fmt: skip
        doubts = np.append(senders.of[doubted], senders.of[given[unsure]])
        return found, doubts, arrivals.of[may & ~alike]

    def _keys(self, pieces: _Pieces, by_bytes: bool, by_id: bool) -> Array:
        """uint64 per piece: equal for pieces that may have the same bytes."""
        number = (self.chosen["ip_id"][pieces.of].astype(np.int64) + pieces.number) & 0xFFFF
        number[~self.numbered[pieces.of] | (not by_id)] = -1
        content = pieces.content if by_bytes else np.zeros(len(pieces.of), np.uint64)
        return mixed(self.flows[pieces.of], pieces.length, number, content)

    def _complete(self, found: _Found) -> Array:
        """bool per part: its point saw all of its packet, in several parts, or the parts fill its frame."""
        of_packet = mixed(found.packet, self.chosen["point"][found.frame])
        complete = np.zeros(len(found), bool)
        for whole, of in ((self.length[found.packet], of_packet), (self.length[found.frame], found.frame)):
            which, many = np.unique(of, return_inverse=True, return_counts=True)[1:]
            held = np.bincount(which, weights=found.size).astype(np.int64)[which]
            complete |= (held >= whole) & (many[which] > 1)
        return complete

    def _believed(self, found: _Found) -> Array:
        """bool per part: IP IDs agree, too, or its flow was divided for certain: it has parts that are no
        beginnings.
        """
        evident = self.flows[found.packet[found.evident | self._complete(found)]]
        taken: Array = np.isin(self.flows[found.packet], evident) | self.numbered[found.packet]
        return taken


def _left(pieces: _Pieces, found: _Found, of_frames: bool) -> _Pieces:
    """Pieces of packets, or of frames, that share no byte with those assigned already."""
    if not len(found):
        return pieces
    of, at = (found.frame, found.at) if of_frames else (found.packet, found.begin)
    begin, end = np.sort((of << 20) + at), np.sort((of << 20) + at + found.size)
    mine = (pieces.of << 20) + pieces.place
    # A piece is free if as many assigned spans end before it as begin before its end.
    before, behind = np.searchsorted(end, mine, "right"), np.searchsorted(begin, mine + pieces.length, "left")
    return pieces.chosen(before == behind)
