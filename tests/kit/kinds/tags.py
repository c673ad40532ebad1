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


def _service_vlan(frame: bytes, tenant: int) -> bytes:
    return _tagged(_tagged(frame, 10 + tenant), 500)


def _pppoe(frame: bytes, tenant: int) -> bytes:
    inside = struct.pack("!H", 0x0021) + frame[_ETHERNET:]
    return frame[:12] + struct.pack("!HBBHH", 0x8864, 0x11, 0, 60 + tenant, len(inside)) + inside


def _mpls(frame: bytes, tenant: int) -> bytes:
    labels = struct.pack("!II", 77 << 12 | 64, (800 + tenant) << 12 | 0x100 | 64)
    return frame[:12] + struct.pack("!H", 0x8847) + labels + frame[_ETHERNET:]


def _mapped(tags: tuple[int, ...], behind: tuple[int, ...]) -> Kind:
    """As many tenants as there are tags, whose packets follow each other by 2 ms."""

    def sent(number: int) -> Sent:
        packet, tenant = divmod(number, len(tags))
        return Sent([_tagged(_inner(packet), tags[tenant]), _tagged(_inner(packet), behind[tenant])])

    return Kind(("a", "b"), sent)


TAGS = {
    "tenants-service-vlan": _tenants(_service_vlan, _service_vlan),
    "tenants-pppoe": _tenants(_pppoe, _pppoe),
    "tenants-mpls": _tenants(_mpls, _mpls),
    "tenants-vlans-swapped": _mapped((10, 20), (20, 10)),
    "tenants-vlans-rotated": _mapped((10, 20, 30), (20, 30, 10)),
    "tenants-vlans-shifted": _mapped((10, 20, 30, 40), (20, 30, 40, 50)),
    "tenants-vlan": _tenants(_vlan, _vlan),
    "tenants-vni": _tenants(_vxlan, _vxlan),
    "tenants-gre-key": _tenants(_gre_key, _gre_key),
    "tenants-teid": _tenants(_gtp, _gtp),
    "tenants-vlan-to-vni": _tenants(_vlan, _vxlan),
    "vlan-removed": Kind(("a", "b"), lambda number: Sent([_tagged(_inner(number), 10), _inner(number)])),
    "vlan-changed": Kind(("a", "b"), lambda number: Sent([_tagged(_inner(number), vlan) for vlan in (10, 20)])),
}
