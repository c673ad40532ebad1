"""The decoder against dpkt and scapy, two libraries that share nothing with it, on the fields that they know.

The innermost IP packet is looked for by walking their layers. Where a library does not know a protocol, or is wrong,
the frames and the reason stand in `NOT_BY_SCAPY` and `NOT_BY_DPKT`; a reason that is not needed (any more) is an error.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SERVICE_CHAIN
from tests.kit.small_captures import CAPTURES
from tests.reference.capture import read_capture
from tests.test_decoder import decoded

Fields = dict[str, Any]
FIXTURE_CAPTURES = sorted((SERVICE_CHAIN / "captures").glob("*.pcapng"))
FIXTURE_PACKETS = 1500
# Compressed files hold what the plain ones hold.
COMPARED = [name for name in CAPTURES if not name.startswith(("gzip", "zstd", "lz4"))]

ALL = range(1, 100)
Reasons = dict[str, tuple[Iterable[int], str]]
LINK_UNKNOWN = "knows no such link type"
TUNNEL_UNKNOWN = "does not know the tunnel, so the outer packet is the last for it"
BELIEVES_BAD_HEADERS = "decodes headers that contradict themselves (length, version)"
NO_SHORT_FRAMES = "wants a whole link or transport header"

NOT_BY_SCAPY: Reasons = {
    "link-1-llc": ([3], "does not know LLC SAP 6 as IP"),
    "link-1-vlan": ([5, 6, 11], "does not know the tag 9100; has no bound on tags"),
    "link-1-mpls": ([5, 6, 8], "does not know EtherType 8848; takes what follows MPLS for Ethernet where it can"),
    "link-1-pppoe": ([4], "does not know MPLS in PPP"),
    "link-0-null": ([2, 4, 6, 8, 10, 12], "takes the families of its own host for all"),
    "link-108-loop": ([2], "takes the families of its own host for all"),
    "link-raw": ([3, 4, 9], "knows 14 not; takes everything for IPv4 whose version is not 6"),
    "link-9-ppp": ([9], "does not know MPLS in PPP"),
    "link-50-ppp-hdlc": ([3, 4], "wants address and control bytes"),
    "link-166-pppd": (ALL, LINK_UNKNOWN),
    "link-105-wifi": ([9, 10, 12], "does not know the HT control field; takes an aggregate for a packet"),
    "link-wifi-heads": ([5, 6], LINK_UNKNOWN),
    "link-219-mpls": (ALL, LINK_UNKNOWN),
    "link-unknown": (ALL, LINK_UNKNOWN),
    "network-ipv4": ([4, 5, 6], BELIEVES_BAD_HEADERS),
    "network-ipv6": ([5], BELIEVES_BAD_HEADERS),
    "tunnel-ip-in-ip": ([6, 8, 9], BELIEVES_BAD_HEADERS),
    "tunnel-gre": ([10], "does not look at the version of GRE"),
    "tunnel-mirrors": ([1, 2, 3, 4, 5, 6, 8, 9], TUNNEL_UNKNOWN),
    "tunnel-vxlan": ([4, 7], "does not look at the flag I; follows the source port, too"),
    "tunnel-vxlan-gpe": ([4], "does not know MPLS in VXLAN-GPE"),
    "tunnel-geneve": ([5], "does not look at the version of Geneve"),
    "tunnel-gtp-u": ([4, 8], "knows one extension header of GTP-U, and no bad ones"),
    "tunnel-nested": ([4], "has no bound on the depth"),
    "tunnel-superpackets": ([2], "takes a payload length of 0 as it is"),
    "tunnel-doubtful": ([4, 9], "does not look into AH in IPv4; follows a VLAN tag in GRE"),
    "cut-plain": (range(2, 6), NO_SHORT_FRAMES),
    "cut-extensions": (range(2, 6), NO_SHORT_FRAMES),
    "cut-vxlan": (range(2, 6), NO_SHORT_FRAMES),
}

NOT_BY_DPKT: Reasons = {
    "pcapng-late-interface": ([3], NO_SHORT_FRAMES),
    "link-1-llc": ([4], "does not know an 802.3 length behind a VLAN tag"),
    "link-1-vlan": ([9, 10], "follows few tags"),
    "link-1-mpls": ([8], "takes everything behind MPLS for IP"),
    "link-1-pppoe": ([4], "does not know MPLS in PPP"),
    "link-108-loop": (ALL, LINK_UNKNOWN),
    "link-raw": ([1, 2, 3, 4, 7, 8, 9], LINK_UNKNOWN),
    "link-9-ppp": ([3, 4, 7, 8, 9], "wants address and control bytes; does not know MPLS in PPP"),
    "link-50-ppp-hdlc": (ALL, LINK_UNKNOWN),
    "link-166-pppd": (ALL, LINK_UNKNOWN),
    "link-204-ppp-with-direction": (ALL, LINK_UNKNOWN),
    "link-51-pppoe": (ALL, LINK_UNKNOWN),
    "link-105-wifi": (range(1, 11), "does not look into LLC in 802.11"),
    "link-wifi-heads": (ALL, "does not look into LLC in 802.11"),
    "link-113-sll": ([6], "does not know a VLAN tag in cooked frames"),
    "link-276-sll2": ([5], "does not know a VLAN tag in cooked frames"),
    "link-219-mpls": (ALL, LINK_UNKNOWN),
    "link-unknown": (ALL, LINK_UNKNOWN),
    "network-ipv4": ([5, 6], BELIEVES_BAD_HEADERS),
    "network-ipv6": ([5], BELIEVES_BAD_HEADERS),
    "tunnel-ip-in-ip": ([6, 8], BELIEVES_BAD_HEADERS + "; goes by the protocol, not the version"),
    "tunnel-gre": ([7, 8], "does not know MPLS and NSH in GRE"),
    "tunnel-mirrors": ([1, 2, 3, 4, 5, 6, 8, 9], TUNNEL_UNKNOWN),
    "tunnel-gre-pptp": ([2, 3], "wants address and control bytes"),
    "tunnel-vxlan": ([1, 2, 3], TUNNEL_UNKNOWN),
    "tunnel-vxlan-gpe": (range(1, 6), TUNNEL_UNKNOWN),
    "tunnel-geneve": (range(1, 5), TUNNEL_UNKNOWN),
    "tunnel-gtp-u": (range(1, 6), TUNNEL_UNKNOWN),
    "tunnel-nsh": (range(1, 7), TUNNEL_UNKNOWN),
    "tunnel-mpls-in-udp": ([1, 2], TUNNEL_UNKNOWN),
    "tunnel-nested": ([2, 4], TUNNEL_UNKNOWN + "; has no bound on the depth"),
    "tunnel-fragments": ([1], TUNNEL_UNKNOWN),
    "tunnel-doubtful": ([6, 7, 12], TUNNEL_UNKNOWN + "; many extensions fail"),
    "cut-plain": (range(1, 7), NO_SHORT_FRAMES),
    "cut-extensions": ([1, 2, 3, 4, 5, *range(19, 25)], NO_SHORT_FRAMES),
    "cut-vxlan": ([1, 2, 3, 4, 5, 29, 30, 31], NO_SHORT_FRAMES + "; " + TUNNEL_UNKNOWN),
    "cut-gre-gtp": ([33, 34, 35], TUNNEL_UNKNOWN),
}


# --- scapy --------------------------------------------------------------------------------------------------


def scapy_fields(data: bytes, linktype: int) -> Fields:
    """What scapy says of the innermost IP packet."""
    import scapy.contrib.geneve
    import scapy.contrib.gtp
    import scapy.contrib.mpls
    import scapy.contrib.nsh  # noqa: F401
    from scapy.config import conf
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
    from scapy.layers.sctp import SCTP

    packet = conf.l2types[linktype](data)
    fields: Fields = {"source": None}
    for layer in layers(packet):
        if isinstance(layer, (IP, IPv6)):
            ttl = layer.ttl if isinstance(layer, IP) else layer.hlim
            fields = {"source": canonical(layer.src), "destination": canonical(layer.dst), "ttl": ttl}
            if isinstance(layer, IP):
                fields |= {"ip_id": layer.id, "fragment_offset": layer.frag * 8, "protocol": layer.proto}
        elif isinstance(layer, IPv6ExtHdrFragment):
            fields |= {"ip_id": layer.id, "fragment_offset": layer.offset * 8, "more_fragments": bool(layer.m)}
        elif isinstance(layer, (TCP, UDP, SCTP)):
            fields |= {"sport": layer.sport, "dport": layer.dport}
            if isinstance(layer, TCP):
                flags = int(layer.flags) | layer.reserved << 9
                fields |= {"tcp_seq": layer.seq, "tcp_ack": layer.ack, "tcp_flags": flags}
        elif isinstance(layer, ICMP):
            fields |= {"icmp_type": layer.type, "icmp_code": layer.code}
            if layer.type in (0, 8, 13, 14, 15, 16, 17, 18):
                fields |= {"icmp_id": layer.id, "icmp_seq": layer.seq}
        elif layer.name.startswith("ICMPv6") and hasattr(layer, "type") and hasattr(layer, "cksum"):
            fields |= {"icmp_type": layer.type, "icmp_code": layer.code}
    return fields


def layers(packet: Any) -> Iterator[Any]:
    """A scapy packet's layers, outermost first; not those that an ICMP error quotes."""
    while packet is not None and packet.name != "NoPayload" and " in ICMP" not in packet.name:
        yield packet
        packet = packet.payload


# --- dpkt ---------------------------------------------------------------------------------------------------


def dpkt_fields(data: bytes, linktype: int) -> Fields:
    """What dpkt says of the innermost IP packet."""
    import dpkt

    reader = {
        0: dpkt.loopback.Loopback,
        1: dpkt.ethernet.Ethernet,
        9: dpkt.ppp.PPP,
        101: dpkt.ip.IP if data[:1] and data[0] >> 4 == 4 else dpkt.ip6.IP6,
        105: dpkt.ieee80211.IEEE80211,
        113: dpkt.sll.SLL,
        127: dpkt.radiotap.Radiotap,
        276: dpkt.sll2.SLL2,
    }[linktype]
    layer: Any = reader(data)
    fields: Fields = {"source": None}
    while layer is not None and not isinstance(layer, bytes):
        if isinstance(layer, dpkt.ip.IP):
            fields = {"ip_id": layer.id, "fragment_offset": layer.offset * 8, "more_fragments": bool(layer.mf)}
            fields |= {"source": text(layer.src), "destination": text(layer.dst)}
            fields |= {"ttl": layer.ttl, "protocol": layer.p}
        elif isinstance(layer, dpkt.ip6.IP6):
            fields = {"source": text(layer.src), "destination": text(layer.dst), "ttl": layer.hlim}
            for header in layer.all_extension_headers:
                if isinstance(header, dpkt.ip6.IP6FragmentHeader):
                    fields |= {"ip_id": header.id, "fragment_offset": header.frag_off * 8}
        elif isinstance(layer, (dpkt.tcp.TCP, dpkt.udp.UDP, dpkt.sctp.SCTP)):
            fields |= {"sport": layer.sport, "dport": layer.dport}
            if isinstance(layer, dpkt.tcp.TCP):
                fields |= {"tcp_seq": layer.seq, "tcp_ack": layer.ack}
        elif isinstance(layer, (dpkt.icmp.ICMP, dpkt.icmp6.ICMP6)):
            fields |= {"icmp_type": layer.type, "icmp_code": layer.code}
            if isinstance(layer.data, (dpkt.icmp.ICMP.Echo, dpkt.icmp6.ICMP6.Echo)):
                fields |= {"icmp_id": layer.data.id, "icmp_seq": layer.data.seq}
            break
        layer = layer.data
    return fields


def text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


def canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


# --- the comparison -----------------------------------------------------------------------------------------


def disagreements(data: bytes, dissect: Callable[[bytes, int], Fields], folder: Path) -> dict[int, str]:
    """By frame, the fields that the library has otherwise than the product, or why it could not decode the packet.

    The bytes of the packets are those that the reference reads: dpkt and scapy read few of the file formats.
    """
    rows, _, _ = decoded(data, folder)
    packets = read_capture(data).packets
    wrong = {}
    for row, packet in zip(rows[:FIXTURE_PACKETS], packets[:FIXTURE_PACKETS], strict=True):
        try:
            fields = dissect(packet.data, packet.interface.linktype)
        except Exception as error:  # noqa: BLE001 - what a library raises on a cut packet is its own affair
            wrong[packet.frame] = repr(error)
            continue
        differing = {name: (row[name], value) for name, value in fields.items() if row[name] != value}
        if differing:
            wrong[packet.frame] = f"ours and theirs: {differing}"
    return wrong


def check(name: str, wrong: dict[int, str], reasons: Reasons) -> None:
    frames, reason = reasons.get(name, ((), ""))
    unexplained = [f"frame {frame}: {text}" for frame, text in wrong.items() if frame not in frames]
    assert "\n".join(unexplained) == ""
    if frames is not ALL:
        assert set(frames) == set(wrong), f"no longer so: {reason}"
    else:
        assert wrong, f"no longer so: {reason}"


@pytest.mark.parametrize("name", COMPARED)
def test_scapy_agrees(name: str, tmp_path: Path) -> None:
    check(name, disagreements(CAPTURES[name], scapy_fields, tmp_path), NOT_BY_SCAPY)


@pytest.mark.parametrize("name", COMPARED)
def test_dpkt_agrees(name: str, tmp_path: Path) -> None:
    check(name, disagreements(CAPTURES[name], dpkt_fields, tmp_path), NOT_BY_DPKT)


@pytest.mark.parametrize("file", FIXTURE_CAPTURES, ids=lambda file: file.stem)
@pytest.mark.parametrize("dissect", [scapy_fields, dpkt_fields])
def test_both_agree_on_recorded_packets(file: Path, dissect: Callable[[bytes, int], Fields], tmp_path: Path) -> None:
    assert disagreements(file.read_bytes(), dissect, tmp_path) == {}


@pytest.mark.parametrize("name", ["pcap-us-le", "pcap-us-be", "pcap-ns-le", "pcap-ns-be", "pcapng-le", "pcapng-be"])
def test_their_readers_find_the_same_packets(name: str, tmp_path: Path) -> None:
    """Times to the nanosecond with scapy; dpkt reads times as floats, so to the microsecond there."""
    import dpkt
    from scapy.utils import RawPcapNgReader, RawPcapReader

    rows, _, _ = decoded(CAPTURES[name], tmp_path)
    path = str(tmp_path / "capture")
    times = []
    with RawPcapReader(path) as reader:
        for _, metadata in reader:
            if isinstance(reader, RawPcapNgReader):
                units = metadata.tshigh << 32 | metadata.tslow
                times.append(units * 1_000_000_000 // int(metadata.tsresol))
            else:
                scale = 1 if reader.nano else 1000
                times.append(metadata.sec * 1_000_000_000 + metadata.usec * scale)
    assert times == [row["ts_ns"] for row in rows]
    with (tmp_path / "capture").open("rb") as file:
        for row, (seconds, data) in zip(rows, dpkt.pcap.UniversalReader(file), strict=True):
            assert abs(float(seconds) - row["ts_ns"] / 1e9) < 2e-6
            assert len(data) == row["captured_length"]
