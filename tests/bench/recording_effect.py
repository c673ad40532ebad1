"""What recording costs the traffic: round trips through the lab with and without captures at its six points.

    sudo python tests/bench/recording_effect.py [--rounds 7] [--pings 400] [--json FILE]

Pings every 2 ms from the client to pvm1, punted through the service both ways. Each round runs every way of
recording once, in turn first, so that a machine that slows down slows all of them. Per round: median and 99th
percentile of the round trips. Reported: the median over the rounds of each, its range, and the median of the
differences from the same round without recording.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from capture_scripts.processes import Children, in_namespace, interruptible
from capture_scripts.recorder.captures import Settings, new_capture
from capture_scripts.recorder.kernel_drops import KernelWitness
from capture_scripts.recorder.sources import Group, one_per_namespace, one_per_point, two_per_point
from capture_scripts.testbed.service_chain import points
from capture_scripts.testbed.topology import Lab

NONE = "no recording"
_TIME = re.compile(r"time=([0-9.]+) ms")


def ways(lab: Lab, folder: Path) -> dict[str, list[list[str]]]:
    """The commands that capture at once, by the name of the way; as the recorder starts them."""

    def commands(groups: Sequence[Group], tool: str = "tcpdump", snaplen: int = 256) -> list[list[str]]:
        settings = Settings(tool=tool, snaplen=snaplen)
        sources = [source for group in groups for source in group.sources]
        return [in_namespace(source.namespace, new_capture(source, folder, settings).command()) for source in sources]

    here = points(lab)
    default = commands(one_per_point(here))
    return {
        NONE: [],
        "tcpdump, 6 points (default)": default,
        "the same, whole packets": commands(one_per_point(here), snaplen=0),
        "the same, immediate mode": [[*command, "--immediate-mode"] for command in default],
        "two per point (--direction)": commands(two_per_point(here)),
        "one for all devices (--any)": commands(one_per_namespace(here)),
        "dumpcap, 6 points": commands(one_per_point(here), tool="dumpcap"),
    }


@contextmanager
def running(commands: Sequence[Sequence[str]]) -> Iterator[None]:
    with Children() as children:
        started = [children.start(command, stderr=subprocess.DEVNULL) for command in commands]
        time.sleep(1.2 if commands else 0.2)
        if any(child.poll() is not None for child in started):
            raise SystemExit("a capture did not start")
        yield
        for child in started:
            os.killpg(child.pid, signal.SIGINT)
        for child in started:
            child.wait(10)


@contextmanager
def witnessed(folder: Path) -> Iterator[None]:
    witness = KernelWitness(folder)
    witness.begin()
    witness.wait_ready()
    try:
        yield
    finally:
        witness.finish()


def round_trips(lab: Lab, pings: int) -> list[float]:
    """Microseconds, sorted."""
    said = lab.run_in("client", ["ping", "-n", "-i", "0.002", "-c", str(pings), "10.77.0.1"])
    found = sorted(1000 * float(time_) for time_ in _TIME.findall(said))
    if len(found) != pings:
        raise SystemExit(f"{pings - len(found)} of {pings} pings were not answered")
    return found


def measure(rounds: int, pings: int) -> dict[str, dict[str, list[float]]]:
    """p50 and p99 in microseconds, per way and round."""
    lab = Lab(f"be{os.getpid()}")
    with tempfile.TemporaryDirectory() as scratch, interruptible():
        folder = Path(scratch)
        lab.up()
        try:
            known = ways(lab, folder)
            names = [*known, "no capture, --kernel-drops"]
            found: dict[str, dict[str, list[float]]] = {name: {"p50": [], "p99": []} for name in names}
            for number in range(rounds + 1):
                shift = number % len(names)
                for name in names[shift:] + names[:shift]:
                    with running(known[name]) if name in known else witnessed(folder):
                        times = round_trips(lab, pings)
                    if number:  # the first round warms up
                        found[name]["p50"].append(times[len(times) // 2])
                        found[name]["p99"].append(times[int(len(times) * 0.99)])
        finally:
            lab.down()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Round trips with and without recording.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pings", type=int, default=400)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.rounds, options.pings)
    print(f"{options.rounds} rounds of {options.pings} pings, us")
    print(f"{'way of recording':32} {'p50':>18} {'more':>7} {'p99':>18} {'more':>7}")
    for name, columns in found.items():
        line = f"{name:32}"
        for key in ("p50", "p99"):
            values = columns[key]
            more = statistics.median(a - b for a, b in zip(values, found[NONE][key], strict=True))
            line += (
                f" {statistics.median(values):6.0f} ({min(values):.0f}-{max(values):.0f})".rjust(19) + f" {more:+7.0f}"
            )
        print(line)
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
