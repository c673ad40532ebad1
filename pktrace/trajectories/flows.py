"""Flows of rows, as hashes, and the header fields that identify a packet in its flow."""

from __future__ import annotations

from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.identity import group_numbers, mixed
from pktrace.decode.rows import Fielded
from pktrace.protocols import ACK, SYN, TCP
from pktrace.trajectories.columns import in_pieces
from pktrace.trajectories.fields import made_once

Array = np.ndarray[Any, Any]
HOSTS = ("protocol", "source_high", "source_low", "destination_high", "destination_low")  # from one host to another


def flows_of(rows: Array) -> Array:
    """`flow_of` for many rows."""
    found = np.empty(len(rows), np.uint64)

    def some(span: slice) -> None:
        found[span] = flow_of(rows[span])

    for _ in in_pieces(len(rows), some):
        pass
    return found


def flow_of(rows: Fielded, answering: bool = False) -> Array:
    """A hash per row of protocol, addresses and ports; for ICMP queries the identifier stands for the ports.

    Args:
        answering: the flow in the other direction.
    """
    source, destination, sport, dport = "source", "destination", "sport", "dport"
    if answering:
        source, destination, sport, dport = destination, source, dport, sport
    return mixed(
        rows["protocol"], rows[f"{source}_high"], rows[f"{source}_low"], rows[f"{destination}_high"],
        rows[f"{destination}_low"], rows[sport], rows[dport], rows["icmp_id"],
    )  # fmt: skip


def answering_flow_of(rows: Fielded) -> Array:
    """`flow_of` in the other direction."""
    return flow_of(rows, answering=True)


def hash_of(rows: Array, names: tuple[str, ...], which: Array | None = None) -> Array:
    """uint64 per row, for all or some rows: a hash of these columns."""
    return mixed(*(rows[name] if which is None else rows[name][which] for name in names))


def side_of(rows: Fielded, side: str) -> tuple[Array, Array, Array]:
    """Address and port of the source or the destination."""
    return rows[f"{side}_high"], rows[f"{side}_low"], rows["sport" if side == "source" else "dport"]


def stays_on_its_link(rows: Fielded) -> Array:
    """bool per row: a link-local packet, which no router forwards (RFC 3927 7, RFC 4291 2.5.6), multicast included.

    Link-local multicast is 224.0.0.0/24 (RFC 5771 4), 239.255.0.0/16 (RFC 2365 6.1), and the IPv6 scopes up to 3 (RFC
    4291 2.7, RFC 7346 2). Packets to other groups may be translated as any others.
    """
    six = rows["ip_version"] == 6
    found = np.zeros(len(rows), bool)
    for side in ("source", "destination"):
        high, low = rows[f"{side}_high"], rows[f"{side}_low"]
        found |= six & ((high >> np.uint64(54)) == np.uint64(0xFE80 >> 6))
        found |= ~six & ((low >> np.uint64(16)) == np.uint64(0xA9FE))
    group = rows["destination_high"] >> np.uint64(48)
    found |= six & (group >> np.uint64(8) == np.uint64(0xFF)) & (group & np.uint64(0xF) <= np.uint64(3))
    low = rows["destination_low"]
    found |= ~six & ((low >> np.uint64(8) == np.uint64(0xE00000)) | (low >> np.uint64(16) == np.uint64(0xEFFF)))
    return found


def is_opening(rows: Fielded) -> Array:
    """bool per row: a SYN, whose 32-bit number is drawn at random (RFC 9293 3.4.1)."""
    opening = (rows["protocol"] == TCP) & (rows["tcp_flags"] & (SYN | ACK) == SYN)
    found: Array = opening & (rows["tcp_seq"] > 1)
    return found


def is_numbered(rows: Fielded) -> Array:
    """bool per row: a TCP segment with both numbers above 1 (the RST of a refused SYN has 0 and 1)."""
    found: Array = (rows["protocol"] == TCP) & (rows["tcp_seq"] > 1) & (rows["tcp_ack"] > 1)
    return found


def has_id(rows: Fielded) -> Array:
    """bool per row: an IP ID that is not 0."""
    found: Array = (rows["has"] & field.HAS_ID != 0) & (rows["ip_id"] != 0)
    return found


def has_its_own_id(rows: Fielded) -> Array:
    """bool per row: the IP ID is not 0, and no other of these rows of the same flow has it."""
    of = group_numbers(made_once(rows, flow_of), rows["ip_id"], rows["fragment_offset"])
    found: Array = (rows["ip_id"] != 0) & (np.bincount(of)[of] == 1)
    return found
