"""Reads mutable fields that rows do not keep: MAC addresses, ECN, TCP options, retries."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode.changeable import CHANGEABLE, read_changeable
from pktrace.decode.identity import secret
from pktrace.observations.observe import Observations
from pktrace.observations.stream import rows_beside_bytes

Array = np.ndarray[Any, Any]


def changeable_of(observations: Observations, which: Array | None = None) -> Array:
    """The mutable fields of observations that rows do not keep, read from their captures.

    Args:
        which: bool per row, the rows to read; None for all.

    Returns:
        CHANGEABLE per row, zeros (nothing known) for the other rows.

    Raises:
        CaptureFileError: a capture cannot be read any more, or has changed.
    """
    rows = observations.rows
    found = np.zeros(len(rows), CHANGEABLE)
    files: dict[object, list[int]] = {}  # several points may be interfaces of one file: it is read once
    for number, name in enumerate(observations.captures):
        stamp = observations.stamps[number] if observations.stamps else None
        files.setdefault(name if stamp is None else stamp, []).append(number)
    captures, places = np.ascontiguousarray(rows["capture"]), np.ascontiguousarray(rows["byte_offset"])
    for numbers in files.values():
        wanted = np.isin(captures, numbers)
        if which is not None:
            wanted &= which
        mine = np.flatnonzero(wanted)
        if not len(mine):
            continue
        # Rows are in order of time, which files nearly are: a stable sort has little to do.
        mine = mine[np.argsort(places[mine], kind="stable")]
        offsets = places[mine]
        reader = observations.reader(numbers[0])
        for batch, some in rows_beside_bytes(reader, offsets):
            link_types = np.array([interface.link_type for interface in reader.interfaces], np.int64)
            read_changeable(batch.data, batch.base, rows, mine[some], offsets[some], link_types, secret(), found)
    return found
