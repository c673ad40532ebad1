"""Looks up payload bytes of single packets in their captures, for the rare case that hashes do not decide."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.digest import PAYLOAD_BYTES, content_of
from pktrace.observations.observe import Observations
from pktrace.wire import SLACK

_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5", b"\x04\x22")


class Payloads:
    """Payload bytes by row. Files are opened when they are first asked for; compressed ones are not looked into."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._files: dict[int, np.ndarray[Any, Any] | None] = {}

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
        return int(content_of(found, np.int64(size)))

    def _file(self, capture: int) -> np.ndarray[Any, Any] | None:
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
