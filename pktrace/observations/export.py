"""Any captures as a stream of observation tables, in memory that does not grow with the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from pktrace.capture.index import EMPTY, UNREADABLE, WHOLE
from pktrace.decode.details import DETAIL, details
from pktrace.decode.rows import OPAQUE, ROW
from pktrace.errors import CaptureFileError
from pktrace.ledger import Ledger
from pktrace.limits import DEFAULT_LIMITS, Budget, Limits, Share
from pktrace.observations.decoded import (
    NO_BYTES,
    count_file,
    count_link_types,
    count_rows,
    sha256_if_readable,
    unknown_link_types,
)
from pktrace.observations.observe import interface_names
from pktrace.observations.stream import RowReader
from pktrace.observations.table import rows_table, with_details
from pktrace.observations.tunnels import tunnel_texts

ROWS_PER_TABLE = 1 << 17


class ObservationStream:
    """Decodes captures file by file; `packets`, `damaged`, `ledger` and `sha256` are complete after `tables` is
    exhausted.

    A digest covers the bytes that the packet's own capture kept. `with_details` adds the columns of schema.DETAILS.
    """

    def __init__(self, paths: Sequence[str], with_details: bool = False, limits: Limits = DEFAULT_LIMITS) -> None:
        self.paths = tuple(paths)
        self._with_details = with_details
        self._limits = limits
        self._link_types: Counter[int] = Counter()
        self.ledger = Ledger()
        self.packets = 0
        self.damaged = False
        self.sha256: tuple[str, ...] = ()
        self._problems: list[CaptureFileError] = []

    def tables(self) -> Iterator[pa.Table]:
        """Tables of up to ROWS_PER_TABLE rows, in the order of the files and of their packets.

        A file that cannot be read or is no capture costs only its own packets.

        Raises:
            CaptureFileError: about the first file, if none of them is a capture.
            LimitError: all files together exceed the limits.
        """
        budget = Budget(self.paths, self._limits)
        shares = [budget.share(path, path) for path in self.paths]
        with ThreadPoolExecutor(1) as aside:
            # The next table is made while the caller writes the last one.
            pairs = zip(self.paths, shares, strict=True)
            tables = chain.from_iterable(self._tables_or_problem(path, share) for path, share in pairs)
            coming = aside.submit(next, tables, None)
            while (table := coming.result()) is not None:
                coming = aside.submit(next, tables, None)
                yield table
        if self._problems and len(self._problems) == len(self.paths):
            raise self._problems[0]

    def _tables_or_problem(self, path: str, share: Share) -> Iterator[pa.Table]:
        try:
            yield from self._tables_of(path, share)
        except CaptureFileError as error:
            if error.costs_all:
                raise
            self._problems.append(error)
            self.damaged = True
            count_file(path, UNREADABLE, 0, None, self.ledger, error.problem)
            self.sha256 = (*self.sha256, sha256_if_readable(path, path))

    def _tables_of(self, path: str, share: Share) -> Iterator[pa.Table]:
        reader = RowReader(path, path, share, hashed=True)
        room = np.empty(ROWS_PER_TABLE, OPAQUE)
        found = np.empty(ROWS_PER_TABLE if self._with_details else 0, DETAIL)
        filled = 0
        for batch in reader.batches():
            of_batch = np.zeros(len(batch.rows) if self._with_details else 0, DETAIL)
            if self._with_details:
                details(batch.data, batch.base, batch.packets, batch.rows, of_batch)
            taken = 0
            while taken < len(batch.rows):
                step = min(len(batch.rows) - taken, ROWS_PER_TABLE - filled)
                room[filled : filled + step] = batch.rows[taken : taken + step].view(OPAQUE)
                found[filled : filled + step] = of_batch[taken : taken + step]
                filled += step
                taken += step
                if filled == ROWS_PER_TABLE:
                    yield self._table(reader, room.view(ROW), found)
                    filled = 0
        if filled:
            yield self._table(reader, room[:filled].view(ROW), found[:filled])
        capture = reader.capture
        count_link_types(path, self._link_types, None, self.ledger)
        self._link_types.clear()
        count_file(path, capture.ended, capture.unknown_blocks, None, self.ledger)
        if capture.ended == EMPTY:
            self._problems.append(CaptureFileError(path, 0, NO_BYTES))
        self.damaged |= capture.ended != WHOLE
        self.sha256 = (*self.sha256, capture.sha256)

    def _table(self, reader: RowReader, rows: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> pa.Table:
        interfaces = reader.capture.interfaces
        names: dict[str, int] = {}
        rows["point"] = interface_names(interfaces, names)[rows["interface"]]
        rows["capture"] = 0
        count_rows(reader.capture.name, rows, None, self.ledger)
        self._link_types += unknown_link_types(rows, interfaces)
        self.packets += len(rows)
        used, place = np.unique(rows["tunnel"], return_inverse=True)
        rows["tunnel"] = place + (0 if used[0] == 0 else 1)
        table = rows_table(rows, tuple(names), (reader.capture.name,), tunnel_texts(reader.tunnels, used[used > 0]))
        return with_details(table, rows, found) if self._with_details else table
