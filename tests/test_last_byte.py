"""Latency of packets that were split or merged: until the first byte, and until the last."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
import pytest

from fixtures.scenarios import generate_scenario
from fixtures.scenarios.catalogue import SCENARIOS
from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.analysis.tables import all_tables, latency_table, stages_table
from pktrace.analysis.tallies import stage_losses
from pktrace.report.explain import explain_packet
from pktrace.report.terminal import print_latency
from pktrace.run.runfile import load_run
from tests.accuracy.measure import as_frame
from tests.accuracy.score import read_truth
from tests.kit.packets import Header, frame
from tests.kit.pcap_files import Record
from tests.test_named_cases import START, analyzed, file_of

PATH = ({"name": "p", "points": ["a", "b", "c"]},)


def segments(part: int) -> list[bytes]:
    """A superpacket of three segments: all of it, and each."""
    payload = bytes(range(240)) * 5
    header = {"source": "10.0.0.1", "destination": "10.0.0.2", "protocol": 6, "sport": 1000, "dport": 80}
    starts = range(0, len(payload), part)
    return [
        frame(Header(**header, payload=payload[at : at + part], seq=at, ip_id=7 + number))  # type: ignore[arg-type]
        for number, at in enumerate(starts)
    ]


def split_then_merged(folder: Path, lost: int | None = None) -> Analysis:
    whole, parts = segments(1200), segments(400)
    split = [Record(START + 10_000 + 3_000 * number, part) for number, part in enumerate(parts)]
    # Behind b the last segment overtakes the second.
    behind = [Record(START + delay, part) for delay, part in zip((20_000, 50_000, 30_000), parts, strict=True)]
    if lost is not None:
        del behind[lost]
    files = {"a": [Record(START, whole[0])], "b": split, "c": sorted(behind, key=lambda record: record.ts_ns)}
    return analyzed(folder, {name: file_of(records) for name, records in files.items()}, PATH)


def test_the_last_byte_is_the_one_that_comes_last(tmp_path: Path) -> None:
    analysis = split_then_merged(tmp_path)
    stages = stages_table(analysis).to_pylist()
    assert [row["latency_ns"] for row in stages] == [10_000, 10_000]
    assert [row["last_byte_ns"] for row in stages] == [16_000, 34_000]
    rows = latency_table(analysis).to_pylist()
    assert [(row["divided"], row["mean_ns"], row["last_byte_mean_ns"], row["last_byte_max_ns"]) for row in rows] == [
        (1, 10_000, 16_000, 16_000), (1, 10_000, 34_000, 34_000), (1, 20_000, 50_000, 50_000),
    ]  # fmt: skip
    text = str(explain_packet(analysis, 0))
    assert "at b the last ones came 6.00 µs after the first" in text
    assert "at c the last ones came 30.00 µs after the first" in text
    shown = io.StringIO()
    print_latency(analysis, shown)
    assert "Until the last byte" in shown.getvalue()
    assert "34.00" in shown.getvalue()


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_what_did_not_come_whole_has_no_last_byte(tmp_path: Path, lost: int) -> None:
    stages = stages_table(split_then_merged(tmp_path, lost)).to_pylist()
    assert [row["last_byte_ns"] for row in stages] == [16_000, None]


def test_the_last_byte_of_a_whole_packet_is_its_first(tmp_path: Path) -> None:
    whole = segments(1200)[0]
    files = {name: file_of([Record(START + 1000 * at, whole)]) for at, name in enumerate("abc")}
    analysis = analyzed(tmp_path, files, PATH)
    assert [row["last_byte_ns"] for row in stages_table(analysis).to_pylist()] == [1000, 1000]
    assert {row["divided"] for row in latency_table(analysis).to_pylist()} == {0}
    shown = io.StringIO()
    print_latency(analysis, shown)
    assert "last byte" not in shown.getvalue()


@pytest.mark.parametrize(
    "name",
    ["tso", "tso-then-gro", "gro-loss", "udp-gso", "fragmentation-loss", "fragmentation-reassembly", "reassembly"],
)
def test_the_last_byte_is_that_of_the_truth(tmp_path: Path, name: str) -> None:
    """Told by the truth is which frames hold which bytes of a packet; each frame's time stands in the observations."""
    generate_scenario(name, tmp_path / "run", packets=SCENARIOS[name].small)
    analysis = analyze_run(load_run(tmp_path / "run"))
    tables = all_tables(analysis)
    observations = as_frame(tables["observations"]).select(
        pl.col("point").cast(pl.String), pl.col("frame"), "ts_ns", "trajectory"
    )
    _, seen = read_truth(tmp_path / "run")
    seen = seen.filter((pl.col("kind") == "sighting") & pl.col("position").is_not_null())
    timed = seen.join(observations, on=["point", "frame"])
    arrived = timed.group_by("packet", "point").agg(
        complete=pl.col("ts_ns").max(), held=(pl.col("last_byte") - pl.col("first_byte") + 1).sum()
    )
    size = timed.filter(pl.col("position") == 0).group_by("packet").agg(size=pl.col("last_byte").max() + 1)
    arrived = arrived.join(size, on="packet").filter(pl.col("held") == pl.col("size"))
    # The first frame of a packet is its own, and says which trajectory it is.
    first = timed.filter((pl.col("position") == 0) & pl.col("trajectory").is_not_null()).select("packet", "trajectory")
    stages = as_frame(tables["stages"]).with_columns(pl.col("from_point", "to_point").cast(pl.String))
    stages = stages.filter(pl.col("latency_ns").is_not_null()).join(first, on="trajectory")
    for end, column in (("from_point", "left"), ("to_point", "came")):
        times = arrived.select("packet", pl.col("point").alias(end), pl.col("complete").alias(column))
        stages = stages.join(times, on=["packet", end], how="left")
    assert len(stages) > SCENARIOS[name].small
    # What is merged of several packets brings all of each at once.
    only_merged = name in ("gro-loss", "reassembly")
    assert (stages["last_byte_ns"] != stages["latency_ns"]).any() != only_merged
    wrong = stages.filter(pl.col("last_byte_ns").ne_missing(pl.col("came") - pl.col("left")))
    assert len(wrong) == 0, wrong.select("packet", "stage_name", "latency_ns", "last_byte_ns", "left", "came").head()


def test_latency_is_of_one_byte(tmp_path: Path) -> None:
    """First fragments that are lost at the last stage, and came late to it: no other fragment's time stands for theirs.

    The time of the second fragment did, behind that stage: packets seemed to have come before they left.
    """
    name = "nat-fragmentation-loss-duplication-reordering"
    generate_scenario(name, tmp_path / "run", packets=4000)
    analysis = analyze_run(load_run(tmp_path / "run"))
    tables = all_tables(analysis)
    observations = as_frame(tables["observations"]).select(
        pl.col("point").cast(pl.String), "frame", "ts_ns", "trajectory"
    )
    _, seen = read_truth(tmp_path / "run")
    first = seen.filter((pl.col("kind") == "sighting") & (pl.col("first_byte") == 0) & pl.col("position").is_not_null())
    times = first.join(observations, on=["point", "frame"]).select("packet", "point", "position", "ts_ns", "trajectory")
    known = times.filter(pl.col("position") == 0).select("packet", "trajectory")
    stages = as_frame(tables["stages"]).with_columns(pl.col("from_point", "to_point").cast(pl.String))
    stages = stages.filter(pl.col("verdict") == "crossed").join(known, on="trajectory")
    for end, column in (("from_point", "left"), ("to_point", "came")):
        at = times.select("packet", pl.col("point").alias(end), pl.col("ts_ns").alias(column))
        stages = stages.join(at, on=["packet", end], how="left")
    wrong = stages.filter(pl.col("latency_ns").ne_missing(pl.col("came") - pl.col("left")))
    assert len(wrong) == 0, wrong.head()
    without = stages.filter(pl.col("latency_ns").is_null())
    assert len(without) > 10
    assert (without["reason"] == "part_lost").any()
    assert analysis.ledger.total("against_path") == 0
    packet = int(without.filter(pl.col("reason") == "part_lost")["trajectory"][0])
    sightings = [one for one in explain_packet(analysis, packet).sightings if "duplicate" not in "".join(one.changes)]
    # Parts stand at their point, from the first byte on; what is told of the second fragment is no latency.
    assert [one.point for one in sightings] == sorted(one.point for one in sightings)
    (last,) = [one for one in sightings if one.reason == "part_lost"]
    assert last.since_previous_ns is None
    assert "first ones were not seen" in last.changes[0]


@pytest.mark.parametrize(
    "name",
    ["nat-tso", "tso-then-gro", "udp-gso", "fragmentation-loss", "nat-fragmentation-loss-duplication-reordering"],
)
def test_bytes_are_lost_at_their_stage(tmp_path: Path, name: str) -> None:
    """Of packets that arrived in part, `losses` tells at which stages some of their bytes were lost."""
    generate_scenario(name, tmp_path / "run", packets=SCENARIOS[name].small)
    analysis = analyze_run(load_run(tmp_path / "run"))
    packets, seen = read_truth(tmp_path / "run")
    some = packets.filter(pl.col("fate") == "partial")
    held = (
        seen.filter((pl.col("kind") == "sighting") & pl.col("position").is_not_null())
        .group_by("packet", "position")
        .agg(held=(pl.col("last_byte") - pl.col("first_byte") + 1).sum())
    )
    behind = held.with_columns(pl.col("position") - 1)
    stages = held.join(behind, on=["packet", "position"], suffix="_behind").join(some, on="packet")
    lost = stages.filter(pl.col("held_behind") < pl.col("held")).group_by("position").len()
    told = {loss.stage: loss.partial for loss in stage_losses(analysis.verdicts) if loss.partial}
    assert told == dict(lost.iter_rows())
    assert told
