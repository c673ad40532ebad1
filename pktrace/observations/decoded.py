"""Whole capture files, decoded: their rows in memory, their own statistics, their hashes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pktrace import memory
from pktrace.capture.files import CaptureReader
from pktrace.capture.index import CORRUPT, CUT, EMPTY, UNREADABLE, Interface
from pktrace.capture.source import LARGEST_WINDOW, open_regular
from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES, UNBOUNDED, digest_again, headers_and_kept
from pktrace.decode.identity import secret
from pktrace.decode.rows import OPAQUE, ROW, rows_at
from pktrace.decode.tunnels import TunnelTable
from pktrace.errors import CaptureFileError
from pktrace.inputs import Location, Stamp
from pktrace.ledger import Ledger
from pktrace.limits import Budget
from pktrace.observations.stream import RowReader, rows_beside_bytes
from pktrace.observations.tunnels import tunnel_texts
from pktrace.wire import PACKET

LARGEST_UNUSED = 1 << 30  # the most bytes of an unused file that are hashed
NO_BYTES = "is no capture file (it has 0 bytes)"
# The most packets with a drop count in one file; with more of them, the times of drops are unknown.
_MOST_COUNTING = 1 << 16
# The most link types of one file that the ledger names.
_NAMED_LINK_TYPES = 20


@dataclass(frozen=True)
class DecodedFile:
    """One capture file: its `name` as shown and written, its location, its rows (ROW), its interfaces.

    `stamp` is the file's stamp while it was read, and must be the same when it is read again; `sha256` covers the bytes
    read, and is "" if the file cannot even be read. `packets_of` and `drops_of` count packets, and packets that the
    capture lost between them, per interface. `counting` are the frames (int64) with a count of packets lost before
    them, None if there are too many. `tunnels` are the texts that `tunnel` of the rows numbers from 1; `ended` as in
    capture/index.py; `problem` is the reason why nothing of the file is used, None if it is used.
    """

    name: str
    path: str | Location
    rows: np.ndarray[Any, Any]
    interfaces: list[Interface]
    packets_of: np.ndarray[Any, Any]
    drops_of: np.ndarray[Any, Any]
    counting: np.ndarray[Any, Any] | None
    tunnels: tuple[str, ...]
    ended: int
    unknown_blocks: int
    sha256: str
    stamp: Stamp | None = None
    problem: str | None = None

    @property
    def proves_nothing(self) -> bool:
        """True if the file is no evidence about any packet, not even that none passed."""
        return self.ended in (EMPTY, UNREADABLE)

    @cached_property
    def numbers_by_name(self) -> dict[str, list[int]]:
        """The numbers of the interfaces that have a name, by their name."""
        found: dict[str, list[int]] = {}
        for number, interface in enumerate(self.interfaces):
            if interface.name is not None:
                found.setdefault(interface.name, []).append(number)
        return found

    @cached_property
    def has_indexes(self) -> bool:
        """True if packets carry the host's number of their interface (SLL2), or if the file has no packets."""
        return not len(self.rows) or bool(self.rows["ifindex"].any())


class InterfaceCounts:
    """Packets and stated drops per interface, summed up batch by batch."""

    def __init__(self) -> None:
        self.packets = np.zeros(8, np.int64)
        self.drops = np.zeros(8, np.int64)
        self._counting, self._many = [np.zeros(0, np.int64)], 0

    @property
    def counting(self) -> np.ndarray[Any, Any] | None:
        """The frames with a count of packets lost before them; None if there are too many."""
        return np.concatenate(self._counting) if self._many <= _MOST_COUNTING else None

    def add(self, packets: np.ndarray[Any, Any], interfaces: int) -> None:
        """Count one batch of a packet index."""
        if interfaces > len(self.packets):
            self.packets = np.concatenate([self.packets, np.zeros(interfaces, np.int64)])
            self.drops = np.concatenate([self.drops, np.zeros(interfaces, np.int64)])
        used, place = np.unique(packets["interface"], return_inverse=True)
        self.packets[used] += np.bincount(place, minlength=len(used))
        self.drops[used] += np.bincount(place, weights=packets["dropped"], minlength=len(used)).astype(np.int64)
        dropping = np.flatnonzero(packets["dropped"])
        self._many += len(dropping)
        if len(dropping) and self._many <= _MOST_COUNTING:
            self._counting.append(packets["frame"][dropping])


def decode_file(path: str | Location, name: str, budget: Budget | None = None) -> DecodedFile:
    """Read and decode one whole capture file, counted against the budget of its call.

    Raises:
        CaptureFileError: the file cannot be read or is no capture, or holds more than its share of the budget.
        LimitError, MemoryShort: the budget of all files is used up.
    """
    share = (budget or Budget([path])).share(path, name)
    reader = RowReader(path, name, share, hashed=True)
    counts = InterfaceCounts()
    parts = [np.zeros(0, OPAQUE)]
    for batch in reader.batches():
        counts.add(batch.packets, len(reader.capture.interfaces))
        parts.append(batch.rows.view(OPAQUE).copy())
    interfaces = reader.capture.interfaces
    counts.add(np.zeros(0, PACKET), len(interfaces))
    rows = np.concatenate(parts).view(ROW)
    return DecodedFile(
        name=name,
        path=path,
        rows=rows,
        interfaces=interfaces,
        packets_of=counts.packets,
        drops_of=counts.drops,
        counting=counts.counting,
        tunnels=_number_tunnels(rows, reader.tunnels),
        ended=reader.capture.ended,
        unknown_blocks=reader.capture.unknown_blocks,
        sha256=reader.capture.sha256,
        stamp=reader.capture.stamp,
    )


def _number_tunnels(rows: np.ndarray[Any, Any], table: TunnelTable) -> tuple[str, ...]:
    """The texts of the tunnels that rows have, and `tunnel` of the rows renumbered to them.

    A packet in 40 headers adds 40 tunnels to the table, but refers to one.
    """
    if not table.count[0]:
        return ()
    used = np.zeros(int(table.count[0]) + 1, bool)
    used[rows["tunnel"]] = True
    used[0] = False
    rows["tunnel"] = np.cumsum(used, dtype=np.uint32)[rows["tunnel"]]
    return tuple(tunnel_texts(table, np.flatnonzero(used).tolist()))


def decode_files(files: Sequence[tuple[str | Location, str]], budget: Budget | None = None) -> list[DecodedFile]:
    """Decode files given as (path, name), a thread per file (the kernels release the interpreter's lock).

    A file that cannot be read or is no capture has no rows, and its `problem` says why.

    Raises:
        CaptureFileError: about the first file, in the order given, if none of them is a capture.
        LimitError, MemoryShort: the files exceed the budget (by default the budget of their sizes).
    """
    budget = budget or Budget([path for path, _ in files])
    workers = max(1, min(len(files), os.cpu_count() or 1, memory.available_bytes() // (2 * LARGEST_WINDOW)))
    pool = ThreadPoolExecutor(workers)
    try:
        decoded = list(pool.map(lambda file: _decoded_or_not(file[0], file[1], budget), files))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, the other files need no decoding
    if decoded and all(file.proves_nothing for file in decoded):
        first = decoded[0]
        raise CaptureFileError(first.name, 0, first.problem or NO_BYTES)
    return decoded


def _decoded_or_not(path: str | Location, name: str, budget: Budget) -> DecodedFile:
    try:
        return decode_file(path, name, budget)
    except CaptureFileError as error:
        if error.costs_all:
            raise
        nothing = np.zeros(0, np.int64)
        return DecodedFile(
            name=name,
            path=path,
            rows=np.zeros(0, ROW),
            interfaces=[],
            packets_of=nothing,
            drops_of=nothing,
            counting=nothing,
            tunnels=(),
            ended=UNREADABLE,
            unknown_blocks=0,
            sha256=sha256_if_readable(path, name),
            problem=error.problem,
        )


def sha256_if_readable(path: str | Location, name: str) -> str:
    """SHA-256 of an unused file, "" if it cannot be read or claims more than LARGEST_UNUSED bytes."""
    try:
        with open_regular(path, name, hashed=True) as file:
            return file.sha256() if file.stamp.size <= LARGEST_UNUSED else ""
    except (CaptureFileError, OSError):
        return ""


def digest_comparably(files: Sequence[DecodedFile], parts: Sequence[tuple[int, np.ndarray[Any, Any]]]) -> int:
    """Digest rows anew if other captures of such packets kept fewer bytes; returns the fewest payload bytes used.

    Packets with equal network headers may be one packet at several points, so the one that was cut shortest bounds them
    all; packets with other headers are unaffected.

    Args:
        parts: (number of the file, its rows in file order), all rows that must be comparable.
    """
    headers = [np.zeros(len(rows), np.uint64) for _, rows in parts]
    kept = [np.zeros(len(rows), np.int64) for _, rows in parts]
    payload = PAYLOAD_BYTES
    for (_, rows), header, bound in zip(parts, headers, kept, strict=True):
        payload = min(payload, int(headers_and_kept(rows, secret(), header, bound)))
    cut = [bound < UNBOUNDED for bound in kept]
    if not any(mask.any() for mask in cut):
        return payload
    keys, place = np.unique(
        np.concatenate([header[mask] for header, mask in zip(headers, cut, strict=True)]), return_inverse=True
    )
    shortest = np.full(len(keys), UNBOUNDED)
    np.minimum.at(shortest, place, np.concatenate([bound[mask] for bound, mask in zip(kept, cut, strict=True)]))
    for (number, rows), header, bound in zip(parts, headers, kept, strict=True):
        at = np.minimum(np.searchsorted(keys, header), len(keys) - 1)
        # A row's digest covers the bytes that its own capture kept: only a shorter bound needs another digest.
        shorter = (keys[at] == header) & (shortest[at] < bound) & (rows["has"] & field.HAS_IP != 0)
        if shorter.any():
            again = rows_at(rows, shorter)
            bounds = shortest[at[shorter]]
            reader = CaptureReader(files[number].path, files[number].name, same_as=files[number].stamp)
            for batch, some in rows_beside_bytes(reader, np.ascontiguousarray(again["byte_offset"])):
                digest_again(batch.data, batch.base, again[some], bounds[some], secret())
            for name in ("digest", "identity", "content"):
                rows[name][shorter] = again[name]
    return payload


def count_oddities(file: DecodedFile, rows: np.ndarray[Any, Any], point: str | None, ledger: Ledger) -> None:
    """Enter oddities of one file, and of the rows used, into the ledger."""
    count_file(file.name, file.ended, file.unknown_blocks, point, ledger, file.problem)
    count_rows(file.name, rows, point, ledger)
    count_link_types(file.name, unknown_link_types(rows, file.interfaces), point, ledger)


def count_file(
    name: str, ended: int, unknown_blocks: int, point: str | None, ledger: Ledger, problem: str | None = None
) -> None:
    """Enter the end of reading a file into the ledger, with the problem of an unusable file."""
    if ended == CUT:
        ledger.add("capture_cut", point=point, capture=name)
    elif ended == CORRUPT:
        ledger.add("capture_corrupt", point=point, capture=name)
    elif ended == EMPTY:
        ledger.add("capture_empty", point=point, capture=name)
    elif ended == UNREADABLE:
        ledger.add("capture_unreadable", point=point, capture=name, detail=f"It {problem}.")
    ledger.add("unknown_block", unknown_blocks, point=point, capture=name)


def unknown_link_types(rows: np.ndarray[Any, Any], interfaces: Sequence[Interface]) -> Counter[int]:
    """Packets that were not decoded, by their link type."""
    numbers, counts = np.unique(rows["interface"][rows["has"] & field.UNKNOWN_LINK != 0], return_counts=True)
    found: Counter[int] = Counter()
    for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
        found[interfaces[number].link_type] += count
    return found


def count_link_types(name: str, unknown: Counter[int], point: str | None, ledger: Ledger) -> None:
    """Enter packets of unknown link types into the ledger: one entry for each of the most frequent link types, one for
    the others.
    """
    ordered = sorted(unknown.items(), key=lambda item: (-item[1], item[0]))
    named, others = ordered[:_NAMED_LINK_TYPES], ordered[_NAMED_LINK_TYPES:]
    for number, count in named:
        ledger.add("unknown_link_type", count, point=point, capture=name, detail=f"Link type {number}.")
    rest = sum(count for _, count in others)
    ledger.add("unknown_link_type", rest, point=point, capture=name, detail=f"{len(others):,} further link types.")


def count_rows(name: str, rows: np.ndarray[Any, Any], point: str | None, ledger: Ledger) -> None:
    """Enter packets that could not be decoded into the ledger, by reason; link types are counted separately."""
    has = rows["has"]
    for counter, bits in (
        ("timestamp_out_of_range", field.BAD_TIME),
        ("not_ip", field.NOT_IP),
        ("malformed_ip", field.MALFORMED),
        ("hidden_packet", field.HIDDEN_PACKET),
        ("cut_header", field.CUT_HEADER),
        ("partial_checksum", field.PARTIAL_CHECKSUM),
    ):
        ledger.add(counter, int(np.count_nonzero(has & bits)), point=point, capture=name)
    timeless = np.count_nonzero(has & (field.HAS_TIME | field.BAD_TIME) == 0)
    ledger.add("no_timestamp", int(timeless), point=point, capture=name)
