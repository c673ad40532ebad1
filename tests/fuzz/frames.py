"""Hypothesis strategies for nearly valid packets: every link type, protocol and tunnel of docs/decoding.md.

A layer draws what it carries and writes the matching numbers before it; now and then a number is anything instead,
and at the end some bytes are changed and the packet is cut.
"""

from __future__ import annotations

import struct

from hypothesis import strategies as st

LINK_TYPES = (
    0, 1, 9, 12, 14, 50, 51, 101, 105, 108, 113, 119, 127, 163, 166, 204, 219, 228, 229, 276,
    147,  # one that nobody decodes
)  # fmt: skip
IPV4, IPV6, TAG, MPLS, PPPOE, NSH = 0x0800, 0x86DD, 0x8100, 0x8847, 0x8864, 0x894F
TUNNEL_PORTS = (4789, 8472, 4790, 6081, 2152, 6635, 37008)
_DEEPEST = 5
_TCP_OPTION = st.one_of(
    st.sampled_from((b"\2\4\5\xb4", b"\3\3\7", b"\4\2", b"\5\x0a" + bytes(8), b"\x08\x0a" + bytes(8), b"\1", b"\0")),
    st.binary(max_size=12),
)

Draw = st.DrawFn


def nearly(draw: Draw, right: int, bits: int) -> int:
    """The right number, or (one time in 16) any of so many bits."""
    if draw(st.integers(0, 15)):
        return right & ((1 << bits) - 1)
    return draw(st.integers(0, (1 << bits) - 1))


def some(draw: Draw, most: int = 24) -> bytes:
    """A few bytes of anything."""
    return draw(st.binary(max_size=most))


def _byte(draw: Draw) -> int:
    return draw(st.integers(0, 255))


def ip_packet(draw: Draw, depth: int = 0) -> tuple[int, bytes]:
    """An IP packet and its EtherType."""
    protocol, body = _carried(draw, depth)
    if draw(st.booleans()):
        options = draw(st.sampled_from((b"", b"", bytes(4), b"\x07\x04\x04\x00", bytes(40))))
        length = 20 + len(options) + len(body)
        first = nearly(draw, 4, 4) << 4 | nearly(draw, 5 + len(options) // 4, 4)
        total = nearly(draw, draw(st.sampled_from((length, length, length, 0))), 16)
        fragment = draw(st.sampled_from((0, 0, 0, 0x4000, 0x2000, 0x2001, 185))) if depth < 2 else 0
        head = struct.pack("!BBHHHBBH", first, _byte(draw), total, _byte(draw), fragment, 64, protocol, 0)
        return IPV4, head + bytes([10, 0, 0, depth]) + bytes([10, 0, 1, depth]) + options + body
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2, 18)))):
        kind = draw(st.sampled_from((0, 43, 44, 60, 51, 135, 139, 140)))
        if kind == 44:
            body = struct.pack("!BBHI", protocol, 0, draw(st.sampled_from((0, 1, 8, 0xFFF9))), _byte(draw)) + body
        elif kind == 51:
            body = struct.pack("!BBHII", protocol, nearly(draw, 1, 8), 0, 7, 8) + body
        else:
            body = struct.pack("!BB6s", protocol, nearly(draw, 0, 8), bytes(6)) + body
        protocol = kind
    length = draw(st.sampled_from((len(body), len(body), len(body), 0)))
    head = struct.pack("!IHBB", nearly(draw, 6, 4) << 28, nearly(draw, length, 16), nearly(draw, protocol, 8), 64)
    return IPV6, head + bytes(15) + bytes([depth]) + bytes(15) + bytes([depth + 16]) + body


def _carried(draw: Draw, depth: int) -> tuple[int, bytes]:
    """A protocol number, and what is carried under it."""
    plain = ("tcp", "udp", "icmp", "icmpv6", "sctp", "esp", "igmp", "ah", "other")
    tunnels = ("ip", "gre", "vxlan", "vxlan-gpe", "geneve", "gtp-u", "mpls-in-udp", "mirror", "tzsp", "any-udp")
    kind = draw(st.sampled_from(plain + tunnels if depth < _DEEPEST else plain))
    if kind == "tcp":
        options = b"".join(draw(st.lists(_TCP_OPTION, max_size=4)))[:40]
        options += bytes(-len(options) % 4)
        words = nearly(draw, 5 + len(options) // 4, 4)
        return 6, struct.pack("!HHIIHHHH", 80, 1024, 1, 2, words << 12 | 0x18, 512, 0, 0) + options + some(draw)
    if kind == "udp":
        return _udp(draw, draw(st.sampled_from((53, *TUNNEL_PORTS))), some(draw, 64))
    if kind in ("icmp", "icmpv6"):
        quoted = ip_packet(draw, _DEEPEST)[1] if draw(st.booleans()) else some(draw)
        icmp_type = nearly(draw, draw(st.sampled_from((0, 3, 3, 4, 5, 8, 11, 12, 13, 1, 2, 128, 129))), 8)
        message = struct.pack("!BBHHH", icmp_type, 0, 0, 1, 2) + quoted
        return (1 if kind == "icmp" else 58), message
    if kind == "ah":
        protocol, body = _carried(draw, _DEEPEST)
        return 51, struct.pack("!BBHII", protocol, nearly(draw, 1, 8), 0, 7, 8) + body
    if kind in ("sctp", "esp", "igmp", "other"):
        return {"sctp": 132, "esp": 50, "igmp": 2, "other": _byte(draw)}[kind], some(draw, 32)
    if kind == "ip":
        ethertype, packet = ip_packet(draw, depth + 1)
        return nearly(draw, 4 if ethertype == IPV4 else 41, 8), packet
    if kind == "gre":
        return 47, _gre(draw, depth)
    if kind == "mirror":
        return 47, _mirror(draw, depth)
    if kind == "any-udp":
        return _udp(draw, draw(st.sampled_from(TUNNEL_PORTS)), some(draw, 16) + _ethernet(draw, depth + 1))
    return _udp(draw, *_udp_tunnel(draw, kind, depth))


def _udp(draw: Draw, port: int, body: bytes) -> tuple[int, bytes]:
    return draw(st.sampled_from((17, 17, 17, 136))), struct.pack("!HHHH", 9, port, 8 + len(body), 0) + body


def _gre(draw: Draw, depth: int) -> bytes:
    flags = draw(st.sampled_from((0, 0x2000, 0xB000, 0x3000, 0x8000, 0x3001, 0x3081, 0x4000, 2)))
    kind, body = _network(draw, depth + 1, ppp=True)
    parts = [(0xC000, bytes(4)), (0x2000, b"\0\x04\0\x07"), (0x1000, bytes(4)), (0x0080, bytes(4))]
    options = b"".join(part for bit, part in parts if flags & bit)
    return struct.pack("!HH", flags, nearly(draw, kind, 16)) + options + body


def _mirror(draw: Draw, depth: int) -> bytes:
    """ERSPAN of type I, II or III in GRE."""
    inner, kind = _ethernet(draw, depth + 1), draw(st.integers(1, 3))
    if kind == 1:
        return struct.pack("!HH", 0, 0x88BE) + inner
    first = nearly(draw, (kind - 1) << 12 | 10, 16)
    if kind == 2:
        return struct.pack("!HHIHHI", 0x1000, 0x88BE, 1, first, 100, 5) + inner
    last = nearly(draw, draw(st.sampled_from((0x8000, 0x8001))), 16)
    head = struct.pack("!HHIHHIHH", 0x1000, 0x22EB, 1, first, 100, 7, 0, last)
    return head + bytes(8) * (last & 1) + inner


def _udp_tunnel(draw: Draw, kind: str, depth: int) -> tuple[int, bytes]:
    """Destination port and payload."""
    if kind == "vxlan":
        flags = nearly(draw, 0x08, 8)
        return draw(st.sampled_from((4789, 8472))), bytes([flags, 0, 0, 0, 0, 0, 42, 0]) + _ethernet(draw, depth + 1)
    if kind == "vxlan-gpe":
        protocol = draw(st.integers(0, 6))
        inner = _nsh(draw, depth + 1) if protocol == 4 else ip_packet(draw, depth + 1)[1]
        inner = _ethernet(draw, depth + 1) if protocol == 3 else inner
        return 4790, bytes([nearly(draw, 0x0C, 8), 0, 0, protocol, 0, 0, 42, 0]) + inner
    if kind == "geneve":
        ethertype, inner = ip_packet(draw, depth + 1)
        if draw(st.booleans()):
            ethertype, inner = 0x6558, _ethernet(draw, depth + 1)
        words = draw(st.sampled_from((0, 1, 63)))
        head = struct.pack("!BBHI", nearly(draw, words, 8), 0, nearly(draw, ethertype, 16), 42 << 8)
        return 6081, head + bytes(4 * words) + inner
    if kind == "gtp-u":
        flags = nearly(draw, draw(st.sampled_from((0x30, 0x32, 0x34, 0x36))), 8)
        inner = ip_packet(draw, depth + 1)[1]
        extension = b""
        if flags & 7:
            extension = bytes(3) + (b"\x85\x01\0\0\0" if draw(st.booleans()) else some(draw, 8))
        head = struct.pack("!BBHI", flags, nearly(draw, 255, 8), nearly(draw, len(extension + inner), 16), 42)
        return 2152, head + extension + inner
    if kind == "tzsp":
        tags = b"".join(draw(st.lists(st.sampled_from((b"\0", b"\x0a\x01\xd8", b"\x12\x02\0\x06")), max_size=3)))
        return 37008, struct.pack("!BBH", 1, 0, nearly(draw, 1, 16)) + tags + b"\1" + _ethernet(draw, depth + 1)
    return 6635, _labels(draw) + ip_packet(draw, depth + 1)[1]


def _labels(draw: Draw) -> bytes:
    count = draw(st.sampled_from((1, 1, 2, 17)))
    return b"".join(struct.pack("!I", 99 << 12 | (number == count - 1) << 8 | 64) for number in range(count))


def _nsh(draw: Draw, depth: int) -> bytes:
    protocol = draw(st.integers(0, 5))
    inner = _ethernet(draw, depth + 1) if protocol == 3 else ip_packet(draw, depth + 1)[1]
    words = nearly(draw, draw(st.sampled_from((2, 6))), 6)
    return struct.pack("!HBBI", words, 2, protocol, 7 << 8 | 255) + bytes(max(0, 4 * words - 8)) + inner


def _ppp(draw: Draw, depth: int) -> bytes:
    ethertype, packet = ip_packet(draw, depth)
    address = draw(st.sampled_from((b"", b"\xff\x03")))
    if ethertype == IPV4 and draw(st.booleans()):
        return address + b"\x21" + packet  # the protocol number, compressed to one byte
    number = {IPV4: b"\0\x21", IPV6: b"\0\x57"}[ethertype]
    return address + draw(st.sampled_from((number, number, b"\x02\x81", b"\xc0\x21"))) + packet


def _network(draw: Draw, depth: int, *, ppp: bool = False) -> tuple[int, bytes]:
    """An EtherType and what it announces, behind any tags, labels and sessions."""
    kinds = ["ip", "ip", "ip", "tag", "mpls", "pppoe", "nsh", "ethernet", "other"] + ["ppp"] * ppp
    kind = draw(st.sampled_from(kinds if depth < _DEEPEST else ["ip"]))
    if kind == "tag":
        tags = draw(st.sampled_from((1, 2, 17)))
        ethertype, body = _network(draw, depth + 1)
        tagged = b"".join(struct.pack("!HH", 5 + number, TAG) for number in range(tags - 1))
        return draw(st.sampled_from((0x8100, 0x88A8, 0x9100))), tagged + struct.pack("!HH", 5, ethertype) + body
    if kind == "mpls":
        return draw(st.sampled_from((0x8847, 0x8848))), _labels(draw) + ip_packet(draw, depth + 1)[1]
    if kind == "pppoe":
        return PPPOE, _pppoe(draw, depth)
    if kind == "nsh":
        return NSH, _nsh(draw, depth)
    if kind == "ethernet":
        return 0x6558, _ethernet(draw, depth + 1)
    if kind == "ppp":
        return 0x880B, _ppp(draw, depth)
    if kind == "other":
        return draw(st.integers(0, 0xFFFF)), some(draw)
    return ip_packet(draw, depth)


def _pppoe(draw: Draw, depth: int) -> bytes:
    inner = _ppp(draw, depth)
    return struct.pack("!BBHH", nearly(draw, 0x11, 8), nearly(draw, 0, 8), 7, nearly(draw, len(inner), 16)) + inner


def _ethernet(draw: Draw, depth: int) -> bytes:
    ethertype, body = _network(draw, depth)
    llc = draw(st.integers(0, 7))
    if llc == 0:
        body = b"\xaa\xaa\x03\0\0\0" + struct.pack("!H", ethertype) + body
    elif llc == 1:
        body = b"\x06\x06\x03" + body
    return bytes(12) + struct.pack("!H", len(body) if llc < 2 else ethertype) + body


def _wireless(draw: Draw, link_type: int) -> bytes:
    """An 802.11 data frame, behind the head that the link type puts before it."""
    ethertype, body = _network(draw, 0)
    control = draw(st.sampled_from((0x0801, 0x0802, 0x0803, 0x8801, 0x8803, 0x8841, 0x0040, 0xB400, 0x4801, 0x8881)))
    frame = struct.pack("<H", nearly(draw, (control & 0xFF) << 8 | control >> 8, 16)) + bytes(22)
    frame += bytes(6) if control & 3 == 3 else b""
    frame += bytes([draw(st.sampled_from((0, 0x80))), 0]) if control & 0x8000 else b""
    frame += b"\xaa\xaa\x03\0\0\0" + struct.pack("!H", ethertype) + body
    if link_type == 127:
        return (
            struct.pack("<BBHI", 0, 0, nearly(draw, 12, 16), draw(st.sampled_from((0, 2, 3, 0x8000_0002))))
            + bytes(4)
            + frame
        )
    if link_type == 119:
        avs = draw(st.booleans())
        return (
            (struct.pack("!II", 0x80211001, 64) if avs else struct.pack("<II", 0x44, 144))
            + bytes(56 if avs else 136)
            + frame
        )
    if link_type == 163:
        return struct.pack("!II", 0x80211001, nearly(draw, 64, 32)) + bytes(56) + frame
    return frame


def link_frame(draw: Draw, link_type: int) -> bytes:
    """A frame of the link type."""
    if link_type in (105, 119, 127, 163):
        return _wireless(draw, link_type)
    if link_type in (9, 50):
        return _ppp(draw, 0)
    if link_type in (166, 204):
        return bytes([draw(st.integers(0, 2))]) + _ppp(draw, 0)
    if link_type == 51:
        return _pppoe(draw, 0)
    if link_type == 219:
        return _labels(draw) + ip_packet(draw)[1]
    ethertype, body = _network(draw, 0)
    if link_type == 113:
        return struct.pack("!HHH8sH", draw(st.integers(0, 5)), 1, 6, bytes(8), ethertype) + body
    if link_type == 276:
        return struct.pack("!HHIHBB8s", ethertype, 0, 3, 1, draw(st.integers(0, 5)), 6, bytes(8)) + body
    if link_type in (0, 108):
        order = draw(st.sampled_from("<>"))
        return struct.pack(order + "I", draw(st.sampled_from((2, 10, 24, 28, 30, 7)))) + ip_packet(draw)[1]
    if link_type in (12, 14, 101, 228, 229):
        return ip_packet(draw)[1]
    return _ethernet(draw, 0)


@st.composite
def frames(draw: Draw, link_types: tuple[int, ...] = LINK_TYPES) -> tuple[int, bytes]:
    """A link type and a nearly valid frame of it: some bytes may be others, and its end may be missing."""
    link_type = draw(st.sampled_from(link_types))
    frame = bytearray(link_frame(draw, link_type))
    for _ in range(draw(st.sampled_from((0, 0, 1, 3)))):
        if frame:
            frame[draw(st.integers(0, len(frame) - 1))] = _byte(draw)
    if draw(st.integers(0, 3)) == 0:
        del frame[draw(st.integers(0, len(frame))) :]
    return link_type, bytes(frame)
