"""Compare the two sightings of packets at the ends of a stage, field by field, and count pairs of values."""

from __future__ import annotations

import numpy as np

from pktrace.compiled import inlined, kernel
from pktrace.decode import changeable as more
from pktrace.decode import rows as field

# One bit per kind of change; their order has no meaning.
(
    TTL, DSCP, ECN, SOURCE, DESTINATION, SOURCE_PORT, DESTINATION_PORT, ICMP_ID, IP_ID, VLAN_PUSH, VLAN_POP,
    VLAN_CHANGE, TUNNEL, CHECKSUM_COMPLETION, CHECKSUM_REMOVAL, PAYLOAD, MSS, OPTIONS, WINDOW, FLAGS, SEQUENCE,
    ACKNOWLEDGMENT, MAC_SOURCE, MAC_DESTINATION, SPLIT, MERGE, FRAGMENTATION, REASSEMBLY,
) = (np.uint32(1 << number) for number in range(28))  # fmt: skip
_NOTHING = np.uint32(0)


@inlined
def _network(before, after, change):
    """Addresses, and the fields that routers rewrite."""
    if before["ip_version"] != after["ip_version"]:
        change |= SOURCE | DESTINATION
    if before["source_high"] != after["source_high"] or before["source_low"] != after["source_low"]:
        change |= SOURCE
    if (
        before["destination_high"] != after["destination_high"]
        or before["destination_low"] != after["destination_low"]
    ):  # fmt: skip
        change |= DESTINATION
    if before["ttl"] != after["ttl"]:
        change |= TTL
    if before["dscp"] != after["dscp"]:
        change |= DSCP
    return change


@inlined
def _transport(before, after, both, parted, change):
    """Ports; in packets that stay whole, also the rest of the transport header, the IP ID and the payload.

    A part of a packet, and a merged frame, have numbers, flags and IP IDs of their own.
    """
    if both & field.HAS_PORTS:
        if before["sport"] != after["sport"]:
            change |= SOURCE_PORT
        if before["dport"] != after["dport"]:
            change |= DESTINATION_PORT
    if both & field.HAS_ECHO and before["icmp_id"] != after["icmp_id"]:
        change |= ICMP_ID
    if parted:
        return change
    if both & field.HAS_ID and before["ip_id"] != after["ip_id"]:
        change |= IP_ID
    if before["identity"] == after["identity"]:
        return change
    if both & field.HAS_TCP:
        if before["tcp_window"] != after["tcp_window"]:
            change |= WINDOW
        if before["tcp_flags"] != after["tcp_flags"]:
            change |= FLAGS
        if before["tcp_seq"] != after["tcp_seq"]:
            change |= SEQUENCE
        if before["tcp_ack"] != after["tcp_ack"]:
            change |= ACKNOWLEDGMENT
    if before["content"] != after["content"] or before["payload_length"] != after["payload_length"]:
        change |= PAYLOAD
    return change


@inlined
def _unkept(before, after, parted, change):
    """Fields that rows do not keep (CHANGEABLE): compared if both captures have them."""
    both = before["known"] & after["known"]
    if both & more.MAC_SOURCE and before["mac_source"] != after["mac_source"]:
        change |= MAC_SOURCE
    if both & more.MAC_DESTINATION and before["mac_destination"] != after["mac_destination"]:
        change |= MAC_DESTINATION
    if both & more.ECN and before["ecn"] != after["ecn"]:
        change |= ECN
    if not parted:
        if both & more.MSS and before["mss"] != after["mss"]:
            change |= MSS
        if both & more.OPTIONS and before["options"] != after["options"]:
            change |= OPTIONS
    return change


@kernel
def compare_sightings(rows, unkept, before, after, parted, changes):
    """The changes of each packet from one sighting to another, as bits.

    Args:
        rows: ROW; unkept: CHANGEABLE, one per row; before, after: int64 row numbers, one each per packet; parted: bool
        per packet, it is not whole in one frame of its own at both; changes: uint32, filled.
    """
    for number in range(len(before)):
        old = rows[before[number]]
        new = rows[after[number]]
        old_unkept = unkept[before[number]]
        new_unkept = unkept[after[number]]
        change = _NOTHING
        both = old["has"] & new["has"]
        if both & field.HAS_IP:
            change = _network(old, new, change)
            change = _transport(old, new, both, parted[number], change)
        if not both & field.HAS_VLAN:
            if old["has"] & field.HAS_VLAN:
                change |= VLAN_POP
            elif new["has"] & field.HAS_VLAN:
                change |= VLAN_PUSH
        elif (old["has"] ^ new["has"]) & field.STACKED_VLANS:
            change |= VLAN_POP if old["has"] & field.STACKED_VLANS else VLAN_PUSH
        elif old["vlan"] != new["vlan"]:
            change |= VLAN_CHANGE
        if old["tunnel"] != new["tunnel"]:
            change |= TUNNEL
        partial = old["has"] & field.PARTIAL_CHECKSUM and not old_unkept["known"] & more.CHECKED
        still = new["has"] & field.PARTIAL_CHECKSUM and not new_unkept["known"] & more.CHECKED
        if partial and not still:
            change |= CHECKSUM_COMPLETION
        elif still and not partial:
            change |= CHECKSUM_REMOVAL
        changes[number] = _unkept(old_unkept, new_unkept, parted[number], change)


@kernel
def count_distinct(keys, first, counts):
    """Count equal keys, as long as `first` has room for all distinct ones.

    Args:
        keys: uint64 hashes; first: int64, filled with the place of the first of each; counts: int64, filled.

    Returns:
        The number of distinct keys, or -1 for too many.
    """
    room = len(first)
    size = np.int64(4)
    while size < 4 * room:
        size *= 2
    slots = np.full(size, -1, np.int64)
    found = np.int64(0)
    for number in range(len(keys)):
        place = np.int64(keys[number] & np.uint64(size - 1))
        while slots[place] >= 0 and keys[first[slots[place]]] != keys[number]:
            place = (place + 1) & (size - 1)
        if slots[place] < 0:
            if found == room:
                return np.int64(-1)
            slots[place] = found
            first[found] = number
            counts[found] = 0
            found += 1
        counts[slots[place]] += 1
    return found
