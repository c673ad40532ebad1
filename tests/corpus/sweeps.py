"""Captures in which one number takes all its values, so that both decoders show which of them they follow."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from pathlib import Path

_SOURCE, _DESTINATION = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
_MACS = bytes.fromhex("020000000002020000000001")


def ipv4(payload: bytes, protocol: int = 17, options: bytes = b"", fragment: int = 0) -> bytes:
    """An IPv4 packet."""
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), 7, fragment, 64, protocol, 0)
    return head + _SOURCE + _DESTINATION + options + payload


def ipv6(payload: bytes, next_header: int = 17) -> bytes:
    """An IPv6 packet."""
    head = struct.pack(">IHBB", 6 << 28, len(payload), next_header, 64)
    return head + bytes(15) + b"\1" + bytes(15) + b"\2" + payload


def udp(dport: int, payload: bytes, sport: int = 50000) -> bytes:
    """A UDP datagram."""
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def ethernet(kind: int, payload: bytes) -> bytes:
    """An Ethernet frame."""
    return _MACS + struct.pack(">H", kind) + payload


IP = ipv4(udp(9, b"payload!", 1111))
IP6 = ipv6(udp(9, b"payload!", 1111))
BOTH = (IP, IP6)


def link_layers() -> Iterable[tuple[str, int, list[bytes]]]:
    """(name, link type, frames)."""
    every = range(0x10000)
    yield "ethertype", 1, [ethernet(kind, IP) for kind in every]
    yield "ethertype-6", 1, [ethernet(kind, IP6) for kind in range(0x600, 0x10000)]
    yield "length-llc", 1, [ethernet(len(IP) + 3, bytes([sap, sap, 3]) + IP) for sap in range(256)]
    snap = [bytes([0xAA, 0xAA, 3, *oui]) for oui in itertools.product((0, 0xF8, 9), (0, 1), (0, 0xF8, 1))]
    yield "snap", 1, [ethernet(len(IP) + 8, start + b"\x08\0" + IP) for start in snap]
    tags = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300, 0x8847, 0x8848, 0x8864, 0x8863, 0x894F, 0x0800, 0x86DD)
    shims = [struct.pack(">HHHH", a, 5, b, 6) for a in tags for b in tags]
    yield "shims", 1, [_MACS + shim + struct.pack(">H", kind) + ip for shim in shims for kind, ip in _KINDS]
    labels = [
        struct.pack(">I", label << 12 | 0x140) for label in (*range(13), *range(14, 20))
    ]  # 13: a channel header follows
    nibbles = [bytes([nibble << 4 | 5]) + IP[1:] for nibble in range(16)]
    yield "mpls", 1, [ethernet(0x8847, label + ip) for label in labels for ip in (*BOTH, *nibbles)]
    yield "null", 0, [struct.pack(order, value) + ip for order in ["<I", ">I"] for value in _FAMILIES for ip in BOTH]
    yield (
        "loop",
        108,
        [struct.pack(order, value) + ip for order in ["<I", ">I"] for value in _FAMILIES for ip in BOTH],
    )
    yield "sll", 113, [struct.pack(">HHH8xH", 4, 1, 6, kind) + ip for kind in every for ip in BOTH[: 1 + (kind > 1535)]]
    yield "sll-hardware", 113, [struct.pack(">HHH8xH", 0, hardware, 6, 0x800) + IP for hardware in _HARDWARE]
    yield "sll2", 276, [struct.pack(">HHIHBB8x", kind, 0, 3, 1, 4, 6) + IP for kind in every]
    yield "sll2-hardware", 276, [struct.pack(">HHIHBB8x", 0x800, 0, 3, kind, 4, 6) + IP for kind in _HARDWARE]
    for link_type in (12, 101, 228, 229):
        yield f"raw-{link_type}", link_type, [*BOTH, *nibbles]
    ppp = [start + struct.pack(">H", kind) + IP for start in (b"", b"\xff\3") for kind in every]
    yield "ppp", 9, ppp
    yield (
        "ppp-compressed",
        9,
        [start + bytes([kind]) + ip for start in (b"", b"\xff\3") for kind in range(256) for ip in BOTH],
    )
    yield "ppp-direction", 204, [bytes([way]) + packet for way in (0, 1, 255) for packet in ppp[0x10010:0x10090]]
    yield "ppp-hdlc", 50, [start + b"\0\x21" + IP for start in (b"", b"\xff\3", b"\x0f\0", b"\x8f\0")]
    yield (
        "pppoe",
        51,
        [bytes([kind, code, 0, 1, 0, 2 + len(IP), 0, 0x21]) + IP for kind in range(256) for code in (0, 9)],
    )
    yield "wlan", 105, list(_wireless())
    yield "radiotap", 127, [bytes.fromhex("00000900020000001000")[:9] + frame for frame in _wireless()]
    yield "radiotap-pad", 127, [bytes.fromhex("000009000200000020") + frame for frame in _wireless()]


_KINDS = ((0x0800, IP), (0x86DD, IP6))
_HARDWARE = [number for number in range(2048) if number != 824]  # netlink: no EtherType, families below 1536
_FAMILIES = (*range(64), 255, 256, 0x0800, 0x86DD)


def _wireless() -> Iterable[bytes]:
    for control, flags, fragment in itertools.product(range(256), range(256), (0, 1)):
        if (control & 3 == 0 and control & 0x0C == 8) or flags == 0:
            head = struct.pack("<BBH18sH", control, flags, 0, bytes(18), fragment)
            head += bytes(6) if flags & 3 == 3 else b""
            head += bytes(2) if control & 0x80 else b""
            head += bytes(4) if control & 0x80 and flags & 0x80 else b""
            yield head + bytes.fromhex("aaaa030000000800") + IP


def networks() -> Iterable[tuple[str, int, list[bytes]]]:
    """Numbers in and above the IP header."""
    header = struct.pack(">HHIIHHHH", 1, 2, 3, 4, 0x5012, 5, 6, 7)
    body = header + IP + IP6
    yield "protocol", 101, [ipv4(body, number) for number in range(256)]
    yield "protocol-6", 101, [ipv6(body, number) for number in range(256)]
    yield "protocol-ip", 101, [packet(ip, number) for number in range(256) for ip in BOTH for packet in (ipv4, ipv6)]
    step = bytes([0]) + bytes(7)
    chains = [bytes([b]) + step[1:] + bytes([c]) + step[1:] + header for b in range(256) for c in (6, 59, 44, 17)]
    yield "extensions", 101, [ipv6(chain, a) for a in (0, 43, 44, 51, 60, 135, 139, 140) for chain in chains]
    lengths = [ipv6(bytes([6, length]) + bytes(6 + 8 * length) + header, a) for length in range(256) for a in _HEADERS]
    yield "extension-length", 101, lengths
    yield (
        "many-extensions",
        101,
        [ipv6((b"\x3c" + bytes(7)) * count + b"\6" + bytes(7) + header, 60) for count in range(30)],
    )
    fragments = [struct.pack(">BBHI", 6, 0, value, 9) + header for value in (*range(64), 0xFFF8, 0xFFF9)]
    yield "fragment-6", 101, [ipv6(fragment, 44) for fragment in fragments]
    yield (
        "fragment",
        101,
        [ipv4(header, 6, fragment=value) for value in (0, 1, 0x1FFF, 0x2000, 0x2001, 0x4000, 0x8000, 0xE000)],
    )
    yield "header-length", 101, [bytes([0x40 | words]) + ipv4(body, 6)[1:] for words in range(16)]
    totals = [
        ip[:at] + struct.pack(">H", total) + ip[at + 2 :]
        for total in range(140)
        for ip, at in ((ipv4(body, 6), 2), (ipv6(body, 6), 4))
    ]
    yield "total-length", 101, totals
    inner = [ipv4(packet, 4 if packet[0] >> 4 == 4 else 41) for packet in totals]
    yield "inner-total-length", 101, inner
    yield (
        "data-offset",
        101,
        [ipv4(header[:12] + bytes([offset << 4, 2]) + header[14:] + bytes(60), 6) for offset in range(16)],
    )
    kinds = [bytes([kind, 3, 0, 0, 0, 8, 0, 9]) + IP for kind in range(256)]
    yield "icmp", 101, [ipv4(kind, 1) for kind in kinds] + [ipv6(kind, 58) for kind in kinds]
    yield "icmp-crossed", 101, [ipv4(kind, 58) for kind in kinds] + [ipv6(kind, 1) for kind in kinds]
    ah = [
        struct.pack(">BBHIII", number, length, 0, 1, 2, 3) + bytes(40)
        for number in (1, 6, 17, 50, 51)
        for length in range(12)
    ]
    yield "ah", 101, [packet(header_, 51) for header_ in ah for packet in (ipv4, ipv6)]


_HEADERS = (0, 43, 51, 60, 135, 139, 140)


def tunnels() -> Iterable[tuple[str, int, list[bytes]]]:
    """Numbers in tunnel headers."""
    vxlan = bytes([8, 0, 0, 0, 0, 0, 42, 0]) + ethernet(0x800, IP)
    yield "port-vxlan", 101, [ipv4(udp(port, vxlan)) for port in range(0x10000)]
    yield "sport-vxlan", 101, [ipv4(udp(4789, vxlan, port)) for port in range(0, 0x10000, 7)]
    yield (
        "vxlan-flags",
        101,
        [ipv4(udp(port, bytes([flags]) + vxlan[1:])) for flags in range(256) for port in (4789, 8472)],
    )
    gpe = [(flags, number) for flags in (0, 4, 8, 12, 0x0D, 0x0C | 0x30) for number in range(256)]
    inner = (IP, IP6, ethernet(0x800, IP), _nsh(1, IP), struct.pack(">I", 5 << 12 | 0x140) + IP)
    yield "vxlan-gpe", 101, [ipv4(udp(4790, bytes([a, 0, 0, b, 0, 0, 42, 0]) + inner[min(b, 5) - 1])) for a, b in gpe]
    kinds = [struct.pack(">BBHI", first, 0, kind, 42 << 8) for first in (0, 0x40) for kind in range(0x10000)]
    yield "geneve", 101, [ipv4(udp(6081, head + IP)) for head in kinds[:0x10000:3] + kinds[0x10000:0x10800]]
    carried = (
        (0x6558, ethernet(0x800, IP)),
        (0x800, IP),
        (0x86DD, IP6),
        (0x8847, inner[4]),
        (0x894F, inner[3]),
        (0x880B, b"\0\x21" + IP),
    )
    yield (
        "geneve-kinds",
        101,
        [ipv4(udp(6081, struct.pack(">BBHI", 0, 0, kind, 42 << 8) + body)) for kind, body in carried],
    )
    options = [struct.pack(">BBHI", count, 0, 0x800, 42 << 8) + bytes(4 * count) + IP for count in range(64)]
    yield "geneve-options", 101, [ipv4(udp(6081, head)) for head in options]
    yield "gre-kind", 101, [ipv4(struct.pack(">HH", 0, kind) + IP, 47) for kind in range(0x10000)]
    flags = [
        struct.pack(">HH", flags, kind) + bytes(extra) + body
        for flags in range(0, 0x10000, 0x80)
        for kind, body in carried
        for extra in (0, 4, 8, 12)
    ]
    yield "gre-flags", 101, [ipv4(head, 47) for head in flags]
    pptp = [
        struct.pack(">HHHH", 0x2001 | more, 0x880B, 9, 5) + bytes(extra) + b"\xff\3\0\x21" + IP
        for more in (0, 0x1000, 0x80, 0x1080)
        for extra in (0, 4, 8)
    ]
    yield "pptp", 101, [ipv4(head, 47) for head in pptp]
    gtp = [struct.pack(">BBHI", first, kind, len(IP), 77) + IP for first in range(256) for kind in (255, 254, 1, 26)]
    yield "gtp", 101, [ipv4(udp(2152, head)) for head in gtp]
    extended = [
        struct.pack(">BBHIHBB", 0x34, 255, len(IP) + 8, 77, 0, 0, kind) + bytes([1, 0, 0, 0]) + IP
        for kind in range(256)
    ]
    yield "gtp-extension", 101, [ipv4(udp(2152, head)) for head in extended]
    yield "nsh", 1, [ethernet(0x894F, _nsh(number, body)) for number in range(8) for body in inner]
    words = [
        struct.pack(">HBBI", first << 8 | words, 2, 1, 7 << 8) + bytes(max(words * 4 - 8, 0)) + IP
        for first in range(256)
        for words in (0, 1, 2, 6)
    ]
    yield "nsh-first", 1, [ethernet(0x894F, head) for head in words]
    stack = [struct.pack(">I", 5 << 12 | 64) * count + struct.pack(">I", 9 << 12 | 0x140) + IP for count in range(14)]
    yield "mpls-in-udp", 101, [ipv4(udp(6635, labels)) for labels in stack]
    deep = [IP]
    for _ in range(12):
        deep.append(ipv4(deep[-1], 4))
    yield "deep", 101, deep
    chain = [
        IP,
        ipv4(udp(4789, vxlan)),
        ipv4(struct.pack(">HH", 0, 0x800) + IP, 47),
        ipv4(inner[0], 4),
        ipv6(IP6, 41),
        ipv4(IP6, 41),
    ]
    yield "nested", 101, [ipv4(udp(4789, vxlan[:8] + ethernet(0x86DD if a[0] >> 4 == 6 else 0x800, a))) for a in chain]


def _nsh(number: int, body: bytes) -> bytes:
    return struct.pack(">HBBI", 2, 2, number, 7 << 8 | 255) + body


def write_sweep(folder: Path, name: str, link_type: int, frames: list[bytes]) -> Path:
    """Write one sweep as a pcap file."""
    path = folder / f"sweep-{name}.pcap"
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, link_type))
        for number, frame in enumerate(frames):
            file.write(struct.pack("<IIII", number, 0, len(frame), len(frame)) + frame)
    return path


def write_sweeps(folder: Path) -> list[Path]:
    """Write all sweeps as pcap files."""
    return [write_sweep(folder, *sweep) for sweep in itertools.chain(link_layers(), networks(), tunnels())]
