"""`make fuzz`: all cuts and flips of the small captures, then targets guided by coverage (atheris, libFuzzer).

    python -m tests.fuzz.run                      everything; FUZZ_SECONDS (60) for each target
    python -m tests.fuzz.run sweep                every cut and every flipped byte, with a check of every index
    python -m tests.fuzz.run NAME uncompiled      one target; libFuzzer sees the branches of the kernels
    python -m tests.fuzz.run NAME compiled        the same, compiled, with a check of every index: what was found
                                                  before is read again, and then many more, without guidance

What fails is left in build/fuzz/NAME/: a file that `python -m tests.fuzz.run NAME uncompiled FILE` reads again.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BUILD = ROOT / "build" / "fuzz"
BUILDS = {"uncompiled": "NUMBA_DISABLE_JIT", "compiled": "NUMBA_BOUNDSCHECK"}
# The names of the targets; those of test_properties.py take the bytes as choices of their strategies.
PROPERTIES = (
    "nearly_valid_blocks",
    "nearly_valid_records",
    "damaged_compressed_streams",
    "the_stream_holds_the_same_table",
)
TARGETS = ("file", "packet", "a_row_depends_on_the_bytes_of_its_packet_only", *PROPERTIES)


def _seconds() -> int:
    return int(os.environ.get("FUZZ_SECONDS", "60"))


def _environment(build: str, folder: Path) -> dict[str, str]:
    """numba's cache does not tell kernels with checks from those without: they have a cache of their own."""
    return {
        **os.environ, BUILDS[build]: "1", "NUMBA_CACHE_DIR": str(folder / "kernels"),
        "PKTRACE_FUZZ_EVERYTHING": "1",
    }  # fmt: skip


def everything() -> int:
    """The sweep and all targets, each in a process of its own; the number of those that failed."""
    BUILD.mkdir(parents=True, exist_ok=True)
    failed = []
    for step in (["sweep"], *([target, build] for build in BUILDS for target in TARGETS)):
        print(f"== {' '.join(step)}", flush=True)
        build = step[1] if len(step) > 1 else "compiled"
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.run", *step], cwd=ROOT, env=_environment(build, BUILD), check=False
        )
        if done.returncode:
            failed.append(" ".join(step))
    print(f"Failed: {', '.join(failed)}" if failed else "Nothing failed.")
    return len(failed)


def sweep() -> int:
    """Every cut and flipped bytes everywhere in every small capture, every value of every byte of every packet."""
    from tests.fuzz.damage import complaints_about_cuts, complaints_about_flips, flips, sample
    from tests.fuzz.outcome import Reader
    from tests.fuzz.surroundings import complaint_about_surroundings, every_change
    from tests.kit.small_captures import CAPTURES, GROUPS

    reader = Reader()
    cases, packets, faults, began = 0, 0, 0, time.monotonic()
    for name in CAPTURES:
        content = CAPTURES[name]
        lengths = sample(name, len(content) + 1, len(content) + 1)
        damages = flips(name, len(content), 4 * len(content))
        complaints = complaints_about_cuts(reader, content, lengths)
        complaints += complaints_about_flips(reader, content, damages)
        cases += len(lengths) + len(damages)
        faults += len(complaints)
        for complaint in complaints[:10]:
            print(f"{name}: {complaint}", flush=True)
        if len(complaints) > 10:
            print(f"{name}: and {len(complaints) - 10} more")
    for name in GROUPS:
        for packet in GROUPS[name]():
            variants = every_change(packet.data, range(1, 256))
            complaint = complaint_about_surroundings(reader, packet.linktype, variants, len(packet.data))
            packets += len(variants)
            faults += complaint is not None
            if complaint:
                print(f"{name}: {complaint}", flush=True)
    print(f"{packets} packets and {cases} files in {time.monotonic() - began:.0f} s, {faults} faults")
    return min(faults, 1)


def _seeds(target: str) -> Iterator[bytes]:
    """Contents to begin with."""
    from tests.fuzz.frames import LINK_TYPES
    from tests.kit.small_captures import CAPTURES, GROUPS

    if target == "file":
        yield from CAPTURES.values()
    elif target != "packet":
        # Choices for the strategies: short ones end before a file is complete.
        yield from (random.Random(number).randbytes(256 << number % 5) for number in range(40))
    else:
        for samples in GROUPS.values():
            for sample in samples():
                if sample.linktype in LINK_TYPES:
                    yield bytes([LINK_TYPES.index(sample.linktype)]) + sample.data


def _target(name: str) -> Callable[[bytes], object]:
    from tests.fuzz import test_properties as properties
    from tests.fuzz.frames import LINK_TYPES
    from tests.fuzz.outcome import Reader

    if name == "file":
        return Reader().read
    if name == "packet":
        reader = Reader()

        def packet(data: bytes) -> None:
            if data:
                reader.read(properties.one_packet(LINK_TYPES[data[0] % len(LINK_TYPES)], data[1:]))

        return packet
    of_bytes: Callable[[bytes], object] = getattr(properties, f"test_{name}").hypothesis.fuzz_one_input
    return of_bytes


def fuzz(name: str, build: str, files: list[str]) -> None:
    """One target, for FUZZ_SECONDS; does not return."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is missing: pip install -e '.[dev,fuzz]' (Python 3.11 to 3.13)")
    if build == "uncompiled":  # numba cannot compile instrumented functions
        with atheris.instrument_imports(include=["pktrace"]):
            import pktrace.observations.table  # noqa: F401
    folder = BUILD / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(_seeds(name)):
        (corpus / f"seed-{number:04}").write_bytes(seed)
    target = _target(name)
    target(b"")  # compiles the kernels, which the time bound of a single case does not cover
    options = [
        f"-max_total_time={_seconds()}", "-max_len=4096", "-len_control=0", "-timeout=20", "-rss_limit_mb=4096",
        f"-artifact_prefix={folder}/", "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    known = [file.read_bytes() for file in sorted(corpus.iterdir())]

    def from_corpus(_data: bytes, most: int, seed: int) -> bytes:
        """Without coverage libFuzzer keeps no input to go on from, so each begins with one that is known."""
        data = known[seed % len(known)][:most]
        for _ in range(1 + seed // len(known) % 4):
            data = atheris.Mutate(data, most)
        return data

    chosen = {"custom_mutator": from_corpus} if build == "compiled" else {}
    atheris.Setup([sys.argv[0], *options, *(files or [str(corpus)])], target, **chosen)
    atheris.Fuzz()


def main() -> None:
    """As the module says."""
    if len(sys.argv) == 1:
        sys.exit(min(everything(), 1))
    if sys.argv[1] == "sweep":
        sys.exit(sweep())
    build = sys.argv[2]
    if os.environ.get(BUILDS[build]) != "1":  # numba reads it at import
        environment = _environment(build, BUILD)
        sys.exit(
            subprocess.run(
                [sys.executable, "-m", "tests.fuzz.run", *sys.argv[1:]], env=environment, check=False
            ).returncode
        )
    fuzz(sys.argv[1], build, sys.argv[3:])


if __name__ == "__main__":
    main()
