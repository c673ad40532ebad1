"""The kernel witness: what it says about drops that we know of, and what happens where there is none."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capture_scripts import record as recorder
from capture_scripts.fixture.plan import MARKER_BYTES, make_plan
from capture_scripts.fixture.traffic import run_traffic
from capture_scripts.marks import BY_CODE, MARK
from capture_scripts.processes import run
from capture_scripts.recorder import kernel_drops
from capture_scripts.recorder.captures import Settings
from capture_scripts.recorder.kernel_drops import identity
from capture_scripts.testbed.service_chain import chain_plan, record_planned
from capture_scripts.testbed.topology import DEFAULT_RULES, ROLES, Lab
from tests.kit import packets as build
from tests.lab.conftest import LONG_S, Wire, captures, packets, record

needs_bpftrace = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("bpftrace") is None, reason="needs bpftrace"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft"),
]
_DROPS = """\
table netdev loss {
  counter lost {
  }
  chain in {
    type filter hook ingress device "eth0" priority 0; policy accept;
    udp dport 7000-7999 counter name lost drop
  }
}
"""
_SENDER = """\
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 6000))
for n in range(200):
    s.sendto(b"%08d and more than is kept" % n, ("10.78.0.2", 7000 + n if n % 2 else 8000 + n))
"""


class TestWitness:
    pytestmark = needs_bpftrace

    def test_every_drop_is_told_with_its_packet(self, tmp_path: Path, wire: Wire) -> None:
        """As many as the counter says, at the right place, for the right reason, each with the packet's identity."""
        run(["ip", "netns", "exec", wire.right, "nft", "-f", "-"], stdin=_DROPS)
        out = tmp_path / "run"
        sender = wire.in_left("python3", "-c", _SENDER)
        said = record(out, *wire.points(), "--kernel-drops", "--filter", "udp", "--threshold", 0.2, "--", *sender)
        assert "warning" not in said
        state = json.loads((out / "context" / "kernel_witness.json").read_text())
        if not state["recorded"]:
            pytest.skip(f"no witness here: {state['reason']}")
        assert state["events_lost"] == 0
        lines = (out / "context" / "kernel_drops.jsonl").read_text().splitlines()
        drops = [
            drop
            for drop in map(json.loads, lines)
            if drop["reason"] == "NETFILTER_DROP" and drop["netns"] == wire.right
        ]
        listed = json.loads(run(["ip", "netns", "exec", wire.right, "nft", "-j", "list", "counters"]))
        (counted,) = [entry["counter"]["packets"] for entry in listed["nftables"] if "counter" in entry]
        assert len(drops) == counted == 100
        assert packets(out) == {"near": 200, "far": 200}  # an ingress hook lies behind the tap
        seen = {}
        file = captures(out)["far"]
        for packet in file.capture.packets:
            data = bytes(file.data[packet["offset"] : packet["offset"] + packet["captured"]])
            seen[data[14 + 28 : 14 + 36]] = (int(packet["ts"]), int.from_bytes(data[18:20], "big"))
        for number, drop in zip(range(1, 200, 2), drops, strict=True):
            ts_ns, ip_id = seen[b"%08d" % number]
            assert drop["ip_id"] == ip_id
            assert (drop["source"], drop["destination"]) == (wire.left_address, wire.right_address)
            assert (drop["protocol"], drop["sport"], drop["dport"]) == (17, 6000, 7000 + number)
            assert bytes.fromhex(drop["payload"]).startswith(b"%08d" % number)
            assert drop["device"] == "eth0"
            assert state["start_ns"] < drop["ts_ns"] < state["end_ns"]
            # Dropped after it was seen at the point, and soon: both happen in one go. The clocks agree as well as the
            # witness says: to some microseconds, on a busy machine to less.
            margin = 100_000 + state["clock_error_ns"]
            assert -margin < drop["ts_ns"] - ts_ns < 50_000_000 + margin
        assert not list((out / "context").glob("*.part"))

    @pytest.mark.skipif(any(shutil.which(tool) is None for tool in recorder.TOOLS), reason="needs the tools of the lab")
    def test_it_agrees_with_every_known_loss_of_the_lab(self, tmp_path: Path) -> None:
        """Marked packets dropped at thirteen places in both directions: the same ones by plan, counters and witness."""
        lab = Lab(f"tk{os.getpid()}")
        lab.up()
        try:
            plan = chain_plan(lab, DEFAULT_RULES, "run", "", Settings(threshold_s=0.2))
            plan = replace(plan, kernel_drops=True)
            record_planned(lab, tmp_path / "run", plan, lambda _: run_traffic(lab))
        finally:
            lab.down()
        context = tmp_path / "run" / "context"
        state = json.loads((context / "kernel_witness.json").read_text())
        if not state["recorded"]:
            pytest.skip(f"no witness here: {state['reason']}")
        assert state["events_lost"] == 0
        drops = [json.loads(line) for line in (context / "kernel_drops.jsonl").read_text().splitlines()]
        assert {drop["netns"] for drop in drops} <= {lab.namespace(role) for role in ROLES}
        witnessed: dict[str, set[str]] = {}
        for drop in drops:
            marker = bytes.fromhex(drop.get("payload", ""))[:MARKER_BYTES]
            if marker[1:5] == MARK and marker[:1].decode() in BY_CODE and drop["reason"] == "NETFILTER_DROP":
                place = BY_CODE[marker[:1].decode()]
                if (drop["netns"], drop["device"]) == (lab.namespace(place.namespace), place.device):
                    witnessed.setdefault(place.counter, set()).add(marker.decode())
        planned: dict[str, set[str]] = {}
        for packet in make_plan():
            if packet.code in BY_CODE:
                planned.setdefault(BY_CODE[packet.code].counter, set()).add(packet.marker)
        assert witnessed == planned
        counted = {}
        for name in ("counters-after.json", "drop-counters-after.json"):
            document = json.loads((context / name).read_text())
            for listed in [document] if "nftables" in document else document.values():
                counted.update(
                    {e["counter"]["name"]: e["counter"]["packets"] for e in listed["nftables"] if "counter" in e}
                )
        assert {name: len(markers) for name, markers in witnessed.items()} == {name: counted[name] for name in planned}


def test_no_bpftrace_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert told_about(tmp_path, capsys) == "bpftrace is not installed (apt-get install bpftrace)"


@pytest.mark.parametrize(
    ("script", "words", "patience_s"),
    [
        (
            "#!/bin/sh\necho 'ERROR: bpftrace currently only supports running as the root user.' >&2\nexit 1\n",
            "root user",
            LONG_S,
        ),
        ("#!/bin/sh\nexec sleep 60\n", "saw nothing within", 0.5),
    ],
)
@pytest.mark.skipif(os.geteuid() != 0, reason="tracefs is for root")
def test_a_bpftrace_that_cannot_is_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    words: str,
    patience_s: float,
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "bpftrace").write_text(script)
    (tools / "bpftrace").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(kernel_drops, "_READY_TIMEOUT_S", patience_s)
    if not kernel_drops.tracepoint_there():
        pytest.skip("this kernel has no tracepoint skb:kfree_skb")
    assert words in told_about(tmp_path, capsys)


def told_about(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    witness = kernel_drops.KernelWitness(folder)
    witness.begin()
    witness.wait_ready()
    witness.finish()
    state = json.loads((folder / "kernel_witness.json").read_text())
    said = capsys.readouterr().err
    assert said == f"record: warning: no kernel drops are recorded: {state['reason']}\n"
    assert state["recorded"] is False
    assert not (folder / "kernel_drops.jsonl").exists()
    return str(state["reason"])


def tell(packet: bytes, version: int = 4, most: int = 80) -> dict[str, Any]:
    return identity(packet[:most], 0x0800 if version == 4 else 0x86DD, len(packet))


A, B = "10.0.0.1", "10.0.0.2"
A6, B6 = "fd00::1", "fd00::2"


def test_identity_of_ipv4() -> None:
    tcp = build.tcp(
        A, B, 1000, 2000, b"payload of more than sixteen bytes", seq=7, ack=9, flags=0x118, options=b"\1" * 12
    )
    assert tell(build.ipv4(A, B, 6, tcp, ip_id=77)) == {
        "held_bytes": 86, "ip_version": 4, "length": 86, "ip_id": 77, "fragment_offset": 0, "protocol": 6,
        "source": A, "destination": B, "sport": 1000, "dport": 2000, "tcp_seq": 7, "tcp_ack": 9, "tcp_flags": 0x118,
        "payload": b"payload of more than six".hex(),
    }  # fmt: skip
    echo = tell(build.ipv4(A, B, 1, build.icmp(8, 0, 3, 4)))
    assert (echo["icmp_type"], echo["icmp_code"], echo["icmp_id"], echo["icmp_seq"]) == (8, 0, 3, 4)
    unreachable = tell(build.ipv4(A, B, 1, build.icmp(3, 1)))
    assert "icmp_id" not in unreachable
    later = tell(build.ipv4(A, B, 17, build.udp(A, B, 5, 6), fragment_offset=1480))
    assert later["fragment_offset"] == 1480
    assert "sport" not in later
    assert "sport" not in tell(build.ipv4(A, B, 47, bytes(20)))


def test_identity_of_ipv6() -> None:
    udp = build.udp(A6, B6, 5, 6, b"x")
    plain = tell(build.ipv6(A6, B6, 17, udp), 6)
    assert (plain["source"], plain["destination"], plain["sport"], plain["dport"]) == (A6, B6, 5, 6)
    assert "ip_id" not in plain
    behind = build.ipv6_extension(44) + build.ipv6_fragment(17, 0, True, 99) + udp
    first = tell(build.ipv6(A6, B6, 0, behind), 6)
    assert (first["protocol"], first["ip_id"], first["fragment_offset"], first["dport"]) == (17, 99, 0, 6)
    later = tell(build.ipv6(A6, B6, 44, build.ipv6_fragment(17, 8, False, 99) + udp), 6)
    assert (later["fragment_offset"], "dport" in later) == (8, False)


def test_identity_of_what_was_not_read_whole() -> None:
    """Any number of bytes tells as much as there is, and nothing that is not there."""
    for version, whole in (
        (4, build.ipv4(A, B, 6, build.tcp(A, B, 1, 2, b"abc"))),
        (6, build.ipv6(A6, B6, 0, build.ipv6_extension(58) + build.icmpv6(A6, B6, 128, 0, 1, 2, b"abc"))),
    ):
        complete = tell(whole, version)
        for most in range(len(whole)):
            part = tell(whole, version, most)
            assert all(complete[key] == value for key, value in part.items() if key != "payload")
            assert complete["payload"].startswith(part.get("payload", ""))
    assert tell(b"\xff" * 80) == {"held_bytes": 80, "ip_version": 4}
    assert tell(b"\xff" * 80, 6) == {"held_bytes": 80, "ip_version": 6}


def test_lines_of_two_processors_that_come_between_each_other() -> None:
    """An event is two lines; once they were one line in two parts, and events of two processors ran into each other."""
    words = b" ".join([b"45"] * kernel_drops.WORDS)
    head = b"drop %d %d 12 2048 4026532177 3 98 98 vnic1\n"
    data = b"data %d %d " + words + b"\n"
    said = b"Attaching 1 probe...\n" + head % (7, 0) + head % (7, 1) + data % (7, 1) + data % (7, 0) + head % (9, 0)
    events, unreadable = kernel_drops._parse(said)
    assert [(event["nsecs"], event["device"]) for event in events] == [(7, "vnic1"), (7, "vnic1")]
    assert unreadable == 1  # the last has not all been written
