"""The forwarder: frames changed, split and merged, with scapy as judge; and, as root, at work in the lab."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from capture_scripts.filter_rules import parse_rules
from capture_scripts.fixture import make_fixture
from capture_scripts.forwarder.alterations import Chain, fits
from capture_scripts.forwarder.frames import Frame, VnetHeader
from capture_scripts.forwarder.impairment import Impairment
from capture_scripts.forwarder.segments import Merge, split
from capture_scripts.processes import LabError
from capture_scripts.quiet import DEADLINE_S, wait_until, wait_until_handled
from capture_scripts.testbed.impairments import Impairments, start_service, stop_service, swap_service
from capture_scripts.testbed.topology import AGENT1, PVM1, Lab
from tests.conftest import ROOT
from tests.lab.endpoints import (
    CLIENT,
    PUNTED,
    Flow,
    Tap,
    checksums_right,
    needs_lab,
    numbered,
    transfer,
    without_processor_s,
)

TO_MACHINE = Ether(src=CLIENT.mac, dst=PVM1.mac)
FROM_MACHINE = Ether(src=PVM1.mac, dst=CLIENT.mac)
V4 = IP(src="10.77.0.12", dst="10.77.0.1", id=7, ttl=64, tos=0b10111001)
V6 = IPv6(src="fd77::12", dst="fd77::1", hlim=64, tc=0b00100101, fl=0xABCDE)
PACKETS = {
    "udp4": TO_MACHINE / V4 / UDP(sport=20000, dport=53) / Raw(bytes(range(41))),
    "udp6": TO_MACHINE / V6 / UDP(sport=20000, dport=53) / Raw(bytes(range(41))),
    "tcp4": TO_MACHINE / V4 / TCP(sport=20000, dport=53, flags="PA", options=[("MSS", 1460)]) / Raw(bytes(range(40))),
    "tcp6": TO_MACHINE / V6 / TCP(sport=20000, dport=53, flags="PA") / Raw(bytes(range(41))),
    "icmp4": TO_MACHINE / V4 / ICMP(id=3, seq=4) / Raw(bytes(range(41))),
    "icmp6": TO_MACHINE / V6 / ICMPv6EchoRequest(id=3, seq=4, data=bytes(range(40))),
    "option6": TO_MACHINE / V6 / IPv6ExtHdrDestOpt() / UDP(sport=20000, dport=53) / Raw(bytes(range(41))),
}


def frame(packet: Packet | bytes, vnet: VnetHeader | None = None) -> Frame:
    return Frame(vnet or VnetHeader(), bytearray(bytes(packet)))


def recomputed(data: bytes) -> bytes:
    """The same frame with all checksums computed by scapy."""
    packet = Ether(data)
    for layer in (IP, TCP, UDP, ICMP, ICMPv6EchoRequest):
        if packet.haslayer(layer):
            field = "cksum" if layer is ICMPv6EchoRequest else "chksum"
            delattr(packet[layer], field)
    return bytes(packet)


def impairment(kind: str, value: str, number: int = 1, **fields: Any) -> Impairment:
    return Impairment(number=number, kind=kind, value=value, **fields)


def chain(*impairments: Impairment, notes: list[dict[str, Any]] | None = None, seed: int = 1) -> Chain:
    return Chain(impairments, PVM1.mac, seed, None if notes is None else notes.append)


@pytest.mark.parametrize("name", list(PACKETS))
def test_headers_are_found(name: str) -> None:
    found = frame(PACKETS[name])
    assert found.version == (6 if "6" in name else 4)
    assert found.protocol == {"udp": 17, "opt": 17, "tcp": 6, "icm": 1 if "4" in name else 58}[name[:3]]
    assert found.payload is not None
    assert found.data[found.payload : found.payload + 40] == bytes(range(40))
    assert checksums_right(found)


def test_what_is_no_ip_or_cut_short_is_left_alone() -> None:
    whole = bytes(PACKETS["tcp4"])
    for data in (b"", whole[:20], bytes(Ether(type=0x0806)) + bytes(46), whole[:12] + b"\x08\x00" + b"\xff" * 40):
        assert frame(data).version == 0
        (out,) = chain(impairment("ttl", "9"), impairment("loss", "1", 2)).push(frame(data), 0)
        assert out.data == data
    cut = frame(whole[:40])  # inside the TCP header: an IP packet without ports
    assert (cut.version, cut.payload, cut.sport) == (4, None, None)


@pytest.mark.parametrize(
    ("kind", "value", "changed"),
    [
        ("ttl", "40", {"ttl": 40, "hlim": 40}),
        ("ttl", "-1", {"ttl": 63, "hlim": 63}),
        ("dscp", "12", {"tos": 12 << 2 | 1, "tc": 12 << 2 | 1}),
        ("nat", "source=10.77.0.12,192.0.2.200", {"src": "192.0.2.200"}),
        ("nat", "source=fd77::12,2001:db8::99", {"src": "2001:db8::99"}),
        ("nat", "destination=10.77.0.1,192.0.2.201", {"dst": "192.0.2.201"}),
        ("nat", "destination=fd77::1,2001:db8::98", {"dst": "2001:db8::98"}),
        ("nat", "sport=20000,1025", {"sport": 1025}),
        ("nat", "dport=53,65535", {"dport": 65535}),
        ("payload", "0xff", {}),
    ],
)
@pytest.mark.parametrize("name", list(PACKETS))
def test_a_change_is_that_change_and_right_checksums(name: str, kind: str, value: str, changed: dict[str, Any]) -> None:
    before = bytes(PACKETS[name])
    notes: list[dict[str, Any]] = []
    (out,) = chain(impairment(kind, value, offset=17), notes=notes).push(frame(before), 0)
    expected = Ether(before)
    for layer in (IP, IPv6, TCP, UDP):
        if expected.haslayer(layer):
            for field, new in changed.items():
                old = getattr(expected[layer], field, None)
                if old is not None and (":" in str(old)) == (":" in str(new)):
                    setattr(expected[layer], field, new)
    wanted = bytearray(bytes(expected))
    if kind == "payload":
        wanted[out.payload + 17] = 0xFF  # type: ignore[operator]
    assert bytes(out.data) == recomputed(bytes(wanted))
    assert checksums_right(out)
    assert len(notes) == (bytes(out.data) != before)


@pytest.mark.parametrize("seed", range(30))
def test_any_bytes_anywhere_in_the_transport(seed: int) -> None:
    chance = random.Random(seed)
    for name in ("udp4", "udp6", "tcp6", "icmp4", "icmp6"):
        changed = frame(PACKETS[name])
        assert changed.payload is not None
        length = chance.randint(1, 9)
        at = chance.randint(changed.payload, changed.end - length)
        changed.replace(at, chance.randbytes(length))
        assert bytes(changed.data) == recomputed(bytes(changed.data))


def test_a_partial_checksum_stays_the_sum_of_the_pseudo_header() -> None:
    for name in ("tcp4", "tcp6", "udp4", "udp6"):
        field = {"tcp": 16, "udp": 6}[name[:3]]
        one = frame(PACKETS[name])
        one.data[one.layer4 + field : one.layer4 + field + 2] = one.pseudo_sum().to_bytes(2, "big")
        one.vnet = VnetHeader(1, 0, 0, 0, one.layer4, field)
        old, new = ("fd77::12", "fd77::ffff") if "6" in name else ("10.77.0.12", "10.77.255.255")
        steps = chain(impairment("nat", f"source={old},{new}"), impairment("nat", "dport=53,99", 2))
        (out,) = steps.push(one, 0)
        assert (str(out.address("source")), out.dport) == (new, 99)
        assert out.word(out.layer4 + field) % 0xFFFF == out.pseudo_sum() % 0xFFFF


def test_a_datagram_without_a_checksum_keeps_none() -> None:
    data = bytearray(bytes(PACKETS["udp4"]))
    data[40:42] = b"\0\0"
    (out,) = chain(impairment("nat", "dport=53,54")).push(frame(bytes(data)), 0)
    assert out.data[40:42] == b"\0\0"


def superpacket(version: int, length: int, size: int) -> tuple[Frame, bytes]:
    network = V4.copy() if version == 4 else V6.copy()
    payload = random.Random(length).randbytes(length)
    packet = TO_MACHINE / network / TCP(sport=1, dport=2, seq=2**32 - 1000, flags="PAFC", window=9) / Raw(payload)
    made = frame(packet)
    assert made.payload is not None
    return frame(packet, VnetHeader(1, 1 if version == 4 else 4, made.payload, size, made.layer4, 16)), payload


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("length", "size", "mtu"), [(5000, 1448, 1500), (5000, 1448, 600), (3000, 1000, 1500)])
def test_a_superpacket_becomes_segments(version: int, length: int, size: int, mtu: int) -> None:
    whole, payload = superpacket(version, length, size)
    segments = split(whole, mtu)
    packets = [Ether(bytes(segment.data)) for segment in segments]
    assert b"".join(bytes(packet[TCP].payload) for packet in packets) == payload
    assert max(len(packet) - 14 for packet in packets) <= mtu
    assert max(len(bytes(packet[TCP].payload)) for packet in packets) <= size
    sequence = 2**32 - 1000
    for number, packet in enumerate(packets):
        assert packet[TCP].seq == sequence % 2**32
        sequence += len(bytes(packet[TCP].payload))
        last = number == len(packets) - 1
        assert str(packet[TCP].flags) == ("F" * last + "P" * last + "A" + "C" * (number == 0))
        assert bytes(packet) == recomputed(bytes(packet))
        if version == 4:
            assert packet[IP].id == 7 + number
    assert all(segment.vnet == VnetHeader() for segment in segments)


def test_what_need_not_or_cannot_be_split_is_left_whole() -> None:
    for one in (frame(PACKETS["tcp4"]), frame(TO_MACHINE / V4 / UDP() / Raw(bytes(2000))), frame(PACKETS["icmp6"])):
        assert split(one, 1500) == [one]


@pytest.mark.parametrize("version", [4, 6])
def test_segments_become_a_superpacket_and_segments_again(version: int) -> None:
    whole, _ = superpacket(version, 5000, 1448)
    segments = split(whole, 1500)
    notes: list[dict[str, Any]] = []
    steps = chain(impairment("merge", "1000"), notes=notes)
    out = [one for segment in segments for one in steps.push(segment, 0)]
    # The first carries CWR, which no merging may hide: it goes alone, the other three go as one.
    assert [len(one.data) for one in out] == [
        len(segments[0].data),
        sum(len(s.data) for s in segments[1:]) - 2 * 54
        if version == 4
        else sum(len(s.data) for s in segments[1:]) - 2 * 74,
    ]
    assert (out[1].vnet.gso_size, out[1].vnet.gso_type) == ((1448, 1) if version == 4 else (1440, 4))
    again = split(out[1], 1500)
    assert [bytes(one.data) for one in again] == [bytes(one.data) for one in segments[1:]]
    assert [note["packet"]["tcp_seq"] for note in notes] == [segments[1].identity()["tcp_seq"]]
    assert len(notes[0]["merged"]) == 3


def test_a_gap_a_push_and_time_end_a_merge() -> None:
    def segment(sequence: int, flags: str = "A") -> Frame:
        return frame(TO_MACHINE / V4 / TCP(sport=1, dport=2, seq=sequence, flags=flags) / Raw(bytes(100)))

    steps = chain(impairment("merge", "1000"))
    assert steps.push(segment(0), 0) == []
    assert [len(one.data) for one in steps.push(segment(300), 0)] == [154]  # a gap: the first goes, alone
    assert [len(one.data) for one in steps.push(segment(400, "PA"), 0)] == [254]  # a push: both go
    assert steps.push(segment(500), 0) == []
    assert steps.next_due_ns() == 1_000_000
    assert [len(one.data) for one in steps.due(1_000_000)] == [154]
    assert Merge.possible(segment(0))
    assert not Merge.possible(segment(0, "S"))


def test_chance_is_a_seed_and_every_impairment_has_its_own() -> None:
    packets = [bytes(TO_MACHINE / V4 / UDP(dport=53) / Raw(struct.pack("!I", i))) for i in range(400)]

    def survivors(*impairments: Impairment, seed: int = 1) -> list[bytes]:
        steps = chain(*impairments, seed=seed)
        return [bytes(out.data) for data in packets for out in steps.push(frame(data), 0)]

    lossy = impairment("loss", "0.25")
    first = survivors(lossy)
    assert first == survivors(lossy) == survivors(lossy, impairment("reorder", "0", 2))
    assert first != survivors(lossy, seed=2)
    assert 240 < len(first) < 360
    assert len(survivors(impairment("every", "10"))) == 360
    assert sorted(survivors(impairment("reorder", "0.3"))) != survivors(impairment("reorder", "0.3"))


def test_impairments_keep_to_their_path_and_match() -> None:
    steps = chain(impairment("ttl", "9", paths=("egress",), match={"protocol": "udp", "dport": "50-60"}))
    for packet, hit in (
        (TO_MACHINE / V4 / UDP(dport=53), False),
        (FROM_MACHINE / V4 / UDP(dport=53), True),
        (FROM_MACHINE / V4 / UDP(dport=61), False),
        (FROM_MACHINE / V4 / TCP(dport=53), False),
        (Ether(src=CLIENT.mac, dst=CLIENT.mac) / V4 / UDP(dport=53), False),
        (FROM_MACHINE / IP(frag=10) / UDP(dport=53), False),
    ):
        (out,) = steps.push(frame(packet), 0)
        assert (out.data[22] == 9) is hit
    (rule,) = parse_rules({"rule": [{"id": "x", "path": "ingress", "action": "drop", "icmp_type": 8}]})
    assert [fits(rule, frame(PACKETS[name])) for name in ("icmp4", "icmp6", "udp4")] == [True, False, False]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"fw{os.getpid()}")
    lab.up(service="forwarder", offloads=True)
    yield lab
    lab.down()


def arrived_at_the_forwarder(lab: Lab) -> int:
    """Packets, by the kernel's counters of the device that it reads."""
    (link,) = json.loads(lab.run_in("svm", ["ip", "-j", "-s", "link", "show", "dev", AGENT1.service_in]))
    return int(link["stats64"]["rx"]["packets"])


class TestInTheLab:
    """As root, with offloads on at the ends: superpackets and partial checksums everywhere."""

    pytestmark = needs_lab

    @pytest.fixture
    def at_work(self, lab: Lab) -> Iterator[Impairments]:
        impairments = Impairments(lab)
        yield impairments
        impairments.clear()
        log = lab.service(AGENT1).log
        log.unlink(missing_ok=True)
        swap_service(lab, AGENT1, "forwarder")

    def log(self, lab: Lab) -> list[dict[str, Any]]:
        lab.service(AGENT1).counts()  # the log is written out with the counts
        return [json.loads(line) for line in lab.service(AGENT1).log.read_text().splitlines()]

    def add(self, lab: Lab, at_work: Impairments, kind: str, value: str, **fields: Any) -> None:
        at_work.add(impairment(kind, value, **fields), AGENT1, "forwarder", str(lab.service(AGENT1).log))

    def test_it_forwards_all_and_counts_it(self, lab: Lab, at_work: Impairments) -> None:
        before = lab.service(AGENT1).counts()
        with closing(Tap(lab, "ret1")) as tap, closing(Flow(lab)) as flow:
            payloads = numbered(3000)
            assert flow.passed(payloads) == payloads
            assert len(tap.frames()) == 3000
        counts = lab.service(AGENT1).counts()
        assert counts["received"] - before["received"] == counts["forwarded"] - before["forwarded"] == 3000
        assert [counts[key] for key in ("dropped", "refused", "held", "kernel_dropped", "truncated")] == [0] * 5

    def test_tcp_with_offloads_passes_in_superpackets(self, lab: Lab, at_work: Impairments) -> None:
        with closing(Tap(lab, "ret1")) as tap:
            transfer(lab, 3_000_000)
            assert max(len(one.data) for one in tap.frames()) > 10_000

    def test_tcp_passes_split_translated_and_recoloured(self, lab: Lab, at_work: Impairments) -> None:
        for kind, value in (("split", "1200"), ("ttl", "33"), ("dscp", "10"), ("nat", "source=10.77.0.12,10.77.0.40")):
            self.add(lab, at_work, kind, value)
        with closing(Tap(lab, "ret1")) as tap:
            transfer(lab, 300_000)
            seen = tap.frames()
        assert max(one.end - one.layer3 for one in seen) <= 1200
        ingress = [one for one in seen if one.data[:6] == bytes.fromhex(PVM1.mac.replace(":", ""))]
        assert {(str(one.address("source")), one.data[22], one.data[15] >> 2) for one in ingress} == {
            ("10.77.0.40", 33, 10)
        }
        assert {note["kind"] for note in self.log(lab)} == {"split", "ttl", "dscp", "nat"}

    def test_segments_are_merged(self, lab: Lab, at_work: Impairments) -> None:
        lab.run_in("client", ["ethtool", "-K", "eth0", "tso", "off", "gso", "off"])
        try:
            self.add(lab, at_work, "merge", "20000")  # long enough for segments that come one by one
            with closing(Tap(lab, "punt1")) as before, closing(Tap(lab, "ret1")) as after:
                transfer(lab, 300_000)
                lengths = [max(len(one.data) for one in tap.frames()) for tap in (before, after)]
        finally:
            lab.run_in("client", ["ethtool", "-K", "eth0", "tso", "on", "gso", "on"])
        assert lengths[0] <= 1514
        assert lengths[1] > 2 * 1448
        assert all(len(note["merged"]) > 1 for note in self.log(lab))

    def test_delay_holds_and_keeps_the_order(self, lab: Lab, at_work: Impairments) -> None:
        self.add(lab, at_work, "delay", "5000", jitter_us=3000, match={"protocol": "udp"})
        delays, starved = [], []
        pid = lab.service(AGENT1).described()["pid"]
        with closing(Flow(lab)) as flow:
            for payload in numbered(40):
                start, waited = time.monotonic(), without_processor_s("self", pid)
                flow.send([payload])
                assert flow.machine.recv(100) == payload
                delays.append(time.monotonic() - start)
                starved.append(without_processor_s("self", pid) - waited)
            payloads = numbered(100)
            assert flow.passed(payloads) == payloads  # jitter does not reorder
        logged = [note["delay_ns"] for note in self.log(lab)]
        assert len(logged) == 140
        assert all(5_000_000 <= delay <= 8_000_000 for delay in logged[:40])
        over = [measured - said / 1e9 for measured, said in zip(delays, logged, strict=False)]
        assert min(over) > 0
        # And not much longer, but for the time in which the two of us were ready and others had the processors.
        assert sorted(late - waited for late, waited in zip(over, starved, strict=True))[20] < 0.005

    def test_the_log_is_the_truth_about_loss_duplicates_and_order(self, lab: Lab, at_work: Impairments) -> None:
        for kind, value in (("loss", "0.1"), ("dup", "0.1"), ("reorder", "0.1")):
            self.add(lab, at_work, kind, value, paths=("ingress",), match={"protocol": "udp"})
        payloads = [f"-PKTRI{number:08d}".encode() for number in range(300)]
        with closing(Tap(lab, "ret1")) as tap, closing(Flow(lab)) as flow:
            flow.passed(payloads)
            arrived = [one.marked() for one in tap.frames()]
        notes = self.log(lab)

        def markers(kind: str) -> list[bytes]:
            return [note["packet"]["marker"].encode() for note in notes if note["kind"] == kind]

        assert sorted(arrived) == sorted([p for p in payloads if p not in set(markers("loss"))] + markers("dup"))
        late = {second for first, second in pairwise(arrived) if second < first}
        held = set(markers("reorder"))
        assert late <= held
        assert held - late <= set(markers("dup"))  # overtaken by a copy of itself, which shows nowhere
        assert all(markers(kind) for kind in ("loss", "dup", "reorder"))
        shown = {entry["kind"]: entry["counts"] for entry in at_work.shown()}
        assert {kind: counts["applied"] for kind, counts in shown.items()} == {
            kind: len(markers(kind)) for kind in shown
        }
        assert shown["loss"]["seen"] == 300

    def test_what_nft_drops_behind_it_is_tried_once(self, lab: Lab, at_work: Impairments) -> None:
        at_work.add(impairment("every", "3", paths=("ingress",), match={"protocol": "udp"}), AGENT1)
        before = lab.service(AGENT1).counts()
        with closing(Flow(lab)) as flow:
            arrived = flow.passed(numbered(3000))
        counts = lab.service(AGENT1).counts()
        assert len(arrived) == 2000
        assert [counts[key] - before[key] for key in ("received", "forwarded", "refused")] == [3000, 2000, 1000]
        assert at_work.shown()[0]["counts"] == {"ingress": {"seen": 3000, "applied": 1000}}

    def test_known_losses_are_lost_in_front_of_a_forwarder_too(self, lab: Lab, at_work: Impairments) -> None:
        with closing(Tap(lab, "punt1")) as before, closing(Tap(lab, "ret1")) as after, closing(Flow(lab)) as flow:
            flow.send([f"{code}PKTRI{number:08d}".encode() for number, code in enumerate("cc-c")])
            assert (len(before.frames()), len(after.frames())) == (4, 1)

    def test_what_is_held_is_passed_on_at_the_end(self, lab: Lab, at_work: Impairments) -> None:
        self.add(lab, at_work, "delay", "10000000", match={"protocol": "udp"})
        with closing(Flow(lab)) as flow:
            flow.send(numbered(20))
            wait_until(lambda: lab.service(AGENT1).counts()["held"] == 20, "the forwarder holds all")
            counts = stop_service(lab, AGENT1)
            assert [one.payload for one in flow.received()] == numbered(20)
        assert counts["received"] == counts["forwarded"] >= 20
        assert counts["held"] == 0
        assert at_work.listed() == []
        with pytest.raises(LabError, match="no service"):
            stop_service(lab, AGENT1)
        with closing(Flow(lab)) as flow:
            assert flow.passed(numbered(3)) == []
        start_service(lab, AGENT1, "bridge")
        with closing(Flow(lab)) as flow:
            assert flow.passed(numbered(3)) == numbered(3)

    def test_what_the_kernel_had_no_room_for_is_counted(self, lab: Lab, at_work: Impairments) -> None:
        pid = lab.service(AGENT1).described()["pid"]
        before, at_first = lab.service(AGENT1).counts(), arrived_at_the_forwarder(lab)
        payload = bytes(1400)
        with closing(Tap(lab, "punt1")), closing(Flow(lab)) as flow:
            os.kill(pid, signal.SIGSTOP)
            try:
                flow.send([payload] * 75_000)  # 170 MB as the kernel counts them; there is room for 128 MB
            finally:
                os.kill(pid, signal.SIGCONT)
        lab.wait_until_quiet()  # it still takes what had room
        arrived = arrived_at_the_forwarder(lab) - at_first
        counts = lab.service(AGENT1).counts()
        received, dropped = (counts[key] - before[key] for key in ("received", "kernel_dropped"))
        assert dropped > 1000
        assert received + dropped == arrived >= 75_000

    def test_a_forwarder_that_died_is_named(self, lab: Lab, at_work: Impairments) -> None:
        service = lab.service(AGENT1)
        os.kill(service.described()["pid"], signal.SIGKILL)
        wait_until(lambda: not service.described()["running"], "the forwarder dies")
        with pytest.raises(LabError, match="has died"):
            service.counts()

    def test_on_its_own_it_tells_its_counts_at_the_end(self, lab: Lab, at_work: Impairments, tmp_path: Path) -> None:
        stop_service(lab, AGENT1)
        process = forwarder(lab, ["--loss", "1", "--protocol", "udp", "--dport", str(PUNTED)], tmp_path)
        with closing(Flow(lab)) as flow:
            flow.send(numbered(10))
            wait_until_handled()  # now all lie before the forwarder, and it takes them before it ends
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
            assert flow.received() == []
        counts = json.loads((tmp_path / "counts.json").read_text())
        assert (counts["received"], counts["dropped"], counts["forwarded"]) == (10, 10, 0)
        assert counts["impairments"] == [{"number": 1, "kind": "loss", "seen": 10, "applied": 10, "held": 0}]
        assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 10


def forwarder(lab: Lab, flags: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    script = ROOT / "capture_scripts" / "forwarder" / "forwarder.py"
    command = ["ip", "netns", "exec", lab.namespace("svm"), sys.executable, str(script), "p1", "r1"]
    command += ["--protected-mac", PVM1.mac, "--counts", str(folder / "counts.json")]
    process = subprocess.Popen([*command, "--log", str(folder / "log.jsonl"), *flags], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.lab
@pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root: it makes network namespaces")
@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="recording needs tcpdump")
def test_a_recording_through_it_agrees_with_plan_and_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    up = Lab.up
    monkeypatch.setattr(Lab, "up", lambda lab, rules_file: up(lab, rules_file, service="forwarder"))
    figures = make_fixture.make_fixture(tmp_path / "run", f"fr{os.getpid()}")  # LabError if anything disagrees
    assert figures["marked"] > 1000
