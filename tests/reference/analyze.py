"""The whole reference analysis of one run folder."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tests.reference.capture import CaptureFile, FileInterface, FilePacket, read_capture
from tests.reference.decode import decode
from tests.reference.follow import follow
from tests.reference.judge import Judge, Judged, rule_rows
from tests.reference.latency import latency_rows
from tests.reference.reach import Coverage
from tests.reference.run import Point, Run, load_run
from tests.reference.sightings import Sighting

Rows = list[dict[str, Any]]


class Results(NamedTuple):
    """Rows with the column names of design 6; what starts with an underscore is the reference's own."""

    observations: Rows
    trajectories: Rows
    stages: Rows
    latency: Rows
    rules: Rows


def used_interfaces(point: Point, capture: CaptureFile) -> list[FileInterface]:
    """Design 3: ``interface`` says which interface of a file with several is meant."""
    return [
        i
        for i in capture.interfaces
        if point.interface is None or len(capture.interfaces) == 1 or i.name == point.interface
    ]


def observe_point(folder: Path, point: Point) -> tuple[list[Sighting], Coverage, bool]:
    """Observations of one point in file order, what its captures cover, and whether one of them was cut.

    Coverage: interface statistics' start and end, else first and last packet; the hull of all files. A cut
    file ends at its last whole packet. Drops: what statistics say, or the capture tool's log if that says
    more.
    """
    sightings: list[Sighting] = []
    starts: list[int] = []
    ends: list[int] = []
    dropped, resolution, cut, told = 0, 1, False, bool(point.captures)
    counted: list[tuple[int, tuple[int, int]]] = []
    for name in point.captures:
        capture = read_capture((folder / name).read_bytes())
        interfaces = used_interfaces(point, capture)
        cut |= capture.cut
        logged = logged_drops((folder / name).with_suffix(".log"))
        dropped += max(sum(i.dropped for i in interfaces), logged or 0)
        told = told and (logged is not None or any(i.told for i in interfaces))
        resolution = max([resolution, *(i.resolution_ns for i in interfaces)])
        packets = [p for p in capture.packets if any(p.interface is i for i in interfaces)]
        for interface in interfaces:
            counted += counted_drops(interface, packets)
            times = [p.ts_ns for p in packets if p.interface is interface and p.ts_ns is not None]
            if interface.start_ns is not None:
                starts.append(interface.start_ns)
            elif times:
                starts.append(min(times))
            if interface.end_ns is not None and not capture.cut:
                ends.append(interface.end_ns)
            elif times:
                ends.append(max(times))
        for packet in packets:
            if point.direction in ("in", "out") and packet.direction != point.direction:
                continue
            row = {
                "point": point.name,
                "capture": name,
                "frame": packet.frame,
                "byte_offset": packet.byte_offset,
                "ts_ns": packet.ts_ns,
                "captured_length": len(packet.data),
                "length": packet.length,
            }
            row |= decode(packet.data, packet.length, packet.interface.linktype)
            row["trajectory"] = None
            row["packet_id"] = packet.marks.get("packet_id")
            sightings.append(Sighting(point.name, point.clock, packet.interface.resolution_ns, row))
    exact = sum(count for count, _ in counted) == dropped > 0
    coverage = Coverage(
        min(starts, default=None), max(ends, default=None), dropped, resolution, told,
        [span for _, span in counted] if exact else None,
    )  # fmt: skip
    return sightings, coverage, cut


def counted_drops(interface: FileInterface, packets: list[FilePacket]) -> list[tuple[int, tuple[int, int]]]:
    """Packets that were dropped before others of one interface (epb_dropcount): how many, and between which times."""
    mine = [packet for packet in packets if packet.interface is interface]
    found = []
    for number, packet in enumerate(mine):
        dropped = packet.marks.get("dropped_before") or 0
        before = mine[number - 1].ts_ns if number else interface.start_ns
        if dropped and packet.ts_ns is not None and before is not None:
            found.append((dropped, (before, packet.ts_ns)))
    return found


def logged_drops(log: Path) -> int | None:
    """Packets that the capture tool says were dropped (by kernel, by interface); None if it does not say."""
    numbers = re.findall(r"(\d+) packets? dropped by", log.read_text(errors="replace")) if log.exists() else []
    return sum(int(number) for number in numbers) if numbers else None


def widened(coverage: Coverage, window: tuple[int, int] | None, cut: bool) -> Coverage:
    """[window] widens what a point covers; a cut capture ends at its last whole packet whatever the window
    says.
    """
    if window is None:
        return coverage
    start = min(window[0], coverage.start_ns) if coverage.start_ns is not None else window[0]
    end = max(window[1], coverage.end_ns) if coverage.end_ns is not None else window[1]
    return dataclasses.replace(coverage, start_ns=start, end_ns=coverage.end_ns if cut else end)


def read_counters(folder: Path) -> dict[str, int]:
    """Packets per named counter from context/: after less before (`nft -j list counters`)."""

    def packets(name: str) -> dict[str, int]:
        file = folder / "context" / name
        entries = json.loads(file.read_text())["nftables"] if file.exists() else []
        return {e["counter"]["name"]: e["counter"]["packets"] for e in entries if "counter" in e}

    before, after = packets("counters-before.json"), packets("counters-after.json")
    return {name: count - before.get(name, 0) for name, count in after.items()}


def trajectory_row(number: int, judged: Judged, columns: list[str]) -> dict[str, Any]:
    """One row of trajectories.parquet; addresses and lengths are those of the first sighting."""
    trajectory = judged.trajectory
    first = trajectory.sighting(trajectory.first)
    row: dict[str, Any] = {
        "trajectory": number,
        "path": trajectory.path.name,
        "first_ns": first.ts_ns,
        **{
            name: first.row[name] for name in ("source", "destination", "protocol", "sport", "dport", "ip_id", "length")
        },
        "fate": judged.fate,
        "reason": judged.reason,
        "lost_stage": judged.lost_stage,
        "last_point": trajectory.path.points[trajectory.last],
        "rule": judged.rule.id if judged.rule else None,
        "expected_action": judged.expected_action,
        "observed_action": judged.observed_action,
        "rule_verdict": judged.rule_verdict,
        "basis": trajectory.basis,
        "candidates": trajectory.candidates,
        "sightings": len(trajectory.owned()),
        "duplicates": max(Counter(s.point for s in trajectory.copies).values(), default=0),
        "_owned": frozenset((s.point, s.row["capture"], s.row["frame"]) for s in trajectory.owned()),
    }
    row |= dict.fromkeys(columns)
    for position, column in enumerate(trajectory.path.columns()):
        if position in trajectory.seen:
            row[column] = trajectory.sighting(position).ts_ns
    return row


def analyze(run_dir: Path) -> Results:
    """Everything from the captures of a run folder to its tables, one packet after the other."""
    run: Run = load_run(run_dir)
    run = dataclasses.replace(run, counters=read_counters(run_dir))
    sightings: list[Sighting] = []
    coverage: dict[str, Coverage] = {}
    for point in run.points:
        seen, cover, cut = observe_point(run_dir, point)
        sightings += seen
        coverage[point.name] = widened(cover, run.window, cut)
    followed = follow(sightings, run, coverage)
    coverage = followed.reach.coverage
    judge = Judge(run, followed, coverage)
    judged = [judge.judge(trajectory) for trajectory in followed.trajectories]

    columns = [f"{point.name}_ns" for point in run.points]
    columns += [c for path in run.paths for c in path.columns() if c not in columns]
    trajectories: Rows = []
    stages: Rows = []
    for number, one in enumerate(judged):
        trajectories.append(trajectory_row(number, one, columns))
        stages += [{"trajectory": number, **row} for row in one.stages]
        for sighting in one.trajectory.owned():
            sighting.row["trajectory"] = number
    for sighting in sightings:
        sighting.row["_key"] = sighting.bytes_key or None
    observations = [sighting.row for sighting in sightings]
    return Results(observations, trajectories, stages, latency_rows(run, judged, coverage), rule_rows(run, judged))
