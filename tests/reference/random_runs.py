"""Random small runs as observations in memory: for the reference as rows, for the fast follower as its arrays.

Frames travel along a path, all of them stage by stage; each stage may lose, copy, delay, rewrite, split and merge them,
and each point captures what passes, on its own clock, and perhaps not all of it. Nothing here knows what an analysis
should say: it only has to say the same twice.
"""

from __future__ import annotations

import ipaddress
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pktrace.decode import rows as field_of
from pktrace.decode.rows import ROW
from pktrace.ledger import Ledger
from pktrace.observations import coverage as fast_coverage
from pktrace.observations.observe import Observations
from pktrace.run import model
from tests.reference.random_traffic import START_NS, Flight, Options, number_of, sent, stage
from tests.reference.reach import Coverage
from tests.reference.run import Path_, Point, Run
from tests.reference.sightings import Sighting

INSIDE = "10.77.0.0/16"


@dataclass
class RandomRun:
    """A run for both followers."""

    run: Run
    fast_run: model.Run
    rows: list[dict[str, Any]]
    coverage: dict[str, Coverage]

    def sightings(self) -> list[Sighting]:
        """For the reference, anew each time: following writes into them."""
        return [Sighting(row["point"], self.run.point(row["point"]).clock, 1, dict(row)) for row in self.rows]

    def observations(self, rows: list[dict[str, Any]] | None = None) -> Observations:
        """For the fast follower."""
        rows = self.rows if rows is None else rows
        names = [point.name for point in self.run.points]
        rows = sorted(rows, key=lambda r: (r["ts_ns"], names.index(r["point"]), r["frame"]))
        made = np.zeros(len(rows), ROW)
        for number, row in enumerate(rows):
            fill(made[number], row, names.index(row["point"]))
        return Observations(
            rows=made,
            points=tuple(names),
            captures=tuple(names),
            sha256=("",) * len(names),
            coverage=tuple(self._coverage(name) for name in names),
            ledger=Ledger(),
            digest_payload_bytes=64,
            damaged=False,
            run=self.fast_run,
        )

    def _coverage(self, name: str) -> fast_coverage.Coverage:
        cover = self.coverage[name]
        times = [row["ts_ns"] for row in self.rows if row["point"] == name]
        first, last = min(times, default=None), max(times, default=None)
        dropped = cover.dropped if cover.told else None
        return fast_coverage.Coverage(
            len(times), first, last, cover.start_ns, cover.end_ns, dropped, 0, False, False, 0, cover.resolution_ns
        )


def fill(made: Any, row: dict[str, Any], point: int) -> None:
    """One row of the decoder's array."""
    version = row["ip_version"]
    identity = ("ip_version", "protocol", "source", "destination", "ip_id", "fragment_offset", "more_fragments")
    has = field_of.HAS_TIME | field_of.HAS_IP | field_of.HAS_PAYLOAD
    has |= field_of.HAS_ID if row["ip_id"] is not None else 0
    has |= field_of.HAS_FRAGMENT if row["fragment_offset"] is not None else 0
    has |= field_of.HAS_PORTS if row["sport"] is not None else 0
    has |= field_of.HAS_TCP if row["tcp_seq"] is not None else 0
    has |= field_of.HAS_ICMP if row["icmp_type"] is not None else 0
    has |= field_of.HAS_ECHO if row["icmp_id"] is not None else 0
    has |= field_of.HAS_PACKET_ID if row["packet_id"] is not None else 0
    made["digest"] = number_of([row[name] for name in (*identity, "_ip_length", "_identity")])
    made["identity"] = made["digest"]
    made["content"] = number_of(row["_content"])
    for side in ("source", "destination"):
        value = int(ipaddress.ip_address(row[side]))
        made[f"{side}_high"], made[f"{side}_low"] = value >> 64, value & (1 << 64) - 1
    names = ("sport", "dport", "ip_id", "fragment_offset", "more_fragments", "tcp_seq", "tcp_ack", "tcp_flags")
    for name in (*names, "icmp_type", "icmp_code", "icmp_id", "icmp_seq", "packet_id"):
        made[name] = row[name] or 0
    made["tcp_window"] = row["_tcp_window"] or 0
    for name in ("ts_ns", "frame", "protocol", "payload_length", "length"):
        made[name] = row[name]
    made["captured_length"] = row["length"]
    made["has"], made["ip_version"], made["point"], made["capture"] = has, version, point, point
    made["l3"], made["l4"] = 14, 34
    made["ip_end"] = 34 + row["_segment_length"]
    made["payload"] = made["ip_end"] - row["payload_length"]


def paths_of(options: Options) -> list[tuple[int, ...]]:
    """The points of each path."""
    forward = tuple(range(options.points))
    if options.shape == "twice" and options.points >= 2:
        forward = (*forward, 0)
    found = [forward]
    if options.paths > 1:
        found.append(forward[::-1])
    return found


def make_run(options: Options) -> tuple[Run, model.Run]:
    """The same run for both."""
    clocks = [f"clock{number if options.clocks else 0}" for number in range(options.points)]
    session = "one" if options.numbered != "no" else None
    names = [f"p{number}" for number in range(options.points)]
    inside = ipaddress.ip_network(INSIDE)
    network = model.Network(4, 0, int(inside.network_address), 2**64 - 1, int(inside.netmask) | (2**32 - 1) << 32)
    inside_six = model.Network(6, 0xFD77 << 48, 0, 0xFFFF << 48, 0)
    slow_paths, fast_paths = [], []
    for number, at in enumerate(paths_of(options)):
        ends = len(at) - 1
        stages = tuple(f"s{number}" for number in range(ends))
        detour = options.shape == "detour" and len(at) >= 4
        enter, leave = (ends - 2, ends - 1) if detour else (None, None)
        side = ("destination", "source")[number]
        match = {} if options.match_all and (number or options.paths == 1) else {side: [INSIDE, "fd77::/16"]}
        condition = model.Condition()
        if match:
            condition = model.Condition(**{f"{side}s": (network, inside_six)})
        name = f"path{number}"
        slow_paths.append(Path_(name, tuple(names[p] for p in at), stages, match, "forward", enter, leave))
        first, last = (-1, -1) if enter is None or leave is None else (enter, leave)
        fast_paths.append(
            model.PacketPath(name, at, stages, condition, "forward", detour_first=first, detour_last=last)
        )
    slow = Run(
        Path("."),
        "random",
        tuple(Point(name, (), None, "any", clock, session) for name, clock in zip(names, clocks, strict=True)),
        tuple(slow_paths),
        (),
        options.threshold_ns,
    )
    fast = model.Run(
        folder=Path("/nowhere"),
        name="random",
        description="",
        points=tuple(
            model.Point(name, (), clock=clock, session=session) for name, clock in zip(names, clocks, strict=True)
        ),
        paths=tuple(fast_paths),
        rules=(),
        threshold_ns=options.threshold_ns,
        window=None,
        run_toml_sha256="",
    )
    return slow, fast


def random_run(options: Options) -> RandomRun:
    """Make a run; the same options give the same one."""
    rng = random.Random(options.seed)
    run, fast_run = make_run(options)
    captured: dict[str, Flight] = {point.name: [] for point in run.points}
    for number, path in enumerate(run.paths):
        flight = sent(options, inward=number == 0, rng=rng)
        stages = [stage(options, position, rng) for position in range(path.last)]
        for position, name in enumerate(path.points):
            in_detour = path.enter is not None and path.enter <= position <= (path.leave or 0)
            here = [entry for entry in flight if entry[1].punted or not in_detour]
            captured[name] += here
            if position < path.last:
                passing = stages[position](here)
                flight = passing + [entry for entry in flight if entry[1].punted is False and in_detour]
    rows: list[dict[str, Any]] = []
    coverage = {}
    for number, (name, flight) in enumerate(captured.items()):
        offset = options.clocks[number] if options.clocks else 0
        times = [time for time, _ in flight]
        begin, end = min(times, default=START_NS) - 10_000_000, max(times, default=START_NS) + 2 * options.threshold_ns
        if options.edges and rng.random() < 0.5 and times:
            begin, end = sorted(rng.choice(times) + rng.randrange(-1000, 1000) for _ in range(2))
        missed, frame_number = 0, 0
        for time, frame in sorted(flight, key=lambda entry: entry[0]):
            if not begin <= time <= end or number == options.silent:
                continue
            if rng.random() < (options.missed if options.missed_at in (None, number) else 0):
                missed += 1
                continue
            frame_number += 1
            row = frame.row() | {"point": name, "capture": name, "frame": frame_number, "ts_ns": time + offset}
            row["ts_ns"] -= row["ts_ns"] % options.tick_ns
            if options.numbered == "no" or (options.numbered == "all but one" and number == 1):
                row["packet_id"] = None
            rows.append(row)
        dropped = missed if options.told == "all" else 0
        coverage[name] = Coverage(begin + offset, end + offset, dropped, 1, options.told != "unknown")
    return RandomRun(run, fast_run, rows, coverage)
