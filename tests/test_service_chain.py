"""The recorded run: its truth, independent tools, and the same bytes every time."""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
from pathlib import Path

import dpkt
import polars as pl
import pytest

from tests import recorded_truth
from tests.conftest import SERVICE_CHAIN, CommandLine

POINTS = ("uplink", "switchport", "punt", "return", "vnic", "vnic3")


def test_marked_packets_have_the_fate_stage_and_rule_of_the_plan(analyzed: Path) -> None:
    recorded_truth.check_marked(SERVICE_CHAIN, analyzed)


def test_kernel_tcp_losses_equal_the_drop_counters(analyzed: Path) -> None:
    recorded_truth.check_kernel_tcp(SERVICE_CHAIN, analyzed)


def test_identical_datagrams_lose_exactly_what_the_counter_says(analyzed: Path) -> None:
    recorded_truth.check_identical(SERVICE_CHAIN, analyzed)


def test_no_loss_is_invented(analyzed: Path) -> None:
    recorded_truth.check_no_invented_loss(SERVICE_CHAIN, analyzed)


def test_packets_matched_by_each_rule_equal_its_counter(analyzed: Path) -> None:
    recorded_truth.check_rule_counters(SERVICE_CHAIN, analyzed)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
@pytest.mark.parametrize("point", POINTS)
def test_observations_equal_tshark_field_by_field(analyzed: Path, point: str) -> None:
    """Frame numbers as Wireshark counts them, time stamps to the nanosecond, and every header field."""
    names = {
        "frame": "frame.number", "ts": "frame.time_epoch", "captured_length": "frame.cap_len", "length": "frame.len",
        "source": "ip.src", "source6": "ipv6.src", "destination": "ip.dst", "destination6": "ipv6.dst",
        "ip_id": "ip.id", "ttl": "ip.ttl", "hop_limit": "ipv6.hlim", "fragment_offset": "ip.frag_offset",
        "tcp_sport": "tcp.srcport", "tcp_dport": "tcp.dstport", "udp_sport": "udp.srcport", "udp_dport": "udp.dstport",
        "tcp_seq": "tcp.seq_raw", "tcp_ack": "tcp.ack_raw", "tcp_flags": "tcp.flags", "tcp_payload": "tcp.len",
        "icmp_type": "icmp.type", "icmp6_type": "icmpv6.type", "icmp_seq": "icmp.seq", "icmp_id": "icmp.ident",
    }  # fmt: skip
    command = ["tshark", "-r", str(SERVICE_CHAIN / "captures" / f"{point}.pcapng"), "-T", "fields", "-E", "separator=|"]
    command += ["-o", "tcp.desegment_tcp_streams:FALSE", "-o", "ip.defragment:FALSE"]
    for name in names.values():
        command += ["-e", name]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    ours = pl.read_parquet(analyzed / "observations.parquet").filter(pl.col("point") == point).sort("frame").to_dicts()
    assert len(told) == len(ours) > 100
    for line, row in zip(told, ours, strict=True):
        tshark = dict(zip(names, line.split("|"), strict=True))
        seconds, _, fraction = tshark["ts"].partition(".")
        assert row["ts_ns"] == int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
        for name in ("frame", "captured_length", "length"):
            assert row[name] == int(tshark[name])
        assert row["source"] == (tshark["source"] or tshark["source6"])
        assert row["destination"] == (tshark["destination"] or tshark["destination6"])
        assert row["ttl"] == int(tshark["ttl"] or tshark["hop_limit"])
        assert _number(tshark["ip_id"]) == row["ip_id"]
        assert _number(tshark["tcp_sport"] or tshark["udp_sport"]) == row["sport"]
        assert _number(tshark["tcp_dport"] or tshark["udp_dport"]) == row["dport"]
        assert _number(tshark["icmp_type"] or tshark["icmp6_type"]) == row["icmp_type"]
        for name in ("fragment_offset", "tcp_seq", "tcp_ack", "tcp_flags"):
            assert _number(tshark[name]) == row[name], name
        if row["tcp_seq"] is not None:
            assert int(tshark["tcp_payload"]) == row["payload_length"]


def _number(text: str) -> int | None:
    return int(text, 0) if text else None


def test_byte_offsets_lead_to_the_packet(analyzed: Path) -> None:
    """Every row can be walked back to its bytes: dpkt finds the same addresses there."""
    rows = pl.read_parquet(analyzed / "observations.parquet").sample(200, seed=1).to_dicts()
    for row in rows:
        data = (SERVICE_CHAIN / row["capture"]).read_bytes()
        frame = dpkt.ethernet.Ethernet(data[row["byte_offset"] : row["byte_offset"] + row["captured_length"]])
        convert = dpkt.socket.inet_ntop if hasattr(dpkt, "socket") else _text
        family = 2 if row["ip_version"] == 4 else 10
        assert convert(family, frame.data.src) == row["source"]


def _text(family: int, address: bytes) -> str:
    import socket

    return socket.inet_ntop(socket.AF_INET if family == 2 else socket.AF_INET6, address)


def test_without_the_truth_the_results_are_the_same_bytes(
    service_chain: Path, analyzed: Path, pktrace: CommandLine
) -> None:
    """Two analyses, one of them without truth beside the run: every file is the same to the byte."""
    assert not list(service_chain.glob("truth*"))
    assert pktrace("analyze", service_chain, "--no-plots").returncode == 0
    names = sorted(path.name for path in analyzed.iterdir())
    assert names == sorted(path.name for path in (service_chain / "results").iterdir())
    same, different, missing = filecmp.cmpfiles(analyzed, service_chain / "results", names, shallow=False)
    assert (sorted(same), different, missing) == (names, [], [])


def test_plots_are_the_same_bytes_each_time(service_chain: Path, tmp_path: Path, pktrace: CommandLine) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        assert pktrace("analyze", service_chain, "-o", folder).returncode == 0
    names = sorted(path.name for path in (folders[0] / "plots").iterdir())
    assert names == ["ecdf.png", "ecdf.svg", "waterfall.png", "waterfall.svg"]
    assert filecmp.cmpfiles(folders[0] / "plots", folders[1] / "plots", names, shallow=False)[0] == names


def test_fates_add_up_to_all_packets(analyzed: Path) -> None:
    summary = json.loads((analyzed / "summary.json").read_text())
    trajectories = pl.read_parquet(analyzed / "trajectories.parquet")
    assert sum(path["trajectories"] for path in summary["paths"].values()) == trajectories.height
    for path in summary["paths"].values():
        assert sum(path["fates"].values()) == path["trajectories"]
    placed = pl.read_parquet(analyzed / "observations.parquet")["trajectory"].count()
    assert placed == trajectories["sightings"].sum() == summary["observations"]["placed"]


def test_stage_latency_is_the_difference_of_its_points(analyzed: Path) -> None:
    """stages.parquet, trajectories.parquet and latency.parquet tell one story."""
    stages = pl.read_parquet(analyzed / "stages.parquet").with_columns(pl.col(pl.Categorical).cast(pl.String))
    trajectories = pl.read_parquet(analyzed / "trajectories.parquet")
    service = stages.filter(pl.col("stage_name") == "service", pl.col("verdict") == "crossed")
    joined = service.join(trajectories, on="trajectory")
    assert (joined["latency_ns"] == joined["return_ns"] - joined["punt_ns"]).all()
    latency = pl.read_parquet(analyzed / "latency.parquet").with_columns(pl.col(pl.Categorical).cast(pl.String))
    for path, values in joined.group_by("path"):
        row = latency.filter(pl.col("path") == path[0], pl.col("stage_name") == "service").to_dicts()[0]
        assert row["count"] == values.height
        assert row["mean_ns"] == pytest.approx(values["latency_ns"].mean(), abs=1)
        assert row["max_ns"] == values["latency_ns"].max()
        assert row["error_ns"] == 2
    for path in set(latency["path"]):
        shares = latency.filter(pl.col("path") == path)["share"].drop_nulls()
        assert shares.sum() == pytest.approx(1)


def test_explain_tells_the_life_of_a_lost_packet(analyzed: Path, pktrace: CommandLine) -> None:
    lost = pl.read_parquet(analyzed / "trajectories.parquet").filter(
        pl.col("fate") == "lost", pl.col("path") == "ingress", pl.col("lost_stage") == 2
    )
    told = pktrace("explain", SERVICE_CHAIN, lost["trajectory"][0])
    assert told.returncode == 0
    assert "lost in stage 2 service, between punt and return" in told.stdout
    assert "switchport" in told.stdout
    as_json = json.loads(pktrace("explain", SERVICE_CHAIN, lost["trajectory"][0], "--json").stdout)
    assert [sighting["point"] for sighting in as_json["sightings"]] == ["uplink", "switchport", "punt", "return"]
    assert as_json["sightings"][-1]["verdict"] == "lost"


def test_duckdb_reads_the_tables_unchanged(analyzed: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    counted = duckdb.sql(
        f"select fate, count(*) from '{analyzed}/trajectories.parquet' group by fate order by fate"
    ).fetchall()
    assert {fate for fate, _ in counted} == {"delivered", "dropped", "lost"}
    metadata = duckdb.sql(f"select key from parquet_kv_metadata('{analyzed}/trajectories.parquet')").fetchall()
    assert {b"pktrace.schema_version", b"pktrace.version", b"pktrace.run"} <= {key for (key,) in metadata}


def test_the_kernels_without_compilation_give_the_same_bytes(
    tmp_path: Path, analyzed: Path, pktrace: CommandLine
) -> None:
    """NUMBA_DISABLE_JIT=1 runs the same loops in Python, where every index is checked."""
    result = pktrace("analyze", SERVICE_CHAIN, "--no-plots", "-o", tmp_path / "plain", NUMBA_DISABLE_JIT="1")
    assert result.returncode == 0, result.stderr
    names = sorted(path.name for path in analyzed.iterdir())
    assert filecmp.cmpfiles(analyzed, tmp_path / "plain", names, shallow=False)[0] == names
