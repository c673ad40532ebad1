"""Impairments: what they do to packets, at which stage, and what their counters say. Sockets and taps are truth."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from capture_scripts.forwarder.impairment import KINDS, Impairment
from capture_scripts.processes import LabError
from capture_scripts.testbed.impairments import STAGES, Impairments
from capture_scripts.testbed.topology import AGENT1, Lab
from tests.lab.endpoints import CLIENT, FORWARDED, PUNTED, PVM1, Flow, Tap, checksums_right, needs_lab, numbered

# Stage: the devices of its first and last point, per path.
ENDS = {
    ("vswitch", "ingress"): ("uplink", "sp1"),
    ("filter", "ingress"): ("sp1", "punt1"),
    ("service", "ingress"): ("punt1", "ret1"),
    ("delivery", "ingress"): ("ret1", "vnic1"),
    ("bypass", "ingress"): ("sp1", "vnic1"),
    ("filter", "egress"): ("vnic1", "punt1"),
    ("service", "egress"): ("punt1", "ret1"),
    ("delivery", "egress"): ("ret1", "sp1"),
    ("vswitch", "egress"): ("sp1", "uplink"),
    ("bypass", "egress"): ("vnic1", "sp1"),
}


def impairment(kind: str, value: str, **fields: object) -> Impairment:
    return Impairment(**{"number": 0, "kind": kind, "value": value, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("loss", "1.5"),
        ("loss", "often"),
        ("every", "0"),
        ("marked", "ab"),
        ("nat", "port=1,2"),
        ("nat", "dport=53"),
        ("nat", "source=10.0.0.1,fd00::1"),
        ("nat", "dport=53,70000"),
        ("ttl", "256"),
        ("dscp", "64"),
        ("payload", "256"),
        ("split", "20"),
        ("swallow", "1"),
    ],
)
def test_a_wrong_impairment_is_refused_by_name(kind: str, value: str) -> None:
    with pytest.raises(LabError, match=kind):
        impairment(kind, value)


def test_a_translation_names_field_old_and_new() -> None:
    assert impairment("nat", "source=10.0.0.1,10.0.0.2").nat() == ("source", "10.0.0.1", "10.0.0.2")
    assert impairment("nat", "destination=fd77::1,fd77::99").nat() == ("destination", "fd77::1", "fd77::99")
    assert impairment("nat", "sport=53,5353").nat() == ("sport", "53", "5353")


def test_an_impairment_survives_its_table() -> None:
    values = ["0.1", "3", "c", "dport=1,2", "9", "9", "9", "9", "1400", "0.1", "0.1", "10"]
    for kind, value in zip(KINDS, values, strict=True):
        one = impairment(kind, value, match={"protocol": ["udp"]}, paths=("egress",), jitter_us=7, stage="delivery")
        assert Impairment.from_table(one.table()) == one


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab(f"im{os.getpid()}")
    lab.up()
    yield lab
    lab.down()


class TestInTheLab:
    """As root."""

    pytestmark = needs_lab

    @pytest.fixture
    def at_work(self, lab: Lab) -> Iterator[Impairments]:
        impairments = Impairments(lab)
        yield impairments
        impairments.clear()

    @pytest.mark.parametrize("version", [4, 6])
    @pytest.mark.parametrize(("stage", "path"), list(ENDS))
    def test_packets_are_lost_in_the_stage_that_was_named(
        self, lab: Lab, at_work: Impairments, stage: str, path: str, version: int
    ) -> None:
        other = "egress" if path == "ingress" else "ingress"
        at_work.add(impairment("every", "3", stage=stage, paths=(path,)), AGENT1)
        port, elsewhere = (FORWARDED, PUNTED) if stage == "bypass" else (PUNTED, FORWARDED)
        with ExitStack() as stack:
            flow = stack.enter_context(closing(Flow(lab, version, port)))
            taps = [stack.enter_context(closing(Tap(lab, device))) for device in ENDS[stage, path]]
            assert len(flow.passed(numbered(30), path)) == 20
            assert [len(tap.frames()) for tap in taps] == [30, 20]
            assert len(flow.passed(numbered(9), other)) == 9
            if stage != "vswitch":  # the packets of the other way through the filter do not cross this stage
                unconcerned = stack.enter_context(closing(Flow(lab, version, elsewhere, 20_002)))
                assert len(unconcerned.passed(numbered(9), path)) == 9
        (entry,) = at_work.shown()
        assert entry["counts"] == {path: {"seen": 30, "applied": 10}}

    def test_random_loss_is_counted_and_bounded(self, lab: Lab, at_work: Impairments) -> None:
        at_work.add(impairment("loss", "0.2", stage="delivery", paths=("ingress",)), AGENT1)
        with closing(Flow(lab)) as flow:
            arrived = flow.passed(numbered(500))
        (entry,) = at_work.shown()
        assert entry["counts"]["ingress"] == {"seen": 500, "applied": 500 - len(arrived)}
        assert 50 < 500 - len(arrived) < 170  # more than five deviations from 100 on either side

    def test_only_what_matches_is_impaired(self, lab: Lab, at_work: Impairments) -> None:
        match = {"protocol": ["udp"], "source": [CLIENT.ipv4, CLIENT.ipv6], "dport": "50-60"}
        at_work.add(impairment("every", "1", stage="vswitch", paths=("ingress",), match=match), AGENT1)
        with ExitStack() as stack:
            for version in (4, 6):
                hit = stack.enter_context(closing(Flow(lab, version, PUNTED)))
                spared = stack.enter_context(closing(Flow(lab, version, FORWARDED, 20_002)))
                assert (len(hit.passed(numbered(5))), len(spared.passed(numbered(5)))) == (0, 5)
        assert at_work.shown()[0]["counts"] == {"ingress": {"seen": 10, "applied": 10}}

    def test_marked_packets_are_lost_by_their_code(self, lab: Lab, at_work: Impairments) -> None:
        at_work.add(impairment("marked", "q", stage="filter"), AGENT1)
        payloads = [f"{code}PKTRX{number:08d}".encode() for number, code in enumerate("q-qr")]
        with closing(Tap(lab, "punt1")) as tap, closing(Flow(lab)) as flow:
            flow.send(payloads)
            assert [frame.marked() for frame in tap.frames()] == [payloads[1], payloads[3]]
        assert at_work.shown()[0]["counts"]["ingress"] == {"seen": 4, "applied": 2}

    @pytest.mark.parametrize("stage", STAGES)
    @pytest.mark.parametrize("path", ["ingress", "egress"])
    def test_duplicates_are_made_in_their_stage(self, lab: Lab, at_work: Impairments, stage: str, path: str) -> None:
        at_work.add(impairment("dup", "1", stage=stage, paths=(path,)), AGENT1)
        port = FORWARDED if stage == "bypass" else PUNTED
        with ExitStack() as stack:
            flow = stack.enter_context(closing(Flow(lab, 4, port)))
            taps = [stack.enter_context(closing(Tap(lab, device))) for device in ENDS[stage, path]]
            arrived = flow.passed(numbered(10), path)
            assert sorted(arrived) == sorted(numbered(10) * 2)
            assert [len(tap.frames()) for tap in taps] == [10, 20]
        assert at_work.shown()[0]["counts"][path] == {"seen": 10, "applied": 10}

    @pytest.mark.parametrize("by", ["nft", "forwarder"])
    @pytest.mark.parametrize("version", [4, 6])
    def test_fields_are_rewritten_and_checksums_stay_right(
        self, lab: Lab, at_work: Impairments, version: int, by: str
    ) -> None:
        wanted = [("ttl", "40", 16), ("dscp", "46", 16), ("payload", "0x5a", 10), ("payload", "0xa5", 13)]
        for kind, value, offset in wanted:
            at_work.add(impairment(kind, value, offset=offset), AGENT1, by)
        for path in ("ingress", "egress"):
            with closing(Tap(lab, "ret1")) as tap, closing(Flow(lab, version)) as flow:
                for length in (40, 41, 14):
                    flow.send(numbered(3, length), path)
                arrived = flow.received(path)
                seen = tap.frames()
            assert len(arrived) == len(seen) == 9
            assert all(checksums_right(frame) for frame in seen)
            assert {(one.ttl, one.dscp) for one in arrived} == {(40, 46)}
            for one in arrived:
                assert (one.payload[10], one.payload[13]) == (0x5A, 0xA5)
                assert one.payload[11:13] + one.payload[14:] == b"." * (len(one.payload) - 12)

    @pytest.mark.parametrize("by", ["nft", "forwarder"])
    @pytest.mark.parametrize("version", [4, 6])
    @pytest.mark.parametrize("which", ["source", "destination", "sport", "dport"])
    def test_a_translation_works_in_both_directions(
        self, lab: Lab, at_work: Impairments, which: str, version: int, by: str
    ) -> None:
        client, machine = (CLIENT.ipv4, PVM1.ipv4) if version == 4 else (CLIENT.ipv6, PVM1.ipv6)
        alias = "10.77.0.50" if version == 4 else "fd77::50"
        value = {
            "source": f"source={client},{alias}",
            "destination": f"destination={alias},{machine}",
            "sport": "sport=20001,30001",
            "dport": f"dport={PUNTED},5353",
        }[which]
        at_work.add(impairment("nat", value), AGENT1, by)
        with ExitStack() as stack:
            flow = stack.enter_context(closing(Flow(lab, version)))
            tap = stack.enter_context(closing(Tap(lab, "ret1")))
            server = flow.machine
            if which == "dport":
                server = stack.enter_context(closing(Flow(lab, version, 5353, 20_002))).machine
            target = alias if which == "destination" else machine
            flow.client.sendto(b"question", (target, PUNTED))
            question, source = server.recvfrom(100)
            expected = (alias if which == "source" else client, 30001 if which == "sport" else 20001)
            assert (question, source[:2]) == (b"question", expected)
            if which == "dport":  # answers of port 5353 hit no punt rule, so they meet no service
                return
            server.sendto(b"answer", source)
            answer, source = flow.client.recvfrom(100)
            assert (answer, source[:2]) == (b"answer", (target, PUNTED))
            assert all(checksums_right(frame) for frame in tap.frames())
