"""The decoded row: the fields that the kernels write for each packet, and the bits of the fields that it has."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

# Addresses are two 64 bit halves; an IPv4 address is in the low half. `l3`, `l4` and `payload` are offsets from the
# packet's first captured byte; `ip_end` is the end of the packet by its IP header, which excludes padding. `digest`
# covers the invariant bytes of a packet, and is written into tables; anybody can forge it. `identity` covers the same
# bytes and `content` only the first payload bytes, both with a secret key: they decide that packets are the same
# (decode/digest.py, identity.py). They are worth nothing outside of the process, and their order means nothing. `mark`
# is 0 until further bytes distinguish packets with equal keys (trajectories/placing/ties.py). `inner_tags` is a sum of
# the other tags that separate tenants: VLANs below the outermost, PPPoE sessions, last MPLS labels. `tunnel` is 1 + the
# number of the innermost entry of the file's tunnel table (decode/tunnels.py), 0 for none.
ROW = np.dtype(
    [
        ("frame", np.int64),
        ("byte_offset", np.int64),
        ("ts_ns", np.int64),
        ("source_high", np.uint64),
        ("source_low", np.uint64),
        ("destination_high", np.uint64),
        ("destination_low", np.uint64),
        ("digest", np.uint64),
        ("identity", np.uint64),
        ("content", np.uint64),
        ("packet_id", np.uint64),
        ("mark", np.uint64),
        ("captured_length", np.uint32),
        ("length", np.uint32),
        ("has", np.uint32),
        ("ip_id", np.uint32),
        ("tcp_seq", np.uint32),
        ("tcp_ack", np.uint32),
        ("payload_length", np.uint32),
        ("l3", np.uint32),
        ("l4", np.uint32),
        ("payload", np.uint32),
        ("ip_end", np.uint32),
        ("tunnel", np.uint32),
        ("tunnel_id", np.uint32),
        ("inner_tags", np.uint32),
        ("ifindex", np.uint32),
        ("point", np.int32),
        ("capture", np.int32),
        ("interface", np.int32),
        ("sport", np.uint16),
        ("dport", np.uint16),
        ("fragment_offset", np.uint16),
        ("tcp_flags", np.uint16),
        ("icmp_id", np.uint16),
        ("icmp_seq", np.uint16),
        ("tcp_window", np.uint16),
        ("vlan", np.uint16),
        ("ip_version", np.uint8),
        ("protocol", np.uint8),
        ("ttl", np.uint8),
        ("dscp", np.uint8),
        ("more_fragments", np.uint8),
        ("icmp_type", np.uint8),
        ("icmp_code", np.uint8),
        ("direction", np.uint8),
    ],
    align=True,
)

# NumPy copies records field by field; as opaque bytes the same copies take a sixth of the time.
OPAQUE = np.dtype((np.void, ROW.itemsize))


def rows_at(rows: np.ndarray[Any, Any], which: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A copy of the rows that `which` selects by number or mask."""
    found: np.ndarray[Any, Any] = rows.view(OPAQUE)[which].view(ROW)
    return found


class Fielded(Protocol):
    """An object with fields by name: rows, or a part of them."""

    def __getitem__(self, name: str, /) -> np.ndarray[Any, Any]: ...

    def __len__(self) -> int: ...


def is_fragment(rows: Fielded) -> np.ndarray[Any, Any]:
    """bool per row: an IP fragment, the first one of its datagram or a later one."""
    found: np.ndarray[Any, Any] = (rows["fragment_offset"] > 0) | (rows["more_fragments"] > 0)
    return found


# Bits of `has`: the groups of fields that a packet has, and the extent of its decoding.
HAS_TIME = 1
HAS_IP = 2
HAS_ID = 4
HAS_FRAGMENT = 8
HAS_PORTS = 16
HAS_TCP = 32
HAS_ICMP = 64
HAS_ECHO = 128
HAS_PAYLOAD = 256
HAS_VLAN = 512
NOT_IP = 1024
CUT_HEADER = 2048
MALFORMED = 4096
UNKNOWN_LINK = 8192
BAD_TIME = 16384
HAS_PACKET_ID = 32768
NO_DIRECTION = 65536  # the point asks for a direction, and the file does not give the packet's direction
HIDDEN_PACKET = 262144  # an 802.11 data frame that is encrypted, a later fragment, or an aggregate
PARTIAL_CHECKSUM = 131072  # the checksum field holds the pseudo-header's sum, or the file marks it as not ready
HAS_TUNNEL_ID = 1048576  # of the innermost tunnel: VNI, TEID, key, label and the like
STACKED_VLANS = 524288  # a further VLAN tag behind the one in `vlan`
