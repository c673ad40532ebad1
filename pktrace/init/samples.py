"""Capture files for a first look: counts of all packets, and rows of all packets or of a sample.

A hash of the invariant bytes selects the packets of the sample (RFC 5475 6.2, hash-based selection), so the sample has
the same packets at every place, and memory stays bounded however large the files are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pktrace.capture.files import CaptureReader
from pktrace.capture.index import WHOLE, Interface
from pktrace.decode import rows as bits
from pktrace.decode.digest import header_digests
from pktrace.decode.rows import ROW
from pktrace.errors import CaptureFileError
from pktrace.inputs import Stamp
from pktrace.limits import DEFAULT_LIMITS, Budget, Limits
from pktrace.observations.decoded import NO_BYTES, DecodedFile, digest_comparably
from pktrace.observations.stream import RowReader

Array = np.ndarray[Any, Any]
_MOST_ROWS = 1 << 20  # of all files together
_MOST_CELLS = 1 << 24  # packets x files
_MOST_EVERY = 1 << 40  # packets beyond this sampling are equal, or forged to collide: the first ones stay
_SMALL = 1 << 14  # rows of each file that are kept at first, whatever the number of files
_ODD = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0xC2B2AE3D27D4EB4F)


@dataclass
class Tally:
    """Counts of packets: all, IP packets, and the times of the first and the last."""

    packets: int = 0
    ip_packets: int = 0
    first_ns: int | None = None
    last_ns: int | None = None

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.packets += other.packets
        self.ip_packets += other.ip_packets
        self.first_ns = min((time for time in (self.first_ns, other.first_ns) if time is not None), default=None)
        self.last_ns = max((time for time in (self.last_ns, other.last_ns) if time is not None), default=None)


@dataclass(frozen=True)
class Sample:
    """One capture file: `rows` of IP packets with a time, or a sample of them; `tallies` of all its packets.

    Tallies are by (number of the interface, interface index in the packets, direction).
    """

    name: str
    rows: Array
    interfaces: list[Interface]
    damaged: bool
    every: int = 1
    tallies: dict[tuple[int, int, int], Tally] = field(default_factory=dict)
    stamp: Stamp | None = None

    def tally(self) -> Tally:
        """All packets of the file."""
        total = Tally()
        for part in self.tallies.values():
            total.add(part)
        return total


def usable(paths: Sequence[str]) -> tuple[list[str], list[CaptureFileError]]:
    """The files that are captures, and for each of the others the reason why it is none.

    Raises:
        CaptureFileError: about the first file, if none of them is a capture.
    """
    found, problems = [], []
    for path in paths:
        try:
            is_empty = CaptureReader(path, path).is_empty()
        except CaptureFileError as error:
            if error.costs_all:
                raise
            problems.append(error)
            continue
        if is_empty:
            problems.append(CaptureFileError(path, 0, NO_BYTES))
        else:
            found.append(path)
    if problems and not found:
        raise problems[0]
    return found, problems


def read_samples(
    paths: Sequence[str], most: int = _MOST_ROWS, limits: Limits = DEFAULT_LIMITS
) -> tuple[list[Sample], int]:
    """Read files; returns the samples, and the number N if their rows hold one in N packets.

    Raises:
        CaptureFileError: about the first file that cannot be read, is no capture, or exceeds its share of the limits.
        LimitError: all files together exceed the limits.
    """
    budget = Budget(paths, limits)
    files = max(1, len(paths))
    most = max(1, min(most, _MOST_CELLS // files))
    with ThreadPoolExecutor(max(1, min(files, os.cpu_count() or 1))) as pool:
        samples = list(pool.map(lambda path: _read(path, max(most // files, min(most, _SMALL)), budget), paths))
    every = max((sample.every for sample in samples), default=1)
    while True:
        samples = [_thinned(sample, every) for sample in samples]
        if sum(len(sample.rows) for sample in samples) <= most:
            break
        if every >= _MOST_EVERY:
            samples = [replace(sample, rows=sample.rows[: most // files]) for sample in samples]
            break
        every *= 2
    for number, sample in enumerate(samples):
        sample.rows["capture"] = number
    _make_comparable(samples)
    return samples, every


def _read(path: str, most: int, budget: Budget) -> Sample:
    """Read one file; its rows are thinned out by half whenever they exceed `most`."""
    reader = RowReader(path, path, budget.share(path, path))
    tallies: dict[tuple[int, int, int], Tally] = {}
    kept: list[Array] = []
    count, every = 0, 1
    for batch in reader.batches():
        _count(batch.rows, tallies)
        wanted = bits.HAS_IP | bits.HAS_TIME
        rows = batch.rows[batch.rows["has"] & wanted == wanted]
        rows = rows[_chosen(rows, every)] if every > 1 else rows
        kept.append(rows)
        count += len(rows)
        while count > most and every < _MOST_EVERY:
            every *= 2
            kept = [rows[_chosen(rows, every)] for rows in kept]
            count = sum(map(len, kept))
        if count > most:
            kept = [np.concatenate(kept)[:most]]
            count = most
    return Sample(
        name=path,
        rows=np.concatenate(kept) if kept else np.zeros(0, ROW),
        interfaces=reader.capture.interfaces,
        damaged=reader.capture.ended != WHOLE,
        every=every,
        tallies=tallies,
        stamp=reader.capture.stamp,
    )


def _thinned(sample: Sample, every: int) -> Sample:
    if sample.every >= every:
        return sample
    return replace(sample, rows=sample.rows[_chosen(sample.rows, every)], every=every)


def _count(rows: Array, tallies: dict[tuple[int, int, int], Tally]) -> None:
    """Count a batch by interface, interface index and direction."""
    key = rows["interface"].astype(np.uint64) << np.uint64(34) | rows["ifindex"].astype(np.uint64) << np.uint64(2)
    keys, inverse = np.unique(key | rows["direction"], return_inverse=True)
    # There may be as many groups as packets, so each is counted without a pass over the others.
    timed = np.flatnonzero(rows["has"] & bits.HAS_TIME != 0)
    packets, with_time = (np.bincount(some, minlength=len(keys)).tolist() for some in (inverse, inverse[timed]))
    ip_packets = np.bincount(inverse[rows["has"] & bits.HAS_IP != 0], minlength=len(keys)).tolist()
    limits = np.iinfo(np.int64)
    first, last = np.full(len(keys), limits.max), np.full(len(keys), limits.min)
    np.minimum.at(first, inverse[timed], rows["ts_ns"][timed])
    np.maximum.at(last, inverse[timed], rows["ts_ns"][timed])
    for number, value in enumerate(keys.tolist()):
        tallies.setdefault((value >> 34, value >> 2 & 0xFFFFFFFF, value & 3), Tally()).add(
            Tally(
                packets=packets[number],
                ip_packets=ip_packets[number],
                first_ns=int(first[number]) if with_time[number] else None,
                last_ns=int(last[number]) if with_time[number] else None,
            )
        )


def _chosen(rows: Array, every: int) -> Array:
    """bool per row: about one in `every`, the same packets in every file however many bytes were captured."""
    header = np.zeros(len(rows), np.uint64)
    header_digests(rows, header)
    # A packet id stays the same even if the addresses are rewritten.
    identity = np.where(rows["has"] & bits.HAS_PACKET_ID != 0, rows["packet_id"], header)
    found: Array = _spread(identity) % np.uint64(every) == 0
    return found


def _make_comparable(samples: Sequence[Sample]) -> None:
    """Digests over bytes that all files kept of such packets."""
    nothing = np.zeros(0, np.int64)
    files = [
        DecodedFile(
            sample.name,
            sample.name,
            sample.rows,
            sample.interfaces,
            nothing,
            nothing,
            None,
            (),
            WHOLE,
            0,
            "",
            sample.stamp,
        )
        for sample in samples
    ]
    digest_comparably(files, [(number, sample.rows) for number, sample in enumerate(samples)])


def _spread(value: Array) -> Array:
    """A hash without a key, so that a sample has the same packets each time. A sender who knows it can choose the
    packets of the sample.
    """
    state = (value.astype(np.uint64) + _ODD) * _ODD
    state = (state ^ (state >> np.uint64(29))) * _PRIME
    result: Array = state ^ (state >> np.uint64(32))
    return result
