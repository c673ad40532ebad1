"""Packets that fit a condition (a rule, or the `match` of a path), by their decoded headers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.run.model import Condition, Network

_PORTS_MEAN = (6, 17)
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def protocols_of(condition: Condition) -> tuple[int, ...] | None:
    """The protocols that fit a condition; None if it does not ask for one."""
    if condition.protocols is None and (condition.sports is not None or condition.dports is not None):
        return _PORTS_MEAN
    return condition.protocols


def fits(condition: Condition, rows: np.ndarray[Any, Any]) -> Mask:
    """Boolean per row: every field that the condition names fits by any of its values.

    A packet without ports (a later fragment, ICMP) never fits a condition that names ports; ports without a protocol
    mean TCP and UDP ports; types mean ICMP in IPv4 and ICMPv6 in IPv6 (the decoder also reads ICMP in IPv6 and ICMPv6
    in IPv4, a filter does not); non-IP never fits; `vlan` is the outermost tag, `tunnel_id` the number of the innermost
    tunnel.
    """
    found: Mask = rows["has"] & field.HAS_IP != 0
    protocols = protocols_of(condition)
    if protocols is not None:
        found &= np.isin(rows["protocol"], protocols)
    for networks, name in ((condition.sources, "source"), (condition.destinations, "destination")):
        if networks is not None:
            found &= _in_networks(networks, rows, name)
    for ranges, name, bit in (
        (condition.sports, "sport", field.HAS_PORTS),
        (condition.dports, "dport", field.HAS_PORTS),
        (condition.icmp_types, "icmp_type", field.HAS_ICMP),
        (condition.vlans, "vlan", field.HAS_VLAN),
        (condition.tunnel_ids, "tunnel_id", field.HAS_TUNNEL_ID),
    ):
        if ranges is not None:
            found &= rows["has"] & bit != 0
            if bit == field.HAS_ICMP:
                found &= _of_its_version(rows)
            found &= _in_ranges(ranges, rows[name])
    return found


def _of_its_version(rows: np.ndarray[Any, Any]) -> Mask:
    """ICMP in IPv4, ICMPv6 in IPv6."""
    six: Mask = rows["ip_version"] == 6
    found: Mask = rows["protocol"] == np.where(six, 58, 1)
    return found


def _in_networks(networks: Iterable[Network], rows: np.ndarray[Any, Any], name: str) -> Mask:
    found = np.zeros(len(rows), bool)
    for network in networks:
        inside = rows["ip_version"] == network.version
        inside &= rows[f"{name}_high"] & np.uint64(network.mask_high) == np.uint64(network.high)
        inside &= rows[f"{name}_low"] & np.uint64(network.mask_low) == np.uint64(network.low)
        found |= inside
    return found


def _in_ranges(ranges: Iterable[tuple[int, int]], values: np.ndarray[Any, Any]) -> Mask:
    found = np.zeros(len(values), bool)
    for low, high in ranges:
        found |= (values >= low) & (values <= high)
    return found
