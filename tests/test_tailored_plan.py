"""The plan of tailored packets: what it holds for each rule, what it expects, and the frames that are made from it."""

from __future__ import annotations

import ipaddress
import socket
from collections import Counter
from pathlib import Path

import dpkt
import polars as pl
import pyarrow.parquet as pq
import pytest

from capture_scripts import send
from capture_scripts.filter_rules import Rule, load_rules, parse_rules
from capture_scripts.fixture.check_run import Seen, matches
from capture_scripts.marks import PLACES
from capture_scripts.processes import LabError
from capture_scripts.sender.first_match import Headers, first_match
from capture_scripts.sender.near_misses import Addresses, cases
from capture_scripts.sender.tailored import Plan, Tailored, drop_codes, filling, make_plan, read_plan
from capture_scripts.testbed.topology import DEFAULT_RULES
from tests.conftest import ROOT, CommandLine
from tests.kit import packets as kit
from tests.kit.pcap_files import Record, pcap_bytes

EVERY_FORM = ROOT / "tests" / "lab" / "rules" / "every-form.toml"
WEB = {"id": "web", "path": "ingress", "protocol": "tcp", "dport": "80,9000-9099", "action": "punt"}


@pytest.fixture(scope="module", params=[DEFAULT_RULES, EVERY_FORM], ids=["service-chain", "every-form"])
def rules(request: pytest.FixtureRequest) -> list[Rule]:
    return load_rules(request.param)


@pytest.fixture(scope="module")
def plan(rules: list[Rule]) -> Plan:
    return make_plan(rules, 3000, seed=3, lost_percent=20)


def one_rule(count: int = 400, **table: object) -> list[Tailored]:
    """The packets made for a single rule, without those for the defaults."""
    rule = {"id": "r", "path": "ingress", "action": "punt", **table}
    return [p for p in make_plan(parse_rules({"rule": [rule]}), count).packets if p.case.about == "r"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (Headers(4, 6, "10.0.0.9", "10.77.0.1", 1234, 80), ("web", "punt")),
        (Headers(6, 6, "fd00::9", "fd77::1", 1234, 9099), ("web", "punt")),
        (Headers(4, 6, "10.0.0.9", "10.77.0.1", 80, 9100), (None, "forward")),
        (Headers(4, 17, "10.0.0.9", "10.77.0.1", 1234, 80), (None, "forward")),
        (Headers(4, 1, "10.0.0.9", "10.77.0.1", 8 << 8, 0), ("ping", "drop")),
        (Headers(6, 1, "fd00::9", "fd77::1", 8 << 8, 0), (None, "forward")),  # ICMP has no type in IPv6
        (Headers(4, 58, "10.0.0.9", "10.77.0.1", 128 << 8, 0), (None, "forward")),
        (Headers(6, 58, "fd00::9", "fd77::1", 128 << 8, 0), ("ping", "drop")),
        (Headers(4, 136, "10.0.0.9", "10.77.0.1", 53, 53), (None, "forward")),
        (Headers(4, 17, "10.0.0.9", "10.77.0.1", 53, 53), ("dns", "forward")),
        (Headers(4, 47, "192.0.2.1", "10.77.0.1", 0, 0), ("net", "punt")),
        (Headers(4, 47, "192.0.2.2", "10.77.0.1", 0, 0), (None, "forward")),
    ],
)
def test_the_first_rule_that_fits_is_expected(headers: Headers, expected: tuple[str | None, str]) -> None:
    tables = [
        WEB,
        {"id": "other-path", "path": "egress", "action": "drop"},
        {"id": "ping", "path": "ingress", "icmp_type": "8,128", "action": "drop"},
        {"id": "dns", "path": "ingress", "dport": [53, "5353"], "action": "forward"},
        {"id": "net", "path": "ingress", "source": "192.0.2.0/31", "protocol": 47, "action": "punt"},
        {"id": "later", "path": "ingress", "dport": "80", "protocol": "tcp", "action": "drop"},
    ]
    assert first_match(tables, "ingress", headers) == expected


def test_ports_at_their_bounds_and_one_beside_them() -> None:
    packets = one_rule(**{key: WEB[key] for key in ("protocol", "dport")})
    for version in (4, 6):
        mine = [p for p in packets if p.headers.version == version]
        found = {(p.case.field, p.case.where, p.headers.dport) for p in mine if p.case.field == "dport"}
        assert found == {
            ("dport", "first", 80), ("dport", "below", 79), ("dport", "above", 81),
            ("dport", "first", 9000), ("dport", "last", 9099), ("dport", "below", 8999), ("dport", "above", 9100),
        }  # fmt: skip
        assert {p.headers.protocol for p in mine if p.case.field == "protocol"} == {1 if version == 4 else 58, 5, 7, 17,
                                                                                    132, 136}  # fmt: skip
        for packet in mine:
            hit = packet.case.where in ("inside", "first", "last")
            assert (packet.rule, packet.action) == (("r", "punt") if hit else (None, "forward")), packet


def test_prefixes_at_their_first_and_last_address_and_one_outside() -> None:
    packets = one_rule(source=["10.77.0.128/25", "fd77::b:0/112"])
    found = {(p.case.where, p.headers.source, p.rule) for p in packets if p.case.field == "source"}
    assert found == {
        ("below", "10.77.0.127", None), ("first", "10.77.0.128", "r"),
        ("last", "10.77.0.255", "r"), ("above", "10.77.1.0", None),
        ("below", "fd77::a:ffff", None), ("first", "fd77::b:0", "r"),
        ("last", "fd77::b:ffff", "r"), ("above", "fd77::c:0", None),
    }  # fmt: skip
    inside = {p.headers.source for p in packets if p.case.field == "all"}
    assert len(inside) > 20
    assert {p.headers.protocol for p in packets} == {1, 6, 17, 58, 253}


def test_icmp_types_and_the_icmp_of_the_other_version() -> None:
    packets = one_rule(protocol=["icmp", "icmpv6"], icmp_type="128-129")
    assert {p.headers.icmp_type for p in packets if p.case.where in ("below", "above")} == {127, 130}
    assert {p.headers.protocol for p in packets if p.case.field == "protocol"} >= {2, 17, 57, 59}
    only_four = one_rule(protocol="icmp", icmp_type=8)
    crossed = [p for p in only_four if p.headers.version == 6 and p.headers.protocol == 1]
    assert crossed
    assert {p.rule for p in crossed} == {None}
    assert {p.row()["icmp_type"] for p in crossed} == {None}
    assert {p.row()["lead"] >> 24 for p in crossed} >= {8}


def test_a_rule_for_one_version_is_missed_by_the_other() -> None:
    packets = one_rule(source="192.0.2.0/24", protocol="udp")
    assert {p.rule for p in packets if p.headers.version == 6} == {None}
    assert {p.case.where for p in packets if p.headers.version == 6} == {"other version"}


def test_what_cannot_be_sent_is_left_out_with_its_reason() -> None:
    tables = [
        {"id": "elsewhere", "path": "ingress", "destination": "10.77.0.9", "action": "drop"},
        {"id": "network", "path": "egress", "source": "10.77.0.0/24", "icmp_type": 0, "action": "drop"},
        {"id": "hop-by-hop", "path": "ingress", "protocol": 0, "action": "drop"},
        {"id": "itself", "path": "ingress", "source": "10.77.0.0/31", "action": "drop"},
    ]
    found, left_out = cases(parse_rules({"rule": tables}), Addresses())
    told = {(entry.rule, entry.version, entry.field, entry.what): entry.reason for entry in left_out}
    assert "on no path" in told["elsewhere", 4, "destination", "10.77.0.9/32"]
    assert "on no path" in told["network", 4, "source", "bounds of 10.77.0.0/24"]
    assert "no such value" in told["network", 4, "icmp_type", "below"]
    assert "extension header" in told["hop-by-hop", 6, "protocol", "0"]
    assert "both paths" in told["itself", 4, "source", "last"]
    assert not [case for case in found if case.about == "elsewhere" and case.version == 4]


def test_every_rule_is_hit_and_every_case_is_there(plan: Plan, rules: list[Rule]) -> None:
    hits = Counter(packet.rule for packet in plan.packets)
    assert {rule.id for rule in rules} - set(hits) <= {"shadowed", "not-this-machine"}
    wanted, _ = cases(rules, Addresses())
    assert {packet.case for packet in plan.packets} == set(wanted)
    for path in ("ingress", "egress"):
        for version in (4, 6):
            assert [p for p in plan.packets if (p.case.path, p.case.version) == (path, version)]


def test_another_judge_of_rules_expects_the_same(plan: Plan, rules: list[Rule]) -> None:
    """The self check of the recorder reads parsed rules, the plan reads the TOML tables."""
    for packet in plan.packets:
        headers = packet.headers
        seen = Seen(
            headers.source, headers.destination, headers.protocol, headers.sport, headers.dport,
            headers.icmp_type, packet.marker, b"",
        )  # fmt: skip
        hit = next((rule for rule in rules if rule.path == packet.case.path and matches(rule, seen)), None)
        assert (packet.rule, packet.action) == ((hit.id, hit.action) if hit else (None, "forward"))


def test_no_two_packets_look_the_same_in_the_tables(plan: Plan) -> None:
    assert len({packet.key() for packet in plan.packets}) == len(plan.packets)
    assert len({packet.marker for packet in plan.packets}) == len(plan.packets)
    ids = [packet.ip_id for packet in plan.packets if packet.headers.version == 4]
    assert len(set(ids)) == len(ids)
    assert 0 not in ids
    for path in ("ingress", "egress"):
        sequences = [packet.sequence for packet in plan.packets if packet.case.path == path]
        assert sequences == list(range(1, len(sequences) + 1))
    for packet in plan.packets:  # each is on its path, and on no other
        own, other = packet.headers.destination, packet.headers.source
        if packet.case.path == "egress":
            own, other = other, own
        assert own in ("10.77.0.1", "fd77::1")
        assert other not in ("10.77.0.1", "fd77::1")


def test_a_drop_code_loses_its_packet_in_the_stage_of_its_place(plan: Plan) -> None:
    by_code = {place.code: place for place in PLACES}
    lost = [packet for packet in plan.packets if packet.code in by_code]
    assert {packet.code for packet in lost} == set("abcdeBCDEF")
    last_points = {
        "a": "uplink", "b": "switchport", "c": "punt", "d": "return", "e": "switchport",
        "B": "vnic", "C": "punt", "D": "return", "E": "vnic", "F": "switchport",
    }  # fmt: skip
    for packet in lost:
        assert (packet.fate, packet.lost_stage) == ("lost", by_code[packet.code].lost_stage)
        assert packet.points[-1] == last_points[packet.code]
        assert packet.case.path == by_code[packet.code].path
    for packet in plan.packets:
        if packet.code == "-":
            end = {"ingress": "vnic", "egress": "uplink"}[packet.case.path]
            gate = {"ingress": "switchport", "egress": "vnic"}[packet.case.path]
            assert packet.points[-1] == (gate if packet.action == "drop" else end)
    assert drop_codes("ingress", "punt") == "abcd"
    assert drop_codes("ingress", "forward") == "ae"
    assert drop_codes("egress", "drop") == ""


def test_frames_say_what_the_plan_says_and_have_right_checksums(plan: Plan, tmp_path: Path) -> None:
    plan.write(tmp_path / "plan.parquet")
    rows, about = read_plan(tmp_path / "plan.parquet")
    assert len(rows) == len(plan.packets)
    for row in rows:
        data = send.frame(row, about["plan"], bytes(6), bytes(range(6)))
        assert len(data) == row["length"]
        network = dpkt.ethernet.Ethernet(data).data
        family = socket.AF_INET if row["ip_version"] == 4 else socket.AF_INET6
        assert socket.inet_ntop(family, network.src) == row["source"]
        assert socket.inet_ntop(family, network.dst) == row["destination"]
        above = data[34 if row["ip_version"] == 4 else 54 :]
        assert (data[23] if row["ip_version"] == 4 else data[20]) == row["protocol"]
        payload = above[20 if row["protocol"] == 6 else 8 :]
        assert payload.startswith(row["marker"].encode() + about["plan"].encode())
        assert payload == filling(about["plan"], row["marker"], len(payload))
        if row["ip_version"] == 4:
            assert network.id == row["ip_id"]
            assert kit.internet_checksum(data[14:34]) == 0
        if row["sport"] is not None:
            assert (int.from_bytes(above[:2]), int.from_bytes(above[2:4])) == (row["sport"], row["dport"])
        elif row["icmp_type"] is not None:
            assert above[0] == row["icmp_type"]
        else:
            assert int.from_bytes(above[:4]) == row["lead"]
        if row["icmp_type"] is not None and row["ip_version"] == 4:
            assert kit.internet_checksum(above) == 0
        elif row["lead"] is None:
            pseudo = network.src + network.dst + len(above).to_bytes(4) + row["protocol"].to_bytes(4)
            assert kit.internet_checksum(pseudo + above) == 0


def test_the_same_arguments_make_the_same_file_and_others_another(tmp_path: Path) -> None:
    rules = load_rules(DEFAULT_RULES)
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        make_plan(rules, 1000, seed=seed).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    schema = pq.read_schema(tmp_path / "a")
    assert all(field.metadata[b"description"] for field in schema)


def test_other_addresses(tmp_path: Path) -> None:
    ends = Addresses("192.0.2.7", "2001:db8::7", "192.0.2.1", "2001:db8::1")
    plan = make_plan(parse_rules({"rule": [WEB]}), 500, addresses=ends)
    for packet in plan.packets:
        own = packet.headers.destination if packet.case.path == "ingress" else packet.headers.source
        assert own in ("192.0.2.1", "2001:db8::1")
        other = packet.headers.source if packet.case.path == "ingress" else packet.headers.destination
        assert ipaddress.ip_address(other) in ipaddress.ip_network(
            "192.0.2.0/24" if packet.headers.version == 4 else "2001:db8::/64"
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", str(DEFAULT_RULES), "--count", "10"], "take 4"),
        (["plan", str(DEFAULT_RULES), "--count", "50001"], "holds 50000"),
        (["plan", str(DEFAULT_RULES), "--client4", "fd77::1"], "no IPv4 address"),
        (["plan", "/nowhere/rules.toml"], "cannot read the rules"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert send.main([*arguments, "-o", str(tmp_path / "plan.parquet")]) == 1
    words = capsys.readouterr().err
    assert said in words
    assert len(words.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_plan_that_cannot_be_written_or_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(parse_rules({"rule": [WEB]}), 200)
    with pytest.raises(LabError, match="cannot write"):
        plan.write(tmp_path / "missing" / "plan.parquet")
    with pytest.raises(LabError, match="no plan of tailored packets"):
        read_plan(ROOT / "fixtures" / "service-chain" / "truth.parquet")
    (tmp_path / "text").write_text("no Parquet")
    with pytest.raises(LabError, match="cannot read the plan"):
        read_plan(tmp_path / "text")


def test_the_command_tells_hits_and_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.parquet"
    assert send.main(["plan", str(EVERY_FORM), "-o", str(out), "--count", "1200"]) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}\n"
    assert "ingress shadowed: 0 hit it (" in told.err
    assert "left out: not-this-machine, IPv4, source 10.77.0.9/32" in told.err
    assert len(read_plan(out)[0]) == 1200


def test_a_rule_that_names_ports_does_not_fit_udp_lite(tmp_path: Path, pktrace: CommandLine) -> None:
    """Ports without a protocol mean those of TCP and UDP, for the filter as for the analysis."""
    lite = kit.udp("10.77.0.12", "10.77.0.1", 34000, 53, b"-PKTRI00000001")
    data = kit.ethernet(kit.ipv4("10.77.0.12", "10.77.0.1", 136, lite, ip_id=7), 0x0800)
    (tmp_path / "captures").mkdir()
    for number, point in enumerate(("before", "after")):
        record = Record(ts_ns=1_795_410_000_000_000_000 + 1000 * number, data=data)
        (tmp_path / "captures" / f"{point}.pcap").write_bytes(pcap_bytes([record]))
    (tmp_path / "run.toml").write_text(
        'schema = 1\nname = "udp-lite"\n'
        + "".join(f'[[point]]\nname = "{p}"\ncaptures = ["captures/{p}.pcap"]\n' for p in ("before", "after"))
        + '[[path]]\nname = "ingress"\npoints = ["before", "after"]\n'
        + '[[rule]]\nid = "r"\npath = "ingress"\ndport = "53"\naction = "drop"\n'
    )
    assert pktrace("analyze", tmp_path, "--no-plots").returncode == 0
    found = pl.read_parquet(tmp_path / "results" / "trajectories.parquet").to_dicts()
    assert [(row["protocol"], row["rule"], row["sport"]) for row in found] == [(136, None, 34000)]
