"""The observations table: decoded rows as columns with nulls, addresses as dictionary strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pktrace import schema
from pktrace.decode import details as detail
from pktrace.decode import rows as field
from pktrace.decode.addresses import number_addresses
from pktrace.decode.identity import secret
from pktrace.observations.observe import Observations
from pktrace.observations.tunnels import address_text
from pktrace.protocols import TCP

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
    """The observations table (docs/tables.md).

    Args:
        owner: int64 per row, the trajectory that owns it or -1; None if nothing was followed.
    """
    return rows_table(observations.rows, observations.points, observations.captures, observations.tunnels, owner)


def rows_table(
    rows: np.ndarray[Any, Any],
    points: Sequence[str],
    captures: Sequence[str],
    tunnels: Sequence[str],
    owner: np.ndarray[Any, Any] | None = None,
) -> pa.Table:
    """Rows (ROW) as the observations table; `points`, `captures` and `tunnels` are the names that the row fields
    `point`, `capture` and `tunnel` index.
    """
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
    absent = rows["has"] & field.HAS_IP == 0
    source, destination = ((rows[f"{end}_high"], rows[f"{end}_low"]) for end in ("source", "destination"))
    return _address_pair(rows["ip_version"], source, destination, absent)


def _address_pair(
    version: np.ndarray[Any, Any],
    source: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
    destination: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
    absent: np.ndarray[Any, Any],
) -> tuple[Any, Any]:
    count = len(version)
    high = np.concatenate([source[0], destination[0]])
    low = np.concatenate([source[1], destination[1]])
    version = np.concatenate([version, version])
    code = np.empty(2 * count, np.int32)
    first = np.empty(2 * count, np.int64)
    slots = np.zeros(1 << max(4, (4 * count).bit_length()), np.int32)
    left_out = np.concatenate([absent, absent])
    first = first[: number_addresses(version, high, low, left_out, secret(), slots, code, first)]
    order = np.lexsort((low[first], high[first], version[first]))
    rank = np.zeros(max(1, len(first)), np.int32)
    rank[order] = np.arange(len(first))
    entries = first[order].tolist()
    texts = [address_text(int(version[entry]), int(high[entry]), int(low[entry])) for entry in entries]
    return schema.coded(rank[code[:count]], absent, texts), schema.coded(rank[code[count:]], absent, texts)


_DETAIL_FIELDS = (
    ("tcp_mss", detail.HAS_MSS),
    ("tcp_window_scale", detail.HAS_SCALE),
    ("tcp_sack_left", detail.HAS_SACK),
    ("tcp_sack_right", detail.HAS_SACK),
    ("tcp_tsval", detail.HAS_TIMESTAMPS),
    ("tcp_tsecr", detail.HAS_TIMESTAMPS),
    ("spi", detail.HAS_SPI),
    ("sequence", detail.HAS_SPI),
    ("sctp_tag", detail.HAS_TAG),
    ("quoted_protocol", detail.HAS_QUOTED),
    ("quoted_ip_id", detail.HAS_QUOTED_ID),
    ("quoted_sport", detail.HAS_QUOTED_PORTS),
    ("quoted_dport", detail.HAS_QUOTED_PORTS),
    ("igmp_type", detail.HAS_IGMP),
    ("queue", detail.HAS_QUEUE),
    ("verdict_type", detail.HAS_VERDICT),
    ("verdict", detail.HAS_VERDICT),
)


def with_details(table: pa.Table, rows: np.ndarray[Any, Any], found: np.ndarray[Any, Any]) -> pa.Table:
    """The observations table with the columns of schema.DETAILS; `found` (DETAIL) has an entry per row."""
    values: dict[str, Any] = {name: nullable(found, name, bit) for name, bit in _DETAIL_FIELDS}
    quoted = found["has"] & detail.HAS_QUOTED == 0
    source, destination = (
        (found[f"quoted_{end}_high"], found[f"quoted_{end}_low"]) for end in ("source", "destination")
    )
    pair = _address_pair(found["quoted_version"], source, destination, quoted)
    values["quoted_source"], values["quoted_destination"] = pair
    groups, place = np.unique(found["igmp_group"], return_inverse=True)
    group_texts = [address_text(4, 0, group) for group in groups.tolist()]
    values["igmp_group"] = schema.coded(place, found["has"] & detail.HAS_GROUP == 0, group_texts)
    tcp = (rows["protocol"] == TCP) & (rows["has"] & field.HAS_TCP != 0)
    values["tcp_sack_permitted"] = np.ma.MaskedArray(found["has"] & detail.HAS_SACK_PERMITTED != 0, ~tcp)
    values["interface_id"] = rows["interface"]
    values["interface_index"] = np.ma.MaskedArray(np.ascontiguousarray(rows["ifindex"]), rows["ifindex"] == 0)
    direction = rows["direction"].astype(np.int64)
    values["direction"] = schema.coded(np.clip(direction - 1, 0, 1), (direction == 0) | (direction > 2), ["in", "out"])
    values["packet_id"] = nullable(rows, "packet_id", field.HAS_PACKET_ID)
    for column in schema.DETAILS:
        kind = pa.field(column.name, column.type, metadata={"description": column.sentence})
        table = table.append_column(kind, schema.as_arrow(values[column.name], column.type))
    return table
