"""What must hold of following whatever the packets: nothing counts twice or is forgotten, and order does not matter."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from fixtures.scenarios import generate_scenario
from pktrace.analysis.analysis import analyze_observations
from pktrace.decode.rows import OPAQUE, ROW
from pktrace.observations.observe import Observations, observe_run
from pktrace.run.runfile import load_run
from pktrace.trajectories.follow import follow_packets
from pktrace.trajectories.model import Trajectories

SCENARIOS = ("plain", "loss-duplication-reordering", "nat-many-to-one", "nat-vxlan-loss", "tso", "gro-loss", "udp-gso",
             "fragmentation-reassembly", "payload-changed", "identical-udp", "packet-id")  # fmt: skip
SIZE = 600


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Observations]:
    found = {}
    for name in SCENARIOS:
        folder = tmp_path_factory.mktemp(name)
        generate_scenario(name, folder, packets=SIZE)
        found[name] = observe_run(load_run(folder))
    return found


def packets(trajectories: Trajectories) -> set[frozenset[tuple[str, str, int]]]:
    """Every packet as the frames that it owns."""
    observations = trajectories.observations
    owned: dict[int, list[tuple[str, str, int]]] = {}
    for row, owner in zip(observations.rows, trajectories.owner.tolist(), strict=True):
        if owner >= 0:
            frame = (observations.points[row["point"]], observations.captures[row["capture"]], int(row["frame"]))
            owned.setdefault(owner, []).append(frame)
    return {frozenset(frames) for frames in owned.values()}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_observation_is_placed_or_counted(observed: dict[str, Observations], name: str) -> None:
    analysis = analyze_observations(observed[name])
    trajectories = analysis.trajectories
    placed = int((trajectories.owner >= 0).sum())
    assert placed == int(trajectories.sightings.sum())
    seen = trajectories.seen[trajectories.seen >= 0]
    shared = set(trajectories.ranges.row.tolist())
    once = [row for row in seen.tolist() if row not in shared]
    assert len(once) == len(set(once)), "one observation is a sighting of two packets"
    assert (trajectories.owner[seen] >= 0).all()
    assert len(analysis.verdicts.fate) == len(trajectories)
    left = len(trajectories.owner) - placed
    assert left <= sum(analysis.ledger.total(counter) for counter in ("no_path", "off_path", "not_ip", "no_timestamp"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_order_of_the_points_changes_nothing(observed: dict[str, Observations], name: str, tmp_path: Path) -> None:
    run = observed[name].run
    assert run is not None
    document = tomllib.loads((run.folder / "run.toml").read_text())
    document["point"].reverse()
    (tmp_path / "captures").symlink_to(run.folder / "captures")
    (tmp_path / "run.toml").write_text(tomli_w.dumps(document))
    assert packets(follow_packets(observe_run(load_run(tmp_path, trust=True)))) == packets(
        follow_packets(observed[name])
    )


@pytest.mark.parametrize("name", [name for name in SCENARIOS if "identical" not in name])
def test_without_one_observation_only_its_packet_changes(observed: dict[str, Observations], name: str) -> None:
    whole = observed[name]
    before = packets(follow_packets(whole))
    for number in np.random.default_rng(1).choice(len(whole.rows), 3, replace=False).tolist():
        row = whole.rows[number]
        frame = (whole.points[row["point"]], whole.captures[row["capture"]], int(row["frame"]))
        left = np.delete(whole.rows.view(OPAQUE), number).view(ROW)
        changed = packets(follow_packets(replace(whole, rows=left))) ^ before
        around = {other for one in before if frame in one for other in one}
        assert all(one <= around for one in changed), (frame, changed)
