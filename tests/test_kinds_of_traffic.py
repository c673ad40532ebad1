"""Kinds of traffic with known truth, frame by frame: no wrong match, no packet in two parts, no invented loss.

The sentences that were false: 'a flow has one partner for the whole run', 'only what ends and what begins is
compared', 'a digest of 64 payload bytes is the packet', 'two clocks differ by one constant', 'numbers are asked first,
and bytes last'.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pktrace.schema import BASES, RULE_VERDICTS
from tests.kit.kinds import KINDS
from tests.kit.kinds.clocks import WRONG_ORDER
from tests.kit.kinds.detours import ENCRYPTED_DETOUR
from tests.kit.kinds.looks import ANSWERED, ONE_WAY_DOWN
from tests.kit.kinds.model import Score, analysed, record, score

SIZES = [(30, 1, 0.0, 0.0), (400, 2, 0.02, 0.0), (400, 3, 0.02, 0.03)]
_CAUTIOUS = 0.01


@pytest.mark.parametrize("size", SIZES, ids=["30-packets", "loss", "loss-and-reordering"])
@pytest.mark.parametrize("name", list(KINDS))
def test_each_kind_is_followed(tmp_path: Path, name: str, size: tuple[int, int, float, float]) -> None:
    kind = KINDS[name]
    if size[3] and not kind.may_overtake:
        pytest.skip("packets that overtake each other cannot be told apart, or are late")
    recorded = record(kind, *size)
    found = score(analysed(tmp_path, kind, recorded), recorded)
    assert found.wrong == 0
    if kind.expected == "followed":
        assert found == replace(found, split=0, invented=0, hidden=0, lost=recorded.lost)
        assert found.cautious <= _CAUTIOUS * len(recorded.seen) + 0.5
    elif kind.expected in ("apart", "never lost"):
        assert (found.invented, found.lost) == (0, 0)


@pytest.mark.parametrize("name", list(ANSWERED))
def test_answers_through_a_nat_that_one_point_shows_on_both_sides(tmp_path: Path, name: str) -> None:
    """False before: what ends at the first point of a path is lost, though it goes on there with other addresses."""
    recorded = record(ANSWERED[name], 400, 5)
    found = score(analysed(tmp_path, ANSWERED[name], recorded), recorded)
    assert found == Score(0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", list(ONE_WAY_DOWN))
def test_datagrams_to_a_collector_that_is_down_are_lost(tmp_path: Path, name: str) -> None:
    """False before: a packet whose payload the same point saw with another address is the other side of a NAT."""
    recorded = record(ONE_WAY_DOWN[name], 400, 5)
    analysis = analysed(tmp_path, ONE_WAY_DOWN[name], recorded)
    found = score(analysis, recorded)
    assert (found.wrong, found.split, found.cautious) == (0, 0, 0)
    assert found.lost == 200


@pytest.mark.parametrize("name", ["tcp-nat-added-without-id", "generator-trex", "tenants-vlan", "rtp-relay"])
def test_many_packets_of_a_kind_are_followed(tmp_path: Path, name: str) -> None:
    recorded = record(KINDS[name], 20_000, 4, 0.01, 0.01)
    found = score(analysed(tmp_path, KINDS[name], recorded), recorded)
    assert found == Score(0, 0, 0, 0, 0, recorded.lost, recorded.lost)


def test_a_known_signature_is_named(tmp_path: Path) -> None:
    kind = KINDS["generator-trex"]
    analysis = analysed(tmp_path, kind, record(kind, 100, 1))
    assert {BASES[code] for code in analysis.trajectories.basis.tolist()} == {"signature"}


def test_absence_at_the_detour_proves_nothing_beside_frames_that_nothing_explains(tmp_path: Path) -> None:
    """Punted packets that were encrypted in the detour were `false_forward`, and their rule violated."""
    recorded = record(ENCRYPTED_DETOUR, 300, 1)
    analysis = analysed(tmp_path, ENCRYPTED_DETOUR, recorded)
    found = score(analysis, recorded)
    assert (found.wrong, found.invented) == (0, 0)
    told = {RULE_VERDICTS[code] for code in analysis.verdicts.rule_verdict.tolist() if code < len(RULE_VERDICTS)}
    assert "false_forward" not in told


def test_losses_between_points_in_the_wrong_order_are_doubtful(tmp_path: Path) -> None:
    """Stages of 5 µs: 60 real losses became "643 delivered", and all rules were verified."""
    recorded = record(WRONG_ORDER, 600, 1, 0.03)
    analysis = analysed(tmp_path, WRONG_ORDER, recorded)
    found = score(analysis, recorded)
    assert (found.wrong, found.invented, found.lost) == (0, 0, 0)
    assert "order_contradicted" in {counter.name for counter, *_ in analysis.ledger.rows()}
    assert [len(latency.values) for latency in analysis.latencies if latency.name == "c-b"] == [0]
