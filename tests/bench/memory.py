"""How much memory an analysis takes per observation, step by step: what `pktrace/memory.py` reckons with.

    python tests/bench/memory.py [--observations 1000000 ...] [--shapes plain short ...]

A run of four points is made for each shape and size, analysed in a process of its own, and the largest memory of its
own (RssAnon of /proc/PID/status) is taken per step. The table shows bytes per observation, above what a run of one
packet takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(CHECKOUT))

Array = np.ndarray[Any, Any]
FIRST_NS = 1_795_410_000_000_000_000
RECORD = np.dtype(
    [
        ("second", "<u4"), ("fraction", "<u4"), ("captured", "<u4"), ("length", "<u4"),
        ("link", "S14"), ("version", "u1"), ("tos", "u1"), ("total", ">u2"), ("ip_id", ">u2"), ("offset", ">u2"),
        ("ttl", "u1"), ("protocol", "u1"), ("checksum", ">u2"), ("source", ">u4"), ("destination", ">u4"),
        ("sport", ">u2"), ("dport", ">u2"), ("seq", ">u4"), ("ack", ">u4"), ("flags", ">u2"), ("window", ">u2"),
        ("tcp_checksum", ">u2"), ("urgent", ">u2"), ("payload", "S40"),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A kind of traffic: `points`; `rewritten` points from which on the source is another; `lost` share per stage.

    `flows`: so many of them; `equal`: so many packets share all their bytes; `no_path`: fit no path.
    """

    points: int = 4
    rewritten: int | None = None
    lost: float = 0.01
    flows: int = 4096
    equal: int = 1
    no_path: bool = False
    mixed_snaps: bool = False
    split_clocks: bool = False


SHAPES = {
    "plain": Shape(),
    "two points": Shape(points=2),
    "eight points": Shape(points=8),
    "rewritten": Shape(rewritten=2),
    "a flow per packet": Shape(flows=1 << 30),
    "rewritten, a flow per packet": Shape(rewritten=2, flows=1 << 30),
    "half lost": Shape(lost=0.5),
    "copies": Shape(equal=16),
    "no path": Shape(no_path=True),
    "mixed snap lengths": Shape(mixed_snaps=True),
    "two clocks": Shape(split_clocks=True),
    "one point": Shape(points=1),
}


def write_run(folder: Path, observations: int, shape: Shape, seed: int = 1) -> None:
    """Write a run of about so many observations."""
    (folder / "captures").mkdir(parents=True)
    count = max(1, observations // shape.points)
    rng = np.random.default_rng(seed)
    made = np.zeros(count, RECORD)
    packet = np.arange(count) // shape.equal
    flow = (packet * 2654435761) % shape.flows
    made["link"] = b"\x02\0\0\0\0\2\2\0\0\0\0\1\x08\0"
    made["version"], made["total"], made["ttl"], made["protocol"] = 0x45, 80, 64, 6
    made["ip_id"] = packet & 0xFFFF
    made["source"] = 0x0A4D0000 + flow % 65536
    made["destination"] = 0xC0000200 + (0 if shape.no_path else flow % 251)
    made["sport"], made["dport"] = 1024 + flow // 65536 % 60000, 443
    made["seq"], made["ack"], made["flags"] = rng.integers(0, 1 << 32, count)[packet], 7, 0x5010
    made["payload"] = rng.integers(1, 255, (count, 40), np.uint8)[packet].view("S40")[:, 0]
    sent = FIRST_NS + np.cumsum(rng.integers(1, 2000, count))
    alive = np.ones(count, bool)
    names = [f"point{number}" for number in range(shape.points)]
    for number, name in enumerate(names):
        if number:
            alive &= rng.random(count) >= shape.lost
        snap = 60 if shape.mixed_snaps and number % 2 else 94
        times = sent + number * 20_000 + (3_000_000_000 if shape.split_clocks and number == 1 else 0)
        of_point = made[alive]
        of_point["second"], of_point["fraction"] = np.divmod(times[alive], 10**9)
        of_point["captured"], of_point["length"] = snap, 94
        if shape.rewritten is not None and number >= shape.rewritten:
            of_point["source"] = 0x0B000000 + (of_point["source"] & 0xFFFF)
            of_point["sport"] = of_point["sport"] ^ 0x1234
        head = np.array([0xA1B23C4D, 2 | 4 << 16, 0, 0, 262144, 1], "<u4").tobytes()
        body = of_point.view(np.uint8).reshape(len(of_point), RECORD.itemsize)[:, : 16 + snap]
        (folder / "captures" / f"{name}.pcap").write_bytes(head + np.ascontiguousarray(body).tobytes())
    clock = ["other" if shape.split_clocks and number == 1 else "host" for number in range(shape.points)]
    lines = ["schema = 1", 'name = "memory"', "[loss]", 'threshold = "2s"']
    for name, of in zip(names, clock, strict=True):
        lines += ["[[point]]", f'name = "{name}"', f'captures = ["captures/{name}.pcap"]', f'clock = "{of}"']
    lines += ["[[path]]", 'name = "there"', f"points = {json.dumps(names)}"]
    if shape.no_path:
        lines += ['match = { destination = ["203.0.113.1"] }']
    (folder / "run.toml").write_text("\n".join(lines) + "\n")


class Peaks:
    """The largest RssAnon in each step of this process, in bytes."""

    def __init__(self) -> None:
        self.step = "start"
        self.found: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        with open("/proc/self/status", "rb", buffering=0) as file:
            while True:
                text = file.read()
                file.seek(0)
                at = text.index(b"RssAnon:")
                size = int(text[at + 8 : text.index(b"kB", at)]) * 1024
                self.found[self.step] = max(self.found.get(self.step, 0), size)
                time.sleep(0.003)

    def of(self, step: str, work: Callable[[], Any]) -> Any:
        """Do one step."""
        self.step = step
        began = time.monotonic()
        done = work()
        self.seconds[step] = round(time.monotonic() - began, 2)
        time.sleep(0.02)
        return done


def measured(run: str) -> None:
    """Analyse a run in this process and print its peaks."""
    import gc

    gc.disable()
    peaks = Peaks()
    from pktrace.analysis.analysis import analyze_trajectories
    from pktrace.analysis.criteria import exit_code
    from pktrace.analysis.summary import summary
    from pktrace.observations.observe import observe_run
    from pktrace.report.plots import draw_all
    from pktrace.report.results import write_results
    from pktrace.run.runfile import load_run
    from pktrace.trajectories.follow import follow_packets

    loaded = load_run(run)
    with tempfile.TemporaryDirectory() as scratch:
        observations = peaks.of("reading", lambda: observe_run(loaded))
        trajectories = peaks.of("following", lambda: follow_packets(observations))
        analysis = peaks.of("judging", lambda: analyze_trajectories(trajectories))
        peaks.of("transforms", lambda: analysis.transforms)
        document = peaks.of("summary", lambda: summary(analysis, exit_code(analysis)))
        peaks.of(
            "writing", lambda: write_results(analysis, Path(scratch), document, lambda into: draw_all(analysis, into))
        )
    print(json.dumps({"observations": len(observations.rows), "peaks": peaks.found, "seconds": peaks.seconds}))


def measure(folder: Path, observations: int, shape: Shape) -> dict[str, Any]:
    """The peaks of one run, in a process of its own."""
    write_run(folder, observations, shape)
    done = subprocess.run(
        [sys.executable, __file__, "--measured", str(folder)], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--observations", type=int, nargs="*", default=[250_000, 1_000_000])
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--measured", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        measured(options.measured)
        return
    with tempfile.TemporaryDirectory() as scratch:
        measure(Path(scratch, "warm"), 4000, Shape(rewritten=2))  # compiles the kernels
        base = measure(Path(scratch, "least"), 4, Shape())["peaks"]
        print("MiB of one packet:", {step: size >> 20 for step, size in base.items()}, flush=True)
        for name in options.shapes:
            for size in options.observations:
                with tempfile.TemporaryDirectory() as place:
                    found = measure(Path(place, "run"), size, SHAPES[name])
                count = found["observations"]
                each = {
                    step: round((peak - base.get(step, 0)) / count)
                    for step, peak in found["peaks"].items()
                    if step != "start"
                }
                print(f"{name:30} {count:>10,}", each, found["seconds"], flush=True)


if __name__ == "__main__":
    main()
