"""From the packet index to rows: link layer, network, tunnels, transport, digest, in one pass over a batch."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import kernel
from pktrace.decode.digest import UNBOUNDED, digest_of
from pktrace.decode.link import CUT, HIDDEN, IPV4, IPV6, NSH, UNKNOWN, link_layer, to_network
from pktrace.decode.network import ipv4, ipv6
from pktrace.decode.rows import (
    BAD_TIME,
    CUT_HEADER,
    HAS_IP,
    HAS_PACKET_ID,
    HAS_PAYLOAD,
    HAS_TCP,
    HAS_TIME,
    HIDDEN_PACKET,
    NOT_IP,
    PARTIAL_CHECKSUM,
    UNKNOWN_LINK,
)
from pktrace.decode.transport import transport
from pktrace.decode.tunnels import ROOM, Tunnels, descend, may_carry
from pktrace.protocols import AH, TCP
from pktrace.wire import CHECKSUM_NOT_READY, NO_TIME, OUT_OF_RANGE, PACKET_ID, byte, memory


@kernel
def decode(data, base, packets, link_types, rows, entries, slots, tunnels, secret, first):
    """Decode the packets of one batch.

    Args:
        data, base, packets: the batch; link_types: int64, one per interface;
        rows: ROW, zeroed, one per packet, filled here (all fields but point and capture);
        entries, slots, tunnels: the file's table of tunnels (its entries, hash table and count);
        secret: as in identity.py; first: the packet to begin with.

    Returns:
        The number of decoded packets: all, unless the table of tunnels needs more room.
    """
    source, key = memory(data), memory(secret)
    table = Tunnels(entries, slots, tunnels, np.empty((ROOM, 2), np.int64))
    for number in range(first, len(packets)):
        if tunnels[0] + ROOM > len(entries):
            return number
        packet = packets[number]
        row = rows[number]
        start = packet["offset"]
        captured = np.int64(packet["captured"])
        limit = start + captured
        row["frame"] = packet["frame"]
        row["byte_offset"] = base + start
        row["captured_length"] = captured
        row["length"] = packet["length"]
        row["direction"] = packet["direction"]
        row["interface"] = packet["interface"]
        row["ifindex"] = packet["ifindex"]
        ts = packet["ts"]
        row["ts_ns"] = ts
        has = np.uint32(0)
        if ts == OUT_OF_RANGE:
            has |= np.uint32(BAD_TIME)
        elif ts != NO_TIME:
            has |= np.uint32(HAS_TIME)
        marks = packet["marks"]
        if marks:
            if marks & PACKET_ID:
                row["packet_id"] = packet["packet_id"]
                has |= np.uint32(HAS_PACKET_ID)
            if marks & CHECKSUM_NOT_READY:
                has |= np.uint32(PARTIAL_CHECKSUM)
        row["has"] = has
        kind, at = link_layer(source, start, limit, link_types[packet["interface"]], row)
        kind, at = to_network(source, at, limit, kind, row)
        below = np.int64(-1)
        if kind == IPV4:
            below = ipv4(source, start, at, limit, np.int64(row["length"]), row)
        elif kind == IPV6:
            below = ipv6(source, start, at, limit, np.int64(row["length"]), row)
        if kind == NSH or (below >= 0 and row["protocol"] != TCP and may_carry(source, below, limit, row["protocol"])):
            below, limit = descend(source, start, below if kind != NSH else at, limit, kind, row, table, key)
        if below < 0:
            if not row["has"] & HAS_IP:
                if kind == UNKNOWN:
                    row["has"] |= UNKNOWN_LINK
                elif kind == HIDDEN:
                    row["has"] |= HIDDEN_PACKET
                elif kind == CUT:
                    row["has"] |= CUT_HEADER
                elif kind != IPV4 and kind != IPV6:
                    row["has"] |= NOT_IP
                continue
        else:
            row["l4"] = below - start
            ip_end = np.int64(row["ip_end"])
            payload = below
            known = True
            if row["fragment_offset"] == 0:
                end = min(limit, start + ip_end)
                cut = limit < start + ip_end
                protocol = np.int64(row["protocol"])
                if protocol == AH and row["ip_version"] == 4:
                    if below + 8 <= end:
                        protocol = byte(source, below)
                        below += (byte(source, below + 1) + 2) * 4
                    elif cut:
                        row["has"] |= CUT_HEADER
                        known = False
                payload = transport(source, below, end, cut, protocol, row)
                # Without the data offset the end of a TCP header is unknown.
                known = known and (protocol != TCP or row["has"] & HAS_TCP != 0)
            row["payload"] = payload - start
            if known and payload - start <= ip_end:
                row["has"] |= HAS_PAYLOAD
                row["payload_length"] = ip_end - (payload - start)
        digest_of(source, start, row, UNBOUNDED, key)
    return len(packets)
