"""Packets in every link layer of docs/decoding.md, and frames in them that are no IP for us."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tests.kit import links, packets
from tests.kit.samples import NOTHING, Sample, both, group, plain_ethernet, tcp6, udp4


@group("link-1-ethernet")
def ethernet() -> list[Sample]:
    padded = [Sample(sample.data + bytes(9), sample.fields) for sample in both(plain_ethernet)]
    unknown_sap = links.ieee_802_3(bytes.fromhex("424203") + bytes(40))
    return [
        *both(plain_ethernet, vlan=None, tunnel=None),
        *padded,
        Sample(packets.arp_request(), NOTHING),
        Sample(unknown_sap, NOTHING),
    ]


@group("link-1-llc")
def llc() -> list[Sample]:
    sap_ip = bytes.fromhex("060603")
    packet, known = udp4()
    tagged = Sample(links.ieee_802_3(links.snap(packet), links.tag(9)), {**known, "vlan": 9})
    return [
        *both(lambda packet: links.ieee_802_3(links.snap(packet))),
        Sample(links.ieee_802_3(sap_ip + packet), known),
        tagged,
        Sample(links.ieee_802_3(links.snap(bytes(46), 0x0806)), NOTHING),
    ]


@group("link-1-vlan")
def vlan() -> list[Sample]:
    def tagged(*tags: bytes) -> Callable[[bytes], bytes]:
        return lambda packet: links.ethernet_head(links.ethertype(packet), b"".join(tags)) + packet

    seventeen = links.ethernet_head(0x0800, links.tag(1) * 17) + udp4()[0]
    return [
        *both(tagged(links.tag(100)), vlan=100),
        *both(tagged(links.tag(4094, 0x88A8, 7), links.tag(7)), vlan=4094),
        *both(tagged(links.tag(5, 0x9100), links.tag(6)), vlan=5),
        *both(tagged(links.tag(0, priority=5)), vlan=0),
        *both(tagged(*(links.tag(number) for number in range(20, 36))), vlan=20),
        Sample(seventeen, NOTHING),
        Sample(packets.arp_request(vlans=(3,)), {**NOTHING, "vlan": 3}),
    ]


@group("link-1-mpls")
def mpls() -> list[Sample]:
    def labelled(kind: int, *labels: int) -> Callable[[bytes], bytes]:
        return lambda packet: links.ethernet_head(kind) + links.mpls(labels, packet)

    packet, known = udp4()
    after_vlan = links.ethernet_head(0x8847, links.tag(8)) + links.mpls((16,), packet)
    not_ip = links.ethernet_head(0x8847) + links.mpls((16,), bytes(4) + plain_ethernet(packet))
    return [
        *both(labelled(0x8847, 100), tunnel=None),
        *both(labelled(0x8847, 100, 200, 300)),
        *both(labelled(0x8848, 100)),
        Sample(after_vlan, {**known, "vlan": 8}),
        Sample(not_ip, NOTHING),
    ]


@group("link-1-pppoe")
def pppoe() -> list[Sample]:
    packet, known = tcp6()
    after_vlan = links.ethernet_head(0x8864, links.tag(8)) + links.pppoe(packet)
    over_mpls = links.ethernet_head(0x8864) + links.pppoe(links.mpls((17,), packet), protocol=links.PPP_MPLS)
    control = links.ethernet_head(0x8864) + links.pppoe(bytes.fromhex("0901000800000000"), protocol=0xC021)
    discovery = links.ethernet_head(0x8863) + bytes.fromhex("1109000000040101 0000") + bytes(40)
    return [
        *both(lambda packet: links.ethernet_head(0x8864) + links.pppoe(packet)),
        Sample(after_vlan, {**known, "vlan": 8}),
        Sample(over_mpls, known),
        Sample(control, NOTHING),
        Sample(discovery, NOTHING),
    ]


@group("link-0-null")
def null() -> list[Sample]:
    families = [sample for family in (24, 28, 30) for sample in both_orders(family)]
    return [*families, Sample(struct.pack("<I", 7) + bytes(40), NOTHING, 0)]


def both_orders(family: int) -> list[Sample]:
    return [
        sample
        for order in "<>"
        for sample in both(lambda packet, order=order: links.loopback(packet, order, family), 0)  # type: ignore[misc]
    ]


@group("link-108-loop")
def loop() -> list[Sample]:
    return both(lambda packet: links.loopback(packet, ">"), 108)


@group("link-raw")
def raw() -> list[Sample]:
    """All five numbers; a first nibble that is no version is no IP."""
    samples = [sample for linktype in (12, 14, 101) for sample in both(bytes, linktype)]
    (packet4, known4), (packet6, known6) = udp4(), tcp6()
    return [*samples, Sample(packet4, known4, 228), Sample(packet6, known6, 229), Sample(bytes(40), NOTHING, 101)]


@group("link-9-ppp")
def ppp() -> list[Sample]:
    packet, known = udp4()
    return [
        *both(links.ppp, 9),
        *both(lambda packet: links.ppp(packet, address=False), 9),
        *both(lambda packet: links.ppp(packet, compressed=True), 9),
        *both(lambda packet: links.ppp(packet, address=False, compressed=True), 9),
        Sample(links.ppp(links.mpls((18,), packet), protocol=links.PPP_MPLS), known, 9),
        Sample(bytes.fromhex("ff03c0210901000800000000"), NOTHING, 9),
    ]


@group("link-50-ppp-hdlc")
def ppp_hdlc() -> list[Sample]:
    return [*both(links.ppp, 50), *both(lambda packet: links.ppp(packet, address=False), 50)]


@group("link-166-pppd")
def pppd() -> list[Sample]:
    """The direction stands in the place of the address byte."""
    return [
        *both(lambda packet: b"\x00" + links.ppp(packet)[1:], 166, direction="in"),
        *both(lambda packet: b"\x01" + links.ppp(packet)[1:], 166, direction="out"),
    ]


@group("link-204-ppp-with-direction")
def ppp_with_direction() -> list[Sample]:
    return [
        *both(lambda packet: b"\x00" + links.ppp(packet), 204, direction="in"),
        *both(lambda packet: b"\x01" + links.ppp(packet), 204, direction="out"),
        *both(lambda packet: b"\x01" + links.ppp(packet, address=False), 204, direction="out"),
    ]


@group("link-51-pppoe")
def pppoe_link() -> list[Sample]:
    return both(links.pppoe, 51)


@group("link-105-wifi")
def wifi() -> list[Sample]:
    def frame(**how: Any) -> Callable[[bytes], bytes]:
        return lambda packet: links.ieee_802_11(links.snap(packet), **how)

    packet, _ = udp4()
    refused = (
        {"protected": True},
        {"qos": True, "a_msdu": True},
        {"kind": 0, "subtype": 8},
        {"kind": 1, "subtype": 13},
    )
    return [
        *both(frame(to_ds=True), 105),
        *both(frame(from_ds=True), 105),
        *both(frame(to_ds=True, from_ds=True), 105),
        *both(frame(from_ds=True, qos=True), 105),
        *both(frame(to_ds=True, from_ds=True, qos=True, ht_control=True), 105),
        *(Sample(links.ieee_802_11(links.snap(packet), **how), NOTHING, 105) for how in refused),
        Sample(links.ieee_802_11(b"", subtype=4), NOTHING, 105),
    ]


@group("link-wifi-heads")
def wifi_heads() -> list[Sample]:
    def under(head: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        return lambda packet: head(links.ieee_802_11(links.snap(packet), from_ds=True, qos=True))

    return [*both(under(links.radiotap), 127), *both(under(links.prism), 119), *both(under(links.avs), 163)]


@group("link-113-sll")
def sll() -> list[Sample]:
    packet, known = udp4()
    outgoing = both(lambda packet: links.sll(packet, 4), 113, direction="out")
    others = [Sample(links.sll(packet, number), {**known, "direction": "in"}, 113) for number in (0, 1, 2)]
    tagged = links.sll(links.tag(12)[2:] + struct.pack("!H", 0x0800) + packet, 0, 0x8100)
    return [
        *outgoing,
        *others,
        Sample(tagged, {**known, "vlan": 12}, 113),
        Sample(links.sll(bytes(28), 0, 0x0806), NOTHING, 113),
    ]


@group("link-276-sll2")
def sll2() -> list[Sample]:
    packet, known = udp4()
    tagged = links.sll2(links.tag(12)[2:] + struct.pack("!H", 0x0800) + packet, 0, 4, 0x8100)
    return [
        *both(lambda packet: links.sll2(packet, 4, 70000), 276, direction="out", interface_index=70000),
        *both(lambda packet: links.sll2(packet, 0, 2), 276, direction="in", interface_index=2),
        Sample(tagged, {**known, "vlan": 12, "interface_index": 4}, 276),
        Sample(links.sll2(bytes(28), 0, 2, 0x0806), NOTHING, 276),
    ]


@group("link-219-mpls")
def mpls_link() -> list[Sample]:
    return [
        *both(lambda packet: links.mpls((100,), packet), 219),
        *both(lambda packet: links.mpls((100, 200), packet), 219),
    ]


@group("link-unknown")
def unknown_link() -> list[Sample]:
    """USB: a row with frame, time and lengths."""
    return [Sample(bytes(64), NOTHING, 220)]
