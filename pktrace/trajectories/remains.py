"""What a change on the way leaves alone, as hashes per row: flows, and remains of rewritten and modified packets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pktrace.decode.identity import mixed
from pktrace.decode.rows import Fielded
from pktrace.trajectories.columns import in_pieces
from pktrace.trajectories.fields import Picked

Array = np.ndarray[Any, Any]
Remains = Callable[[Fielded], Array]
_ICMP, _ICMPV6 = 1, 58
_ECHO_REQUEST, _ECHO_REPLY, _ECHO_REQUEST_6, _ECHO_REPLY_6 = 8, 0, 128, 129


def flows_of(rows: Array) -> Array:
    """`flow_of` of many rows."""
    found = np.empty(len(rows), np.uint64)

    def some(span: slice) -> None:
        found[span] = flow_of(rows[span])

    for _ in in_pieces(len(rows), some):
        pass
    return found


def flow_of(rows: Fielded, answering: bool = False) -> Array:
    """A hash per row of protocol, addresses and ports; of ICMP queries the identifier stands for the ports.

    Args:
        answering: of the flow in the other direction.
    """
    source, destination, sport, dport = "source", "destination", "sport", "dport"
    if answering:
        source, destination, sport, dport = destination, source, dport, sport
    return mixed(
        rows["protocol"], rows[f"{source}_high"], rows[f"{source}_low"], rows[f"{destination}_high"],
        rows[f"{destination}_low"], rows[sport], rows[dport], rows["icmp_id"],
    )  # fmt: skip


def stays_on_its_link(rows: Fielded) -> Array:
    """bool per row: link-local, which no router forwards (RFC 3927 7, RFC 4291 2.5.6), also of multicast.

    That is 224.0.0.0/24 (RFC 5771 4), 239.255.0.0/16 (RFC 2365 6.1), and of IPv6 the scopes up to 3 (RFC 4291 2.7, RFC
    7346 2). What other groups are sent may be translated as anything else.
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


def made_once(rows: Fielded, of: Remains) -> Array:
    """What a function makes of some rows; picked ones keep it."""
    return rows.once(of) if isinstance(rows, Picked) else of(rows)


def answering_flow_of(rows: Fielded) -> Array:
    """`flow_of` in the other direction."""
    return flow_of(rows, answering=True)


def numbers(rows: Fielded) -> tuple[Array, ...]:
    """The columns that neither a rewrite of headers nor a change of the payload touches."""
    kind = rows["protocol"].astype(np.uint64)
    icmp_type = rows["icmp_type"].astype(np.uint64)
    six = kind == _ICMPV6
    if six.any():
        kind[six] = _ICMP
        # What translates IPv6 to IPv4 makes an echo of an echo (RFC 7915 4.2 and 5.2).
        icmp_type[six & (icmp_type == _ECHO_REQUEST_6)] = _ECHO_REQUEST
        icmp_type[six & (icmp_type == _ECHO_REPLY_6)] = _ECHO_REPLY
    return (
        kind, rows["tcp_seq"], rows["tcp_ack"], rows["tcp_flags"], icmp_type, rows["icmp_code"],
        rows["icmp_seq"], rows["fragment_offset"], rows["more_fragments"],
    )  # fmt: skip


def of_rewrite(rows: Fielded) -> Array:
    """What a rewrite of the headers leaves alone."""
    return mixed(*numbers(rows), rows["tcp_window"], rows["payload_length"], rows["content"], rows["mark"])


def of_rewrite_with_id(rows: Fielded) -> Array:
    """The same where the IP ID stays, too."""
    return mixed(made_once(rows, of_rewrite), rows["ip_id"])


def of_rewritten_source(rows: Fielded) -> Array:
    """The same where nothing but the source is rewritten."""
    return mixed(made_once(rows, of_rewrite), *side_of(rows, "destination"))


def of_rewritten_destination(rows: Fielded) -> Array:
    """The same where nothing but the destination is rewritten."""
    return mixed(made_once(rows, of_rewrite), *side_of(rows, "source"))


def of_rewritten_addresses(rows: Fielded) -> Array:
    """The same where ports, and ICMP identifiers, stay."""
    return mixed(made_once(rows, of_rewrite), rows["sport"], rows["dport"], rows["icmp_id"])


def of_change(rows: Fielded) -> Array:
    """What a change of the payload leaves alone."""
    return mixed(*numbers(rows), made_once(rows, flow_of), rows["ip_id"])


def of_beginning(rows: Fielded) -> Array:
    """What a datagram has in common with its first fragment or segment, behind a rewrite, too."""
    return mixed(rows["protocol"], rows["ip_id"], rows["fragment_offset"], rows["content"])


def of_cut(rows: Fielded) -> Array:
    """What a rewrite leaves alone of a packet whose transport header the capture has cut."""
    length = rows["ip_end"].astype(np.int64) - rows["l4"]
    return mixed(rows["protocol"], length, rows["ip_id"], rows["fragment_offset"], rows["more_fragments"])


def side_of(rows: Fielded, side: str) -> tuple[Array, Array, Array]:
    """Address and port of the source or the destination."""
    return rows[f"{side}_high"], rows[f"{side}_low"], rows["sport" if side == "source" else "dport"]
