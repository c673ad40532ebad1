"""Looks up payload bytes of single packets in their captures, for the rare case that hashes do not decide."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.digest import PAYLOAD_BYTES, content_of, contents_of
from pktrace.decode.identity import secret
from pktrace.observations.observe import Observations
from pktrace.wire import SLACK

Array = np.ndarray[Any, Any]
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5", b"\x04\x22")


class Payloads:
    """Payload bytes by row. Files are opened when they are first asked for; compressed ones are not looked into."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._files: dict[int, Array | None] = {}

    def content(self, row: Any, begin: int, length: int) -> int | None:
        """The hash, as in `content` of a row, of what a packet holds from payload byte `begin` on.

        Args:
            length: bytes of the part in question, of which as many are hashed as for whole packets.

        Returns:
            None where the capture does not have these bytes.
        """
        size = min(length, PAYLOAD_BYTES, self._observations.digest_payload_bytes)
        start = int(row["payload"]) + begin
        if start + size > int(row["captured_length"]):
            return None
        data = self._file(int(row["capture"]))
        at = int(row["byte_offset"]) + start
        if data is None or at + size > len(data):
            return None
        found = np.zeros(size + SLACK, np.uint8)
        found[:size] = data[at : at + size]
        return int(content_of(found, np.int64(size), secret()))

    def contents(self, rows: Array, begins: Array, lengths: Array) -> tuple[Array, Array]:
        """`content` of many rows: (uint64, bool: whether the capture has these bytes)."""
        most = min(PAYLOAD_BYTES, self._observations.digest_payload_bytes)
        sizes = np.minimum(lengths, most).astype(np.int64)
        starts = rows["payload"].astype(np.int64) + begins
        there = starts + sizes <= rows["captured_length"]
        found = np.zeros(len(rows), np.uint64)
        for capture in np.unique(rows["capture"][there]).tolist():
            data = self._file(capture)
            mine = np.flatnonzero(there & (rows["capture"] == capture))
            if data is None:
                there[mine] = False
                continue
            at = rows["byte_offset"][mine] + starts[mine]
            whole = at + sizes[mine] + SLACK <= len(data)
            hashes = np.zeros(int(whole.sum()), np.uint64)
            contents_of(data, at[whole], sizes[mine[whole]], secret(), hashes)
            found[mine[whole]] = hashes
            for one in mine[~whole].tolist():  # the last packets of a file, which a kernel would read beyond
                content = self.content(rows[one], int(begins[one]), int(lengths[one]))
                there[one], found[one] = content is not None, content or 0
        return found, there

    def _file(self, capture: int) -> Array | None:
        if capture not in self._files:
            run = self._observations.run
            found = None
            if run is not None:
                try:
                    found = np.memmap(run.folder / self._observations.captures[capture], np.uint8, "r")
                except (OSError, ValueError):
                    found = None
            if found is not None and found[:2].tobytes() in _COMPRESSED:
                found = None
            self._files[capture] = found
        return self._files[capture]
