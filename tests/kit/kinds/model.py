"""A kind of traffic, its recording frame by frame, and the score of an analysis against who sent each frame."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from pktrace.analysis.analysis import Analysis, analyze_run
from pktrace.run.runfile import load_run
from pktrace.schema import FATES
from tests.kit.packets import ETHERTYPE_IPV4, TCP, UDP, ethernet, ipv4, tcp, udp
from tests.kit.pcap_files import Interface, Record, Section, Statistics, pcapng_bytes

START_NS = 1_760_000_000_000_000_000
_TAIL_NS = 3_000_000_000
Frame = bytes | tuple[int, bytes]  # a frame, or how long after the first look it is seen, and the frame
Look = Frame | list[Frame] | None


@dataclass(frozen=True)
class Sent:
    """A packet as each point sees it, in the order of `Kind.points`; `back`: it goes from the last one to the first."""

    looks: Sequence[Look]
    back: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of traffic.

    `sent(number)` gives packet `number`. A packet is sent every `gap_ns`, and takes `stage_ns` and up to `jitter_ns`
    more from point to point. `clock` gives per point what its clock is ahead at a time since the start, in ns;
    `clocks` the names that run.toml gives them. `cut` is the capture length of points; `order` the order of points in
    run.toml. `expected` is "followed", "never lost" (nothing but caution is right), "apart" (frames at different points
    are different packets, and none of them is lost), or "strangers" (no wrong match, and nothing else is asked).
    `missed(point, number)` says that the capture of a point missed a packet; `says` gives per point how it reports
    that: "dropped" in its statistics, or "counted" with the packets behind; else its statistics say 0.
    """

    points: tuple[str, ...]
    sent: Callable[[int], Sent]
    gap_ns: int = 2_000_000
    stage_ns: int = 80_000
    jitter_ns: int = 80_000
    clock: Mapping[str, Callable[[int], int]] = field(default_factory=dict)
    clocks: Mapping[str, str] = field(default_factory=dict)
    paths: Sequence[Mapping[str, Any]] | None = None
    cut: Mapping[str, int] = field(default_factory=dict)
    order: tuple[str, ...] | None = None
    expected: str = "followed"
    may_overtake: bool = True
    missed: Callable[[str, int], bool] | None = None
    says: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """Captures by point; the packet of each frame; the packets that some point saw; whole ones; losses in all."""

    files: dict[str, bytes]
    packet: dict[tuple[str, int], int]
    seen: frozenset[int]
    whole: frozenset[int]
    lost: int


def record(kind: Kind, packets: int, seed: int, loss: float = 0.0, reordered: float = 0.0) -> Recorded:
    """Send packets; each stage loses some, and holds some back for three packets' time."""
    rng = random.Random(seed)
    frames: dict[str, list[tuple[int, int, bytes]]] = {point: [] for point in kind.points}
    seen, whole, lost = set(), set(), 0
    for number in range(packets):
        time = number * kind.gap_ns + rng.randrange(max(1, kind.gap_ns // 4))
        sent = kind.sent(number)
        way = list(zip(kind.points, sent.looks, strict=True))
        gone = False
        for step, (point, look) in enumerate(way[::-1] if sent.back else way):
            if step:
                gone = rng.random() < loss
                if gone:
                    lost += 1
                    break
                time += kind.stage_ns + rng.randrange(max(1, kind.jitter_ns))
                time += 3 * kind.gap_ns if rng.random() < reordered else 0
            if look is None:
                continue
            for again, frame in enumerate(look if isinstance(look, list) else [look]):
                after, data = frame if isinstance(frame, tuple) else (again * 30_000, frame)
                frames[point].append((time + after, number, data))
            seen.add(number)
        if not gone:
            whole.add(number)
    files, packet = {}, {}
    end = packets * kind.gap_ns + _TAIL_NS
    for point, every in frames.items():
        every.sort(key=lambda entry: entry[:2])
        held, drops = every, [0] * len(every)
        if kind.missed is not None:
            held, drops = _captured(every, point, kind.missed)
        packet.update({(point, at): number for at, (_, number, _) in enumerate(held, start=1)})
        files[point] = _file(kind, point, held, end, drops, len(every))
    return Recorded(files, packet, frozenset(seen), frozenset(whole), lost)


def _captured(
    every: Sequence[tuple[int, int, bytes]], point: str, missed: Callable[[str, int], bool]
) -> tuple[list[tuple[int, int, bytes]], list[int]]:
    """The frames that a capture holds, and per frame how many it dropped since the one before."""
    held, drops, since = [], [], 0
    for entry in every:
        if missed(point, entry[1]):
            since += 1
            continue
        held.append(entry)
        drops.append(since)
        since = 0
    return held, drops


def _file(
    kind: Kind, point: str, held: Sequence[tuple[int, int, bytes]], end: int, drops: Sequence[int], passed: int
) -> bytes:
    def stamp(time: int) -> int:
        return START_NS + time + (kind.clock[point](time) if point in kind.clock else 0)

    cut = kind.cut.get(point, 1 << 18)
    says = kind.says.get(point)
    records = [
        Record(stamp(time), data[:cut], length=len(data), dropped=drop if drop and says == "counted" else None)
        for (time, _, data), drop in zip(held, drops, strict=True)
    ]
    dropped = passed - len(held) if says else 0
    told = Statistics(
        ts_ns=stamp(end), start_ns=stamp(-1_000_000), end_ns=stamp(end), received=len(held) + dropped, dropped=dropped
    )  # fmt: skip
    return pcapng_bytes(Section([Interface(name=point)], records, [told]))


def analysed(folder: Path, kind: Kind, recorded: Recorded) -> Analysis:
    """The analysis of a recording, through a run folder."""
    order, points = kind.order or kind.points, []
    for point in order:
        (folder / f"{point}.pcapng").write_bytes(recorded.files[point])
        points.append({"name": point, "captures": [f"{point}.pcapng"]})
        if point in kind.clocks:
            points[-1]["clock"] = kind.clocks[point]
    paths = kind.paths or [{"name": "path", "points": list(order)}]
    (folder / "run.toml").write_text(tomli_w.dumps({"schema": 1, "name": "kind", "point": points, "path": list(paths)}))
    return analyze_run(load_run(folder))


@dataclass(frozen=True)
class Score:
    """What an analysis made of a recording, in packets.

    `wrong`: trajectories that hold frames of several packets; `split`: packets in several trajectories; `invented`:
    called lost or partial though they arrived; `hidden`: lost, and called delivered; `cautious`: ambiguous or
    undetermined; `lost`, and how many `were_lost`.
    """

    wrong: int
    split: int
    invented: int
    hidden: int
    cautious: int
    lost: int
    were_lost: int


def score(analysis: Analysis, recorded: Recorded) -> Score:
    """Compare each trajectory with the packets whose frames it holds."""
    held = packets_of(analysis, recorded.packet)
    fates = [FATES[fate] for fate in analysis.verdicts.fate.tolist()]
    many = Counter(number for numbers in held for number in numbers)
    by_fate = Counter(fates)
    return Score(
        wrong=sum(len(numbers) > 1 for numbers in held),
        split=sum(count > 1 for count in many.values()),
        invented=sum(
            fate in ("lost", "partial") and bool(numbers & recorded.whole)
            for fate, numbers in zip(fates, held, strict=True)
        ),
        hidden=sum(
            fate == "delivered" and not numbers <= recorded.whole for fate, numbers in zip(fates, held, strict=True)
        ),
        cautious=by_fate["ambiguous"] + by_fate["undetermined"],
        lost=by_fate["lost"],
        were_lost=recorded.lost,
    )


def packets_of(analysis: Analysis, packet: Mapping[tuple[str, int], int]) -> list[set[int]]:
    """The true packets whose frames each trajectory holds.

    Args:
        packet: by point and number of the frame.
    """
    trajectories = analysis.trajectories
    rows, points = trajectories.observations.rows, trajectories.observations.points
    found: list[set[int]] = [set() for _ in range(len(trajectories))]
    for row, owner in enumerate(trajectories.owner.tolist()):
        if owner >= 0:
            found[owner].add(packet[points[rows["point"][row]], int(rows["frame"][row])])
    return found


def payload(number: int, length: int = 60, salt: int = 0) -> bytes:
    """Bytes that no other packet has."""
    return random.Random(number * 1_000_003 + 7 + salt).randbytes(length)


def ip_id(number: int) -> int:
    """An IP ID of a counter that leaves out 0."""
    return number % 65_535 + 1


def ip4(source: str, destination: str, protocol: int, body: bytes, identification: int = 0) -> bytes:
    """A frame with an IPv4 packet."""
    return ethernet(ipv4(source, destination, protocol, body, ip_id=identification), ETHERTYPE_IPV4)


def segment(
    source: str, destination: str, sport: int, dport: int, data: bytes = b"", identification: int = 0, **fields: Any
) -> bytes:
    """A frame with a TCP segment; fields: of `packets.tcp`."""
    return ip4(source, destination, TCP, tcp(source, destination, sport, dport, data, **fields), identification)


def datagram(
    source: str, destination: str, sport: int, dport: int, data: bytes = b"", identification: int = 0
) -> bytes:  # fmt: skip
    """A frame with a UDP datagram."""
    return ip4(source, destination, UDP, udp(source, destination, sport, dport, data), identification)
