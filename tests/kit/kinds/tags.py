"""Tenants with the same addresses: their packets differ in nothing but a VLAN, a VNI, a TEID or a GRE key."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tests.kit import tunnels
from tests.kit.kinds.model import Kind, Sent, datagram, ip4, ip_id, payload
from tests.kit.packets import ETHERTYPE_IPV4

_OUTER = ("192.0.2.1", "192.0.2.2")
_GRE, _ETHERNET = 47, 14


def _inner(number: int) -> bytes:
    return datagram("10.0.0.1", "10.0.0.2", 1000, 2000, payload(number), ip_id(number))


def _tagged(frame: bytes, vlan: int) -> bytes:
    return frame[:12] + struct.pack("!HH", 0x8100, vlan) + frame[12:]


def _vlan(frame: bytes, tenant: int) -> bytes:
    return _tagged(frame, 10 + 10 * tenant)


def _vxlan(frame: bytes, tenant: int) -> bytes:
    return datagram(*_OUTER, 49_152, 4789, tunnels.vxlan(frame, 100 + tenant))


def _gre_key(frame: bytes, tenant: int) -> bytes:
    return ip4(*_OUTER, _GRE, tunnels.gre(ETHERTYPE_IPV4, frame[_ETHERNET:], key=7 + tenant))


def _gtp(frame: bytes, tenant: int) -> bytes:
    return datagram(*_OUTER, 2152, 2152, tunnels.gtp_u(frame[_ETHERNET:], 500 + tenant))


def _tenants(before: Callable[[bytes, int], bytes], behind: Callable[[bytes, int], bytes]) -> Kind:
    def sent(number: int) -> Sent:
        packet, tenant = divmod(number, 2)
        return Sent([before(_inner(packet), tenant), behind(_inner(packet), tenant)])

    return Kind(("a", "b"), sent, gap_ns=50_000)


TAGS = {
    "tenants-vlan": _tenants(_vlan, _vlan),
    "tenants-vni": _tenants(_vxlan, _vxlan),
    "tenants-gre-key": _tenants(_gre_key, _gre_key),
    "tenants-teid": _tenants(_gtp, _gtp),
    "tenants-vlan-to-vni": _tenants(_vlan, _vxlan),
    "vlan-removed": Kind(("a", "b"), lambda number: Sent([_tagged(_inner(number), 10), _inner(number)])),
    "vlan-changed": Kind(("a", "b"), lambda number: Sent([_tagged(_inner(number), vlan) for vlan in (10, 20)])),
}
