"""Does an analysis say what is true? Compares result rows with the truth of a generated run.

Works on rows (dicts with the column names of design 6), so that it judges any analysis alike. ``owned`` are
the frames of each trajectory, from the column ``trajectory`` of the observations.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.kit.truth import PacketTruth, Truth

Row = Mapping[str, Any]
Frame = tuple[str, str, int]
DECIDED = ("fate", "reason", "lost_stage", "rule", "expected_action", "observed_action", "rule_verdict")


def frames_owned(observations: Iterable[Row]) -> dict[int, frozenset[Frame]]:
    """The frames of each trajectory, as (point, capture, frame)."""
    owned: dict[int, set[Frame]] = {}
    for row in observations:
        if row["trajectory"] is not None:
            owned.setdefault(row["trajectory"], set()).add((row["point"], row["capture"], row["frame"]))
    return {trajectory: frozenset(frames) for trajectory, frames in owned.items()}


def demanded_row(packet: PacketTruth) -> dict[str, Any]:
    """The columns of a trajectory that the truth decides."""
    return {
        "path": packet.path.name,
        "fate": packet.fate,
        "reason": packet.reason,
        "lost_stage": packet.lost_stage,
        "rule": packet.rule,
        "expected_action": packet.expected_action,
        "observed_action": packet.observed_action,
        "rule_verdict": packet.rule_verdict,
        "last_point": packet.path.points[max(packet.seen)],
        "sightings": sum(len(at) for at in packet.seen.values()),
        "duplicates": max(len(at) for at in packet.seen.values()) - 1,
    }


def disagreements(
    truth: Truth, observations: Sequence[Row], trajectories: Sequence[Row], stages: Sequence[Row]
) -> list[str]:
    """Sentences about everything that is not as the truth has it; none if all is well.

    Packets that can be told apart must own exactly their frames and have every decided column right. Packets
    whose bytes are the same are compared by how many had which fate and stage.
    """
    wrong: list[str] = []
    owned = frames_owned(observations)
    by_frames: dict[frozenset[Frame], Row] = {
        owned[row["trajectory"]]: row for row in trajectories if row["trajectory"] in owned
    }
    if len(by_frames) != len(trajectories):
        wrong.append(f"{len(trajectories)} trajectories own {len(by_frames)} sets of frames")
    rows_of: dict[int, list[Row]] = {}
    for row in stages:
        rows_of.setdefault(row["trajectory"], []).append(row)
    certain = [packet for packet in truth.visible if packet.group is None]
    for packet in certain:
        if packet.owned() not in by_frames:
            wrong.append(f"packet {packet.number} {packet.path.name}: no trajectory owns exactly {packet.owned()}")
            continue
        row = by_frames.pop(packet.owned())
        for column, value in demanded_row(packet).items():
            if row[column] != value:
                wrong.append(f"packet {packet.number} {column}: {row[column]!r}, true is {value!r}")
        if (row["basis"], row["candidates"]) != ("exact", 1):
            wrong.append(f"packet {packet.number}: basis {row['basis']}, candidates {row['candidates']}")
        wrong += _times(packet, row)
        wrong += _stages(packet, rows_of.get(row["trajectory"], []))
    wrong += _groups([p for p in truth.visible if p.group is not None], by_frames)
    return wrong


def _columns(packet: PacketTruth) -> dict[int, str]:
    columns, visits = {}, Counter[str]()
    for position, point in enumerate(packet.path.points):
        visits[point] += 1
        columns[position] = f"{point}_ns" if visits[point] == 1 else f"{point}_{visits[point]}_ns"
    return columns


def _times(packet: PacketTruth, row: Row) -> list[str]:
    wrong = []
    for position, column in _columns(packet).items():
        true = min(s.ts_ns for s in packet.seen[position]) if position in packet.seen else None
        if row[column] != true:
            wrong.append(f"packet {packet.number} {column}: {row[column]}, true is {true}")
    return wrong


def _stages(packet: PacketTruth, rows: Sequence[Row]) -> list[str]:
    """Stages that were seen at both ends have their true latency; exactly the lost stage is lost."""
    wrong = []
    lost = {row["stage"] for row in rows if row["verdict"] == "lost"}
    if lost != ({packet.lost_stage} if packet.lost_stage is not None else set()):
        wrong.append(f"packet {packet.number}: stages lost {lost}, true is {packet.lost_stage}")
    numbers = [row["stage"] for row in rows]
    if len(numbers) != len(set(numbers)):
        wrong.append(f"packet {packet.number}: a stage twice in {numbers}")
    route = sorted(packet.seen)
    for origin, target in itertools.pairwise(route):
        stage = packet.path.stage(origin, target)
        crossed = [row for row in rows if row["stage"] == stage and row["latency_ns"] is not None]
        true = min(s.ts_ns for s in packet.seen[target]) - min(s.ts_ns for s in packet.seen[origin])
        if crossed and crossed[0]["latency_ns"] != true:
            wrong.append(f"packet {packet.number} stage {stage}: {crossed[0]['latency_ns']} ns, true is {true}")
    return wrong


def _groups(packets: Sequence[PacketTruth], rows: Mapping[frozenset[Frame], Row]) -> list[str]:
    """Per group of equal packets: how many trajectories of each fate, stage and rule verdict; all frames
    placed.
    """
    wrong = []
    members: dict[int, list[PacketTruth]] = {}
    for packet in packets:
        members.setdefault(packet.group or 0, []).append(packet)
    left = dict(rows)
    for group, alike in members.items():
        frames = frozenset(frame for packet in alike for frame in packet.owned())
        mine = [row for owned, row in rows.items() if owned & frames]
        left = {owned: row for owned, row in left.items() if not owned & frames}
        true = Counter(tuple(demanded_row(packet)[column] for column in DECIDED) for packet in alike)
        said = Counter(tuple(row[column] for column in DECIDED) for row in mine)
        if true != said:
            wrong.append(f"group {group}: {dict(said - true)} too many, {dict(true - said)} missing")
        placed = frozenset(frame for owned in rows for frame in owned if owned & frames)
        if placed != frames:
            wrong.append(f"group {group}: frames {sorted(placed ^ frames)[:4]} misplaced")
    wrong += [f"nobody sent the packet of {sorted(owned)[:2]}" for owned in left]
    return wrong


def misplaced(truth: Truth, observations: Sequence[Row]) -> list[str]:
    """Equal packets that follow each other far more slowly than they travel: even there each should own its
    own frames.

    Not demanded by the bytes, but the delays of the certain packets leave no doubt: an order-preserving
    assignment of least cost finds it. Only for runs whose equal packets are that far apart.
    """
    sets = set(frames_owned(observations).values())
    return [
        f"packet {packet.number} of group {packet.group} does not own its frames"
        for packet in truth.visible
        if packet.group is not None and packet.owned() not in sets
    ]
