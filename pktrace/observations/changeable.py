"""Reads once more what may change on the way and is not kept in rows: MAC addresses, ECN, TCP options, retries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pktrace.capture.files import CaptureReader
from pktrace.decode.changeable import CHANGEABLE, read_changeable
from pktrace.decode.identity import secret
from pktrace.observations.observe import Observations
from pktrace.observations.stream import rows_beside_bytes

Array = np.ndarray[Any, Any]


def changeable_of(observations: Observations, which: Array | None = None) -> Array:
    """What is not kept of observations, from their captures.

    Args:
        which: bool per row, for which it is wanted; None for all.

    Returns:
        CHANGEABLE per row, zeros (nothing known) where it was not wanted.

    Raises:
        CaptureFileError: a capture cannot be read any more.
    """
    rows = observations.rows
    found = np.zeros(len(rows), CHANGEABLE)
    folder = observations.run.folder if observations.run is not None else Path()
    files: dict[str, list[int]] = {}  # several points may be interfaces of one file: it is read once
    for number, name in enumerate(observations.captures):
        files.setdefault(os.path.realpath(folder / name), []).append(number)
    captures, places = np.ascontiguousarray(rows["capture"]), np.ascontiguousarray(rows["byte_offset"])
    for path, numbers in files.items():
        wanted = np.isin(captures, numbers)
        if which is not None:
            wanted &= which
        mine = np.flatnonzero(wanted)
        if not len(mine):
            continue
        # Rows are in order of time, which files nearly are: a stable sort has little to do.
        mine = mine[np.argsort(places[mine], kind="stable")]
        offsets = places[mine]
        reader = CaptureReader(path, observations.captures[numbers[0]])
        for batch, some in rows_beside_bytes(reader, offsets):
            link_types = np.array([interface.link_type for interface in reader.interfaces], np.int64)
            read_changeable(batch.data, batch.base, rows, mine[some], offsets[some], link_types, secret(), found)
    return found
