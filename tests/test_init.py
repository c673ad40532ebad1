"""`pktrace init`: captures in, a run.toml out that loads, is analysed at once, and says what it does not know."""

from __future__ import annotations

import gzip
import json
import os
import random
import struct
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.init.path_filters import match_of
from pktrace.init.proposal import Proposal, propose
from pktrace.init.run_toml import proposal_toml, relative_names
from pktrace.init.samples import read_samples
from pktrace.run.runfile import load_run
from tests.conftest import SERVICE_CHAIN, CommandLine
from tests.kit.packets import UDP, Header, frame
from tests.kit.pcap_files import Interface, Record, Section, pcap_bytes, pcapng_bytes
from tests.kit.scenario import generate
from tests.kit.truth import BEGIN_NS, MILLISECOND, SECOND, Options

CORPUS = Path(os.environ.get("PKTRACE_CORPUS", "absent")) / "multipoint"
CLIENT, SERVER = "192.0.2.1", "198.51.100.1"


def proposed(files: Iterable[Path], most: int = 1 << 20) -> Proposal:
    return propose(*read_samples(sorted(map(str, files)), most))


def analyzed(files: Iterable[Path], folder: Path) -> tuple[dict[str, Any], Analysis]:
    """The proposal for files, written into a folder, as parsed TOML and analysed."""
    files = list(files)
    proposal = proposed(files)
    text = proposal_toml(proposal, "run", relative_names(list(map(str, files)), folder))
    (folder / "run.toml").write_text(text, encoding="utf-8")
    return tomllib.loads(text), analyze_run(load_run(folder, trust=True))  # captures may lie elsewhere


def paths_of(proposal: Proposal) -> set[tuple[str, ...]]:
    return {path.points for path in proposal.paths}


def packet(number: int, back: bool = False, ttl: int = 64, source: str = CLIENT, destination: str = SERVER) -> bytes:
    """The n-th packet of a conversation, different from all others."""
    if back:
        source, destination = destination, source
    sport, dport = (80, 40000) if back else (40000, 80)
    header = Header(source, destination, UDP, sport=sport, dport=dport, payload=b"%08d" % number, ip_id=number + 1)
    return frame(header, ttl=ttl)


def conversation(
    delays: Mapping[str, int],
    clocks: Mapping[str, int] | None = None,
    count: int = 40,
    ttls: Mapping[str, int] | None = None,
) -> dict[str, list[Record]]:
    """Records per point of packets there (even numbers) and back; `delays` is how far each point is from the first."""
    clocks, ttls = clocks or {}, ttls or {}
    found: dict[str, list[Record]] = {point: [] for point in delays}
    longest = max(delays.values())
    for number in range(count):
        back = bool(number % 2)
        for point, delay in delays.items():
            passed = BEGIN_NS + number * 10 * MILLISECOND + (longest - delay if back else delay) + number % 7 * 1000
            data = packet(number, back, ttls.get(point, 64))
            found[point].append(Record(passed + clocks.get(point, 0), data))
    return found


def write_pcaps(folder: Path, records: Mapping[str, list[Record]]) -> list[Path]:
    for point, held in records.items():
        (folder / f"{point}.pcap").write_bytes(pcap_bytes(sorted(held, key=lambda record: record.ts_ns)))
    return [folder / f"{point}.pcap" for point in records]


def test_the_recorded_chain_is_found_in_any_order_of_files(pktrace: CommandLine, tmp_path: Path) -> None:
    files = sorted((SERVICE_CHAIN / "captures").glob("*.pcapng"))
    texts = set()
    for seed in range(2):
        random.Random(seed).shuffle(files)
        told = pktrace("init", *files)
        assert told.returncode == 0
        texts.add(told.stdout)
    assert len(texts) == 1
    found = {tuple(path["points"]): path for path in tomllib.loads(texts.pop())["path"]}
    written = tomllib.loads((SERVICE_CHAIN / "run.toml").read_text(encoding="utf-8"))["path"]
    assert set(found) == {tuple(path["points"]) for path in written}
    for path in written:
        assert found[tuple(path["points"])].get("detour") == path.get("detour")
        assert found[tuple(path["points"])]["match"] == path["match"]


def test_the_proposal_for_the_recorded_chain_is_analysed_at_once(pktrace: CommandLine, tmp_path: Path) -> None:
    files = list((SERVICE_CHAIN / "captures").glob("*.pcapng"))
    assert pktrace("init", *files, "-o", tmp_path / "new").returncode == 0
    told = pktrace("analyze", tmp_path / "new", "--no-plots", "--trust")  # its captures lie elsewhere
    assert told.returncode == 0, told.stderr
    summary = json.loads((tmp_path / "new" / "results" / "summary.json").read_text())
    assert {path["trajectories"] for path in summary["paths"].values()} == {1275, 1242, 124, 122}


@pytest.mark.parametrize(
    "options",
    [
        Options(seed=1),
        Options(seed=2, changes=True, packets=400),
        Options(seed=3, format="pcap", tsresol=6),
        Options(seed=4, loss={("ingress", 1): 0.05, ("egress", 2): 0.05}, packets=600, noise=20),
        Options(seed=5, packets=600, duplicates={("ingress", 2): 0.05}, reordered=0.02),
        Options(seed=6, packets=600, identical=30, fragmented=20, unsorted=True),
        Options(seed=7, packets=600, capture_drops={"punt": 0.03, "return": 0.03}),
        Options(seed=8, packets=600, clock_offsets={"vnic": 7 * SECOND}),
        Options(seed=9, packets=600, clock_offsets={"vnic": 40 * MILLISECOND, "uplink": -3 * SECOND}),
        Options(seed=12, packets=600, clock_offsets={"punt": 9 * SECOND, "return": 9 * SECOND}),
        Options(seed=13, packets=600, clock_offsets={"switchport": 30 * SECOND, "vnic3": -5 * SECOND}),
        Options(seed=10, packets=600, snaplen={"switchport": 60}),
    ],
    ids=lambda options: f"seed{options.seed}",
)
def test_generated_chains_are_found(options: Options, tmp_path: Path) -> None:
    generate(options, tmp_path / "run")
    run = load_run(tmp_path / "run")
    files = sorted((tmp_path / "run" / "captures").glob("*.pcap*"))
    proposal = proposed(files)
    expected = {tuple(run.points[point].name for point in path.points) for path in run.paths}
    assert paths_of(proposal) == expected
    detours = {path.points: path.detour for path in proposal.paths}
    assert all(detours[points] == (("punt", "return") if "punt" in points else ()) for points in expected)
    clocks = {point.name: point.clock for point in proposal.points}
    assert {name for name, clock in clocks.items() if clock} == set(options.clock_offsets)
    document, _ = analyzed(files, tmp_path)
    assert len(document["path"]) == len(expected)


def test_where_two_clocks_hide_the_order_of_two_points_one_is_left_out(tmp_path: Path) -> None:
    """Both directions pass punt before return: their own clocks are bounded by the others, not against each other."""
    options = Options(seed=12, packets=600, clock_offsets={"punt": -2 * MILLISECOND, "return": SECOND})
    generate(options, tmp_path / "run")
    proposal = proposed((tmp_path / "run" / "captures").glob("*.pcapng"))
    assert ("uplink", "switchport", "punt", "vnic") in paths_of(proposal)
    assert any("return also saw packets of this kind" in note for path in proposal.paths for note in path.notes)


def test_a_point_that_is_passed_twice_stands_twice_on_its_path(tmp_path: Path) -> None:
    generate(Options(seed=11, looped=60), tmp_path / "run")
    files = (tmp_path / "run" / "captures").glob("*.pcapng")
    assert ("uplink", "switchport", "punt", "switchport", "vnic") in paths_of(proposed(files))


def test_the_stages_are_told_with_packets_and_median(tmp_path: Path) -> None:
    records = conversation({"a": 0, "b": 10_391_000})
    del records["b"][0]
    files = write_pcaps(tmp_path, records)
    text = proposal_toml(proposed(files), "run", relative_names(list(map(str, files)), tmp_path))
    assert "a and b: 39 of 39 packets seen at both; median 10.391 ms" in text
    assert "a to b: 19 of 20 packets seen at both; median 10.391 ms" in text


def test_clocks_apart_are_named_and_the_order_is_still_found(tmp_path: Path) -> None:
    files = write_pcaps(tmp_path, conversation({"near": 0, "far": 300_000}, {"far": 40 * SECOND}))
    proposal = proposed(files)
    assert paths_of(proposal) == {("near", "far"), ("far", "near")}
    assert len({point.clock for point in proposal.points}) == 2
    document, analysis = analyzed(files, tmp_path)
    assert {path["name"]: path["match"] for path in document["path"]} == {
        "near-to-far": {"destination": [SERVER]},
        "far-to-near": {"destination": [CLIENT]},
    }
    assert len(analysis.trajectories.path) == 40


def test_without_answers_the_ttl_tells_the_order_across_clocks(tmp_path: Path) -> None:
    records = conversation({"near": 0, "far": 300_000}, {"far": -40 * SECOND}, ttls={"near": 64, "far": 63})
    files = write_pcaps(tmp_path, {point: held[::2] for point, held in records.items()})
    proposal = proposed(files)
    assert paths_of(proposal) == {("near", "far")}
    assert len({point.clock for point in proposal.points}) == 2


def test_without_answers_and_ttl_no_order_is_invented(tmp_path: Path) -> None:
    records = conversation({"near": 0, "far": 300_000}, {"far": 40 * SECOND})
    files = write_pcaps(tmp_path, {point: held[::2] for point, held in records.items()})
    proposal = proposed(files)
    assert proposal.paths == ()
    assert any("order of the points is unknown" in note for note in proposal.notes)
    analyzed(files, tmp_path)


def test_interfaces_of_one_file_become_points(tmp_path: Path) -> None:
    records = conversation({"eth0": 0, "br0": 2000, "veth7": 5000})
    numbered = [
        Record(record.ts_ns, record.data, interface=number)
        for number, held in enumerate(records.values())
        for record in held
    ]
    numbered.sort(key=lambda record: record.ts_ns)
    interfaces = [Interface(name=name) for name in [*records, "idle0"]]
    file = tmp_path / "all.pcapng"
    file.write_bytes(pcapng_bytes(Section(interfaces, numbered)))
    document, analysis = analyzed([file], tmp_path)
    assert {point["name"]: point["interface"] for point in document["point"]} == {name: name for name in records}
    assert {tuple(path["points"]) for path in document["path"]} == {tuple(records), tuple(reversed(records))}
    assert len(analysis.trajectories.path) == 40
    assert any("idle0" in note for note in proposed([file]).notes)


def test_interfaces_without_names_are_told_by_number(tmp_path: Path) -> None:
    records = conversation({"x": 0, "y": 5000})
    numbered = [Record(r.ts_ns, r.data, interface=n) for n, held in enumerate(records.values()) for r in held]
    file = tmp_path / "two.pcapng"
    file.write_bytes(pcapng_bytes(Section([Interface(), Interface()], numbered)))
    document, analysis = analyzed([file], tmp_path)
    assert [point["interface"] for point in document["point"]] == ["#0", "#1"]
    assert len(analysis.trajectories.path) == 40


def test_equal_times_in_one_file_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    records = [
        Record(BEGIN_NS + number * MILLISECOND, packet(number), interface=interface)
        for number in range(20)
        for interface in (1, 0)
    ]
    file = tmp_path / "probes.pcapng"
    file.write_bytes(pcapng_bytes(Section([Interface(name="skb:later"), Interface(name="skb:first")], records)))
    assert paths_of(proposed([file])) == {("skb-first", "skb-later")}


def test_packet_ids_join_what_was_rewritten(tmp_path: Path) -> None:
    records = [
        Record(
            BEGIN_NS + number * MILLISECOND + interface * 9000,
            packet(number, source=CLIENT if interface == 0 else "203.0.113.9"),
            interface=interface,
            packet_id=number + 1,
        )
        for number in range(20)
        for interface in (0, 1)
    ]
    file = tmp_path / "nat.pcapng"
    file.write_bytes(pcapng_bytes(Section([Interface(name="inside"), Interface(name="outside")], records)))
    assert paths_of(proposed([file])) == {("inside", "outside")}


def test_packet_ids_distinguish_equal_bytes(tmp_path: Path) -> None:
    """False before: "packets with equal bytes are no evidence of order", also where the capture numbers them."""
    records = [
        Record(BEGIN_NS + number * MILLISECOND + interface * 9000, packet(1), interface=interface, packet_id=number + 1)
        for number in range(20)
        for interface in (0, 1)
    ]
    file = tmp_path / "probes.pcapng"
    file.write_bytes(pcapng_bytes(Section([Interface(name="before"), Interface(name="after")], records)))
    assert paths_of(proposed([file])) == {("before", "after")}


def test_files_that_share_packet_ids_share_a_session(tmp_path: Path) -> None:
    for name, delay in (("a", 0), ("b", 7000)):
        held = [Record(BEGIN_NS + n * MILLISECOND + delay, packet(n), packet_id=n + 1) for n in range(20)]
        (tmp_path / f"{name}.pcapng").write_bytes(pcapng_bytes(Section([Interface()], held)))
    other = [Record(BEGIN_NS + n * MILLISECOND, packet(n + 500), packet_id=n + 1) for n in range(20)]
    (tmp_path / "c.pcapng").write_bytes(pcapng_bytes(Section([Interface()], other)))
    sessions = {point.name: point.session for point in proposed(tmp_path.glob("*.pcapng")).points}
    assert sessions["a"] == sessions["b"] is not None
    assert sessions["c"] is None


def sll2(index: int, kind: int, data: bytes) -> bytes:
    """A Linux cooked frame, version 2: protocol, interface index, ARPHRD, packet type, address."""
    return struct.pack("!HHIHBB8s", 0x0800, 0, index, 1, kind, 6, bytes(8)) + data[14:]


def cooked(kind: int, data: bytes) -> bytes:
    """A Linux cooked frame, version 1."""
    return struct.pack("!HHH8sH", kind, 1, 6, bytes(8), 0x0800) + data[14:]


def test_the_interface_index_of_any_tells_points(tmp_path: Path) -> None:
    records = conversation({"2": 0, "5": 4000, "9": 9000})
    held = sorted(
        (Record(r.ts_ns, sll2(int(name), 0, r.data)) for name, some in records.items() for r in some),
        key=lambda record: record.ts_ns,
    )
    file = tmp_path / "any.pcap"
    file.write_bytes(pcap_bytes(held, linktype=276))
    document, analysis = analyzed([file], tmp_path)
    assert {point["name"]: point["interface"] for point in document["point"]} == {"if2": "2", "if5": "5", "if9": "9"}
    assert {tuple(path["points"]) for path in document["path"]} == {("if2", "if5", "if9"), ("if9", "if5", "if2")}
    assert len(analysis.trajectories.path) == 40


def test_a_packet_seen_in_and_at_once_out_again_splits_the_point(tmp_path: Path) -> None:
    held = [
        Record(BEGIN_NS + number * MILLISECOND + delay, cooked(kind, packet(number)))
        for number in range(20)
        for delay, kind in ((0, 0), (3000, 4))
    ]
    file = tmp_path / "router.pcap"
    file.write_bytes(pcap_bytes(held, linktype=113))
    document, analysis = analyzed([file], tmp_path)
    assert {point["name"]: point["direction"] for point in document["point"]} == {
        "router-in": "in",
        "router-out": "out",
    }
    assert [path["points"] for path in document["path"]] == [["router-in", "router-out"]]
    assert len(analysis.trajectories.path) == 20


def test_directions_alone_split_nothing(tmp_path: Path) -> None:
    for name, there, back in (("a", 1, 2), ("b", 1, 2)):
        held = [
            Record(r.ts_ns, r.data, direction=back if number % 2 else there)
            for number, r in enumerate(conversation({"a": 0, "b": 5000})[name])
        ]
        (tmp_path / f"{name}.pcapng").write_bytes(pcapng_bytes(Section([Interface(name=name)], held)))
    proposal = proposed(tmp_path.glob("*.pcapng"))
    assert {point.direction for point in proposal.points} == {"any"}


@pytest.mark.parametrize(
    "names",
    [
        ["x.pcap", "x.pcap1", "x.pcap2", "x.pcap10"],
        ["x.pcap0", "x.pcap1", "x.pcap2", "x.pcap3"],
        [
            "x_00001_20260101000000.pcap",
            "x_00002_20260101000100.pcap",
            "x_00003_20260101000200.pcap",
            "x_00004_20260101000300.pcap",
        ],
        [
            "x-2026-01-01_00:00:00.pcap",
            "x-2026-01-01_00:01:00.pcap",
            "x-2026-01-01_00:02:00.pcap",
            "x-2026-01-01_00:03:00.pcap",
        ],
        ["x-000.pcap", "x-001.pcap", "x-002.pcap", "x-003.pcap"],
    ],
    ids=lambda names: names[-1],
)
def test_rotated_files_are_one_point(names: list[str], tmp_path: Path) -> None:
    records = conversation({"x": 0, "y": 5000})
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(pcap_bytes(records["x"][10 * number : 10 * number + 10]))
    (tmp_path / "y.pcap").write_bytes(pcap_bytes(records["y"]))
    document, analysis = analyzed(list(tmp_path.iterdir()), tmp_path)
    captures = {point["name"]: point["captures"] for point in document["point"]}
    assert captures == {"x": names, "y": ["y.pcap"]}
    assert len(analysis.trajectories.path) == 40


def test_numbered_files_of_one_time_are_points_of_their_own(tmp_path: Path) -> None:
    for number, held in enumerate(conversation({"a": 0, "b": 5000}).values()):
        (tmp_path / f"vm-{number:02}.pcap").write_bytes(pcap_bytes(held))
    assert {point.name for point in proposed(tmp_path.glob("*.pcap")).points} == {"vm-00", "vm-01"}


def test_compressed_files_are_read(tmp_path: Path) -> None:
    for name, held in conversation({"a": 0, "b": 5000}).items():
        (tmp_path / f"{name}.pcap.gz").write_bytes(gzip.compress(pcap_bytes(held)))
    assert paths_of(proposed(tmp_path.glob("*.gz"))) == {("a", "b"), ("b", "a")}


def test_one_file_is_one_point_without_a_path(tmp_path: Path) -> None:
    files = write_pcaps(tmp_path, {"only": conversation({"only": 0})["only"]})
    document, _ = analyzed(files, tmp_path)
    assert [point["name"] for point in document["point"]] == ["only"]
    assert "path" not in document


def test_files_without_packets_are_points(tmp_path: Path) -> None:
    files = write_pcaps(tmp_path, {**conversation({"a": 0, "b": 5000}), "empty": []})
    document, _ = analyzed(files, tmp_path)
    assert {point["name"] for point in document["point"]} == {"a", "b", "empty"}
    assert any("empty has no packets" in note for note in proposed(files).notes)
    assert proposed(files[2:]).paths == ()


def test_files_that_share_nothing_are_on_no_path(tmp_path: Path) -> None:
    strangers = {
        name: [Record(BEGIN_NS + n * MILLISECOND, packet(1000 * at + n)) for n in range(20)]
        for at, name in enumerate(("a", "b"))
    }
    files = write_pcaps(tmp_path, strangers)
    proposal = proposed(files)
    assert proposal.paths == ()
    assert sum("shares no packets" in note for note in proposal.notes) == 2
    analyzed(files, tmp_path)


def test_copies_of_a_capture_are_no_points_on_a_way(tmp_path: Path) -> None:
    held = conversation({"a": 0})["a"]
    proposal = proposed(write_pcaps(tmp_path, {"a": held, "copy": held}))
    assert proposal.paths == ()
    assert any("same packets at the same times" in note for note in proposal.notes)


def test_branches_that_addresses_tell_apart_are_paths_of_their_own(tmp_path: Path) -> None:
    records: dict[str, list[Record]] = {"in": [], "one": [], "two": []}
    for number in range(40):
        branch = ("one", "two")[number % 2]
        data = packet(number, destination=f"198.51.100.{1 + number % 2}")
        records["in"].append(Record(BEGIN_NS + number * MILLISECOND, data))
        records[branch].append(Record(BEGIN_NS + number * MILLISECOND + 5000, data))
    proposal = proposed(write_pcaps(tmp_path, records))
    assert {path.points: path.match.destination for path in proposal.paths} == {
        ("in", "one"): ("198.51.100.1",),
        ("in", "two"): ("198.51.100.2",),
    }


def test_a_late_stamp_makes_no_path_of_its_own(tmp_path: Path) -> None:
    records = conversation({"a": 0, "b": 5000, "c": 9000}, count=600)
    stray = packet(9000, destination="198.51.100.77")
    for point, delay in (("a", 0), ("c", 2000), ("b", 2500)):
        records[point].append(Record(BEGIN_NS + 9 * SECOND + delay, stray))
    assert paths_of(proposed(write_pcaps(tmp_path, records))) == {("a", "b", "c"), ("c", "b", "a")}


def test_a_capture_that_misses_packets_is_no_detour(tmp_path: Path) -> None:
    records = conversation({"a": 0, "b": 5000, "c": 9000}, count=400)
    chance = random.Random(1)
    records["b"] = [record for record in records["b"] if chance.random() > 0.2]
    assert [path.detour for path in proposed(write_pcaps(tmp_path, records)).paths] == [(), ()]


def test_of_many_packets_the_same_sample_is_taken_everywhere(tmp_path: Path) -> None:
    files = write_pcaps(tmp_path, conversation({"a": 0, "b": 5000, "c": 9000}, count=3000))
    proposal = proposed(files, most=1500)
    assert paths_of(proposal) == {("a", "b", "c"), ("c", "b", "a")}
    assert {point.packets for point in proposal.points} == {3000}
    assert any("sample of one in" in note for note in proposal.notes)
    stages = [stage for path in proposal.paths for stage in path.stages]
    assert all(0 < stage.common == stage.seen < 1500 for stage in stages)


def test_names_from_outside_cannot_break_the_file(tmp_path: Path) -> None:
    odd = 'a "b"\\ # \n]\x7f\u2028'
    records = conversation({"x": 0, "y": 5000})
    numbered = [Record(r.ts_ns, r.data, interface=n) for n, held in enumerate(records.values()) for r in held]
    interfaces = [Interface(name=odd), Interface(name='"""\n[[rule]]')]
    file = tmp_path / "odd\n[[point]] \x7f.pcapng"
    file.write_bytes(pcapng_bytes(Section(interfaces, numbered)))
    document, analysis = analyzed([file], tmp_path)
    assert {point["interface"] for point in document["point"]} == {interface.name for interface in interfaces}
    assert set(document) == {"schema", "name", "point", "path"}
    assert len(analysis.trajectories.path) == 40


def test_points_with_names_that_columns_have_are_renamed(tmp_path: Path) -> None:
    files = write_pcaps(tmp_path, conversation({"first": 0, "first_2": 5000, "a-b": 7000, "a": 8000, "b": 9000}))
    _, analysis = analyzed(files, tmp_path)
    assert len(analysis.trajectories.path) == 40


def test_files_of_one_interface_name_are_named_after_the_files(tmp_path: Path) -> None:
    for name, held in conversation({"host1": 0, "host2": 5000}).items():
        (tmp_path / f"{name}.pcapng").write_bytes(pcapng_bytes(Section([Interface(name="eth0")], held)))
    assert {point.name for point in proposed(tmp_path.glob("*.pcapng")).points} == {"host1", "host2"}


def test_many_addresses_become_prefixes_that_hold_no_others() -> None:
    import ipaddress

    server = ipaddress.ip_address(SERVER)
    mine = [(ipaddress.ip_address(f"10.1.{n}.{n}"), server, 1) for n in range(60)]
    others = [(server, ipaddress.ip_address(f"10.1.{n}.{n}"), 1) for n in range(60)]
    assert match_of(mine, others).destination == (SERVER,)
    assert match_of(others, mine).source == (SERVER,)
    both = [(ipaddress.ip_address(f"10.1.1.{n}"), ipaddress.ip_address(f"10.2.2.{n}"), 1) for n in range(40)]
    assert match_of(both, [(b, a, 1) for a, b, _ in both]).destination == ("10.2.2.0/26",)


def test_an_existing_run_is_not_replaced_without_force(pktrace: CommandLine, tmp_path: Path) -> None:
    files = write_pcaps(tmp_path, conversation({"a": 0, "b": 5000}))
    (tmp_path / "run.toml").write_text("mine")
    told = pktrace("init", *files, "-o", tmp_path)
    assert told.returncode == 2
    assert "--force" in told.stderr
    assert (tmp_path / "run.toml").read_text() == "mine"
    assert pktrace("init", *files, "-o", tmp_path, "--force").returncode == 0
    assert load_run(tmp_path).paths
    assert {path.name for path in tmp_path.iterdir()} == {"a.pcap", "b.pcap", "run.toml"}


def test_captures_elsewhere_are_named_and_left_where_they_are(pktrace: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    files = write_pcaps(tmp_path / "far", conversation({"a": 0, "b": 5000}))
    told = pktrace("init", *files, files[0], "-o", tmp_path / "new" / "mine.toml", "--json")
    assert told.returncode == 0
    assert "given twice" in told.stderr
    assert "outside" in told.stderr
    document = json.loads(told.stdout)
    assert [point["captures"] for point in document["points"]] == [["../far/a.pcap"], ["../far/b.pcap"]]
    assert {path["name"] for path in document["paths"]} == {"a-to-b", "b-to-a"}
    assert "analyze --trust" in told.stderr
    assert len(load_run(tmp_path / "new" / "mine.toml", trust=True).paths) == 2


def test_a_file_that_is_no_capture_is_named(pktrace: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no capture")
    told = pktrace("init", tmp_path / "notes.txt", "-o", tmp_path)
    assert told.returncode == 2
    assert "notes.txt" in told.stderr
    assert not (tmp_path / "run.toml").exists()


def test_a_damaged_file_is_used_up_to_the_damage_and_said_so(pktrace: CommandLine, tmp_path: Path) -> None:
    files = write_pcaps(tmp_path, conversation({"a": 0, "b": 5000}))
    files[0].write_bytes(files[0].read_bytes()[:-7])
    told = pktrace("init", *files)
    assert told.returncode == 3
    assert "a-to-b" in told.stdout


@pytest.mark.skipif(not CORPUS.is_dir(), reason="PKTRACE_CORPUS names no folder with public captures")
def test_two_public_links_are_two_pairs_of_paths(tmp_path: Path) -> None:
    files = list((CORPUS / "two-links").glob("*.pcap"))
    document, analysis = analyzed(files, tmp_path)
    ends = {frozenset(path["points"]) for path in document["path"]}
    assert ends == {frozenset({f"h1-eth{link}", f"sv_mp1-eth{link}"}) for link in (0, 1)}
    assert all("clock" not in point for point in document["point"])
    both = (analysis.trajectories.seen[:, :2] >= 0).all(axis=1)
    of_link = [analysis.run.paths[path].name.count("eth1") == 2 for path in analysis.trajectories.path[both]]
    assert (of_link.count(False), of_link.count(True)) == (3971, 3863)


@pytest.mark.skipif(not CORPUS.is_dir(), reason="PKTRACE_CORPUS names no folder with public captures")
def test_a_public_proxy_is_a_chain_without_its_encrypted_side(tmp_path: Path) -> None:
    document, _ = analyzed((CORPUS / "tunnel-proxy").glob("*.pcap"), tmp_path)
    assert {tuple(path["points"]) for path in document["path"]} == {
        ("client", "proxy_eth1", "server"),
        ("server", "proxy_eth1", "client"),
    }
    files = (CORPUS / "overlapping-windows").glob("*.pcap")
    assert proposed(files).paths == ()
