"""One command from nothing to a run with its truth: ``make_fixture.py OUT``.

Lab up, record, traffic, truth, check, lab down; about 10 s. The test suite calls it to record afresh.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # started as a file: its folder is the package (PEP 366)
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    __package__ = Path(__file__).resolve().parent.name

from . import record, topology
from .check_run import check
from .fixture_readme import readme
from .nft_rules import load_rules
from .plan import DEFAULT_RATE_PPS, DEFAULT_SEED, make_plan
from .processes import Interrupted, LabError, interruptible, need_root, need_tools
from .service_chain import record_chain
from .topology import DEFAULT_RULES, Lab
from .traffic import run_traffic
from .truth import write_truth
from .visible import printing_visibly

TOOLS = {**topology.TOOLS, **record.TOOLS, "ping": "iputils-ping"}
RUN_NAME = "service-chain"
DESCRIPTION = "TCP, UDP and ICMP, IPv4 and IPv6, through a forwarding service, with known losses at every stage"
# Enough for every header and the whole marker, and it keeps the fixture small.
SNAPLEN = 128


def make_fixture(
    out: Path, lab_name: str, *, seed: int = DEFAULT_SEED, snaplen: int = SNAPLEN, keep_raw: bool = False
) -> Mapping[str, Any]:
    """Make the run in ``out``, which must not exist, and return the figures of the self check.

    Raises LabError when anything failed or anything in the recording disagrees with plan or counters; the
    folder is then left for inspection.
    """
    if out.exists():
        raise LabError(f"{out} exists already: name another folder, or give --replace")
    lab = Lab(lab_name)
    rules = load_rules(DEFAULT_RULES)
    plan = make_plan(seed, DEFAULT_RATE_PPS)
    lab.up(DEFAULT_RULES)
    try:
        recorded = record_chain(
            lab,
            out,
            lambda: run_traffic(lab, seed),
            rules_file=DEFAULT_RULES,
            run_name=RUN_NAME,
            description=DESCRIPTION,
            settings=record.Settings(snaplen=snaplen, keep_raw=keep_raw),
        )
    finally:
        lab.down()
    dropped = {point: counts.dropped for point, counts in recorded.counts.items() if counts.dropped}
    if dropped:  # honest, but no fixture: what a capture missed cannot be told from what was lost
        raise LabError(f"{out}: packets were dropped by the captures: {dropped}; record again on a quieter machine")
    truth = write_truth(out, plan, rules)
    figures, faults = check(out, plan, rules)
    if faults:
        shown = "; ".join(faults[:5])
        raise LabError(f"{out}: the captures disagree with plan or counters in {len(faults)} places: {shown}")
    (out / "README.md").write_text(readme(plan, truth, figures, snaplen), encoding="utf-8")
    return figures


@printing_visibly
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``make_fixture.py``; exit 0 done and checked, 1 failed, 2 usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="make_fixture.py",
        description="Bring up a lab, record a run with known losses, write its truth, check it, clean up.",
        epilog="example: make_fixture.py /tmp/service-chain",
    )
    parser.add_argument("out", type=Path, help="run folder to make")
    parser.add_argument("--name", default=f"pk{os.getpid()}", help="name of the lab (default: one of its own)")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="seed of the plan (default: %(default)s)")
    parser.add_argument("--snaplen", type=int, default=SNAPLEN, help="bytes kept per packet (default: %(default)s)")
    parser.add_argument("--keep-raw", action="store_true", help="keep tcpdump's own pcap files")
    parser.add_argument("--replace", action="store_true", help="put the new run in the place of an older one")
    options = parser.parse_args(arguments)
    if not 128 <= options.snaplen <= 262144:
        parser.error("--snaplen takes 128..262144: less would cut markers off")
    if options.replace and options.out.exists() and not (options.out / "run.toml").is_file():
        parser.error(f"{options.out} holds no run (no run.toml): it is not replaced")
    target = options.out.with_name(f".{options.out.name}.{os.getpid()}") if options.replace else options.out
    try:
        need_root("recording")
        need_tools(TOOLS)
        with interruptible():
            figures = make_fixture(
                target, options.name, seed=options.seed, snaplen=options.snaplen, keep_raw=options.keep_raw
            )
            if options.replace:
                shutil.rmtree(options.out, ignore_errors=True)
                target.rename(options.out)
    except LabError as error:
        print(f"make_fixture: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(
            f"make_fixture: interrupted ({error}); the lab is down, {record.what_is_left(target)}",
            file=sys.stderr,
        )
        return 130
    print(f"make_fixture: everything agrees: {figures}", file=sys.stderr)
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
