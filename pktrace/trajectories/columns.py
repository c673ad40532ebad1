"""The columns for following packets, read out of the decoded rows in pieces, on several threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pktrace.run.model import Run
from pktrace.trajectories.paths import NOT_FOLLOWED, path_of_rows, path_tests

Array = np.ndarray[Any, Any]
_TOGETHER = 1 << 14  # rows whose fields are read one after the other: so many stay in the processor's cache
_PIECE = 1 << 18  # rows that one thread reads at a time
_FEW = 1 << 17


def in_pieces(count: int, action: Callable[[slice], None]) -> Iterator[tuple[int, int]]:
    """Apply an action to all rows, one span at a time, on several threads.

    Yields:
        The finished spans, one after the other.
    """

    def piece(begin: int) -> tuple[int, int]:
        end = min(begin + _PIECE, count)
        for at in range(begin, end, _TOGETHER):
            action(slice(at, min(at + _TOGETHER, end)))
        return begin, end

    begins = range(0, count, _PIECE)
    if len(begins) <= 1:
        yield from map(piece, begins)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(piece, begins)


@dataclass(frozen=True)
class Columns:
    """Columns with one entry per observation.

    `identities` (uint64), `points` (int32), `times` (int64, as captured), `paths` (int16: number of the path that the
    row may belong to, NO_PATH, or NOT_FOLLOWED).
    """

    identities: Array
    points: Array
    times: Array
    paths: Array
    _has: Array

    @classmethod
    def of(cls, rows: int) -> Columns:
        """Empty columns for a number of rows."""
        identities, points = np.empty(rows, np.uint64), np.empty(rows, np.int32)
        times, paths = np.empty(rows, np.int64), np.empty(rows, np.int16)
        return cls(identities, points, times, paths, np.zeros(-(-rows // _PIECE), np.uint32))

    @classmethod
    def all_of(cls, run: Run, rows: Array) -> Columns:
        """The columns of all rows, read."""
        columns = cls.of(len(rows))
        for _ in columns.read(run, rows):
            pass
        return columns

    def without(self, which: Array) -> Columns:
        """The same columns with some rows marked as not followed."""
        paths = self.paths.copy()
        paths[which] = NOT_FOLLOWED
        return replace(self, paths=paths)

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def has(self) -> int:
        """The bits of `has` that any row has, among the rows read so far."""
        return int(np.bitwise_or.reduce(self._has))

    def read(self, run: Run, rows: Array) -> Iterator[tuple[int, int]]:
        """Fill the columns; yields the spans of finished rows, one after the other, while others are read."""
        if len(rows) < _FEW:
            self._has[:] = self._read_few(run, rows)
            yield 0, len(rows)
            return
        from pktrace.trajectories.column_kernel import read_columns  # its import outweighs the gain for few rows

        tests = path_tests(run)

        def read_some(span: slice) -> None:
            self._has[span.start // _PIECE] |= read_columns(
                rows, span.start, span.stop, tests, self.points, self.times, self.identities, self.paths
            )

        yield from in_pieces(len(rows), read_some)

    def _read_few(self, run: Run, some: Array) -> int:
        self.points[:] = some["point"]
        self.times[:] = some["ts_ns"]
        self.identities[:] = some["identity"]
        self.paths[:] = path_of_rows(run, some)
        return int(np.bitwise_or.reduce(some["has"]))
