"""Whole capture files, decoded: their rows in memory, what the files say of themselves, their hashes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.capture.files import CaptureReader
from pktrace.capture.index import CORRUPT, CUT, Interface
from pktrace.decode import rows as field
from pktrace.decode.digest import PAYLOAD_BYTES, UNBOUNDED, digest_again, headers_and_kept
from pktrace.decode.rows import OPAQUE, ROW, rows_at
from pktrace.inputs import Location, Stamp
from pktrace.ledger import Ledger
from pktrace.observations.stream import RowReader, rows_beside_bytes
from pktrace.observations.tunnels import tunnel_texts


@dataclass(frozen=True)
class DecodedFile:
    """One capture file: `name` as it is shown and written, where it lies, its rows (ROW), its interfaces.

    `stamp` is what the file had while it was read, and must have when it is read again; `sha256` is of those bytes.
    `packets_of` and `drops_of` count packets, and packets that the capture lost between them, per interface;
    `tunnels` are the texts that `tunnel` of the rows numbers from 1; `ended` as in capture/index.py.
    """

    name: str
    path: str | Location
    rows: np.ndarray[Any, Any]
    interfaces: list[Interface]
    packets_of: np.ndarray[Any, Any]
    drops_of: np.ndarray[Any, Any]
    tunnels: tuple[str, ...]
    ended: int
    unknown_blocks: int
    sha256: str
    stamp: Stamp | None


class InterfaceCounts:
    """Packets and stated drops per interface, summed up batch by batch."""

    def __init__(self) -> None:
        self.packets = np.zeros(8, np.int64)
        self.drops = np.zeros(8, np.int64)

    def add(self, packets: np.ndarray[Any, Any], interfaces: int) -> None:
        """Count one batch of a packet index."""
        if interfaces > len(self.packets):
            self.packets = np.concatenate([self.packets, np.zeros(interfaces, np.int64)])
            self.drops = np.concatenate([self.drops, np.zeros(interfaces, np.int64)])
        used, place = np.unique(packets["interface"], return_inverse=True)
        self.packets[used] += np.bincount(place, minlength=len(used))
        self.drops[used] += np.bincount(place, weights=packets["dropped"], minlength=len(used)).astype(np.int64)


def decode_file(path: str | Location, name: str) -> DecodedFile:
    """Read and decode one whole capture file.

    Raises:
        CaptureFileError: the file cannot be read or is no capture.
    """
    reader = RowReader(path, name, hashed=True)
    counts = InterfaceCounts()
    parts = [np.zeros(0, OPAQUE)]
    for batch in reader.batches():
        counts.add(batch.packets, len(reader.capture.interfaces))
        parts.append(batch.rows.view(OPAQUE).copy())
    interfaces = reader.capture.interfaces
    counts.add(np.zeros(0, [("interface", np.int32), ("dropped", np.uint32)]), len(interfaces))
    return DecodedFile(
        name=name,
        path=path,
        rows=np.concatenate(parts).view(ROW),
        interfaces=interfaces,
        packets_of=counts.packets,
        drops_of=counts.drops,
        tunnels=tuple(tunnel_texts(reader.tunnels)),
        ended=reader.capture.ended,
        unknown_blocks=reader.capture.unknown_blocks,
        sha256=reader.capture.sha256,
        stamp=reader.capture.stamp,
    )


def decode_files(files: Sequence[tuple[str | Location, str]]) -> list[DecodedFile]:
    """Decode files given as (path, name), a thread per file (the kernels release the interpreter's lock).

    Raises:
        CaptureFileError: of the first file, in the order given, that cannot be read or is no capture.
    """
    workers = max(1, min(len(files), os.cpu_count() or 1))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda file: decode_file(*file), files))


def digest_comparably(files: Sequence[DecodedFile], parts: Sequence[tuple[int, np.ndarray[Any, Any]]]) -> int:
    """Digest rows anew where other captures of such packets kept fewer bytes; returns the payload bytes used at least.

    Packets with equal network headers may be one packet at several points, so the one that was cut shortest bounds
    them all; packets with other headers are not touched by that.

    Args:
        parts: (number of the file, rows of it in file order), all rows that are to be comparable.
    """
    headers = [np.zeros(len(rows), np.uint64) for _, rows in parts]
    kept = [np.zeros(len(rows), np.int64) for _, rows in parts]
    payload = PAYLOAD_BYTES
    for (_, rows), header, bound in zip(parts, headers, kept, strict=True):
        payload = min(payload, int(headers_and_kept(rows, header, bound)))
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
        # A row's digest was made over what its own capture kept: only a shorter bound asks for another.
        shorter = (keys[at] == header) & (shortest[at] < bound) & (rows["has"] & field.HAS_IP != 0)
        if shorter.any():
            again = rows_at(rows, shorter)
            bounds = shortest[at[shorter]]
            reader = CaptureReader(files[number].path, files[number].name, files[number].stamp)
            for batch, some in rows_beside_bytes(reader, np.ascontiguousarray(again["byte_offset"])):
                digest_again(batch.data, batch.base, again[some], bounds[some])
            for name in ("digest", "content"):
                rows[name][shorter] = again[name]
    return payload


def count_oddities(file: DecodedFile, rows: np.ndarray[Any, Any], point: str | None, ledger: Ledger) -> None:
    """Put what is odd about one file, and about the rows of it that are used, into the ledger."""
    count_file(file.name, file.ended, file.unknown_blocks, point, ledger)
    count_rows(file.name, rows, [interface.link_type for interface in file.interfaces], point, ledger)


def count_file(name: str, ended: int, unknown_blocks: int, point: str | None, ledger: Ledger) -> None:
    """Put how reading a file ended into the ledger."""
    if ended == CUT:
        ledger.add("capture_cut", point=point, capture=name)
    elif ended == CORRUPT:
        ledger.add("capture_corrupt", point=point, capture=name)
    ledger.add("unknown_block", unknown_blocks, point=point, capture=name)


def count_rows(
    name: str, rows: np.ndarray[Any, Any], link_types: Sequence[int], point: str | None, ledger: Ledger
) -> None:
    """Put packets that could not be decoded, and why, into the ledger."""
    has = rows["has"]
    unknown = rows["interface"][has & field.UNKNOWN_LINK != 0]
    if len(unknown):
        numbers, counts = np.unique(np.asarray(link_types)[unknown], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            ledger.add("unknown_link_type", count, point=point, capture=name, detail=f"Link type {number}.")
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
