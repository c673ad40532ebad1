"""Reads payload bytes of single packets from their captures, for the rare case that hashes do not decide."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from pktrace.capture.source import open_regular
from pktrace.decode.digest import PAYLOAD_BYTES, contents_of
from pktrace.decode.identity import mixed, secret
from pktrace.decode.rows import Fielded
from pktrace.inputs import InputFile
from pktrace.observations.observe import Observations
from pktrace.wire import SLACK

Array = np.ndarray[Any, Any]
_WINDOW = 1 << 20  # bytes of a file that are read at once
_MOST_BYTES = 1 << 14  # of one packet that are compared
_TCP_HEADER = 20  # bytes
MOST_AT_ONCE = 40  # bytes: TCP options are no longer (RFC 9293 3.1)
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5", b"\x04\x22")


class Payloads:
    """Payload bytes by row. Files are opened at first use; compressed files are not read."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._files: dict[int, InputFile | None] = {}
        # Files are read, not mapped into memory: the process would be killed if a mapped file is cut meanwhile.
        self._window = np.zeros(_WINDOW + _MOST_BYTES + SLACK, np.uint8)

    def content(self, row: Any, begin: int, length: int) -> int | None:
        """The hash, as in `content` of a row, of the bytes of a packet from payload byte `begin` on.

        Args:
            length: bytes of the part in question; as many of them are hashed as for whole packets.

        Returns:
            None if the capture does not have these bytes.
        """
        found, there = self.contents(np.array([row]), np.array([begin]), np.array([length]))
        return int(found[0]) if there[0] else None

    def contents(self, rows: Fielded, begins: Array, lengths: Array) -> tuple[Array, Array]:
        """`content` of many rows: (uint64, bool: True if the capture has these bytes).

        Raises:
            CaptureFileError: a capture cannot be read any more, or has changed since it was decoded.
        """
        most = min(PAYLOAD_BYTES, self._observations.digest_payload_bytes)
        sizes = np.minimum(lengths, most).astype(np.int64)
        starts = rows["payload"].astype(np.int64) + begins
        found, there = np.zeros(len(rows), np.uint64), np.zeros(len(rows), bool)
        for some, at in self._read(rows, starts, sizes):
            hashes = np.zeros(len(some), np.uint64)
            contents_of(self._window, at, sizes[some], secret(), hashes)
            found[some] = hashes
            there[some] = True
        return found, there

    def rest(self, rows: Fielded, begins: Array, ends: Array) -> tuple[Array, Array]:
        """A hash per row over all of its payload bytes [begin, end).

        Returns:
            uint64; and bool, True if the capture has these bytes.
        """
        piece = max(1, min(PAYLOAD_BYTES, self._observations.digest_payload_bytes))
        sizes = np.clip(ends.astype(np.int64) - begins, 0, _MOST_BYTES)
        found, there = np.zeros(len(rows), np.uint64), sizes == 0
        for some, at in self._read(rows, rows["payload"].astype(np.int64) + begins, sizes):
            there[some] = True
            # Piece by piece; the hash of a short payload depends on its own bytes only.
            for begin in range(0, int(sizes[some].max(initial=0)), piece):
                longer = np.flatnonzero(sizes[some] > begin)
                held = np.zeros(len(longer), np.uint64)
                left = np.minimum(sizes[some[longer]] - begin, piece)
                contents_of(self._window, at[longer] + begin, left, secret(), held)
                found[some[longer]] = mixed(found[some[longer]], held)
        return found, there

    def options(self, rows: Fielded) -> tuple[Array, Array]:
        """TCP options of segments.

        Returns:
            uint8 (segments x 40), zeros behind the last; and int64, their number of bytes, -1 if the capture does not
            have them.

        Raises:
            CaptureFileError: a capture cannot be read any more, or has changed since it was decoded.
        """
        starts = rows["l4"].astype(np.int64) + _TCP_HEADER
        return self.bytes_at(rows, starts, np.clip(rows["payload"].astype(np.int64) - starts, 0, MOST_AT_ONCE))

    def bytes_at(self, rows: Fielded, starts: Array, sizes: Array) -> tuple[Array, Array]:
        """Bytes of packets, at most `MOST_AT_ONCE` of each, as `options` gives them.

        Args:
            starts: from the packet's first captured byte on.
        """
        starts, sizes = starts.astype(np.int64), sizes.astype(np.int64)
        found = np.zeros((len(rows), MOST_AT_ONCE), np.uint8)
        there = np.full(len(rows), -1, np.int64)
        column = np.arange(MOST_AT_ONCE)
        for some, at in self._read(rows, starts, sizes):
            found[some] = np.where(column < sizes[some][:, None], self._window[at[:, None] + column], 0)
            there[some] = sizes[some]
        return found, there

    def _read(self, rows: Fielded, starts: Array, sizes: Array) -> Iterator[tuple[Array, Array]]:
        """Yield (rows in one window of a file, offsets of their bytes in it); rows without these bytes are left out."""
        there, of = starts + sizes <= rows["captured_length"], rows["capture"]
        offsets = rows["byte_offset"] + starts
        for capture in np.flatnonzero(np.bincount(of[there])).tolist():
            file = self._file(capture)
            if file is None:
                continue
            mine = np.flatnonzero(there & (of == capture))
            at = offsets[mine]
            order = np.argsort(at, kind="stable")
            mine, at = mine[order], at[order]
            done = 0
            while done < len(mine):
                # As many as lie within one window of the file; the widest of them fits in its slack.
                begin = int(at[done])
                until = done + int(np.searchsorted(at[done:], begin + _WINDOW))
                wanted = int((at[done:until] + sizes[mine[done:until]]).max()) - begin
                got = os.preadv(file.fileno(), [self._window.data[:wanted]], begin)
                file.check()
                whole = at[done:until] + sizes[mine[done:until]] <= begin + got
                yield mine[done:until][whole], at[done:until][whole] - begin
                done = until

    def _file(self, capture: int) -> InputFile | None:
        if capture not in self._files:
            observations = self._observations
            file = None
            # Observations that were made and not read, as tests make them, have no stamps and no files.
            if observations.run is not None and observations.stamps:
                stamp = observations.stamps[capture]
                file = open_regular(observations.location(capture), observations.captures[capture], stamp)
            if file is not None and file.head(2) in _COMPRESSED:
                file.close()
                file = None
            self._files[capture] = file
        return self._files[capture]
