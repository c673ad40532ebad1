"""One capture file as a stream of decoded rows, in memory that does not grow with the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace import memory
from pktrace.capture.files import Batch, CaptureReader
from pktrace.capture.index import Interface
from pktrace.decode.identity import secret
from pktrace.decode.packets import decode
from pktrace.decode.rows import ROW
from pktrace.decode.tunnels import TunnelTable
from pktrace.inputs import Location
from pktrace.limits import Share

_SMALL_TABLE = 16 << 20


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Decoded packets of one file, in file order, with the bytes they came from; `data` begins at `base` in the file.

    All arrays are used again for the next batch.
    """

    rows: np.ndarray[Any, Any]
    packets: np.ndarray[Any, Any]
    data: np.ndarray[Any, Any]
    base: int


class RowReader:
    """Decodes one capture file; after the last batch `capture` has the end of reading; `tunnels` is the table that rows
    refer to.

    `share` as in `CaptureReader`. With `hashed`, the file is hashed meanwhile (`capture.sha256`).

    Raises:
        CaptureFileError: the file cannot be read or is no capture.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Location,
        name: str,
        share: Share | None = None,
        hashed: bool = False,
    ) -> None:
        self.capture = CaptureReader(path, name, share, hashed=hashed)
        self.tunnels = TunnelTable()

    def batches(self) -> Iterator[RowBatch]:
        """All packets, in file order; to be called once."""
        room = np.zeros(0, ROW)
        link_types = _LinkTypes(self.capture.interfaces)
        table = self.tunnels
        for batch in self.capture.batches():
            count = len(batch.packets)
            if count > len(room):
                room = np.empty(max(count, 2 * len(room)), ROW)
            rows = room[:count]
            rows.view(np.uint8)[:] = 0
            done = 0
            while done < count:
                done = decode(
                    batch.data, batch.base, batch.packets, link_types.array(), rows,
                    table.entries, table.slots, table.count, secret(), done,
                )  # fmt: skip
                if done < count:
                    _check_tunnels(table)
                    table.make_room()
            yield RowBatch(rows, batch.packets, batch.data, batch.base)


def _check_tunnels(table: TunnelTable) -> None:
    """Raises MemoryShort before a table of tunnels doubles beyond the available memory."""
    held = table.entries.nbytes + table.slots.nbytes
    if held > _SMALL_TABLE:
        memory.check(f"keeping {int(table.count[0]):,} tunnels of one file", 3 * held)


class _LinkTypes:
    """The link types of a growing list of interfaces as an array, without making it anew for each."""

    def __init__(self, interfaces: list[Interface]) -> None:
        self._interfaces = interfaces
        self._array = np.zeros(8, np.int64)
        self._known = 0

    def array(self) -> np.ndarray[Any, Any]:
        if len(self._interfaces) > len(self._array):
            self._array = np.concatenate([self._array, np.zeros(len(self._interfaces), np.int64)])
        for number in range(self._known, len(self._interfaces)):
            self._array[number] = self._interfaces[number].link_type
        self._known = len(self._interfaces)
        return self._array


def row_batches(path: str | os.PathLike[str]) -> Iterator[RowBatch]:
    """The decoded packets of one capture file, batch by batch.

    Raises:
        CaptureFileError: the file cannot be read or is no capture.
    """
    return RowReader(path, os.fspath(path)).batches()


def rows_beside_bytes(reader: CaptureReader, offsets: np.ndarray[Any, Any]) -> Iterator[tuple[Batch, slice]]:
    """Read a file once more, to compute further values from the bytes of its rows.

    Args:
        reader: a reader at the beginning of the file; offsets: int64, the `byte_offset` of all or some rows, in file
        order.

    Yields:
        Each batch that holds some of the rows, and the numbers of these rows.
    """
    at = 0
    for batch in reader.batches():
        last = batch.base + int(batch.packets["offset"][-1])
        until = at + int(np.searchsorted(offsets[at:], last, "right"))
        if until > at:
            yield batch, slice(at, until)
        at = until
        if at == len(offsets):
            return
