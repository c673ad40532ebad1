"""Boxes that change packets on the way: no wrong match, no packet in two parts, and the losses of each stage."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktrace.analysis.analysis import Analysis
from pktrace.schema import BASES, FATES
from pktrace.trajectories.joins.sole_partners import sole
from tests.conftest import ROOT
from tests.kit.changed_traffic import START_NS, TRAFFIC, Forms, Recorded, Traffic, plain, proxy, record, twice
from tests.kit.kinds.model import packets_of
from tests.kit.packets import UDP, Header, frame
from tests.kit.pcap_files import Record, pcap_bytes
from tests.test_named_cases import analyzed

SIZES = [(30, 1, 0.0, 0.0), (400, 2, 0.02, 0.0), (400, 3, 0.02, 0.05), (4000, 4, 0.01, 0.01)]


def analysed(folder: Path, traffic: Traffic, recorded: Recorded) -> Analysis:
    paths: list[dict[str, object]] = [{"name": "there", "points": list(traffic.points)}]
    if traffic.both_ways:
        paths[0]["match"] = {"destination": "192.0.2.2"}
        paths.append({"name": "back", "points": list(traffic.points[::-1]), "match": {"destination": "192.0.2.1"}})
    return analyzed(folder, recorded.files, paths)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}-packets-seed-{size[1]}")
@pytest.mark.parametrize("kind", list(TRAFFIC))
def test_changed_packets_are_followed(tmp_path: Path, kind: str, size: tuple[int, int, float, float]) -> None:
    """Each of these was lost where it was changed, and began anew behind; or was in two trajectories, or partial.

    The sentences that were false: 'a flow has one partner for the whole run', 'only what ends and what begins is
    compared', 'bytes are asked last', 'points that share a clock in run.toml share one'.
    """
    traffic = TRAFFIC[kind]
    recorded = record(traffic, *size)
    analysis = analysed(tmp_path, traffic, recorded)
    held = packets_of(analysis, recorded.packet)
    assert [numbers for numbers in held if len(numbers) > 1] == []
    assert Counter(len(numbers) for numbers in held) == {1: len(recorded.seen)}
    assert sorted(min(numbers) for numbers in held) == sorted(recorded.seen)
    fates = Counter(FATES[fate] for fate in analysis.verdicts.fate.tolist())
    assert fates == Counter(delivered=len(recorded.seen) - sum(recorded.lost), lost=sum(recorded.lost))
    stages = Counter(analysis.verdicts.lost_stage[analysis.verdicts.fate == FATES.index("lost")].tolist())
    assert stages == Counter({stage: many for stage, many in enumerate(recorded.lost) if many})


def test_a_proxy_that_ends_tcp_is_no_rewrite(tmp_path: Path) -> None:
    """Payloads agree one by one, in order, forward in time, and numbers by a constant: they are other segments."""
    traffic = Traffic(("client", "server"), proxy)
    recorded = record(traffic, 300, 1)
    analysis = analysed(tmp_path, traffic, recorded)
    assert (analysis.trajectories.seen >= 0).sum(axis=1).max() == 1


def test_four_packets_that_a_queue_holds_back_are_late(tmp_path: Path) -> None:
    """Packets of one direction, all 5 s later, looked like a clock that was set."""
    traffic = replace(TRAFFIC["clock-set-forward"], forms=lambda number: plain(number), both_ways=False)
    recorded = record(replace(traffic, clock_set=(1, 0.9, 5_000_000_000)), 40, 1)
    analysis = analysed(tmp_path, traffic, recorded)
    told = Counter(FATES[fate] for fate in analysis.verdicts.fate.tolist())
    assert told["delivered"] == 36
    assert told["lost"] >= 4


def test_a_stranger_beside_one_loss_is_no_rewrite(tmp_path: Path) -> None:
    """'One pair is enough if IP ID and payload agree': 118 packets showed that both flows pass unchanged."""

    def two_hosts(number: int) -> Forms:
        host, same = number % 2, number // 2
        sent = Header(f"10.0.0.{host + 1}", "192.0.2.1", UDP, b"%060d" % same, sport=1000, dport=2000, ip_id=same + 1)
        return sent if number != 41 else None, sent if number != 40 else None

    traffic = Traffic(("a", "b"), two_hosts, gap_ns=5_000_000)
    recorded = record(traffic, 120, 1)
    analysis = analysed(tmp_path, traffic, recorded)
    assert [numbers for numbers in packets_of(analysis, recorded.packet) if len(numbers) > 1] == []
    told = Counter(FATES[fate] for fate in analysis.verdicts.fate.tolist())
    # The first point was capturing, and has not seen the stranger.
    assert told == {"delivered": 118, "ambiguous": 1, "undetermined": 1}


def test_equal_timers_of_two_hosts_are_no_rewrite(tmp_path: Path) -> None:
    """'Strangers run backwards half of the time': with a constant lag they never do, and keep their order."""

    def timers(number: int) -> Forms:
        here, same = number % 2 == 0, number // 2
        sent = Header(
            "10.0.0.1" if here else "198.51.100.7", "192.0.2.1" if here else "203.0.113.9", UDP, b"%060d" % same
        )
        return (sent, None) if here else (None, sent)

    traffic = Traffic(("a", "b"), timers, gap_ns=100_000_000)
    recorded = record(traffic, 80, 1)
    analysis = analysed(tmp_path, traffic, recorded)
    assert [numbers for numbers in packets_of(analysis, recorded.packet) if len(numbers) > 1] == []
    assert "lost" not in {FATES[fate] for fate in analysis.verdicts.fate.tolist()}


def test_a_joined_packet_names_what_changed(tmp_path: Path) -> None:
    """Packets that several rules join have the basis of what they show: other headers, or other bytes."""
    for number, (kind, basis) in enumerate({"restored": "rewritten", "helper": "modified"}.items()):
        recorded = record(TRAFFIC[kind], 60, 1)
        (tmp_path / str(number)).mkdir()
        analysis = analysed(tmp_path / str(number), TRAFFIC[kind], recorded)
        assert basis in {BASES[code] for code in analysis.trajectories.basis.tolist()}


@pytest.mark.parametrize("kind", ["restored", "helper", "port-used-again"])
def test_joins_do_not_depend_on_the_key(tmp_path: Path, kind: str) -> None:
    """Groups of equal hashes have no order that means anything."""
    found = set()
    for seed in (1, 2, 3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", _FOLLOWED, str(folder), str(seed), kind],
            cwd=ROOT, capture_output=True, text=True, timeout=600, check=True,
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1


_FOLLOWED = """
import sys
from pathlib import Path
from pktrace.decode.identity import _use_key_of
from pktrace.trajectories.joins.sole_partners import sole
from tests.conftest import ROOT
from tests.kit.changed_traffic import TRAFFIC, record
from tests.test_joined_packets import analysed
_use_key_of(int(sys.argv[2]))
traffic = TRAFFIC[sys.argv[3]]
analysis = analysed(Path(sys.argv[1]), traffic, record(traffic, 200, 5, 0.05, 0.05))
print(analysis.trajectories.seen.tolist(), analysis.verdicts.fate.tolist(), analysis.trajectories.basis.tolist())
"""


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=12),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), max_size=12),
    st.sampled_from([0, 1, 4, None]),
)
def test_sole_partners_are_those_that_a_search_finds(
    some: list[tuple[int, int]], others: list[tuple[int, int]], window: int | None
) -> None:
    """The join by ranks against a loop over all pairs."""
    expected = []
    for group, time in some:
        near = [
            at for at, (other_group, other_time) in enumerate(others)
            if other_group == group and (window is None or abs(other_time - time) <= window)
        ]  # fmt: skip
        expected.append(near[0] if len(near) == 1 else -1)
    columns = [np.array(column, np.int64) for column in (*_split(some), *_split(others))]
    assert sole(*columns, window).tolist() == expected


def _split(pairs: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    return [group for group, _ in pairs], [time for _, time in pairs]


def test_the_last_packet_that_is_forwarded_twice_is_one(tmp_path: Path) -> None:
    """The first capture ends with the packet, so nothing before could see whether its copies were two: 31 for 30.

    The later copy was taken for the packet, for its delay was like that of others, and only earlier ones were asked.
    """
    frames: dict[str, list[Record]] = {"a": [], "b": []}
    for number in range(30):
        sent = twice(number)[0]
        assert isinstance(sent, Header)
        at = START_NS + number * 20_000_000
        frames["a"].append(Record(at, frame(sent)))
        copies = (150_000,) if number == 10 else (60_000, 150_000)
        frames["b"] += [Record(at + delay, frame(sent)) for delay in copies]
    analysis = analyzed(tmp_path, {point: pcap_bytes(records) for point, records in frames.items()})
    assert len(analysis.trajectories) == 30
