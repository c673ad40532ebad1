"""What is stated of how sure the matching is: in the summary and on the terminal, also on a narrow one."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from fixtures.scenarios import generate_scenario
from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.analysis.matching_quality import key_qualities
from pktrace.analysis.summary import summary, summary_json
from pktrace.report.terminal import print_analysis
from pktrace.run.runfile import load_run
from pktrace.schema import BASES
from tests.kit.pcap_files import Record
from tests.test_copies import seen
from tests.test_named_cases import MS, START, analyzed, file_of, udp


@pytest.fixture(scope="module")
def nat(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("nat")
    generate_scenario("nat-new-ip-id", folder, packets=1500, rate=300)
    return analyze_run(load_run(folder))


@pytest.fixture(scope="module")
def modified(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("modified")
    generate_scenario("payload-changed-some", folder, packets=2000, rate=300)
    return analyze_run(load_run(folder))


def near(analysis: Analysis, which: np.ndarray, by_flow: bool) -> tuple[int, int]:
    """Pairs of packets (of one flow), and those within the loss threshold, one by one."""
    rows = analysis.trajectories.first_rows[which]
    names = ("source_low", "destination_low", "protocol", "sport", "dport", "icmp_id")
    flows = [tuple(int(row[name]) for name in names) if by_flow else () for row in rows]
    times = rows["ts_ns"].tolist()
    pairs = [
        abs(a - b) <= analysis.run.threshold_ns
        for (a, of_a), (b, of_b) in itertools.combinations(zip(times, flows, strict=True), 2)
        if of_a == of_b
    ]
    return len(pairs), sum(pairs)


def test_the_digest_has_the_birthday_bound(tmp_path: Path) -> None:
    analysis = seen(tmp_path, (1, 1, 1))
    (key,) = key_qualities(analysis.trajectories)
    assert (key.name, key.bits, key.different, key.pairs, key.near) == ("digest", 64, 20, 190, 190)
    assert key.expected == pytest.approx(20 * 19 / 2**65)


def test_pairs_are_those_within_the_loss_threshold(nat: Analysis) -> None:
    digest, rewritten = key_qualities(nat.trajectories)
    everything = np.arange(len(nat.trajectories))
    _, close = near(nat, everything, by_flow=False)
    assert digest.near == pytest.approx(close, rel=1e-4)  # counted in microseconds
    assert digest.near < digest.pairs
    assert len(everything) < digest.different <= 2 * len(everything)
    which = np.flatnonzero(nat.trajectories.basis == BASES.index("rewritten"))
    pairs, close = near(nat, which, by_flow=True)
    assert (rewritten.name, rewritten.different, rewritten.pairs) == ("rewritten", len(which), pairs)
    assert rewritten.near == pytest.approx(close, rel=1e-4)
    assert 0 < rewritten.near < rewritten.pairs


def test_what_has_its_ip_id_only_is_said_to_have_16_bits(modified: Analysis) -> None:
    key = key_qualities(modified.trajectories)[-1]
    assert (key.name, key.bits) == ("modified", 16)
    assert key.expected == key.pairs / 2**16
    assert key.expected > 1e-3


def test_the_summary_states_the_quality(nat: Analysis) -> None:
    document = json.loads(summary_json(summary(nat, 0)))
    for path in document["paths"].values():
        assert sum(path["basis_share"].values()) == pytest.approx(1)
        assert path["basis_share"]["rewritten"] == path["basis"]["rewritten"] / path["trajectories"]
        assert path["ambiguous_share"] == path["fates"]["ambiguous"] / path["trajectories"]
    assert [key["key"] for key in document["keys"]] == ["digest", "rewritten"]
    assert document["keys"][0]["expected_chance_matches"] < 1e-10


def test_ambiguous_packets_have_their_share(tmp_path: Path) -> None:
    """Four of five packets are doubled before the first point, and one of each pair goes on."""
    records = {
        "a": [Record(START + n * MS + copy * 5_000, udp(n)) for n in range(20) for copy in range(1 + (n % 5 > 0))],
        "b": [Record(START + n * MS + 50_000, udp(n)) for n in range(20)],
    }
    analysis = analyzed(tmp_path, {point: file_of(some) for point, some in records.items()})
    (path,) = summary(analysis, 0)["paths"].values()
    assert path["ambiguous_share"] == 16 / 36
    assert path["ambiguous_candidates"] == 32


@pytest.mark.parametrize("width", [80, 200])
def test_the_terminal_states_the_quality_in_lines_that_fit(
    nat: Analysis, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = io.StringIO()
    print_analysis(nat, shown)
    text = shown.getvalue()
    assert "How packets were matched" in text
    assert "Expected by chance, key digest (64 bits" in text
    assert "nat-source" in text
    assert "…" not in text, "nothing is cut"
    assert max(map(len, text.splitlines())) <= width


def test_an_empty_run_has_no_shares(tmp_path: Path) -> None:
    analysis = seen(tmp_path, (0, 0, 0))
    (path,) = summary(analysis, 0)["paths"].values()
    assert (path["basis_share"], path["ambiguous_share"]) == ({}, None)
    assert key_qualities(analysis.trajectories)[0].expected == 0
    print_analysis(analysis, io.StringIO())
