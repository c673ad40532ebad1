"""The marker run: ``marker_run.py OUT`` sends tailored packets through the lab, records, analyses, and compares.

It sends 50,000 packets in both directions, and the lab drops a share of them at five known places each way. The steps
are lab up, plan, record, ``pktrace analyze``, ``sender/check_tailored.py``, lab down. OUT is an ordinary run, with its
plan as ``truth.parquet``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # started as a file: its folder is the package (PEP 366)
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    __package__ = Path(__file__).resolve().parent.name

from . import record
from .filter_rules import load_rules
from .processes import Interrupted, LabError, interruptible, need_root, need_tools
from .send import End, prepare, send_prepared
from .sender.check_tailored import check, report
from .sender.tailored import MOST_PACKETS, make_plan
from .testbed import topology
from .testbed.service_chain import chain_plan, record_planned
from .testbed.topology import DEFAULT_RULES, Lab
from .visible import printing_visibly

TOOLS = {**topology.TOOLS, **record.TOOLS}
RATE_PPS = 15_000.0
LOST_PERCENT = 20.0
_ANALYSIS_TIMEOUT_S = 300.0


def marker_run(
    out: Path,
    lab_name: str,
    rules_file: Path,
    *,
    count: int,
    rate_pps: float,
    seed: int,
    lost_percent: float,
    kernel_drops: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Make the run in ``out``, which must not exist; returns figures and disagreements. LabError when it failed."""
    if out.exists():
        raise LabError(f"{out} exists already: name another folder, or remove it")
    rules = load_rules(rules_file)
    clock = time.monotonic()
    plan = make_plan(rules, count, seed=seed, lost_percent=lost_percent)
    seconds = {"plan": time.monotonic() - clock}
    lab = Lab(lab_name)
    told: dict[str, Any] = {}
    lab.up(rules_file)
    try:
        ends = [End(lab.namespace(role), "eth0") for role in ("client", "pvm1")]
        partial = out.with_name(f"{out.name}.{os.getpid()}.truth.parquet")
        try:
            plan.write(partial)
            prepared = prepare(partial, *ends)
            try:
                clock = time.monotonic()
                what = f"{count} packets tailored to the rules, some lost at five known places each way"
                chain = chain_plan(lab, rules_file, "marker-run", what, record.Settings())

                def send(_: record.Running) -> None:
                    told.update(send_prepared(prepared, rate_pps))
                    lab.wait_until_quiet()

                recorded = record_planned(lab, out, replace(chain, kernel_drops=kernel_drops), send)
                seconds["record"] = time.monotonic() - clock
            finally:
                prepared.close()
            partial.rename(out / "truth.parquet")
        finally:
            partial.unlink(missing_ok=True)
    finally:
        lab.down()
    dropped = {point: counts.dropped for point, counts in recorded.counts.items() if counts.dropped}
    if dropped:
        raise LabError(f"{out}: the captures dropped packets: {dropped}; record again on a quieter machine")
    clock = time.monotonic()
    _analyze(out)
    seconds["analyze"] = time.monotonic() - clock
    clock = time.monotonic()
    figures, faults = check(out)
    seconds["check"] = time.monotonic() - clock
    took = {name: round(value, 2) for name, value in seconds.items()}
    return {"sent": told, "seconds": took, **figures}, faults


def _analyze(run: Path) -> None:
    """Start the analysis as a separate program, as its users do."""
    command = [sys.executable, "-m", "pktrace", "analyze", str(run), "--no-plots"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ANALYSIS_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise LabError(f"pktrace analyze {run} ended with {done.returncode}: {done.stderr.strip()[-500:]}")


@printing_visibly
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``marker_run.py``; exit 0 everything agrees, 1 failed or disagrees, 2 usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="marker_run.py",
        description="Send tailored packets through a lab of its own, record, analyse, compare with the plan.",
        epilog="example: marker_run.py /tmp/marker-run --count 5000",
    )
    parser.add_argument("out", type=Path, help="run folder to make")
    parser.add_argument("--name", default=f"mk{os.getpid()}", help="name of the lab (default: a new one)")
    parser.add_argument("--rules", type=Path, default=DEFAULT_RULES, help="rules of the lab and of the plan")
    parser.add_argument("--count", type=int, default=MOST_PACKETS, help="packets (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=RATE_PPS, help="packets/s in each direction (%(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the plan (default: %(default)s)")
    parser.add_argument("--lost", type=float, default=LOST_PERCENT, help="percent with a drop code (%(default)g)")
    parser.add_argument("--kernel-drops", action="store_true", help="also record the kernel's drop reports (bpftrace)")
    options = parser.parse_args(arguments)
    if not (0 < options.rate <= 1e6 and 0 <= options.lost <= 100):
        parser.error("--rate takes up to 1000000 packets per second, --lost 0 to 100 percent")
    try:
        need_root("recording")
        need_tools(TOOLS)
        with interruptible():
            figures, faults = marker_run(
                options.out,
                options.name,
                options.rules,
                count=options.count,
                rate_pps=options.rate,
                seed=options.seed,
                lost_percent=options.lost,
                kernel_drops=options.kernel_drops,
            )
    except LabError as error:
        print(f"marker_run: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"marker_run: interrupted ({error}); {record.what_is_left(options.out)}", file=sys.stderr)
        return 130
    print(json.dumps(figures, indent=1))
    return report(faults, 20, "marker_run")


if __name__ == "__main__":
    sys.exit(main())
