"""Looks up payload bytes of single packets in their captures, for the rare case that hashes do not decide."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pktrace.capture.source import open_regular
from pktrace.decode.digest import PAYLOAD_BYTES, contents_of
from pktrace.decode.identity import secret
from pktrace.inputs import InputFile
from pktrace.observations.observe import Observations
from pktrace.wire import SLACK

Array = np.ndarray[Any, Any]
_WINDOW = 1 << 18  # bytes of a file that are read at once
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5", b"\x04\x22")


class Payloads:
    """Payload bytes by row. Files are opened when they are first asked for; compressed ones are not looked into."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._files: dict[int, InputFile | None] = {}
        # Read, and not mapped into memory: where a mapped file is cut meanwhile, the process is killed.
        self._window = np.zeros(_WINDOW + PAYLOAD_BYTES + SLACK, np.uint8)

    def content(self, row: Any, begin: int, length: int) -> int | None:
        """The hash, as in `content` of a row, of what a packet holds from payload byte `begin` on.

        Args:
            length: bytes of the part in question, of which as many are hashed as for whole packets.

        Returns:
            None where the capture does not have these bytes.
        """
        found, there = self.contents(np.array([row]), np.array([begin]), np.array([length]))
        return int(found[0]) if there[0] else None

    def contents(self, rows: Array, begins: Array, lengths: Array) -> tuple[Array, Array]:
        """`content` of many rows: (uint64, bool: whether the capture has these bytes).

        Raises:
            CaptureFileError: a capture cannot be read any more, or has changed since it was decoded.
        """
        most = min(PAYLOAD_BYTES, self._observations.digest_payload_bytes)
        sizes = np.minimum(lengths, most).astype(np.int64)
        starts = rows["payload"].astype(np.int64) + begins
        there = starts + sizes <= rows["captured_length"]
        found = np.zeros(len(rows), np.uint64)
        for capture in np.unique(rows["capture"][there]).tolist():
            file = self._file(capture)
            mine = np.flatnonzero(there & (rows["capture"] == capture))
            if file is None:
                there[mine] = False
                continue
            at = rows["byte_offset"][mine] + starts[mine]
            order = np.argsort(at, kind="stable")
            mine, at = mine[order], at[order]
            done = 0
            while done < len(mine):
                # As many as lie within one window of the file; the widest of them fits in its slack.
                begin = int(at[done])
                until = done + int(np.searchsorted(at[done:], begin + _WINDOW))
                got = os.preadv(file.fileno(), [self._window.data[: _WINDOW + PAYLOAD_BYTES]], begin)
                file.check()
                some = slice(done, until)
                there[mine[some]] = at[some] + sizes[mine[some]] <= begin + got
                hashes = np.zeros(until - done, np.uint64)
                contents_of(self._window, at[some] - begin, sizes[mine[some]], secret(), hashes)
                found[mine[some]] = hashes
                done = until
        found[~there] = 0
        return found, there

    def _file(self, capture: int) -> InputFile | None:
        if capture not in self._files:
            observations = self._observations
            file = None
            if observations.run is not None:
                stamp = observations.stamps[capture] if observations.stamps else None
                file = open_regular(observations.location(capture), observations.captures[capture], stamp)
            if file is not None and file.head(2) in _COMPRESSED:
                file.close()
                file = None
            self._files[capture] = file
        return self._files[capture]
