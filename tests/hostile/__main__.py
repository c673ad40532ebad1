"""`make hostile`: every attack in full, a line each with the counts; exit code 1 unless all of them were held."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.hostile.catalogue import areas


def main() -> int:
    """Run the attacks that were named (area or attack), or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="areas or attacks; default: all")
    parser.add_argument("--fast", action="store_true", help="as many attempts as `make test` makes")
    parser.add_argument("--list", action="store_true", help="say what each attack does, and try none")
    chosen = parser.parse_args()
    known = areas()
    everything = {*known, *(attack.name for attacks in known.values() for attack in attacks)}
    unknown = set(chosen.names) - everything
    if unknown:
        parser.error(
            f"no such area or attack: {', '.join(sorted(unknown))}; there are: {', '.join(sorted(everything))}"
        )
    tried = held = skipped = 0
    for area, attacks in known.items():
        for attack in attacks:
            if chosen.names and area not in chosen.names and attack.name not in chosen.names:
                continue
            if chosen.list:
                print(f"{area}: {attack.name}: {attack.sentence}")
                continue
            if attack.lab and os.geteuid() != 0:
                print(f"{area:<12} {attack.name:<34} skipped: needs root", flush=True)
                skipped += 1
                continue
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="pktrace-hostile-") as folder:
                outcome = attack.run(Path(folder), attack.fast if chosen.fast else attack.full)
            tried, held = tried + outcome.tried, held + outcome.held
            counts = f"{outcome.held:>4} of {outcome.tried:>4} held"
            print(f"{area:<12} {attack.name:<34} {counts}  {time.monotonic() - begun:7.1f} s", flush=True)
            for sentence in outcome.broken[:5]:
                print(f"    NOT HELD {sentence}", flush=True)
    if not chosen.list:
        print(f"{held} of {tried} attempts held" + (f"; {skipped} attacks skipped" if skipped else ""))
    return 0 if held == tried else 1


if __name__ == "__main__":
    sys.exit(main())
