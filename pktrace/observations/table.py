"""The observations table: decoded rows as columns with nulls, addresses as dictionary strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pktrace import schema
from pktrace.decode import rows as field
from pktrace.observations.observe import Observations
from pktrace.observations.tunnels import address_text

_FIELDS = (
    ("ip_version", field.HAS_IP),
    ("protocol", field.HAS_IP),
    ("sport", field.HAS_PORTS),
    ("dport", field.HAS_PORTS),
    ("ip_id", field.HAS_ID),
    ("ttl", field.HAS_IP),
    ("dscp", field.HAS_IP),
    ("fragment_offset", field.HAS_FRAGMENT),
    ("tcp_seq", field.HAS_TCP),
    ("tcp_ack", field.HAS_TCP),
    ("tcp_flags", field.HAS_TCP),
    ("icmp_type", field.HAS_ICMP),
    ("icmp_code", field.HAS_ICMP),
    ("icmp_id", field.HAS_ECHO),
    ("icmp_seq", field.HAS_ECHO),
    ("payload_length", field.HAS_PAYLOAD),
    ("vlan", field.HAS_VLAN),
    ("digest", field.HAS_IP),
)


def nullable(rows: np.ndarray[Any, Any], name: str, bit: int) -> np.ma.MaskedArray[Any, Any]:
    """One field of the rows, masked where the packet has no such field."""
    return np.ma.MaskedArray(np.ascontiguousarray(rows[name]), rows["has"] & bit == 0)


def observations_table(observations: Observations, owner: np.ndarray[Any, Any] | None = None) -> pa.Table:
    """The table of the design, section 6.

    Args:
        owner: int64 per row, the trajectory that owns it or -1; None where nothing was followed.
    """
    return rows_table(observations.rows, observations.points, observations.captures, observations.tunnels, owner)


def rows_table(
    rows: np.ndarray[Any, Any],
    points: Sequence[str],
    captures: Sequence[str],
    tunnels: Sequence[str],
    owner: np.ndarray[Any, Any] | None = None,
) -> pa.Table:
    """Rows (ROW) as the observations table; the names are those that `point`, `capture` and `tunnel` number."""
    source, destination = address_columns(rows)
    owner = np.full(len(rows), -1, np.int64) if owner is None else owner
    flags = (rows["more_fragments"] != 0, rows["has"] & field.HAS_FRAGMENT == 0)
    values: dict[str, Any] = {
        "point": schema.words(rows["point"], points),
        "capture": schema.words(rows["capture"], captures),
        "frame": rows["frame"],
        "byte_offset": rows["byte_offset"],
        "ts_ns": nullable(rows, "ts_ns", field.HAS_TIME),
        "captured_length": rows["captured_length"],
        "length": rows["length"],
        "source": source,
        "destination": destination,
        "more_fragments": np.ma.MaskedArray(*flags),
        "tunnel": schema.words(rows["tunnel"].astype(np.int64) - 1, tunnels),
        "trajectory": np.ma.MaskedArray(owner, owner < 0),
    }
    values.update({name: nullable(rows, name, bit) for name, bit in _FIELDS})
    return schema.OBSERVATIONS.build(values)


def address_columns(rows: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Source and destination as dictionary strings over one common, sorted dictionary."""
    count = len(rows)
    high = np.concatenate([rows["source_high"], rows["destination_high"]])
    low = np.concatenate([rows["source_low"], rows["destination_low"]])
    version = np.concatenate([rows["ip_version"], rows["ip_version"]])
    order = np.lexsort((low, high, version))
    new = np.ones(2 * count, bool)
    new[1:] = (np.diff(low[order]) != 0) | (np.diff(high[order]) != 0) | (np.diff(version[order]) != 0)
    code = np.empty(2 * count, np.int32)
    code[order] = np.cumsum(new) - 1
    first = order[new]
    texts = [address_text(int(version[index]), int(high[index]), int(low[index])) for index in first.tolist()]
    absent = rows["has"] & field.HAS_IP == 0
    return schema.coded(code[:count], absent, texts), schema.coded(code[count:], absent, texts)
