"""Parts of the recorder: sealing, rules, run.toml, plan; and, as root, the lab and the recorder itself."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import sys
import tomllib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from capture_scripts import marks, processes, record
from capture_scripts.filter_rules import compile_filter, load_rules, parse_rules
from capture_scripts.fixture.check_run import expected_points, matches
from capture_scripts.fixture.plan import kinds, make_plan
from capture_scripts.fixture.traffic import frame
from capture_scripts.processes import LabError
from capture_scripts.quiet import wait_until
from capture_scripts.recorder import sealing
from capture_scripts.recorder.run_file import PointTable, RunFile
from capture_scripts.recorder.sources import one_per_point
from capture_scripts.testbed import topology
from capture_scripts.testbed.service_chain import DEVICES, PATHS
from tests.conftest import ROOT
from tests.lab.conftest import LONG_S, running, wait_until_deserted

SCRIPTS = ROOT / "capture_scripts"
TOOLS = {**topology.TOOLS, **record.TOOLS, "ping": "iputils-ping"}
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
needs_lab = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root: it makes network namespaces"),
    pytest.mark.skipif(bool(MISSING), reason=f"the lab needs {', '.join(MISSING)}"),
]

Packet = tuple[int, int, bytes]  # seconds, fraction in units of the file, bytes


def pcap(packets: list[Packet], magic: int = 0xA1B23C4D, order: str = "<", snaplen: int = 128) -> bytes:
    written = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, 1)
    for seconds, fraction, data in packets:
        written += struct.pack(order + "IIII", seconds, fraction, len(data), len(data) + 7) + data
    return written


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """(type, body) of every block; the length at both ends must agree and be a multiple of four."""
    found = []
    at = 0
    while at < len(data):
        kind, total = struct.unpack_from("<II", data, at)
        assert total % 4 == 0
        assert struct.unpack_from("<I", data, at + total - 4) == (total,)
        found.append((kind, data[at + 8 : at + total - 4]))
        at += total
    return found


def options(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at < len(data):
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            break
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4
    return found


def seal(tmp_path: Path, raw: bytes, **fields: object) -> tuple[sealing.SealedCounts, list[tuple[int, bytes]]]:
    (tmp_path / "raw.pcap").write_bytes(raw)
    given = {"name": "punt", "description": "host/punt1", **fields}
    interface = sealing.InterfaceRecord(**given)  # type: ignore[arg-type]
    target = tmp_path / "punt.pcapng"
    counts = sealing.seal(tmp_path / "raw.pcap", target, interface, os_name="Linux", application="tcpdump 4")
    return counts, blocks(target.read_bytes())


START, END = 1_795_410_000_123_456_789, 1_795_410_060_000_000_001


@pytest.mark.parametrize(
    ("magic", "order", "unit"),
    [(0xA1B23C4D, "<", 1), (0xA1B23C4D, ">", 1), (0xA1B2C3D4, "<", 1000), (0xA1B2C3D4, ">", 1000)],
)
def test_times_lengths_and_order_are_kept(tmp_path: Path, magic: int, order: str, unit: int) -> None:
    fractions = [999_999_999 // unit, 1, 500_000_000 // unit]
    packets = [(1_795_410_000 - i, fraction, bytes(range(60 + i))) for i, fraction in enumerate(fractions)]
    counts, found = seal(tmp_path, pcap(packets, magic, order))
    assert [kind for kind, _ in found] == [0x0A0D0D0A, 1, 6, 6, 6, 5]
    for (seconds, fraction, data), (_, body) in zip(packets, found[2:5], strict=True):
        interface, high, low, captured, original = struct.unpack_from("<IIIII", body)
        assert (interface, captured, original) == (0, len(data), len(data) + 7)
        assert (high << 32 | low) == seconds * 10**9 + fraction * unit
        assert body[20 : 20 + captured] == data
    assert (counts.packets, counts.cut) == (3, False)
    assert counts.first_ns is not None
    assert counts.last_ns is not None
    assert counts.first_ns < counts.last_ns  # although the file runs backwards


def test_what_the_pcap_cannot_say_is_written(tmp_path: Path) -> None:
    _, found = seal(
        tmp_path,
        pcap([(1, 2, b"x" * 61)]),
        filter="udp port 53",
        start_ns=START,
        end_ns=END,
        received=12,
        dropped=2,
        interface_dropped=0,
    )
    section = options(found[0][1][16:])
    assert section == {3: b"Linux", 4: b"tcpdump 4"}
    linktype, _, snaplen = struct.unpack_from("<HHI", found[1][1])
    assert (linktype, snaplen) == (1, 128)
    assert options(found[1][1][8:]) == {2: b"punt", 3: b"host/punt1", 9: b"\x09", 11: b"\x00udp port 53"}
    statistics = options(found[-1][1][12:])
    for code, moment in ((2, START), (3, END)):
        high, low = struct.unpack("<II", statistics[code])
        assert high << 32 | low == moment
    counts = {code: struct.unpack("<Q", statistics[code])[0] for code in (4, 5, 6, 7, 8)}
    assert counts == {4: 12, 5: 0, 6: 12, 7: 2, 8: 10}


def test_unknown_counts_are_left_out(tmp_path: Path) -> None:
    _, found = seal(tmp_path, pcap([]))
    assert [kind for kind, _ in found] == [0x0A0D0D0A, 1, 5]
    assert options(found[-1][1][12:]) == {}


@pytest.mark.parametrize("keep", [24 + 5, 24 + 16, 24 + 16 + 30, 24 + 16 + 60 + 3])
def test_a_cut_pcap_is_used_up_to_the_cut(tmp_path: Path, keep: int) -> None:
    counts, found = seal(tmp_path, pcap([(1, 0, bytes(60)), (2, 0, bytes(60))])[:keep])
    assert counts.cut
    assert counts.packets == sum(kind == 6 for kind, _ in found) == (1 if keep > 100 else 0)


def test_what_is_no_pcap_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no pcap"):
        seal(tmp_path, b"not a capture at all")
    assert [file.name for file in tmp_path.iterdir()] == ["raw.pcap"]


@pytest.mark.skipif(shutil.which("capinfos") is None, reason="needs capinfos")
def test_capinfos_reads_it(tmp_path: Path) -> None:
    seal(tmp_path, pcap([(1, 2, bytes(60))]), start_ns=START, end_ns=END, received=1, dropped=0)
    said = subprocess.run(["capinfos", tmp_path / "punt.pcapng"], capture_output=True, text=True, check=True).stdout
    for words in ("Name = punt", "Description = host/punt1", "Number of stat entries = 1", "tcpdump 4"):
        assert words in said


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ("1 packet captured\n1 packet received by filter\n0 packets dropped by kernel\n", (1, 1, 0, 0)),
        (
            "tcpdump: 3 packets captured, 9 packets received by filter, 6 packets dropped by kernel\n",
            (3, 9, 6, 0),
        ),
        (
            "5 packets captured\n8 packets received by filter\n2 packets dropped by kernel\n"
            "1 packet dropped by interface\n",
            (5, 8, 2, 1),
        ),
    ],
)
def test_counts_from_the_words_of_tcpdump(tmp_path: Path, said: str, counts: tuple[int, ...]) -> None:
    (group,) = one_per_point([record.Point("punt", "punt1")])
    capture = record.Capture(group.sources[0], tmp_path, record.Settings())
    assert capture.last_counts() is None
    capture.log.write_text("tcpdump: listening on punt1\n0 packets captured, 4 packets\n" + said)
    assert capture.last_counts() == record.Counts(*counts)
    assert record.Counts(*counts).complete is (counts[0] + counts[2] == counts[1])


def rule(**fields: object) -> dict[str, object]:
    return {"id": "x", "path": "ingress", "action": "punt", **fields}


@pytest.mark.parametrize(
    ("fields", "statements"),
    [
        ({}, ["meta protocol { ip, ip6 }"]),
        ({"protocol": "tcp", "dport": "5201,9000-9099"}, ["meta l4proto { 6 } th dport { 5201, 9000-9099 }"]),
        ({"dport": 53}, ["meta l4proto { 6, 17 } th dport { 53 }"]),
        ({"protocol": "47"}, ["meta l4proto { 47 }"]),
        ({"protocol": ["udp"], "sport": ["7", "5-6", 9]}, ["meta l4proto { 17 } th sport { 5-7, 9 }"]),
        (
            {"source": ["10.0.0.0/8", "fd00::/8"], "destination": "fd77::1"},
            ["ip6 saddr { fd00::/8 } ip6 daddr { fd77::1/128 }"],
        ),
        (
            {"source": ["10.0.0.1", "fd00::1"], "protocol": "udp"},
            [
                "ip saddr { 10.0.0.1/32 } meta l4proto { 17 }",
                "ip6 saddr { fd00::1/128 } meta l4proto { 17 }",
            ],
        ),
        (
            {"icmp_type": 8},
            [
                "meta l4proto { 1 } meta protocol ip icmp type { 8 }",
                "meta l4proto { 58 } meta protocol ip6 icmpv6 type { 8 }",
            ],
        ),
        ({"icmp_type": "8,0", "protocol": "icmp"}, ["meta l4proto { 1 } meta protocol ip icmp type { 0, 8 }"]),
    ],
)
def test_rules_become_nft(fields: dict[str, object], statements: list[str]) -> None:
    (parsed,) = parse_rules({"rule": [rule(**fields)]})
    assert parsed.statements("drop") == [f"{words} counter name in1_r1 drop;" for words in statements]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"action": "allow"}, "action"),
        ({"path": "sideways"}, "path"),
        ({"id": ""}, "id"),
        ({"port": 53}, "unknown key 'port'"),
        ({"protocol": "quic"}, "protocol 'quic'"),
        ({"protocol": True}, "protocol True"),
        ({"source": "10.77.0.1/8"}, "source"),
        ({"source": "10.77.0.1", "destination": "fd77::1"}, "no IP version in common"),
        ({"protocol": "tcp", "dport": "70000"}, "dport '70000'"),
        ({"protocol": "tcp", "dport": "9-5"}, "dport '9-5'"),
        ({"protocol": "icmp", "dport": "9"}, "sport and dport"),
        ({"protocol": "tcp", "icmp_type": 8}, "icmp_type"),
        ({"counter": "no spaces"}, "counter"),
    ],
)
def test_a_wrong_rule_is_refused_by_name(fields: dict[str, object], words: str) -> None:
    with pytest.raises(LabError, match=words):
        parse_rules({"rule": [rule(**fields)]})


def test_rules_keep_file_order_and_have_a_counter_each() -> None:
    rules = load_rules(topology.DEFAULT_RULES)
    script = compile_filter(rules, topology.AGENT1)
    for path in ("ingress", "egress"):
        chain = script[script.index(f"chain filter_{path}") :].split("}\n    chain", 1)[0]
        places = [chain.index(f"name {rule.counter} ") for rule in rules if rule.path == path]
        assert places == sorted(places)
        assert chain.index(f"{path[:1]}{'n' if path == 'ingress' else 'g'}1_default") > places[-1]
    with pytest.raises(LabError, match="used twice"):
        parse_rules({"rule": [rule(), rule()]})


def test_run_toml_reads_back() -> None:
    rules = [dict(rule.written) for rule in load_rules(topology.DEFAULT_RULES)]
    text = RunFile(
        name='quoted "name" \x7f',
        description="ä\n",
        started=datetime(2026, 11, 23, 5, 0, 0, 123456, tzinfo=UTC),
        points=[PointTable(name) for name in DEVICES],
        paths=PATHS,
        rules=rules,
        window_ns=(START, END),
    ).text()
    read = tomllib.loads(text)
    assert (read["name"], read["description"]) == ('quoted "name" \x7f', "ä\n")
    assert read["window"] == {"start_ns": START, "end_ns": END}
    assert [point["captures"] for point in read["point"]] == [[f"captures/{name}.pcapng"] for name in DEVICES]
    assert read["path"][0]["match"] == {"destination": ["10.77.0.1", "fd77::1"]}
    assert read["rule"] == rules


def test_every_marked_packet_can_be_told_from_every_other() -> None:
    plan = make_plan()
    assert plan == make_plan()
    assert len({packet.marker for packet in plan}) == len(plan)
    keys: Counter[tuple[object, ...]] = Counter()
    for packet in plan:
        keys[*packet.kind.addresses(), packet.kind.protocol, packet.sport, packet.dport, packet.icmp_sequence] += 1
        assert len(frame(packet)) == packet.length
        assert packet.payload.startswith(packet.marker.encode())
        assert packet.kind.protocol not in (1, 58) or packet.length not in (98, 118)  # the length of a ping
    assert set(keys.values()) == {1}
    ids = [packet.ip_id for packet in plan if packet.ip_id is not None]
    assert len(set(ids)) == len(ids)
    assert 0 not in ids


def test_the_plan_exercises_every_rule_and_every_place() -> None:
    rules = load_rules(topology.DEFAULT_RULES)
    plan = make_plan()
    assert {packet.kind.rule for packet in plan} - {None} == {rule.id for rule in rules}
    assert {packet.code for packet in plan} - {marks.NO_DROP} == set(marks.BY_CODE)
    for packet in plan:
        place = marks.BY_CODE.get(packet.code)
        assert place is None or place.path == packet.kind.path
        assert expected_points(packet)[0] == next(p.points[0] for p in PATHS if p.name == packet.kind.path)
    assert len(kinds()) == len({*kinds()})


def test_the_rules_say_what_the_plan_expects() -> None:
    from capture_scripts.fixture.check_run import decode

    rules = load_rules(topology.DEFAULT_RULES)
    for packet in make_plan():
        seen = decode(frame(packet))
        assert seen is not None
        assert (seen.path, seen.marker) == (packet.kind.path, packet.marker)
        hit = next((r for r in rules if r.path == seen.path and matches(r, seen)), None)
        assert (hit.id if hit else None) == packet.kind.rule
        assert packet.kind.action == (hit.action if hit else "forward") or packet.kind.action is None


def test_names_of_labs_are_checked() -> None:
    for name in ("", "Lab", "a-b", "../x", "a" * 21):
        with pytest.raises(LabError, match="lab name"):
            topology.Lab(name)


def namespaces(lab: topology.Lab) -> set[str]:
    """Those of this lab: others make and remove theirs on the same machine."""
    listed = {line.split()[0] for line in processes.run(["ip", "netns", "list"]).splitlines()}
    return {name for name in listed if name.startswith(f"{lab.name}-")}


class TestLab:
    """As root."""

    pytestmark = needs_lab

    @pytest.fixture
    def lab(self) -> topology.Lab:
        return topology.Lab(f"ts{os.getpid()}")

    def test_a_lab_that_cannot_be_built_leaves_nothing(
        self, lab: topology.Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(topology, "compile_filter", lambda *_: "this is no rule set")
        with pytest.raises(LabError, match="nft"):
            lab.up()
        assert namespaces(lab) == set()

    def test_down_can_be_said_twice_and_ends_what_runs_inside(self, lab: topology.Lab) -> None:
        lab.up()
        with pytest.raises(LabError, match="stands already"):
            lab.up()
        sleeper = subprocess.Popen(["ip", "netns", "exec", lab.namespace("client"), "sleep", "600"])
        pids = ["ip", "netns", "pids", lab.namespace("client")]
        wait_until(lambda: str(sleeper.pid) in processes.run(pids).split(), "it runs inside")
        lab.down()
        assert sleeper.wait(LONG_S) == -signal.SIGTERM
        lab.down()
        assert (lab.status(), namespaces(lab)) == ("down", set())

    @pytest.mark.parametrize("ending", ["fails", "interrupted"])
    def test_a_recording_that_goes_wrong_is_sealed_and_says_so(
        self, lab: topology.Lab, tmp_path: Path, ending: str
    ) -> None:
        client = ["ip", "netns", "exec", lab.namespace("client")]
        sleep = f"sleep 600.{os.getpid()}"  # nobody else's
        command = [*client, "sh", "-c", f"ping -q -c 5 -i 0.02 10.77.0.1; exec {sleep}"]
        if ending == "fails":
            command[-1] = command[-1].replace(f"exec {sleep}", "exit 7")
        run = tmp_path / "run"
        lab.up()
        try:
            script = [
                sys.executable,
                str(SCRIPTS / "record.py"),
                str(run),
                "--name",
                lab.name,
                "--",
                *command,
            ]
            recorder = subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if ending == "interrupted":
                wait_until(lambda: any(line.startswith(sleep) for _, line in running()), "the pings are over")
                lab.wait_until_quiet()
                recorder.send_signal(signal.SIGINT)
            _, said = recorder.communicate(timeout=LONG_S)
            wait_until_deserted(lab.namespace("host"), lab.namespace("client"))
        finally:
            lab.down()
        assert recorder.returncode == (130 if ending == "interrupted" else 1), said
        assert len(said.strip().splitlines()) == 1
        assert ("interrupted" if ending == "interrupted" else "exit code 7") in (
            run / "context" / "incomplete.txt"
        ).read_text()
        read = tomllib.loads((run / "run.toml").read_text())
        assert read["description"].startswith("INCOMPLETE")
        assert "window" not in read
        for point in ("uplink", "switchport", "punt", "return", "vnic"):
            sealed = blocks((run / "captures" / f"{point}.pcapng").read_bytes())
            assert sum(kind == 6 for kind, _ in sealed) == 10, point
        assert not list(run.glob("captures/*.pcap"))
