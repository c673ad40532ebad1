"""What a capture misses takes certainty from what it may have missed with it, and from nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pktrace.analysis.analysis import Analysis
from pktrace.schema import FATES, REASONS
from tests.kit.kinds.model import Kind, Score, Sent, analysed, datagram, record, score

POINTS = ("wire", "filter", "monitor", "vm")


def _sent(number: int) -> Sent:
    frame = datagram("10.0.0.1", "10.0.1.1", 4000, 5000, number.to_bytes(4, "big") * 8, number + 1)
    return Sent([frame] * len(POINTS))


PLAIN = Kind(POINTS, _sent)


def _judged(folder: Path, kind: Kind, loss: float, seed: int) -> tuple[Analysis, Score]:
    recorded = record(kind, 1200, seed, loss)
    analysis = analysed(folder, kind, recorded)
    found = score(analysis, recorded)
    assert (found.wrong, found.split, found.invented, found.hidden) == (0, 0, 0, 0)
    return analysis, found


def _doubts(analysis: Analysis) -> Counter[str | None]:
    doubtful = analysis.verdicts.fate == FATES.index("undetermined")
    return Counter(REASONS[code] for code in analysis.verdicts.reason[doubtful].tolist())


def _one(point: str, number: int) -> bool:
    return point == "monitor" and number == 300


def _a_while(point: str, number: int) -> bool:
    return point == "monitor" and 300 <= number < 340


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("missed", "near"), [(_one, 1), (_a_while, 3)])
def test_losses_far_from_an_outage_are_certain(
    tmp_path: Path, missed: Callable[[str, int], bool], near: int, seed: int
) -> None:
    """False before: a point that missed one packet may have missed any, so each loss before it is `undetermined`."""
    _, found = _judged(tmp_path, replace(PLAIN, missed=missed), 0.003, seed)
    assert found.were_lost - near <= found.lost <= found.were_lost
    assert found.cautious <= near


def test_losses_within_an_outage_stay_in_doubt(tmp_path: Path) -> None:
    """The monitor missed 40 packets in a row; of the ten that were never seen again, none is called lost there."""
    analysis, found = _judged(tmp_path, replace(PLAIN, missed=_a_while, sent=_ten_lost), 0.0, 1)
    assert (found.lost, found.cautious) == (0, 10)
    assert _doubts(analysis) == {"capture_drops": 10}


def _ten_lost(number: int) -> Sent:
    sent = _sent(number)
    return replace(sent, looks=[*sent.looks[:2], None, None]) if 310 <= number < 320 else sent


@pytest.mark.parametrize("seed", range(3))
def test_a_monitor_that_misses_at_random_proves_no_loss(tmp_path: Path, seed: int) -> None:
    """Two in 100 packets are missed anywhere: nobody can know which stage has lost the others."""
    kind = replace(PLAIN, missed=lambda point, number: point == "monitor" and number * 7919 % 100 < 2)
    analysis, _ = _judged(tmp_path, kind, 0.01, seed)
    assert _doubts(analysis)["capture_drops"] >= 5
    stages = analysis.verdicts.lost_stage[analysis.verdicts.fate == FATES.index("lost")]
    assert 1 not in stages.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_misses_that_are_all_that_was_dropped(tmp_path: Path, seed: int) -> None:
    """False before: a capture that dropped packets proves nothing, though all that it dropped were seen around it."""
    whole = record(PLAIN, 1200, seed, 0.01).whole
    kind = replace(
        PLAIN, missed=lambda point, number: point == "monitor" and number in whole and number * 7919 % 100 < 2,
        says={"monitor": "dropped"},
    )  # fmt: skip
    _, found = _judged(tmp_path, kind, 0.01, seed)
    assert found.cautious <= 2
    assert found.lost >= found.were_lost - 2


@pytest.mark.parametrize("seed", range(3))
def test_more_drops_than_proven_misses(tmp_path: Path, seed: int) -> None:
    """The last point has nothing behind it that would prove a miss: its 24 drops may be any."""
    kind = replace(
        PLAIN, missed=lambda point, number: point == "vm" and number * 7919 % 100 < 2, says={"vm": "dropped"}
    )
    analysis, _ = _judged(tmp_path, kind, 0.01, seed)
    assert _doubts(analysis)["capture_drops"] >= 24


@pytest.mark.parametrize("seed", range(3))
def test_drops_that_packets_count(tmp_path: Path, seed: int) -> None:
    """False before: packets count how many were dropped before them (epb_dropcount), not when."""
    kind = replace(PLAIN, missed=lambda point, number: point == "vm" and 300 <= number < 310, says={"vm": "counted"})
    analysis, found = _judged(tmp_path, kind, 0.005, seed)
    doubts = _doubts(analysis)
    assert set(doubts) == {"capture_drops"}
    assert 9 <= doubts["capture_drops"] <= 12
    assert found.lost >= found.were_lost - 2


@pytest.mark.parametrize("seed", range(3))
def test_a_monitor_that_leaves_out_a_flow_proves_nothing_of_it(tmp_path: Path, seed: int) -> None:
    """False at first: few packets are missed, so a loss behind the monitor was one before it."""

    def sent(number: int) -> Sent:
        port = 4999 if number % 60 == 7 else 5000
        frame = datagram("10.0.0.1", "10.0.1.1", 4000, port, number.to_bytes(4, "big") * 8, number + 1)
        looks = [frame] * len(POINTS)
        return Sent([*looks[:3], None] if port == 4999 and number % 180 == 7 else looks)

    kind = replace(PLAIN, sent=sent, missed=lambda point, number: point == "monitor" and number % 60 == 7)
    analysis, found = _judged(tmp_path, kind, 0.0, seed)
    assert found.lost == 0
    assert set(_doubts(analysis)) == {"capture_drops"}


def test_an_overload_that_misses_and_loses_in_turn(tmp_path: Path) -> None:
    """False at first: an outage ends at the next packet that was captured. Four misses had proof between them."""

    def sent(number: int) -> Sent:
        sent = _sent(number)
        return replace(sent, looks=[*sent.looks[:3], None]) if number in (504, 508) else sent

    kind = replace(
        PLAIN, sent=sent, missed=lambda point, number: point == "monitor" and number in (500, 504, 508, 512)
    )  # fmt: skip
    analysis, found = _judged(tmp_path, kind, 0.0, 1)
    assert (found.lost, _doubts(analysis)) == (0, {"capture_drops": 2})


def test_a_point_where_another_path_ends_proves_no_loss_by_few_misses(tmp_path: Path) -> None:
    """False at first: the evidence of one path was believed on another, at whose end no miss is ever proven."""
    hosts = {"first": "10.0.1.1", "second": "10.0.2.1"}

    def sent(number: int) -> Sent:
        path = "second" if number % 10 == 3 else "first"
        frame = datagram("10.0.0.1", hosts[path], 4000, 5000, number.to_bytes(4, "big") * 8, number + 1)
        looks = [frame, frame, frame, frame if path == "first" else None]
        return Sent(looks)

    paths = [
        {"name": "first", "points": list(POINTS), "match": {"destination": hosts["first"]}},
        {"name": "second", "points": list(POINTS[:3]), "match": {"destination": hosts["second"]}},
    ]
    kind = replace(
        PLAIN, sent=sent, paths=paths,
        missed=lambda point, number: point == "monitor" and (number == 300 or (number % 10 == 3 and number > 600)),
    )  # fmt: skip
    analysis, found = _judged(tmp_path, kind, 0.0, 1)
    assert found.lost == 0
    assert _doubts(analysis) == {"capture_drops": 60}
