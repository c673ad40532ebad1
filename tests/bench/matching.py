"""How long it takes to follow packets, beside polars sorting the same rows by digest, point and time.

    python tests/bench/matching.py [--packets 2000000] [--rounds 3] [--rows 800000 8000000 ...]

The observations are made in memory, as decoding leaves them: four points on two paths that cross them in both
directions, TCP and UDP of some thousand flows over IPv4, 1 % of the packets lost at each stage, delays of some ten
microseconds, in order of time. Both use all processors; polars is measured with one, too. Situations that take more
than one pass (captures that miss packets, copies, clocks that disagree) are measured against the same sort.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pktrace.decode import rows as field
from pktrace.decode.rows import ROW
from pktrace.ledger import Ledger
from pktrace.observations.coverage import Coverage
from pktrace.observations.observe import Observations
from pktrace.run.model import Condition, Network, PacketPath, Point, Run
from pktrace.trajectories.follow import follow_packets

Array = np.ndarray[Any, Any]

POINTS = ("uplink", "switchport", "vnic", "service")
FIRST_NS = 1_795_410_000_000_000_000
MEAN_GAP_NS = 5_000
STAGE_NS = 20_000
LOSS = 0.01
FLOWS = 4096
INSIDE = 0x0A4D0000  # 10.77.0.0/16: what goes there is ingress
OUTSIDE = 0xC0000200
BYTES_PER_ROW = ROW.itemsize + 250  # of memory: the row, and what following needs beside it


def make_run() -> Run:
    """Two paths over the same points, told apart by where packets go."""
    inside = Network(4, 0, INSIDE, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFF0000)
    stages = tuple(f"stage {number}" for number in range(len(POINTS) - 1))
    points = tuple(range(len(POINTS)))
    return Run(
        folder=Path("."),
        name="matching",
        description="",
        points=tuple(Point(name, ()) for name in POINTS),
        paths=(
            PacketPath("ingress", points, stages, Condition(destinations=(inside,))),
            PacketPath("egress", points[::-1], stages, Condition(sources=(inside,))),
        ),
        rules=(),
        threshold_ns=2_000_000_000,
        window=None,
        run_toml_sha256="",
    )


def make_observations(rows: int) -> Observations:
    """About `rows` observations, in order of time; the same number gives the same ones."""
    rng = np.random.default_rng(1)
    count = rows // len(POINTS)
    sent = FIRST_NS + np.cumsum(rng.integers(1, 2 * MEAN_GAP_NS, count))
    inward = rng.integers(0, 2, count).astype(bool)
    alive = np.ones(count, bool)
    now = sent
    packets, points, times = [], [], []
    for position in range(len(POINTS)):
        if position:
            alive = alive & (rng.random(count) >= LOSS)
            now = now + STAGE_NS // 2 + rng.exponential(STAGE_NS / 2, count).astype(np.int64)
        packets.append(np.flatnonzero(alive))
        points.append(np.where(inward, position, len(POINTS) - 1 - position)[alive])
        times.append(now[alive])
    packet, point, at = np.concatenate(packets), np.concatenate(points), np.concatenate(times)
    order = np.lexsort((point, at))
    packet, point, at = packet[order], point[order], at[order]
    made = np.zeros(len(packet), ROW)
    for name, values in columns(count, inward, rng).items():
        made[name] = values[packet] if isinstance(values, np.ndarray) else values
    made["point"] = made["capture"] = point
    made["ts_ns"] = at
    for number in range(len(POINTS)):
        mine = np.flatnonzero(point == number)
        made["frame"][mine] = np.arange(1, len(mine) + 1)
        made["byte_offset"][mine] = 100 + 160 * np.arange(len(mine))
    return Observations(
        rows=made,
        points=POINTS,
        captures=POINTS,
        sha256=("",) * len(POINTS),
        coverage=tuple(coverage(at[point == number]) for number in range(len(POINTS))),
        ledger=Ledger(),
        digest_payload_bytes=64,
        damaged=False,
        run=make_run(),
    )


def in_situation(observations: Observations, situation: str) -> Observations:
    """The same with something that makes following harder."""
    rng = np.random.default_rng(2)
    rows, run = observations.rows, observations.run
    assert run is not None
    if situation == "1 % missed by each capture":
        return replace(observations, rows=rows[rng.random(len(rows)) >= LOSS])
    if situation == "0.2 % copied at each point":
        copies = rows[rng.random(len(rows)) < 0.002]
        copies["ts_ns"] += 3_000
        both = np.concatenate([rows, copies])
        return replace(observations, rows=both[np.argsort(both["ts_ns"], kind="stable")])
    if situation == "one clock 3 s ahead":
        rows = rows.copy()
        rows["ts_ns"][rows["point"] == 2] += 3_000_000_000
        points = tuple(
            replace(point, clock="other" if number == 2 else "one") for number, point in enumerate(run.points)
        )
        return replace(
            observations, rows=rows[np.argsort(rows["ts_ns"], kind="stable")], run=replace(run, points=points)
        )
    raise ValueError(situation)


SITUATIONS = ("1 % missed by each capture", "0.2 % copied at each point", "one clock 3 s ahead")


def columns(count: int, inward: Array, rng: np.random.Generator) -> dict[str, Array | int]:
    """What each packet's headers say, at every point the same."""
    flow = rng.integers(0, FLOWS, count)
    here, there = INSIDE + flow % 64, OUTSIDE + flow
    port, service = 32768 + flow, np.array([443, 5201, 8443, 9000])[flow % 4]
    tcp = flow % 8 != 0
    of_all = field.HAS_TIME | field.HAS_IP | field.HAS_ID | field.HAS_PORTS | field.HAS_PAYLOAD
    payload = rng.integers(1, 1400, count)
    return {
        "source_low": np.where(inward, there, here),
        "destination_low": np.where(inward, here, there),
        "sport": np.where(inward, port, service),
        "dport": np.where(inward, service, port),
        "identity": rng.integers(0, 1 << 64, count, np.uint64),
        "content": rng.integers(0, 1 << 64, count, np.uint64),
        "has": np.where(tcp, of_all | field.HAS_TCP, of_all),
        "protocol": np.where(tcp, 6, 17),
        "ip_id": rng.integers(0, 1 << 16, count),
        "tcp_seq": np.where(tcp, rng.integers(0, 1 << 32, count), 0),
        "tcp_ack": np.where(tcp, rng.integers(0, 1 << 32, count), 0),
        "tcp_flags": np.where(tcp, 0x18, 0),
        "payload_length": payload,
        "length": payload + np.where(tcp, 66, 42),
        "captured_length": 128,
        "l3": 14,
        "l4": 34,
        "payload": np.where(tcp, 66, 42),
        "ip_end": payload + np.where(tcp, 66, 42),
        "ip_version": 4,
        "ttl": 64,
    }


def coverage(times: Array) -> Coverage:
    """Of a point whose capture is whole and has dropped nothing."""
    first, last = int(times[0]), int(times[-1])
    return Coverage(len(times), first, last, first, last, 0, 0, False, False, 0, 1)


def seconds_of(action: Callable[[], object]) -> float:
    gc.collect()
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def sort_with_polars(digest: Array, point: Array, times: Array) -> Callable[[], object]:
    """What sorts the three columns; making the table of them is not counted."""
    import polars as pl

    frame = pl.DataFrame({"digest": digest, "point": point, "ts_ns": times})
    return lambda: frame.sort("digest", "point", "ts_ns")


class PolarsOnOneThread:
    """polars in a process of its own, with one thread: it sorts the same rows each time it is asked."""

    def __init__(self, rows: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--sort-on-demand", str(rows)],
            env={**os.environ, "POLARS_MAX_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("The process that sorts with one thread has ended.")
        return float(json.loads(line))

    def sort(self) -> float:
        """Seconds that the sort took."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def sort_on_demand(rows: int) -> None:
    """The other end of PolarsOnOneThread."""
    observed = make_observations(rows).rows
    action = sort_with_polars(*(np.ascontiguousarray(observed[name]) for name in ("identity", "point", "ts_ns")))
    del observed
    action()
    print(0.0, flush=True)
    for _ in sys.stdin:
        print(seconds_of(action), flush=True)


def compare(rows: int, rounds: int) -> None:
    """Follow and sort in turns."""
    one_thread = PolarsOnOneThread(rows)  # makes its rows first, and frees them
    observations = make_observations(rows)
    observed = observations.rows
    action = sort_with_polars(*(np.ascontiguousarray(observed[name]) for name in ("identity", "point", "ts_ns")))
    trajectories = follow_packets(observations)
    action()
    print(f"\n{len(observed):,} observations of {len(trajectories.path):,} packets at {len(POINTS)} points")
    del trajectories
    taken: dict[str, list[float]] = {"pktrace follows": [], "polars sorts": [], "polars sorts, one thread": []}
    for _ in range(rounds):
        taken["pktrace follows"].append(seconds_of(lambda: follow_packets(observations)))
        taken["polars sorts"].append(seconds_of(action))
        taken["polars sorts, one thread"].append(one_thread.sort())
    one_thread.close()
    for situation in SITUATIONS:
        harder = in_situation(observations, situation)
        name = f"pktrace, {situation}"
        follow_packets(harder)
        taken[name] = [seconds_of(lambda harder=harder: follow_packets(harder)) for _ in range(rounds)]  # type: ignore[misc]
        del harder
    print(f"  {'':36} {'s, min':>8} {'median':>8} {'max':>8} {'M rows/s':>9}")
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        print(f"  {name:36} {min(seconds):8.3f} {median:8.3f} {max(seconds):8.3f} {len(observed) / median / 1e6:9.2f}")
    own = taken["pktrace follows"]
    for name in ("polars sorts", "polars sorts, one thread"):
        ratio = statistics.median(a / b for a, b in zip(own, taken[name], strict=True))
        target = f"; wanted at most 1: {'met' if ratio <= 1 else 'not met'}" if name == "polars sorts" else ""
        print(f"  following takes {ratio:.2f} times as long as {name}{target}")
    sys.stdout.flush()


def scaling(sizes: list[int], rounds: int) -> None:
    """Time per row by number of rows."""
    print("\nFollowing, by number of observations: no worse than linear is wanted (at most 1.00, give or take noise)")
    print(f"  {'observations':>14} {'s, least':>9} {'ns per row':>11} {'to first':>9}")
    first = None
    for rows in sizes:
        if rows * BYTES_PER_ROW > free_memory():
            print(f"  {rows:14,} not measured: needs {rows * BYTES_PER_ROW / 1e9:.1f} GB of free memory")
            continue
        count, least = least_of(make_observations(rows), rounds)
        per_row = 1e9 * least / count
        first = first or per_row
        print(f"  {count:14,} {least:9.3f} {per_row:11.1f} {per_row / first:9.2f}", flush=True)


def least_of(observations: Observations, rounds: int) -> tuple[int, float]:
    """How many rows, and the shortest time of some rounds."""
    follow_packets(observations)
    return len(observations.rows), min(seconds_of(lambda: follow_packets(observations)) for _ in range(rounds))


def free_memory() -> float:
    """Bytes that may be used, as far as the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packets", type=int, default=2_000_000, help="seen at four points each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="*", help="numbers of observations for the table of scaling")
    parser.add_argument("--sort-on-demand", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sort_on_demand:
        sort_on_demand(options.sort_on_demand)
        return
    if options.packets < 1000 or options.rounds < 1:
        parser.error("at least 1000 packets and one round are needed")
    import polars as pl

    rows = len(POINTS) * options.packets
    print(
        f"{os.cpu_count()} processors, Python {platform.python_version()}, polars {pl.__version__} with "
        f"{pl.thread_pool_size()} threads, {options.rounds} rounds; compilation of kernels is not counted"
    )
    compare(rows, options.rounds)
    scaling(options.rows if options.rows is not None else [rows // 10, rows // 4, rows, 2 * rows], options.rounds)


if __name__ == "__main__":
    main()
