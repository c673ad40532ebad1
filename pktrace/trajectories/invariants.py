"""Invariant fields, as hashes per row: the fields that a rewrite, or a change of the payload, leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pktrace.decode.identity import mixed
from pktrace.decode.rows import Fielded
from pktrace.protocols import ICMP, ICMPV6
from pktrace.trajectories.fields import made_once
from pktrace.trajectories.flows import flow_of, side_of

Array = np.ndarray[Any, Any]
Invariants = Callable[[Fielded], Array]
_ECHO_REQUEST, _ECHO_REPLY, _ECHO_REQUEST_6, _ECHO_REPLY_6 = 8, 0, 128, 129


def numbers(rows: Fielded) -> tuple[Array, ...]:
    """The columns that neither a rewrite of headers nor a change of the payload touches."""
    kind = rows["protocol"].astype(np.uint64)
    icmp_type = rows["icmp_type"].astype(np.uint64)
    six = kind == ICMPV6
    if six.any():
        kind[six] = ICMP
        # A translator from IPv6 to IPv4 turns an echo into an echo (RFC 7915 4.2 and 5.2).
        icmp_type[six & (icmp_type == _ECHO_REQUEST_6)] = _ECHO_REQUEST
        icmp_type[six & (icmp_type == _ECHO_REPLY_6)] = _ECHO_REPLY
    return (
        kind, rows["tcp_seq"], rows["tcp_ack"], rows["tcp_flags"], icmp_type, rows["icmp_code"],
        rows["icmp_seq"], rows["fragment_offset"], rows["more_fragments"],
    )  # fmt: skip


def of_rewrite(rows: Fielded) -> Array:
    """The invariants under a rewrite of the headers."""
    return mixed(*numbers(rows), rows["tcp_window"], rows["payload_length"], rows["content"], rows["mark"])


def of_rewrite_with_id(rows: Fielded) -> Array:
    """The same, if the IP ID stays, too."""
    return mixed(made_once(rows, of_rewrite), rows["ip_id"])


def of_rewritten_source(rows: Fielded) -> Array:
    """The same, if only the source is rewritten."""
    return mixed(made_once(rows, of_rewrite), *side_of(rows, "destination"))


def of_rewritten_destination(rows: Fielded) -> Array:
    """The same, if only the destination is rewritten."""
    return mixed(made_once(rows, of_rewrite), *side_of(rows, "source"))


def of_rewritten_addresses(rows: Fielded) -> Array:
    """The same, if ports and ICMP identifiers stay."""
    return mixed(made_once(rows, of_rewrite), rows["sport"], rows["dport"], rows["icmp_id"])


def of_change(rows: Fielded) -> Array:
    """The invariants under a change of the payload."""
    return mixed(*numbers(rows), made_once(rows, flow_of), rows["ip_id"])


def of_beginning(rows: Fielded) -> Array:
    """The invariants that a datagram and its first fragment or segment share, behind a rewrite, too."""
    return mixed(rows["protocol"], rows["ip_id"], rows["fragment_offset"], rows["content"])


def of_cut(rows: Fielded) -> Array:
    """The invariants of a rewritten packet whose transport header the capture has cut off."""
    length = rows["ip_end"].astype(np.int64) - rows["l4"]
    return mixed(rows["protocol"], length, rows["ip_id"], rows["fragment_offset"], rows["more_fragments"])
