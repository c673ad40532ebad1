"""How fast captures become rows, beside what Wireshark's tools and `cat` need for the same file.

    python tests/bench/decoding.py [--packets 2000000] [--rounds 5]

Captures are made in the temporary folder (TMPDIR) and removed afterwards: packets cut to 128 bytes, and whole frames.
All runs on one processor, if not said otherwise, and the files are in the page cache. Every round runs each
measurement once, in turn first, so that a machine that slows down slows all of them. Ratios are taken within a round;
the median over the rounds is what a target is held against. pktrace's kernels are compiled beforehand, and so that is
not counted; what the tools need to start counts, and stands beside them as their time for a capture without packets.
Processor time (CPU s) stands beside wall-clock time: on a machine that does other work it is the fairer figure, but
targets are held against wall-clock time.

Whether targets are met does not change the exit code: a benchmark is no test.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pktrace.capture.files import Batch, CaptureReader
from pktrace.capture.index import FULL
from pktrace.errors import PktraceError
from pktrace.observations.observe import observe_files
from pktrace.observations.stream import RowReader, row_batches
from pktrace.wire import PACKET, SLACK
from tests.bench.traffic import WHOLE, mean_record, write_traffic

CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = ("capinfos", "tshark", "cat", "dd")
TSHARK_PACKETS = 100_000
CHUNK, BATCH_PACKETS = 1 << 20, 8192  # as the reader has them
STEP = 128  # of the bytes that the read methods look at
OUTPUT_RECORD = 120  # bytes per packet that observations.parquet takes, at most

# What tshark prints for the columns of our table.
FIELDS = (
    *("frame.number", "frame.time_epoch", "frame.cap_len", "frame.len", "frame.interface_name", "vlan.id"),
    *(
        "ip.version",
        "ip.proto",
        "ip.src",
        "ip.dst",
        "ip.id",
        "ip.ttl",
        "ip.dsfield.dscp",
        "ip.frag_offset",
        "ip.flags.mf",
    ),
    *("ipv6.version", "ipv6.nxt", "ipv6.src", "ipv6.dst", "ipv6.hlim", "ipv6.tclass.dscp"),
    *("tcp.srcport", "tcp.dstport", "tcp.seq_raw", "tcp.ack_raw", "tcp.flags", "tcp.len"),
    *("udp.srcport", "udp.dstport", "udp.length", "icmp.type", "icmp.code", "icmp.ident", "icmp.seq"),
    *("icmpv6.type", "icmpv6.code", "icmpv6.echo.identifier", "icmpv6.echo.sequence_number"),
)

ROWS = "pktrace, rows in batches"
KEPT = "pktrace, all rows in memory"
COMMAND = "pktrace observe FILE -o OUT"
COMMAND_FREE = "the same on all processors"
EMPTY_COMMAND = "pktrace observe EMPTY -o OUT"
CAPINFOS = "capinfos -c FILE"
TSHARK = "tshark -r FILE -n -T fields"
CAT = "cat FILE > /dev/null"
DD = "dd if=FILE of=/dev/null bs=1M"
READ = f"read in pieces of {CHUNK >> 20} MB"
MAPPED = "np.memmap, the same bytes"
MAPPED_ROWS = "pktrace, rows over np.memmap"
EMPTY_CAPINFOS = "capinfos -c EMPTY"
EMPTY_TSHARK = "tshark -r EMPTY"

Times = dict[str, list[float]]


@dataclass(frozen=True)
class Target:
    """What one ratio or rate should be: `value` takes the seconds of a round, by measurement."""

    what: str
    wanted: float
    value: Callable[[dict[str, float]], float]
    at_most: bool = False

    def line(self, wall: Times, processor: Times) -> str:
        values = by_round(self.value, wall)
        found = statistics.median(values)
        met = found <= self.wanted if self.at_most else found >= self.wanted
        bound = f"{'at most' if self.at_most else 'at least'} {self.wanted:g}"
        spread = f"{found:7.2f} ({min(values):.2f} to {max(values):.2f})"
        undisturbed = statistics.median(by_round(self.value, processor))
        return f"  {self.what:54} {bound:>12} {spread:>26} {undisturbed:9.2f}  {'met' if met else 'not met'}"


def by_round(value: Callable[[dict[str, float]], float], times: Times) -> list[float]:
    rounds = len(next(iter(times.values())))
    return [value({name: seconds[number] for name, seconds in times.items()}) for number in range(rounds)]


@dataclass(frozen=True)
class Case:
    """One capture file to measure with."""

    title: str
    packets: int
    snaplen: int
    pcap: bool = False
    with_tshark: bool = False
    targets: tuple[Target, ...] = field(default=())


def cases(packets: int) -> tuple[Case, ...]:
    faster_than_capinfos = "times as fast as capinfos -c"
    cut = (
        Target(
            "million packets a second, rows in batches on one core", 8, lambda seconds: packets / seconds[ROWS] / 1e6
        ),
        Target(faster_than_capinfos, 2, lambda seconds: seconds[CAPINFOS] / seconds[ROWS]),
        Target("times as fast as tshark (scaled)", 200, lambda seconds: seconds[TSHARK] / seconds[ROWS]),
    )
    whole = (
        Target(faster_than_capinfos, 1.5, lambda seconds: seconds[CAPINFOS] / seconds[ROWS]),
        Target("times the time that cat needs", 4, lambda seconds: seconds[ROWS] / seconds[CAT], at_most=True),
    )
    return (
        Case("packets cut to 128 bytes, pcapng", packets, 128, with_tshark=True, targets=cut),
        Case("whole frames, pcapng", packets, WHOLE, targets=whole),
        Case("whole frames, pcap (for information)", packets, WHOLE, pcap=True),
    )


def seconds_of(work: Callable[[], None]) -> tuple[float, float]:
    """Wall-clock time, and processor time with that of child processes."""
    begin, processor = time.perf_counter(), processor_seconds()
    work()
    return time.perf_counter() - begin, processor_seconds() - processor


def processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def run(command: list[str], processors: set[int] | None = None) -> None:
    """Run one process, which must succeed, on these processors if any are named; what it prints goes nowhere."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=CHECKOUT,
        check=False,
        preexec_fn=(lambda: os.sched_setaffinity(0, processors)) if processors else None,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise SystemExit(f"{' '.join(command[:3])} ... failed with exit code {done.returncode}: {said}")


def expect(found: int, wanted: int) -> None:
    if found != wanted:
        raise SystemExit(f"{found} packets were read instead of {wanted}: this measures nothing")


def count_in_batches(path: Path, packets: int) -> None:
    expect(sum(len(batch.rows) for batch in row_batches(path)), packets)


def count_over_mapping(path: Path, packets: int) -> None:
    """The same kernels on batches of the same size, over a mapping of the file instead of a buffer that is read into.

    The last bytes are left out, since kernels may read a few bytes behind a packet: so the last packets may be missing.
    """
    reader = RowReader(path, str(path))
    reader.capture.batches = lambda: mapped_batches(reader.capture, path)
    found = sum(len(batch.rows) for batch in reader.batches())
    expect(found, max(found, packets - 1))


def mapped_batches(capture: CaptureReader, path: Path) -> Iterator[Batch]:
    # Copy on write: kernels are compiled for arrays that can be written.
    mapped = np.asarray(np.memmap(path, np.uint8, "c"))
    size = len(mapped) - SLACK
    walker = capture._walker
    packets = np.empty(BATCH_PACKETS, PACKET)
    for end in range(CHUNK, size + CHUNK, CHUNK):
        stopped = FULL
        while stopped == FULL:
            count, stopped = walker.walk(mapped, min(end, size), packets)
            if count:
                yield Batch(mapped, 0, packets[:count])


def keep_all(path: Path, packets: int) -> None:
    expect(len(observe_files([str(path)]).rows), packets)


def read_in_pieces(path: Path) -> None:
    """Read all, and look at each STEPth byte."""
    piece = np.empty(CHUNK, np.uint8)
    total = 0
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(piece.data):
            total += int(piece[:size:STEP].sum())


def read_mapped(path: Path) -> None:
    """The same bytes through a mapping of the file."""
    int(np.memmap(path, np.uint8, "r")[::STEP].sum())


def tshark(path: Path) -> list[str]:
    fields = [word for name in FIELDS for word in ("-e", name)]
    return ["tshark", "-r", str(path), "-n", "-c", str(TSHARK_PACKETS), "-T", "fields", *fields]


def observe(path: Path) -> list[str]:
    return [sys.executable, "-m", "pktrace", "observe", str(path), "-o", str(path.with_name("observations.parquet"))]


def measurements(case: Case, path: Path, empty: Path, processors: set[int]) -> dict[str, Callable[[], None]]:
    """What is measured with a file, by name."""
    known: dict[str, Callable[[], None]] = {
        ROWS: lambda: count_in_batches(path, case.packets),
        MAPPED_ROWS: lambda: count_over_mapping(path, case.packets),
        KEPT: lambda: keep_all(path, case.packets),
        COMMAND: lambda: run(observe(path)),
        COMMAND_FREE: lambda: run(observe(path), processors),
        EMPTY_COMMAND: lambda: run(observe(empty)),
        CAPINFOS: lambda: run(["capinfos", "-c", str(path)]),
        EMPTY_CAPINFOS: lambda: run(["capinfos", "-c", str(empty)]),
    }
    if case.with_tshark:
        known |= {TSHARK: lambda: run(tshark(path)), EMPTY_TSHARK: lambda: run(tshark(empty))}
    return known | {
        CAT: lambda: run(["cat", str(path)]),
        DD: lambda: run(["dd", f"if={path}", "of=/dev/null", "bs=1M"]),
        READ: lambda: read_in_pieces(path),
        MAPPED: lambda: read_mapped(path),
    }


def measure(known: dict[str, Callable[[], None]], rounds: int) -> tuple[Times, Times]:
    """Seconds of each measurement in each round: wall-clock and processor time."""
    wall: Times = {name: [] for name in known}
    processor: Times = {name: [] for name in known}
    names = list(known)
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds, used = seconds_of(known[name])
            wall[name].append(seconds)
            processor[name].append(used)
    return wall, processor


def scale_tshark(times: Times, packets: int) -> None:
    """From TSHARK_PACKETS to all packets, apart from the start, which is needed once."""
    if TSHARK in times:
        factor = max(1, packets / TSHARK_PACKETS)
        pairs = zip(times[TSHARK], times[EMPTY_TSHARK], strict=True)
        times[TSHARK] = [start + (all_ - start) * factor for all_, start in pairs]


def show(case: Case, size: int, wall: Times, processor: Times) -> None:
    print(f"\n{case.packets:,} {case.title}: {size / 1e6:,.0f} MB")
    print(f"  {'':30} {'s, min':>8} {'median':>8} {'max':>8} {'CPU s':>8} {'M packets/s':>12} {'MB/s':>8}")
    for name, seconds in wall.items():
        median = statistics.median(seconds)
        line = f"  {name:30} {min(seconds):8.3f} {median:8.3f} {max(seconds):8.3f}"
        line += f" {statistics.median(processor[name]):8.3f}"
        if "EMPTY" not in name:
            line += f" {case.packets / median / 1e6:12.3f} {size / median / 1e6:8.0f}"
        print(line)
    if TSHARK in wall and case.packets > TSHARK_PACKETS:
        print(f"  tshark read the first {TSHARK_PACKETS:,} packets; its time, without the start, is scaled to all.")
    if statistics.median(wall[ROWS]) > 1.2 * statistics.median(processor[ROWS]):
        print("  Others used this processor too: wall-clock times are longer than they would be alone.")
    if case.targets:
        print(f"  {'target':54} {'wanted':>12} {'found, median of rounds':>26} {'by CPU s':>9}")
        for target in case.targets:
            print(target.line(wall, processor))
        aside = statistics.median(by_round(lambda s: (s[CAPINFOS] - s[EMPTY_CAPINFOS]) / s[ROWS], wall))
        print(f"  For information: without its start, capinfos -c takes {aside:.2f} times as long as pktrace.")
    sys.stdout.flush()


def on_one_processor() -> tuple[str, set[int]]:
    """Keep this process and all that it starts on one processor; says which, and returns those it could use before."""
    if not hasattr(os, "sched_setaffinity"):
        return "on any processor (this system cannot bind processes to one)", set()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    return f"on one processor (number {max(before)} of {len(before)})", before


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def version(tool: str) -> str:
    return subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]


def check_tools() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise SystemExit(
            f"This compares with {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            "capinfos and tshark are in the package tshark (Debian, Ubuntu) or wireshark-cli (Fedora)."
        )


def check_space(folder: str, every: tuple[Case, ...]) -> None:
    """Room for the largest capture and the table made of it; they are there one after the other."""
    needed = int(max(case.packets * (mean_record(case.snaplen) + OUTPUT_RECORD) for case in every) * 1.05)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise SystemExit(
            f"{folder} has {free / 1e6:,.0f} MB free, and {needed / 1e6:,.0f} MB are needed. Name another folder with "
            "TMPDIR=..., or measure with fewer packets: make bench BENCH_PACKETS=200000"
        )


def bench(every: tuple[Case, ...], rounds: int, processors: set[int]) -> None:
    with tempfile.TemporaryDirectory(prefix="pktrace-bench-") as scratch:
        folder = Path(scratch)
        for case in every:
            ending = "pcap" if case.pcap else "pcapng"
            path, small, empty = (folder / f"{name}.{ending}" for name in ("packets", "small", "empty"))
            write_traffic(empty, 0, case.snaplen, case.pcap)
            write_traffic(small, 1000, case.snaplen, case.pcap)
            size = write_traffic(path, case.packets, case.snaplen, case.pcap)
            # Compiles the kernels where they are not in the cache, and brings the file into the page cache.
            for warm_up in measurements(Case(case.title, 1000, case.snaplen), small, empty, processors).values():
                warm_up()
            run(["cat", str(path)])
            wall, processor = measure(measurements(case, path, empty, processors), rounds)
            for times in (wall, processor):
                scale_tshark(times, case.packets)
            show(case, size, wall, processor)
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--packets", type=int, default=2_000_000, help="per capture (default: 2,000,000)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if options.packets < 1 or options.rounds < 1:
        parser.error("packets and rounds must be at least 1")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the files are removed
    check_tools()
    every = cases(options.packets)
    check_space(tempfile.gettempdir(), every)
    print(f"{processor()}, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    print(f"{version('capinfos')}; {version('tshark')}")
    where, processors = on_one_processor()
    print(
        f"{options.rounds} rounds, {where}; files in the page cache; compilation of pktrace's kernels is not counted."
    )
    try:
        bench(every, options.rounds, processors)
    except PktraceError as problem:
        raise SystemExit(str(problem)) from None
    except OSError as problem:
        raise SystemExit(f"The benchmark could not run: {problem}") from None


if __name__ == "__main__":
    main()
