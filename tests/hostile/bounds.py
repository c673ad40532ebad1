"""Files that claim much, and machines that have little: work and memory stay in proportion to what is there."""

from __future__ import annotations

import resource
import struct
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from pathlib import Path

import pyarrow as pa

from tests.bench.memory import SHAPES, Shape, write_run
from tests.fuzz.hostile_files import EPB, IDB, SHB
from tests.hostile.attack import Attack
from tests.kit.measured import MEBIBYTE, Measured, limited, measured, small_container
from tests.kit.packets import ipv4, udp
from tests.kit.pcap_files import Interface, Record, block, interface_block, option, packet_block, pcap_bytes

GIB = 1 << 30
# The interpreter, its libraries and compiled kernels take some 200 MiB; compiling these takes 60 more.
_PROGRAM = 320 * MEBIBYTE
_PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
_SKIPPED = struct.pack("<II", 0x0BAD_CAFE, 0xFFFF_FFFC)
_NOT_KILLED = (0, 2, 3)
_STATISTICS = block(5, bytes(12) + option(4, bytes(8)))


def _packed(path: Path, pieces: Iterable[bytes]) -> Path:
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as stream:
        for piece in pieces:
            stream.write(piece)
    return path


def _written(path: Path, *pieces: bytes) -> Path:
    path.write_bytes(b"".join(pieces))
    return path


def _held(
    done: Measured, codes: tuple[int, ...], said: str = "", peak: int = _PROGRAM, seconds: float = 30
) -> str | None:
    """None if the command ended so, said so, and took no more than that."""
    if done.code not in codes or said not in done.output or "Traceback" in done.output:
        return f"wanted exit {codes} and {said!r}; {done}"
    if done.peak > peak:
        return f"took more than {peak // MEBIBYTE} MiB; {done}"
    if done.seconds > seconds:
        return f"took more than {seconds} s; {done}"
    return None


def _observed(folder: Path, file: Path, *options: object) -> Measured:
    return measured(["observe", file, "-o", folder / "out.parquet", *options])


def _run_of(folder: Path, captures: dict[str, list[Path]], interface: dict[str, str] | None = None) -> Path:
    """A run.toml for captures in a folder."""
    lines = ["schema = 1", 'name = "bounds"']
    for point, files in captures.items():
        names = ", ".join(f'"{file.relative_to(folder)}"' for file in files)
        lines += ["[[point]]", f'name = "{point}"', f"captures = [{names}]", 'clock = "one"']
        if interface and point in interface:
            lines.append(f'interface = "{interface[point]}"')
    points = ", ".join(f'"{point}"' for point in captures)
    lines += ["[[path]]", 'name = "there"', f"points = [{points}]"]
    (folder / "run.toml").write_text("\n".join(lines) + "\n")
    return folder


def _packet_bomb(folder: Path, number: int) -> str | None:
    """1 GiB of zeros behind a pcap header: 67 million empty packets."""
    (folder / "captures").mkdir()
    bomb = _packed(folder / "captures" / "bomb.pcap", chain([_PCAP], repeat(bytes(MEBIBYTE), 1024)))
    limit = "packets in 32 KiB: reading stops there"
    if number % 2 == 0:
        return _held(_observed(folder, bomb), (2,), limit)
    run = _run_of(folder, {"a": [bomb]})
    # 4 million empty packets are kept until it stops.
    return _held(measured(["analyze", run, "--no-plots"]), (2,), limit, _PROGRAM + 4_200_000 * 168)


def _byte_bomb(folder: Path, number: int) -> str | None:
    """A block of 4 GiB without packets."""
    bomb = _packed(folder / "bomb.pcapng", chain([SHB, IDB, _SKIPPED], repeat(bytes(MEBIBYTE), 4095)))
    return _held(_observed(folder, bomb), (2,), "--max-bytes")


def _raised(folder: Path, number: int) -> str | None:
    """What the caller accepts is read: 40 million packets in a bomb would be, 5 million are."""
    bomb = _packed(folder / "bomb.pcap", chain([_PCAP], repeat(bytes(MEBIBYTE), 80)))
    done = _observed(folder, bomb, "--max-packets", "6M")
    return _held(done, (0,), "5,242,880 packets")


def _thousand_bombs(folder: Path, number: int) -> str | None:
    """Each file holds what one may hold: 4 million empty packets in 2 kB; all together are too many."""
    one = _packed(folder / "0.pcap", chain([_PCAP], repeat(bytes(MEBIBYTE), 60)))
    content = one.read_bytes()
    files = [_written(folder / f"{number}.pcap", content) for number in range(1000)]
    done = measured(["init", *files])
    return _held(done, (2,), "limit for all files of a call", 2 * _PROGRAM, 200)


def _zstd_frame(window_log: int, content: bytes) -> bytes:
    block_head = struct.pack("<I", len(content) << 3 | 1)[:3]
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3]) + block_head + content


def _wide_window(folder: Path, number: int) -> str | None:
    """zstd frames that ask for 256 MiB to 2 TiB: at once, behind skippable frames, or behind a good frame."""
    good, capture = bytes(pa.compress(SHB + IDB + EPB, codec="zstd", asbytes=True)), SHB + IDB + EPB
    single = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 41)
    forms = (
        _zstd_frame(28, capture),
        _zstd_frame(31, capture),
        _zstd_frame(41, capture),
        (b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip") * 3 + _zstd_frame(31, capture),
        good + _zstd_frame(31, EPB),
        single + struct.pack("<I", len(capture) << 3 | 1)[:3] + capture,
    )
    file = _written(folder / "wide.zst", forms[number % len(forms)])
    return _held(_observed(folder, file), (2,), "zstd -d --long=31")


def _skippable(folder: Path, number: int) -> str | None:
    """A million skippable zstd frames, or one that claims 4 GB."""
    good = bytes(pa.compress(SHB + IDB + EPB, codec="zstd", asbytes=True))
    empty = b"\x50\x2a\x4d\x18" + bytes(4)
    if number % 2:
        return _held(_observed(folder, _written(folder / "f", b"\x50\x2a\x4d\x18\xff\xff\xff\xff")), (2,), "no capture")
    return _held(_observed(folder, _written(folder / "f", empty * 1_000_000, good)), (0,), "1 packet")


def _blocks(one: bytes, count: int, head: bytes, tail: bytes) -> bytes:
    return head + one * count + tail


_FLOODS: tuple[tuple[str, Callable[[], bytes], tuple[int, ...], str], ...] = (
    ("statistics", lambda: _blocks(_STATISTICS, 1_000_000, SHB + IDB, EPB), (0,), "1 packet"),
    ("empty statistics", lambda: _blocks(block(5, bytes(12)), 2_000_000, SHB + IDB, EPB), (0,), "1 packet"),
    ("sections", lambda: _blocks(SHB, 1_000_000, b"", IDB + EPB), (0,), "1 packet"),
    ("names", lambda: _blocks(block(4, bytes(4)), 2_000_000, SHB + IDB, EPB), (0,), "1 packet"),
    ("interfaces", lambda: _blocks(IDB, 1_000_000, SHB, EPB), (2,), "describes more than 131,072 interfaces"),
    ("sections with interfaces", lambda: _blocks(SHB + IDB, 1_000_000, b"", EPB), (2,), "131,072 interfaces"),
)  # fmt: skip


def _blocks_without_packets(folder: Path, number: int) -> str | None:
    """A million blocks that hold no packets."""
    _, content, codes, said = _FLOODS[number % len(_FLOODS)]
    return _held(_observed(folder, _written(folder / "flood.pcapng", content())), codes, said, 2 * _PROGRAM, 20)


def _link_types(folder: Path, number: int) -> str | None:
    """An interface of each link type, with a packet each: the ledger names the most frequent, and no 65,000."""
    interfaces = b"".join(interface_block(Interface(linktype=kind)) for kind in range(1000, 61_000))
    packets = b"".join(packet_block(Record(10**18, bytes(60), interface=n), Interface()) for n in range(60_000))
    done = _observed(folder, _written(folder / "kinds.pcapng", SHB, interfaces, packets))
    if len(done.output) > 10_000:
        return f"said {len(done.output):,} letters"
    return _held(done, (0,), "further link types")


def _long_names(folder: Path, number: int) -> str | None:
    """A thousand interfaces with names of 60 kB: an error that lists them stays a line of some size."""
    head = struct.pack("<HHI", 1, 0, 0)
    names = b"".join(block(1, head + option(2, f"{n:04}".encode() + b"n" * 60_000)) for n in range(1000))
    (folder / "captures").mkdir()
    file = _written(folder / "captures" / "a.pcapng", SHB, names, EPB)
    done = measured(["analyze", _run_of(folder, {"a": [file]}, {"a": "eth0"})])
    if len(done.output) > 5000:
        return f"said {len(done.output):,} letters"
    return _held(done, (2,), "has no interface 'eth0'")


def _points_of_one_file(folder: Path, number: int) -> str | None:
    """100,000 interfaces with statistics, all different, in one file of fifty points."""
    (folder / "captures").mkdir()
    interfaces = b"".join(interface_block(Interface(name=f"if{n}")) for n in range(100_000))
    said = b"".join(block(5, struct.pack("<III", n, 0, 0) + option(4, struct.pack("<Q", n))) for n in range(100_000))
    file = _written(folder / "captures" / "all.pcapng", SHB, interfaces, EPB, said)
    points = {f"p{n}": [file] for n in range(50)}
    run = _run_of(folder, points, {f"p{n}": f"if{2000 * n}" for n in range(50)})
    return _held(measured(["analyze", run, "--no-plots"]), _NOT_KILLED, "", 2 * _PROGRAM)


def _sparse(folder: Path, number: int) -> str | None:
    """A thousand files of 1 TiB each, all holes, in a run or for `observe`."""
    (folder / "captures").mkdir()
    files = []
    for n in range(1000):
        files.append(_written(folder / "captures" / f"{n:04}.pcap", _PCAP))
        with open(files[-1], "r+b") as file:
            file.truncate(1 << 40)
    if number % 2:
        done = measured(["observe", *files, "-o", folder / "out.parquet"], timeout=120)
    else:
        done = measured(["analyze", _run_of(folder, {"a": files}), "--no-plots"], timeout=120)
    return _held(done, (2,), "claims 1 TiB and takes")


def _thousand_files(folder: Path, number: int) -> str | None:
    """A thousand good files, with 64 descriptors for all."""
    (folder / "captures").mkdir()
    files = []
    for n in range(1000):
        frame = bytes(12) + b"\x08\x00" + ipv4("10.0.0.1", "10.0.0.2", 17, udp("10.0.0.1", "10.0.0.2", n + 1, 53))
        files.append(_written(folder / "captures" / f"{n:04}.pcap", pcap_bytes([Record(10**18 + n, frame)])))
    few = limited(resource.RLIMIT_NOFILE, 64)
    if number % 2:
        done = measured(["observe", *files, "-o", folder / "out.parquet"], few)
        return _held(done, (0,), "1,000 packets of 1,000 files")
    run = _run_of(folder, {"a": files})
    return _held(measured(["analyze", run, "--no-plots"], few), (0,), "1,000 observations")


def _times(folder: Path, number: int) -> str | None:
    """Packets at both ends of time: what is made by time (windows, silences, plots) does not grow with their span."""
    (folder / "captures").mkdir()
    frame = bytes(12) + b"\x08\x00" + ipv4("10.0.0.1", "10.0.0.2", 17, udp("10.0.0.1", "10.0.0.2", 7, 53))
    eth = Interface(name="e")
    ticks = (0, 1, 1 << 32, (1 << 62) - 1, (1 << 63) - 1, 10**18, 9_000_000_000_000_000_000, 10**18 + 1)
    blocks = [packet_block(Record(tick, frame), eth) for tick in ticks]
    early = block(1, struct.pack("<HHI", 1, 0, 0) + option(9, b"\x09") + option(14, struct.pack("<q", -4_600_000_000)))
    files = [
        _written(folder / "captures" / "a.pcapng", SHB, interface_block(eth), *blocks),
        _written(folder / "captures" / "b.pcapng", SHB, early, *blocks),
    ]
    run = _run_of(folder, {"a": [files[0]], "b": [files[1]]})
    commands = (["analyze", run], ["check", run], ["init", *files], ["latency", run], ["losses", run])
    return _held(measured(list(commands[number % len(commands)])), _NOT_KILLED)


def _tunnels(folder: Path, number: int) -> str | None:
    """40,000 packets, each in seven IP headers of its own."""
    (folder / "captures").mkdir()
    records = []
    for n in range(40_000):
        inner = ipv4("10.0.0.1", "10.0.0.2", 17, udp("10.0.0.1", "10.0.0.2", 7, 53))
        for depth in range(7):
            inner = ipv4(f"10.{depth}.{n >> 8}.{n & 255}", "10.0.0.9", 4, inner)
        records.append(Record(10**18 + n, bytes(12) + b"\x08\x00" + inner))
    file = _written(folder / "captures" / "a.pcap", pcap_bytes(records))
    return _held(measured(["analyze", _run_of(folder, {"a": [file]}), "--no-plots"]), _NOT_KILLED, "", 2 * _PROGRAM)


def _survived(done: Measured, folder: Path, results: Path | None) -> str | None:
    """None where there are results, or a sentence that names the memory there is and needed, and no rest of a file."""
    partial = [path.name for path in folder.rglob("*.partial")] + [path.name for path in folder.rglob(".*.partial")]
    if partial:
        return f"left {partial}; {done}"
    if done.code == 0:
        return None if results is None or results.exists() else f"no results; {done}"
    if done.code == 2 and "not enough memory" in done.output and "editcap" in done.output:
        return None
    return f"ended without a word; {done}"


# Limits in MiB and numbers of observations; the shapes differ in what following and writing take.
_SMALL = tuple(
    (limit, count, shape)
    for count, shape in (
        (4_000_000, "plain"), (1_000_000, "rewritten"), (1_000_000, "two points"), (500_000, "a flow per packet"),
    )
    for limit in (1024, 256, 384, 512, 768, 1536, 2048)
)  # fmt: skip
_made: dict[tuple[int, str], Path] = {}


def _analyze_in_container(folder: Path, number: int) -> str | None:
    """`analyze` in a cgroup of 256 MiB to 2 GiB."""
    limit, count, shape = _SMALL[number % len(_SMALL)]
    write_run(folder / "run", count, SHAPES[shape])
    with small_container(limit * MEBIBYTE) as join:
        if join is None:
            join = limited(resource.RLIMIT_DATA, limit * MEBIBYTE)
        done = measured(["analyze", folder / "run"], join)
    found = _survived(done, folder, folder / "run" / "results" / "summary.json")
    return None if found is None else f"{count:,} observations ({shape}) in {limit} MiB: {found}"


def _rlimit(folder: Path, number: int) -> str | None:
    """`analyze` under `ulimit -v` or `ulimit -d`, and a little more of it each time."""
    kind = (resource.RLIMIT_AS, resource.RLIMIT_DATA)[number % 2]
    limit = (768 + 256 * (number // 2)) * MEBIBYTE
    write_run(folder / "run", 400_000, Shape())
    done = measured(["analyze", folder / "run", "--no-plots"], limited(kind, limit))
    found = _survived(done, folder, folder / "run" / "results" / "summary.json")
    return None if found is None else f"{'AS' if kind == resource.RLIMIT_AS else 'DATA'} {limit // MEBIBYTE}: {found}"


def _observe_in_container(folder: Path, number: int) -> str | None:
    """`observe` works in a cgroup of 256 to 512 MiB, whatever the size of the file."""
    write_run(folder / "run", 1_500_000, Shape(points=1))
    file = folder / "run" / "captures" / "point0.pcap"
    limit = (256, 320, 512)[number % 3]
    with small_container(limit * MEBIBYTE) as join:
        done = measured(["observe", file, "-o", folder / "out.parquet"], join)
    return _held(done, (0,), "1,500,000 packets", _PROGRAM, 60)


def _said_beforehand(folder: Path, number: int) -> str | None:
    """What an analysis would need is said while the captures are read, and by how much."""
    write_run(folder / "run", 400_000, Shape())
    done = measured(["analyze", folder / "run", "--max-memory", "150M"])
    return _held(done, (2,), "packets (", _PROGRAM)


ATTACKS: tuple[Attack, ...] = (
    Attack("packet-bomb", "33 kB of zstd that hold 67 million empty packets.", _packet_bomb, 1, 2),
    Attack("byte-bomb", "130 kB of zstd that hold 4 GiB without packets.", _byte_bomb, 0, 1),
    Attack("limit-raised", "A limit that the caller raises holds no more.", _raised, 0, 1),
    Attack("a-thousand-bombs", "A thousand files, each as full as one may be.", _thousand_bombs, 0, 1),
    Attack("zstd-window", "zstd frames that ask their reader to keep 256 MiB to 2 TiB.", _wide_window, 6, 6),
    Attack("zstd-skippable", "A million skippable frames, or one that claims 4 GB.", _skippable, 1, 2),
    Attack("blocks-without-packets", "Millions of statistics, sections, interfaces.", _blocks_without_packets, 2, 6),
    Attack("link-types", "60,000 link types in one file.", _link_types, 1, 1),
    Attack("long-names", "A thousand interfaces with names of 60 kB.", _long_names, 1, 1),
    Attack("points-of-one-file", "100,000 interfaces with statistics, fifty points.", _points_of_one_file, 0, 1),
    Attack("sparse-files", "A thousand files of 1 TiB, all holes.", _sparse, 1, 2),
    Attack("a-thousand-files", "A thousand captures with 64 descriptors.", _thousand_files, 1, 2),
    Attack("times", "Packets at both ends of time.", _times, 1, 5),
    Attack("tunnels-in-tunnels", "40,000 packets, each in seven IP headers of its own.", _tunnels, 0, 1),
    Attack("said-beforehand", "Captures that do not fit the memory that the caller allows.", _said_beforehand, 1, 1),
    Attack("small-ulimit", "400,000 observations under ulimit -v and -d.", _rlimit, 0, 12),
    Attack("small-container", "Up to 4 million observations in 256 MiB to 2 GiB.", _analyze_in_container, 1,
           len(_SMALL), lab=True),
    Attack("observe-in-a-small-container", "1.5 M packets in 256 to 512 MiB.", _observe_in_container, 1, 3, lab=True),
)  # fmt: skip
