"""Tunnel headers in plain struct code: bytes of what is inside in, bytes of the tunnel's payload out.

What carries them (IP, UDP) comes from :mod:`tests.kit.packets`.
"""

from __future__ import annotations

import struct

from tests.kit.packets import address_bytes

GRE, IPIP, IPV6_IN_IP, ESP, AH, SCTP, UDP_LITE, IGMP = 47, 4, 41, 50, 51, 132, 136, 2
TRANSPARENT_ETHERNET, ETHERTYPE_NSH, ETHERTYPE_PPP_IN_GRE = 0x6558, 0x894F, 0x880B
VXLAN_PORT, VXLAN_LINUX_PORT, VXLAN_GPE_PORT, GENEVE_PORT, GTP_U_PORT, MPLS_PORT = 4789, 8472, 4790, 6081, 2152, 6635
NEXT_IPV4, NEXT_IPV6, NEXT_ETHERNET, NEXT_NSH, NEXT_MPLS = 1, 2, 3, 4, 5


def gre(
    kind: int, inside: bytes, *, key: int | None = None, sequence: int | None = None, checksum: bool = False
) -> bytes:
    """GRE version 0 (RFC 2784, 2890); the checksum, if asked for, is zero."""
    flags = checksum << 15 | (key is not None) << 13 | (sequence is not None) << 12
    head = struct.pack("!HH", flags, kind) + bytes(4) * checksum
    if key is not None:
        head += struct.pack("!I", key)
    if sequence is not None:
        head += struct.pack("!I", sequence)
    return head + inside


def erspan(inside: bytes, session: int, kind: int = 2, *, frame_type: int = 0, more: bool = False) -> bytes:
    """GRE with an ERSPAN header of type I, II or III around a mirrored frame (draft-foschiano-erspan-03)."""
    if kind == 1:
        return gre(0x88BE, inside)
    if kind == 2:
        return gre(0x88BE, struct.pack("!HHI", 0x1000 | 10, session, 5) + inside, sequence=1)
    head = struct.pack("!HHIHH", 0x2000 | 10, session, 77, 0, 0x8000 | frame_type << 10 | more)
    return gre(0x22EB, head + bytes(8) * more + inside, sequence=1)


def tzsp(inside: bytes, *, tags: bytes = b"", kind: int = 0, protocol: int = 1) -> bytes:
    """TZSP version 1 with a list of tags, which a tag 1 ends."""
    return struct.pack("!BBH", 1, kind, protocol) + tags + b"\1" + inside


def pptp(inside: bytes, call: int, *, sequence: int | None = 1, acknowledgment: int | None = None) -> bytes:
    """GRE version 1 (RFC 2637): PPP with a call id."""
    flags = 0x2001 | (sequence is not None) << 12 | (acknowledgment is not None) << 7
    head = struct.pack("!HHHH", flags, ETHERTYPE_PPP_IN_GRE, len(inside), call)
    for number in (sequence, acknowledgment):
        if number is not None:
            head += struct.pack("!I", number)
    return head + inside


def vxlan(inside: bytes, vni: int, flags: int = 0x08) -> bytes:
    """VXLAN (RFC 7348) around an Ethernet frame."""
    return struct.pack("!BBHI", flags, 0, 0, vni << 8) + inside


def vxlan_gpe(inside: bytes, vni: int, following: int, flags: int = 0x0C) -> bytes:
    """VXLAN with a next protocol."""
    return struct.pack("!BHBI", flags, 0, following, vni << 8) + inside


def geneve(kind: int, inside: bytes, vni: int, *, options: bytes = b"", geneve_version: int = 0) -> bytes:
    """Geneve (RFC 8926); ``options`` are a multiple of four bytes."""
    return struct.pack("!BBHI", geneve_version << 6 | len(options) // 4, 0, kind, vni << 8) + options + inside


def gtp_u(
    inside: bytes, teid: int, *, extensions: tuple[tuple[int, bytes], ...] = (), sequence: bool = False, kind: int = 255
) -> bytes:
    """GTP-U version 1 (TS 29.281); an extension is its type and its content (4 n - 2 bytes)."""
    optional = b""
    if extensions or sequence:
        optional = struct.pack("!HB", 7, 0)
        for number, content in extensions:
            optional += bytes([number])
            optional += bytes([(len(content) + 2) // 4]) + content
        optional += bytes(1)
    flags = 0x30 | 4 * bool(extensions) | 2 * sequence
    return struct.pack("!BBHI", flags, kind, len(optional) + len(inside), teid) + optional + inside


def nsh(inside: bytes, service_path: int, following: int, *, metadata: bytes = bytes(16)) -> bytes:
    """NSH (RFC 8300); 16 bytes of metadata are type 1, any other multiple of four is type 2."""
    words = 2 + len(metadata) // 4
    metadata_type = 1 if len(metadata) == 16 else 2
    return struct.pack("!HBBI", 63 << 6 | words, metadata_type, following, service_path << 8 | 255) + metadata + inside


def authentication(following: int, inside: bytes, *, spi: int = 0x1001, sequence: int = 9) -> bytes:
    """An authentication header (RFC 4302) with 12 bytes of check value, then what it protects."""
    return struct.pack("!BBHII", following, 4, 0, spi, sequence) + bytes(range(12)) + inside


def esp(spi: int, sequence: int, sealed: bytes = bytes(range(48))) -> bytes:
    """An encapsulating security payload (RFC 4303)."""
    return struct.pack("!II", spi, sequence) + sealed


def sctp(
    sport: int, dport: int, tag: int, chunks: bytes = bytes.fromhex("0000001400000001000000000000000064617461")
) -> bytes:
    """An SCTP packet with one DATA chunk; the checksum is zero."""
    return struct.pack("!HHII", sport, dport, tag, 0) + chunks


def udp_lite(sport: int, dport: int, payload: bytes, coverage: int = 8) -> bytes:
    """A UDP-Lite datagram (RFC 3828); the checksum is one."""
    return struct.pack("!HHHH", sport, dport, coverage, 1) + payload


def igmp(kind: int, group: str) -> bytes:
    """An IGMP message of 8 bytes; the checksum is zero."""
    return struct.pack("!BBH4s", kind, 0, 0, address_bytes(group))
