"""From tshark's layers to the row that docs/decoding.md asks for.

tshark says which layers a frame has and where each begins; this module says which of them docs/decoding.md follows, and
where it stops. The rules:

1. Layers are followed from the outside to the inside while they are link layers, tags, labels, IP, or a tunnel of
   docs/decoding.md with the stated port and flags; at the first other layer the walk ends. A packet quoted by an ICMP
   error is no layer of its own in PDML, so it is never taken for the followed packet.
2. The row is that of the last IP header on the way that is whole and plausible.
3. Fields that are set or null together (the IP header; both ports; sequence, acknowledgment and flags; ICMP type and
   code; identifier and sequence number) are set only if all bytes of the group were captured and lie inside the
   packet by the IP header's length. tshark prints as many of a cut header's fields as it can and, where a later byte
   of the header is missing or contradicts, often none of it. So where tshark shows that a transport header begins, but
   not the whole group, the group is read from the frame's bytes at the place where tshark says that it begins.
4. `payload_length` is counted from the end of the transport header (by tshark's place and the header's length) to the
   end that the IP header states.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable
from typing import Any

from tests.corpus.tshark import Frame, Layer

LINK = {
    *("eth", "vlan", "ieee8021ad", "mpls", "pppoes", "ppp", "llc", "null", "raw", "sll"),
    *("wlan", "wlan_radio", "radiotap", "prism", "wlancap"),
}
# Wireshark's words for the link types of docs/decoding.md.
LINK_TYPES = frozenset(
    (
        "Ethernet",
        "NULL/Loopback",
        "OpenBSD loopback",
        "Raw IP",
        "Raw IPv4",
        "Raw IPv6",
        "PPP",
        "PPP with Directional Info",
        "PPP-over-Ethernet session",
        "IEEE 802.11 Wireless LAN",
        "IEEE 802.11 plus AVS radio header",
        "IEEE 802.11 plus Prism II monitor mode radio header",
        "IEEE 802.11 plus radiotap radio header",
        "Linux cooked-mode capture v1",
        "Linux cooked-mode capture v2",
    )
)
_EXTENSIONS = {0, 43, 44, 51, 60, 135, 139, 140}
_PROTOCOLS_TOO = {135, 139, 140}  # extension headers that may also be all that a packet carries
_MOST_EXTENSIONS = 16
_NEXT = {
    "ipv6.hopopts": "ipv6.hopopts.nxt",
    "ipv6.routing": "ipv6.routing.nxt",
    "ipv6.dstopts": "ipv6.dstopts.nxt",
    "ipv6.fraghdr": "ipv6.fraghdr.nxt",
    "ah": "ah.next_header",
    "mipv6": "mip6.proto",
    "hip": "hip.proto",
    "shim6": "shim6.nxt",
}
_TRANSPORT = {6: "tcp", 17: "udp", 136: "udplite", 132: "sctp", 1: "icmp", 58: "icmpv6"}
_HEADER = {17: 8, 136: 8, 132: 12, 1: 8, 58: 8}
_ICMP_WITH_ID = {0, 8, 13, 14, 15, 16, 17, 18}
_MOST_PACKETS = 8
# What else a link layer's field may say in Wireshark is another protocol, or a habit of its own: IPv4 under EtherType
# fff2 or under PPP protocol 0800, EtherTypes in the place of an address family, PPPoE sessions of another version.
_ETHERTYPES = {*range(0x600), 0x0800, 0x86DD, 0x8100, 0x88A8, 0x9100, 0x8847, 0x8848, 0x8864, 0x894F}
_FAMILIES = {2, 24, 28, 30}
_MUST_BE = {
    "eth.type": _ETHERTYPES,
    "vlan.etype": _ETHERTYPES,
    "ieee8021ah.etype": _ETHERTYPES,
    "sll.etype": _ETHERTYPES,
    "llc.type": _ETHERTYPES,
    "ppp.protocol": {0x21, 0x57, 0x281, 0x283},
    "null.type": set[int](),
    "null.family": _FAMILIES,
    "pppoe.version": {1},
    "pppoe.type": {1},
    "pppoe.code": {0},
}
_IN_GRE = {0x0800, 0x86DD, 0x6558, 0x8847, 0x8848, 0x894F, 0x880B}
_MIRRORED = {0x88BE, 0x22EB}
_PORTS = {"tzsp": (37008,), "vxlan": (4789, 8472), "geneve": (6081,), "gtp": (2152,), "mpls": (6635,)}

COLUMNS = (
    *("ip_version", "protocol", "source", "destination", "sport", "dport", "ip_id", "ttl", "dscp"),
    *("fragment_offset", "more_fragments", "tcp_seq", "tcp_ack", "tcp_flags"),
    *("icmp_type", "icmp_code", "icmp_id", "icmp_seq", "payload_length", "vlan", "tunnel"),
)


class Walk:
    """The way through the layers of one frame."""

    def __init__(self, frame: Frame, octets: Callable[[], bytes]) -> None:
        self.frame = frame
        self.octets = octets
        self.row: dict[str, Any] = {}  # of the followed packet
        self.vlan: int | None = None
        self.tunnels: list[str] = []
        self.pending: list[str] = []  # tunnel headers behind the followed packet, until a packet is seen in them
        self.carries = -1  # the protocol number that says what the followed packet carries
        self.carrier = ""  # addresses of the followed packet, until a tunnel has named them
        self.limit = frame.captured
        self.transport_at = 0
        self.ip_end = 0
        self.packets = 0
        self.cut_chain = False  # an IPv6 extension header was not captured whole
        self.awaited = False  # a transport header must follow that has not been seen yet
        self.inside_ah: str | None = None
        self.in_udp_mpls = False

    def expected(self) -> dict[str, Any]:
        """The row, all columns; None for null."""
        layers = self.frame.layers if self.frame.link_type in LINK_TYPES else []
        for index, layer in enumerate(layers):
            if layer.name == "ppp" and not self._ppp_expected(layers[index - 1].name if index else ""):
                break
            step = getattr(self, "_" + layer.name.replace(".", "_"), None)
            if layer.name in LINK:
                going_on = self._link(layer)
            elif layer.name in _TRANSPORT.values() and not self.awaited:
                going_on = False  # a transport header inside another (SCTP over UDP), or behind a chain that we leave
            else:
                going_on = step is not None and step(layer)
            if not going_on:
                break
        self._transport_not_shown()
        row = dict.fromkeys(COLUMNS) | self.row
        row["vlan"] = self.vlan
        row["tunnel"] = " / ".join(self.tunnels) or None
        row["frame"] = self.frame.number
        row["captured_length"] = self.frame.captured
        row["length"] = self.frame.length
        return row

    def _ppp_expected(self, before: str) -> bool:
        """In raw IP and BSD loopback Wireshark takes ff 03 for PPP."""
        return before in ("pppoes", "gre") or (not before and self.frame.link_type.startswith("PPP"))

    def _transport_not_shown(self) -> None:
        """tshark leaves out a transport header that it finds too short; what is there of it is read from the bytes."""
        name = self.inside_ah if self.inside_ah is not None else _TRANSPORT.get(self.row.get("protocol", -1))
        if name and self.awaited:
            getattr(self, "_" + name)(Layer(name, self.transport_at, 0))

    # Between link layer and IP

    def _link(self, layer: Layer) -> bool:
        if self.row and not self.pending and not (layer.name == "mpls" and self._to_port("mpls")):
            return False  # a link layer inside a packet, in no tunnel of ours
        if layer.name in ("vlan", "ieee8021ad") and self.vlan is None:
            for name in ("vlan.id", "ieee8021ad.id", "ieee8021ad.svid"):
                self.vlan = layer.number(name) if self.vlan is None else self.vlan
        if layer.name == "mpls":
            if self.row and not self.pending:
                self.in_udp_mpls = True
                self.pending.append("")
            if self.in_udp_mpls:
                self.pending[-1] = self._named("mpls-in-udp", layer.number("mpls.label"))
        return all(layer.number(name) in known | {None} for name, known in _MUST_BE.items())

    def _to_port(self, tunnel: str) -> bool:
        return self.row.get("protocol") in (17,) and self.row.get("dport") in _PORTS[tunnel]

    # IP

    def _ip(self, layer: Layer) -> bool:
        self.cut_chain = False
        at = layer.position
        if layer.number("ip.version") == 6:
            return True  # Wireshark goes by the version: an IPv6 layer follows
        if at + 20 > self.limit:
            return False
        if layer.text("ip.dst") is None:
            return self._ip_in_part(at)
        header, total = layer.number("ip.hdr_len") or 0, layer.number("ip.len") or 0
        if header < 20 or total < header:
            return False
        row = {
            "ip_version": 4,
            "dscp": layer.number("ip.dsfield.dscp"),
            "ip_id": layer.number("ip.id"),
            "more_fragments": bool(layer.number("ip.flags.mf")),
            "fragment_offset": (layer.number("ip.frag_offset") or 0) * 8,
            "ttl": layer.number("ip.ttl"),
            "protocol": layer.number("ip.proto"),
        }
        return self._follow(row, layer.text("ip.src") or "", layer.text("ip.dst") or "", at + total, at + header)

    def _ip_in_part(self, at: int) -> bool:
        """An IPv4 header of which tshark shows less than is there, since its options were cut."""
        octets = self.octets()[at : at + 20]
        header, total = (octets[0] & 15) * 4, int.from_bytes(octets[2:4]) or self.frame.length - at
        if octets[0] >> 4 != 4 or header < 20 or total < header:
            return False
        place = int.from_bytes(octets[6:8])
        row = {
            "ip_version": 4,
            "dscp": octets[1] >> 2,
            "ip_id": int.from_bytes(octets[4:6]),
            "more_fragments": bool(place & 0x2000),
            "fragment_offset": (place & 0x1FFF) * 8,
            "ttl": octets[8],
            "protocol": octets[9],
        }
        source, destination = (str(ipaddress.ip_address(octets[place : place + 4])) for place in (12, 16))
        return self._follow(row, source, destination, at + total, at + header)

    def _ipv6(self, layer: Layer) -> bool:
        if layer.text("ipv6.dst") is None or layer.number("ipv6.version") != 6:
            return False
        next_header = layer.number("ipv6.nxt") or 0
        row: dict[str, Any] = {
            "ip_version": 6,
            "dscp": layer.number("ipv6.tclass.dscp"),
            "ttl": layer.number("ipv6.hlim"),
        }
        total = (layer.number("ipv6.plen") or 0) + 40
        if total == 40 and next_header != 59:
            total = self.frame.length - layer.position
        end = layer.position + total
        at = self._extensions(layer, row, next_header, min(self.limit, end))
        self.cut_chain = (
            row["protocol"] in _EXTENSIONS and not row.get("fragment_offset") and at + 8 > min(self.limit, end)
        )
        return self._follow(row, layer.text("ipv6.src") or "", layer.text("ipv6.dst") or "", end, at)

    def _extensions(self, layer: Layer, row: dict[str, Any], next_header: int, limit: int) -> int:
        """Pass over extension headers of which the first eight bytes are there; where the last one ends.

        tshark's fields are taken; where it shows a header only in part, or shows none because of what it expects of
        the packet elsewhere, RFC 8200 and RFC 4302 say what the bytes are.
        """
        shown = {inner.position: inner for inner in layer.inner}
        at = layer.position + 40
        for _ in range(_MOST_EXTENSIONS):
            if next_header not in _EXTENSIONS or row.get("fragment_offset") or at + 8 > limit:
                break
            header = self.octets()[at : at + 8]
            if next_header in _PROTOCOLS_TOO and header[0] == 59:
                break
            after = shown[at].number(_NEXT[shown[at].name]) if at in shown else None
            if next_header == 44:
                row["fragment_offset"] = int.from_bytes(header[2:4]) & 0xFFF8
                row["more_fragments"] = bool(header[3] & 1)
                row["ip_id"] = int.from_bytes(header[4:8])
                size = 8
                if at in shown and shown[at].number("ipv6.fraghdr.ident") is not None:
                    row["fragment_offset"] = (shown[at].number("ipv6.fraghdr.offset") or 0) * 8
                    row["more_fragments"] = bool(shown[at].number("ipv6.fraghdr.more"))
                    row["ip_id"] = shown[at].number("ipv6.fraghdr.ident")
            else:
                size = (header[1] + 2) * 4 if next_header == 51 else (header[1] + 1) * 8
            next_header = header[0] if after is None else after
            at += size
        row["protocol"] = next_header
        return at

    def _follow(self, row: dict[str, Any], source: str, destination: str, end: int, after: int) -> bool:
        """Take this packet for the followed one; False where nothing behind it is looked at."""
        if self.packets == _MOST_PACKETS:
            return False
        if self.row and not self.pending:
            kind = "ipip" if self.carries == 4 else f"6in{self.row['ip_version']}"
            self.pending.append(self._named(kind, None))
        self.tunnels += self.pending
        self.pending = []
        self.in_udp_mpls = False
        self.packets += 1
        row["source"] = str(ipaddress.ip_address(source))
        row["destination"] = str(ipaddress.ip_address(destination))
        self.row = row
        self.carrier = f"{row['source']}>{row['destination']}"
        self.ip_end = end
        self.limit = min(self.limit, end)
        self.transport_at = after
        later = (row.get("fragment_offset") or 0) > 0
        self.carries = row["protocol"]
        self.awaited = not later and row["protocol"] in (51 if row["ip_version"] == 4 else -1, *_TRANSPORT)
        self.inside_ah = None
        if not later and row["ip_version"] == 4 and row["protocol"] == 51:
            row["payload_length"] = None  # until the authentication header is seen
        elif later or row["protocol"] not in _TRANSPORT:
            self._payload_from(after)
        elif row["protocol"] != 6:
            self._payload_from(after + _HEADER[row["protocol"]])
        return not later

    def _payload_from(self, at: int) -> None:
        self.row["payload_length"] = self.ip_end - at if at <= self.ip_end and not self.cut_chain else None

    def _ah(self, layer: Layer) -> bool:
        length = layer.number("ah.length")
        if self.inside_ah is not None or length is None or layer.position + 8 > self.limit:
            return False
        self.transport_at = layer.position + (length + 2) * 4
        protocol = layer.number("ah.next_header") or 0
        self.inside_ah = _TRANSPORT.get(protocol, "")
        self.carries = protocol
        self.row["payload_length"] = None
        if protocol != 6:
            self._payload_from(self.transport_at + _HEADER.get(protocol, 0))
        return True

    # Transport

    def _group(self, at: int, size: int, layout: str, offset: int, shown: list[int | None]) -> list[int] | None:
        """The values of a group, as tshark shows them or as the frame's bytes say; None unless all bytes are there."""
        if at + size > self.limit:
            return None
        if None not in shown:
            return [value for value in shown if value is not None]
        return list(struct.unpack_from(layout, self.octets(), at + offset))

    def _ports(self, layer: Layer, prefix: str) -> None:
        shown = [layer.number(f"{prefix}.srcport"), layer.number(f"{prefix}.dstport")]
        self.awaited = False
        group = self._group(layer.position, 4, ">HH", 0, shown)
        if group:
            self.row["sport"], self.row["dport"] = group

    def _tcp(self, layer: Layer) -> bool:
        self._ports(layer, "tcp")
        shown = [layer.number("tcp.seq_raw"), layer.number("tcp.ack_raw"), layer.number("tcp.flags")]
        group = self._group(layer.position, 14, ">IIH", 4, shown)
        if group:
            self.row["tcp_seq"], self.row["tcp_ack"], self.row["tcp_flags"] = group[0], group[1], group[2] & 0xFFF
            header = layer.number("tcp.hdr_len")
            if header is None:
                header = (self.octets()[layer.position + 12] >> 4) * 4
            self._payload_from(layer.position + max(header, 20))
        return False

    def _udp(self, layer: Layer) -> bool:
        self._ports(layer, "udp")
        return True

    def _udplite(self, layer: Layer) -> bool:
        self._ports(layer, "udp")
        return False

    def _sctp(self, layer: Layer) -> bool:
        self._ports(layer, "sctp")
        return False

    def _icmp(self, layer: Layer) -> bool:
        self._type_and_code(layer, [layer.number("icmp.type"), layer.number("icmp.code")])
        if self.row.get("icmp_type") in _ICMP_WITH_ID:
            self._identifier(layer, [layer.number("icmp.ident"), layer.number("icmp.seq")])
        return False

    def _icmpv6(self, layer: Layer) -> bool:
        self._type_and_code(layer, [layer.number("icmpv6.type"), layer.number("icmpv6.code")])
        if self.row.get("icmp_type") in (128, 129):
            shown = [layer.number("icmpv6.echo.identifier"), layer.number("icmpv6.echo.sequence_number")]
            self._identifier(layer, shown)
        return False

    def _type_and_code(self, layer: Layer, shown: list[int | None]) -> None:
        self.awaited = False
        group = self._group(layer.position, 2, ">BB", 0, shown)
        if group:
            self.row["icmp_type"], self.row["icmp_code"] = group

    def _identifier(self, layer: Layer, shown: list[int | None]) -> None:
        group = self._group(layer.position, 8, ">HH", 4, shown)
        if group:
            self.row["icmp_id"], self.row["icmp_seq"] = group

    # Tunnels

    def _named(self, kind: str, number: int | None) -> str:
        """The kind, the number, and the addresses of the carrier if no tunnel before has named them."""
        carrier, self.carrier = self.carrier, ""
        if kind == "mpls-in-udp" and not carrier:  # a further label of the same stack
            carrier = self.pending[-1].rsplit(" ", 1)[1]
        return " ".join(part for part in (kind, "" if number is None else str(number), carrier) if part)

    def _gre(self, layer: Layer) -> bool:
        version = layer.number("gre.flags.version")
        routed = layer.number("gre.flags.routing") == 1  # RFC 1701; not looked into
        if version not in (0, 1) or routed or layer.number("gre.proto") not in _IN_GRE | _MIRRORED:
            return False
        if layer.number("gre.proto") in _MIRRORED:
            self.pending.append("")  # the next layer names it
            return version == 0
        number = layer.number("gre.key") if version == 0 else layer.number("gre.key.call_id")
        self.pending.append(self._named("gre", number))
        return True

    def _erspan(self, layer: Layer) -> bool:
        if not self.pending or layer.number("erspan.ft") not in (None, 0, 2):
            return False
        self.pending[-1] = self._named("erspan", layer.number("erspan.spanid"))
        return True

    def _tzsp(self, layer: Layer) -> bool:
        found = tuple(layer.number(f"tzsp.{name}") for name in ("version", "type", "encap"))
        if not self._to_port("tzsp") or found != (1, 0, 1):
            return False
        self.pending.append(self._named("tzsp", None))
        return True

    def _vxlan(self, layer: Layer) -> bool:
        if self.row.get("dport") == 4790:
            if layer.number("vxlan.p_bit") != 1:
                return False
            kind = "vxlan-gpe"
        elif self._to_port("vxlan"):
            if not (layer.number("vxlan.flag_i") or layer.number("vxlan.i_bit")):
                return False
            kind = "vxlan"
        else:
            return False
        self.pending.append(self._named(kind, layer.number("vxlan.vni")))
        return True

    def _geneve(self, layer: Layer) -> bool:
        if not self._to_port("geneve") or layer.number("geneve.version") != 0:
            return False
        self.pending.append(self._named("geneve", layer.number("geneve.vni")))
        return True

    def _gtp(self, layer: Layer) -> bool:
        if not self._to_port("gtp") or layer.number("gtp.flags.version") != 1 or layer.number("gtp.message") != 0xFF:
            return False
        self.pending.append(self._named("gtp-u", layer.number("gtp.teid")))
        return True

    def _nsh(self, layer: Layer) -> bool:
        if (self.row and not self.pending) or layer.number("nsh.version") != 0:
            return False
        if (layer.number("nsh.length") or 0) < 2:  # less than the headers that every NSH has (RFC 8300 2.2)
            return False
        self.pending.append(self._named("nsh", layer.number("nsh.spi")))
        return True


def expected_row(frame: Frame, octets: Callable[[], bytes]) -> dict[str, Any]:
    """The row of a frame by tshark; `octets` gives its captured bytes when they are needed."""
    return Walk(frame, octets).expected()
