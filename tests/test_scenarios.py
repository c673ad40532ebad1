"""The generated scenarios: their files are valid, their truth is whole, the analysis is right where it can be yet."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fixtures.scenarios import generate_scenario
from fixtures.scenarios.catalogue import SCENARIOS
from pktrace.analysis.analysis import analyze_run
from pktrace.report.explain import explain_packet
from pktrace.run.runfile import load_run
from pktrace.schema import BASES
from tests.accuracy.changes import Changes
from tests.accuracy.measure import score_run
from tests.accuracy.score import read_truth, score
from tests.reference.capture import read_capture

# What the analysis cannot do yet, by scenario. An entry that works by now fails its test: take it out.
NOT_YET: dict[str, str] = {}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every scenario in its small size."""
    folders = {name: tmp_path_factory.mktemp(name) for name in SCENARIOS}
    for name, folder in folders.items():
        generate_scenario(name, folder, packets=SCENARIOS[name].small)
    return folders


def frames_per_capture(folder: Path) -> dict[str, int]:
    """How many frames the truth has of each capture."""
    _, seen = read_truth(folder)
    counts = seen.select("capture", "frame").unique().group_by("capture").len()
    found = {str(path.relative_to(folder)): 0 for path in folder.glob("captures/*.pcapng")}
    return found | dict(counts.iter_rows())


def test_explain_tells_rewritten_addresses_and_tunnels(runs: dict[str, Path]) -> None:
    analysis = analyze_run(load_run(runs["nat-vxlan-loss"]))
    crossed = np.flatnonzero((analysis.trajectories.seen >= 0).all(axis=1))
    told = [change for packet in explain_packet(analysis, int(crossed[0])).sightings for change in packet.changes]
    kinds = {change.split()[0] for change in told}
    assert kinds & {"source", "destination"}
    assert "tunnel" in kinds


def test_the_parts_of_a_split_packet_are_no_copies_of_it(runs: dict[str, Path]) -> None:
    analysis = analyze_run(load_run(runs["tso-no-loss"]))
    trajectories = analysis.trajectories
    split = np.flatnonzero(trajectories.basis == BASES.index("range"))
    assert len(split)
    assert not trajectories.duplicates.any()
    told = [
        sighting.changes for sighting in explain_packet(analysis, int(split[0])).sightings if sighting.position is None
    ]
    assert told
    assert all(change.startswith("bytes ") for (change,) in told)


@pytest.mark.skipif(shutil.which("capinfos") is None, reason="capinfos is not installed")
def test_wireshark_counts_the_frames_of_the_truth(runs: dict[str, Path]) -> None:
    expected = {
        str(folder / capture): count
        for folder in runs.values()
        for capture, count in frames_per_capture(folder).items()
    }  # fmt: skip
    command = ["capinfos", "-T", "-c", "-M", "-r", *expected]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    lines = [line.split("\t") for line in output.splitlines()]
    assert {line[0]: int(line[1]) for line in lines} == expected


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize(
    ("name", "point"),
    [("plain", "uplink"), ("nat-many-to-one", "d"), ("geneve", "b"), ("gre", "c"), ("tso-then-gro", "vnic"),
     ("payload-longer", "d"), ("vlan", "b"), ("mss-clamp", "d"), ("fragments-in", "uplink")],
)  # fmt: skip
def test_headers_and_checksums_are_right_for_tshark(runs: dict[str, Path], name: str, point: str) -> None:
    checks = [f"{protocol}.check_checksum:TRUE" for protocol in ("ip", "tcp", "udp")]
    fields = [f"{protocol}.checksum.status" for protocol in ("ip", "tcp", "udp", "icmp", "icmpv6")]
    command = ["tshark", "-r", str(runs[name] / "captures" / f"{point}.pcapng"), "-T", "fields", "-E", "occurrence=a"]
    command += [part for check in checks for part in ("-o", check)]
    command += [part for field in fields for part in ("-e", field)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    told = Counter(
        value for line in output.splitlines() for cell in line.split("\t") for value in cell.split(",") if value
    )
    # 0 is bad, 1 good, 2 not verified (parts of fragments, and tunnels without a checksum), 3 not present.
    assert told["0"] == 0
    assert told["1"] > SCENARIOS[name].small


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_truth_is_whole(runs: dict[str, Path], name: str) -> None:
    packets, seen = read_truth(runs[name])
    assert packets["packet"].is_unique().all()
    assert set(seen["packet"]) == set(packets["packet"])
    assert set(packets["fate"]) <= {"delivered", "lost", "partial", "dropped"}
    assert (packets["lost_stage"].is_not_null() == (packets["fate"] == "lost")).all()
    assert (packets["decidable"] == packets["alike"].is_null()).all()
    # A group of packets that are alike has two or more, unless no capture holds the others.
    assert packets["alike"].drop_nulls().value_counts()["count"].min() != 1 or "edges" in name
    for capture, count in frames_per_capture(runs[name]).items():
        mine = seen.filter(pl.col("capture") == capture)
        assert set(mine["frame"]) == set(range(1, count + 1)), f"every frame of {capture} is in the truth"
    # No byte of a packet is sighted twice at one position: it is a duplicate the second time.
    sightings = seen.filter((pl.col("kind") == "sighting") & pl.col("position").is_not_null())
    assert not sightings.select("packet", "position", "first_byte").is_duplicated().any()
    assert (seen["first_byte"] <= seen["last_byte"]).all()
    # What was delivered and captured at the end was there with all its bytes.
    last = seen.filter(pl.col("kind") == "sighting").join(packets, on="packet")
    ends = {"ingress": 4, "egress": 4, "out": 3, "back": 3}
    for path, position in ends.items():
        there = last.filter((pl.col("path") == path) & (pl.col("position") == position))
        assert set(there["fate"]) <= {"delivered", "partial"}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    def contents(folder: str, seed: int) -> dict[str, bytes]:
        generate_scenario("loss-duplication-reordering", tmp_path / folder, packets=200, seed=seed)
        files = sorted((tmp_path / folder).rglob("*.*"))
        return {str(file.relative_to(tmp_path / folder)): file.read_bytes() for file in files if file.is_file()}

    first = contents("first", 1)
    assert first == contents("again", 1)
    assert first["captures/uplink.pcapng"] != contents("other", 2)["captures/uplink.pcapng"]


@pytest.mark.parametrize("name", ["loss-duplication-reordering", "identical-udp", "shared-ip-ids", "retransmissions"])
def test_frames_have_equal_bytes_where_they_are_of_packets_that_are_alike(runs: dict[str, Path], name: str) -> None:
    packets, seen = read_truth(runs[name])
    group = {packet: -1 - alike if alike is not None else packet for packet, alike in packets["packet", "alike"].rows()}
    bytes_of: dict[int, set[bytes]] = {}
    for capture in seen["capture"].unique():
        frames = read_capture((runs[name] / capture).read_bytes()).packets
        for frame, packet in seen.filter(pl.col("capture") == capture)["frame", "packet"].rows():
            bytes_of.setdefault(group[packet], set()).add(frames[frame - 1].data)
    assert all(len(different) == 1 for different in bytes_of.values())
    assert len({data for different in bytes_of.values() for data in different}) == len(bytes_of)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(reason=NOT_YET[name])) if name in NOT_YET else name
        for name in SCENARIOS
    ],
)
def test_the_analysis_is_right(runs: dict[str, Path], name: str) -> None:
    found, _ = score_run(runs[name])
    assert not found.faults, found


# --- the score itself ---------------------------------------------------------------------------------------


def tables(owners: dict[int, list[int]], fates: dict[int, tuple[str, int | None]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables of an analysis of the run below: frames of each trajectory (at both points), its fate and lost stage."""
    rows = [
        {"point": point, "capture": f"{point}.pcapng", "frame": abs(frame), "trajectory": trajectory}
        for trajectory, frames in owners.items()
        for frame in frames
        for point in (["a", "b"] if frame > 0 else ["a"])
    ]
    observations = pl.DataFrame(rows)
    said = [
        {"trajectory": trajectory, "path": "forward", "fate": fate, "lost_stage": stage}
        for trajectory, (fate, stage) in fates.items()
    ]
    return observations, pl.DataFrame(said, schema_overrides={"lost_stage": pl.Int16})


def truth(alike: tuple[int, ...] = ()) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Four packets that a and b see as frame n + 1; the last one was lost between."""
    packets = pl.DataFrame(
        {
            "packet": range(4),
            "path": ["forward"] * 4,
            "fate": ["delivered"] * 3 + ["lost"],
            "lost_stage": [None, None, None, 0],
            "decidable": [packet not in alike for packet in range(4)],
            "alike": [7 if packet in alike else None for packet in range(4)],
            "cautious_allowed": [False] * 4,
        },
        schema_overrides={"lost_stage": pl.Int16, "alike": pl.Int64},
    )
    seen = [
        {"point": point, "capture": f"{point}.pcapng", "frame": packet + 1, "packet": packet, "position": position}
        for packet in range(4)
        for position, point in enumerate("ab")
        if (packet, point) != (3, "b")
    ]
    return packets, pl.DataFrame(seen)


ALL_RIGHT = {0: [1], 1: [2], 2: [3], 3: [-4]}
DELIVERED, LOST = ("delivered", None), ("lost", 0)
RIGHT_FATES = {0: DELIVERED, 1: DELIVERED, 2: DELIVERED, 3: LOST}


def test_what_is_right_has_no_fault() -> None:
    found = score(*truth(), *tables(ALL_RIGHT, RIGHT_FATES))
    assert (found.right, found.wrong_matches, found.invented, found.missed, found.surplus) == (4, 0, 0, 0, 0)
    assert (found.recall, found.precision, found.stages_exact, found.faults) == (1.0, 1.0, True, [])


def test_a_wrong_match_is_seen() -> None:
    observations, said = tables(ALL_RIGHT, RIGHT_FATES)
    swapped = pl.when((pl.col("point") == "b") & (pl.col("frame") < 3)).then(1 - pl.col("trajectory"))
    observations = observations.with_columns(swapped.otherwise(pl.col("trajectory")).alias("trajectory"))
    found = score(*truth(), observations, said)
    assert found.wrong_matches == 2
    assert found.right == 2
    assert "wrong matches" in found.faults
    assert found.precision < 1


def test_a_wrong_match_of_packets_with_the_same_bytes_is_none() -> None:
    observations, said = tables(ALL_RIGHT, RIGHT_FATES)
    swapped = pl.when((pl.col("point") == "b") & (pl.col("frame") < 3)).then(1 - pl.col("trajectory"))
    observations = observations.with_columns(swapped.otherwise(pl.col("trajectory")).alias("trajectory"))
    found = score(*truth(alike=(0, 1)), observations, said)
    assert (found.wrong_matches, found.decidable, found.right, found.faults) == (0, 2, 2, [])


def test_an_invented_loss_is_seen() -> None:
    observations, said = tables({0: [-1], 1: [2], 2: [3], 3: [-4]}, {**RIGHT_FATES, 0: LOST})
    found = score(*truth(), observations, said)
    assert (found.invented, found.right, found.stages_exact) == (1, 3, False)


def test_an_invented_loss_among_packets_with_the_same_bytes_is_seen() -> None:
    found = score(*truth(alike=(0, 3)), *tables(ALL_RIGHT, {**RIGHT_FATES, 0: LOST}))
    assert (found.invented, found.right, found.stages_exact) == (1, 2, False)


def test_a_missed_loss_is_seen() -> None:
    found = score(*truth(), *tables(ALL_RIGHT, {**RIGHT_FATES, 3: DELIVERED}))
    assert (found.missed, found.stages_exact) == (1, False)


def test_a_loss_at_another_stage_is_no_right_answer() -> None:
    found = score(*truth(), *tables(ALL_RIGHT, {**RIGHT_FATES, 3: ("lost", 1)}))
    assert (found.right, found.stages_exact) == (3, False)


def test_a_packet_taken_for_two_is_seen() -> None:
    observations, said = tables({**ALL_RIGHT, 4: [1]}, {**RIGHT_FATES, 4: ("injected", None)})
    mine = (pl.col("point") == "a") & (pl.col("trajectory") == 4) | (pl.col("point") == "b") & (
        pl.col("trajectory") == 0
    )
    found = score(*truth(), observations.filter(~mine), said)
    assert (found.surplus, found.right, found.wrong_matches) == (1, 3, 0)


def test_cautious_answers_count_unless_the_captures_do_not_show_it() -> None:
    observations, said = tables(ALL_RIGHT, {**RIGHT_FATES, 3: ("undetermined", None)})
    packets, seen = truth()
    found = score(packets, seen, observations, said)
    assert (found.cautious, found.right, found.missed) == (1, 3, 0)
    allowed = packets.with_columns(cautious_allowed=pl.col("packet") == 3)
    found = score(allowed, seen, observations, said)
    assert (found.cautious, found.right, found.missed, found.faults) == (0, 4, 0, [])


def test_ranges_give_a_merged_frame_to_each_of_its_packets() -> None:
    packets, _ = truth()
    rows = [("a", number + 1, number, 0) for number in range(4)]
    rows += [("b", 1, 0, 1), ("b", 1, 1, 1), ("b", 2, 2, 1)]
    seen = pl.DataFrame(
        [
            {"point": point, "capture": f"{point}.pcapng", "frame": frame, "packet": packet, "position": position}
            for point, frame, packet, position in rows
        ]
    )
    owned = [("a", 1, 0), ("a", 2, 1), ("a", 3, 2), ("a", 4, 3), ("b", 1, 0), ("b", 2, 2)]
    observations = pl.DataFrame(
        [
            {"point": point, "capture": f"{point}.pcapng", "frame": frame, "trajectory": trajectory}
            for point, frame, trajectory in owned
        ]
    )
    _, said = tables(ALL_RIGHT, RIGHT_FATES)
    assert score(packets, seen, observations, said).right == 3
    ranges = pl.DataFrame({"trajectory": [0, 1], "point": ["b", "b"], "frame": [1, 1]})
    found = score(packets, seen, observations, said, ranges)
    assert (found.right, found.wrong_matches, found.faults) == (4, 0, [])


def changes_of(analysis_says: pl.DataFrame, ranges: pl.DataFrame) -> Changes:
    """The truth: one packet's TTL fell, and packet 2 was split; beside what an analysis says."""
    true_ranges = pl.DataFrame([(2, "b", 3, 0, 9)], RANGE_COLUMNS, orient="row")
    return Changes(pl.DataFrame([("forward", 0, "ttl-1", "64", "63", 1)], CHANGE_COLUMNS, orient="row"), true_ranges,
                   analysis_says, ranges)  # fmt: skip


RANGE_COLUMNS = ["packet", "point", "frame", "first_byte", "last_byte"]
CHANGE_COLUMNS = ["path", "stage", "kind", "from", "to", "packets"]


@pytest.mark.parametrize(
    ("change", "range_told", "kinds", "faults"),
    [
        (("ttl-1", "64", "63", 1), (2, 9), "ttl-1", (0, 0, 0)),
        (("ttl-1", "64", "63", 2), (2, 9), "ttl-1", (0, 1, 0)),
        (("ttl-1", "64", "62", 1), (2, 9), "ttl-1", (0, 2, 0)),
        (("dscp", "64", "63", 1), (2, 9), "dscp", (1, 2, 0)),
        (("ttl-1", "64", "63", 1), (2, 8), "ttl-1", (0, 0, 2)),
        (("ttl-1", "64", "63", 1), (1, 9), "ttl-1", (0, 0, 2)),
    ],
)
def test_wrong_changes_and_ranges_are_seen(
    change: tuple[str, str, str, int], range_told: tuple[int, int], kinds: str, faults: tuple[int, int, int]
) -> None:
    packets, seen = truth()
    observations, said = tables(ALL_RIGHT, RIGHT_FATES)
    packets = packets.with_columns(transforms=pl.Series([["ttl-1"], [], [], []], dtype=pl.List(pl.String)))
    said = said.with_columns(transforms=pl.Series([[kinds], [], [], []], dtype=pl.List(pl.String)))
    says = pl.DataFrame([("forward", 0, *change)], CHANGE_COLUMNS, orient="row")
    ranges = pl.DataFrame([(range_told[0], "b", 3, 0, range_told[1])], ["trajectory", *RANGE_COLUMNS[1:]], orient="row")
    found = score(packets, seen, observations, said, None, changes_of(says, ranges))
    assert (found.wrong_kinds, len(found.wrong_changes), found.wrong_ranges) == faults
    assert bool(found.faults) == any(faults)
