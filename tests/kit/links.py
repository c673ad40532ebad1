"""Link layers around an IP packet, in plain struct code: bytes of a packet in, bytes of a captured frame out.

The version of the packet, where a link layer has to say it, is taken from the packet's first four bits.
"""

from __future__ import annotations

import struct

from tests.kit.packets import CLIENT_MAC, ETHERTYPE_IPV4, ETHERTYPE_IPV6, MACHINE_MAC

ETHERTYPE_PPPOE, ETHERTYPE_MPLS, ETHERTYPE_MPLS_MULTICAST = 0x8864, 0x8847, 0x8848
SNAP = bytes.fromhex("aaaa03000000")
PPP_IPV4, PPP_IPV6, PPP_MPLS = 0x0021, 0x0057, 0x0281
ACCESS_POINT = bytes.fromhex("02000000000c")


def version(packet: bytes) -> int:
    return packet[0] >> 4


def ethertype(packet: bytes) -> int:
    """The EtherType of an IP packet."""
    return ETHERTYPE_IPV6 if version(packet) == 6 else ETHERTYPE_IPV4


def ethernet_head(last: int, tags: bytes = b"") -> bytes:
    """Addresses, ready-made tags, and the EtherType (or the 802.3 length)."""
    return MACHINE_MAC + CLIENT_MAC + tags + struct.pack("!H", last)


def tag(identifier: int, kind: int = 0x8100, priority: int = 0) -> bytes:
    """A VLAN tag: its EtherType and its control information."""
    return struct.pack("!HH", kind, priority << 13 | identifier)


def ieee_802_3(content: bytes, tags: bytes = b"") -> bytes:
    """An Ethernet frame with a length in place of the EtherType."""
    return ethernet_head(len(content), tags) + content


def snap(packet: bytes, kind: int | None = None) -> bytes:
    """LLC and SNAP, organisation 0, before a packet."""
    return SNAP + struct.pack("!H", ethertype(packet) if kind is None else kind) + packet


def mpls(labels: tuple[int, ...], packet: bytes) -> bytes:
    """A label stack, outermost first; the last label has the bottom bit."""
    entries = [struct.pack("!I", label << 12 | 64) for label in labels]
    entries[-1] = struct.pack("!I", labels[-1] << 12 | 1 << 8 | 64)
    return b"".join(entries) + packet


def ppp(packet: bytes, *, address: bool = True, compressed: bool = False, protocol: int | None = None) -> bytes:
    """PPP with or without address and control bytes, and with a protocol number of two bytes or one."""
    number = {4: PPP_IPV4, 6: PPP_IPV6}[version(packet)] if protocol is None else protocol
    return b"\xff\x03" * address + number.to_bytes(1 if compressed else 2, "big") + packet


def pppoe(packet: bytes, session: int = 0x11, protocol: int | None = None) -> bytes:
    """A PPPoE session header and the PPP protocol number."""
    content = ppp(packet, address=False, protocol=protocol)
    return struct.pack("!BBHH", 0x11, 0, session, len(content)) + content


def loopback(packet: bytes, order: str = "<", ipv6_family: int = 30) -> bytes:
    """BSD loopback: the address family in the capturing machine's order (in LOOP always big endian)."""
    return struct.pack(order + "I", ipv6_family if version(packet) == 6 else 2) + packet


def sll(packet: bytes, packet_type: int = 0, kind: int | None = None) -> bytes:
    """Linux cooked capture, version 1."""
    head = struct.pack("!HHH8s", packet_type, 1, 6, CLIENT_MAC)
    return head + struct.pack("!H", ethertype(packet) if kind is None else kind) + packet


def sll2(packet: bytes, packet_type: int = 0, interface: int = 3, kind: int | None = None) -> bytes:
    """Linux cooked capture, version 2, with the interface index."""
    number = ethertype(packet) if kind is None else kind
    return struct.pack("!HHIHBB8s", number, 0, interface, 1, packet_type, 6, CLIENT_MAC) + packet


def ieee_802_11(
    content: bytes,
    *,
    to_ds: bool = False,
    from_ds: bool = False,
    qos: bool = False,
    a_msdu: bool = False,
    ht_control: bool = False,
    protected: bool = False,
    kind: int = 2,
    subtype: int = 0,
) -> bytes:
    """An 802.11 frame; by default a plain data frame. ``content`` begins with LLC."""
    control = (kind << 2 | (subtype | 8 * qos) << 4) << 8
    control |= to_ds | from_ds << 1 | protected << 6 | ht_control << 7
    head = struct.pack("!H", control) + bytes(2) + MACHINE_MAC + CLIENT_MAC + ACCESS_POINT + bytes(2)
    if to_ds and from_ds:
        head += ACCESS_POINT
    if qos:
        head += bytes([0x80 if a_msdu else 0, 0])
        if ht_control:
            head += bytes(4)
    return head + content


def radiotap(frame: bytes) -> bytes:
    """Radiotap with one field: the flags, none set."""
    return struct.pack("<BBHIB3x", 0, 0, 12, 1 << 1, 0) + frame


def prism(frame: bytes) -> bytes:
    """The Prism monitor header: 144 bytes."""
    return struct.pack("<II16s", 0x44, 144, b"wlan0") + bytes(120) + frame


def avs(frame: bytes) -> bytes:
    """The AVS header, version 1: 64 bytes, all big endian."""
    return struct.pack("!II", 0x80211001, 64) + bytes(56) + frame
