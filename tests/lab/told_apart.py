"""The truth of a recorded run, read from its captures without the analyser, and the analysis held against it.

Frames are read by dpkt and taken apart here. A *token* says which packet a frame is: the marks that the sender put into
the payload, or for TCP its numbers, time stamps and IP ID, which no gateway of these tests changes. A *span* says which
bytes of a datagram or stream it holds. Directions are told by hardware addresses; without these, where nothing
translates addresses, by the source.
"""

from __future__ import annotations

import json
import struct
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import dpkt
import polars as pl

from tests.lab.conftest import run_toml
from tests.lab.marked_traffic import MARK

DIRECTIONS = ("there", "back")


@dataclass(frozen=True)
class Seen:
    """A frame at a point. ``token`` is None where nothing tells which packet it is (encrypted, or not ours)."""

    point: str
    capture: str
    frame: int
    direction: str
    token: Hashable
    key: Hashable = None  # the datagram or stream that it is a part of
    begin: int = 0
    end: int = 0
    ports: bytes = b""  # outermost addresses and ports, as they stand in the packet: a gateway changes them


def frames_of(folder: Path, point: str, capture: str) -> list[Seen]:
    """All IP frames of a capture."""
    found = []
    with (folder / capture).open("rb") as file:
        head = file.read(4)
        file.seek(0)
        reader = dpkt.pcapng.Reader(file) if head == b"\x0a\x0d\x0d\x0a" else dpkt.pcap.Reader(file)
        raw = reader.datalink() not in (1,)
        for number, (_, data) in enumerate(reader, start=1):
            kind, packet = (data[0] >> 4, data) if raw else _network(data)
            if kind not in (4, 6):
                continue
            sender = packet[14] if raw else data[11]  # without link headers, the third byte of 10.81.N.M
            direction = DIRECTIONS[0] if (sender < 3 if raw else sender % 2) else DIRECTIONS[1]
            token, key, begin, end = taken_apart(packet)
            ports = packet[12:20] + packet[20:24] if kind == 4 else packet[8:44]
            found.append(Seen(point, capture, number, direction, token, key, begin, end, ports))
    return found


def _network(frame: bytes) -> tuple[int, bytes]:
    """(4 or 6, packet) of an Ethernet frame, below tags; 0 for anything else."""
    at, kind = 14, struct.unpack_from("!H", frame, 12)[0]
    while kind in (0x8100, 0x88A8):
        kind = struct.unpack_from("!H", frame, at + 2)[0]
        at += 4
    return {0x0800: 4, 0x86DD: 6}.get(kind, 0), frame[at:]


def taken_apart(packet: bytes) -> tuple[Hashable, Hashable, int, int]:
    """(token, key, first byte, end) of the innermost IP packet."""
    if packet[0] >> 4 == 6:
        protocol, length, identity, fragment = packet[6], 40 + struct.unpack_from("!H", packet, 4)[0], None, 0
        at = 40
        if protocol == 44:
            protocol, fragment = packet[40], struct.unpack_from("!H", packet, 42)[0]
            offset, more, at = fragment & 0xFFF8, fragment & 1, 48
        else:
            offset = more = 0
    else:
        at, protocol = (packet[0] & 15) * 4, packet[9]
        length, identity, fragment = struct.unpack_from("!HHH", packet, 2)
        offset, more = (fragment & 0x1FFF) * 8, fragment & 0x2000
    body = packet[at:length]
    if offset or more:
        return _fragment(body, offset)
    if protocol == 17 and len(body) >= 8:
        if struct.unpack_from("!H", body, 2)[0] == 4789:
            kind, inner = _network(body[16:])
            return taken_apart(inner) if kind else (None, None, 0, 0)
        return _datagram(body[8:])
    if protocol == 6:
        return _segment(body, identity)
    if protocol in (4, 41):
        return taken_apart(body)
    if protocol == 47:
        return taken_apart(body[4:])
    if protocol in (1, 58) and len(body) >= 16 and body[0] in (0, 8, 128, 129):
        return ("icmp", body[0], body[6:8], body[8:40]), None, 0, 0
    return None, None, 0, 0


def _datagram(payload: bytes) -> tuple[Hashable, Hashable, int, int]:
    mark = MARK.match(payload)
    if mark is None:
        # A segment of a UDP superpacket may begin within a record.
        mark = MARK.search(payload[:31])
        if mark is None:  # encrypted: no two are alike
            return ("opaque", payload), None, 0, 0
    begin = int(mark[4], 16) - mark.start()
    key = ("udp", *mark.group(1, 2, 3))
    return (*key, begin, begin + len(payload)), key, begin, begin + len(payload)


def _fragment(body: bytes, offset: int) -> tuple[Hashable, Hashable, int, int]:
    data = body if offset else body[8:]
    mark = MARK.search(data[:31])
    if mark is None:
        return None, None, 0, 0
    begin = int(mark[4], 16) - mark.start()
    assert begin == max(0, offset - 8)
    key = ("udp", *mark.group(1, 2, 3))
    return ("fragment", *key, begin, begin + len(data)), key, begin, begin + len(data)


def _segment(body: bytes, identity: int | None) -> tuple[Hashable, Hashable, int, int]:
    sequence, acknowledged, head, flags, window = struct.unpack_from("!IIBBH", body, 4)
    payload = body[(head >> 4) * 4 :]
    stamps = next(
        (data for kind, data in dpkt.tcp.parse_opts(body[20 : (head >> 4) * 4]) if kind == dpkt.tcp.TCP_OPT_TIMESTAMP),
        b"",
    )
    token = ("tcp", sequence, acknowledged, flags, window, len(payload), stamps, identity)
    mark = MARK.search(payload[:31])
    if mark is None:
        return token, None, 0, 0
    begin = int(mark[4], 16) - mark.start()
    return token, ("tcp", *mark.group(1, 2)), begin, begin + len(payload)


def stamps(seen: Seen) -> object:
    """TCP time stamps: those of a retransmission are others than those of its original, mostly."""
    return seen.token[6] if isinstance(seen.token, tuple) and seen.token[0] == "tcp" else None


def with_short_segments(frames: Sequence[Seen]) -> list[Seen]:
    """The same frames; TCP segments too short to hold a mark are told by their place in the streams of the others."""
    streams: dict[tuple[str, int], tuple[Seen, int]] = {}  # direction and number of the first byte: a frame, the end
    for seen in frames:
        if seen.key is not None and isinstance(seen.token, tuple) and seen.token[0] == "tcp":
            first = seen.direction, (seen.token[1] - seen.begin) % (1 << 32)
            streams[first] = seen, max(seen.end, streams.get(first, (seen, 0))[1])
    found = []
    for seen in frames:
        if seen.key is None and isinstance(seen.token, tuple) and seen.token[0] == "tcp" and seen.token[5]:
            for (way, first), (other, end) in streams.items():
                assert isinstance(other.token, tuple)
                begin, acknowledged = (seen.token[1] - first) % (1 << 32), abs(seen.token[2] - other.token[2])
                if way == seen.direction and begin <= end and min(acknowledged, (1 << 32) - acknowledged) < 1 << 20:
                    seen = replace(seen, key=other.key, begin=begin, end=begin + seen.token[5])
        found.append(seen)
    return found


def segments(seen: Seen, mss: int) -> list[Hashable]:
    """What the frame's packet is split into: (sequence number, length, time stamps, IP ID if any) of TCP."""
    if not isinstance(seen.token, tuple) or seen.token[0] != "tcp":
        return [seen.token]
    _, sequence, _, _, _, length, told, identity = seen.token
    return [
        ((sequence + at) % (1 << 32), min(mss, length - at), told, identity and (identity + number) % (1 << 16))
        for number, at in enumerate(range(0, max(1, length), mss))
    ]


class Truth:
    """Everything that the captures of a run show, and what the analysis made of it."""

    def __init__(self, folder: Path, order: Sequence[str], results: str = "results") -> None:
        self.folder, self.order = folder, tuple(order)
        self.seen = [
            seen
            for point in run_toml(folder)["point"]
            for capture in point["captures"]
            for seen in frames_of(folder, point["name"], capture)
        ]
        self.seen = with_short_segments(self.seen)
        self.summary = json.loads((folder / results / "summary.json").read_text(encoding="utf-8"))
        self.results = folder / results
        self.trajectories = pl.read_parquet(self.results / "trajectories.parquet")
        self.stages = pl.read_parquet(self.results / "stages.parquet")
        observations = pl.read_parquet(self.results / "observations.parquet")
        self.owner: dict[tuple[str, int], int | None] = {
            (point, frame): trajectory
            for point, frame, trajectory in observations.select(
                pl.col("point").cast(pl.String), "frame", "trajectory"
            ).iter_rows()
        }

    @cached_property
    def by_trajectory(self) -> dict[int, list[Seen]]:
        found: dict[int, list[Seen]] = defaultdict(list)
        for seen in self.seen:
            trajectory = self.owner[seen.point, seen.frame]
            if trajectory is not None:
                found[trajectory].append(seen)
        return found

    @cached_property
    def counts(self) -> dict[str, dict[str, Counter[Hashable]]]:
        """Per direction and point, how often each token was seen."""
        found = {way: {point: Counter[Hashable]() for point in self.order} for way in DIRECTIONS}
        for seen in self.seen:
            if seen.token is not None and seen.point in self.order:
                found[seen.direction][seen.point][seen.token] += 1
        return found

    def points(self, direction: str) -> tuple[str, ...]:
        return self.order if direction == DIRECTIONS[0] else tuple(reversed(self.order))

    def wrong_matches(self) -> list[str]:
        """Trajectories that hold frames of different packets; a frame without a token is like no other."""
        wrong = []
        for trajectory, frames in self.by_trajectory.items():
            tokens = {frame.token if frame.token is not None else (frame.point, frame.frame) for frame in frames}
            if len(tokens) > 1 or len({frame.direction for frame in frames}) > 1:
                wrong.append(f"{trajectory}: {[(f.point, f.frame, f.token) for f in frames]}")
        return wrong

    def apart(self) -> list[tuple[str, Hashable, list[Seen]]]:
        """(direction, token, frames) of packets that no point saw twice, and whose frames are not all in one
        trajectory."""
        frames: dict[tuple[str, Hashable], list[Seen]] = defaultdict(list)
        for seen in self.seen:
            if seen.token is not None and seen.point in self.order:
                frames[seen.direction, seen.token].append(seen)
        found = []
        for (way, token), mine in frames.items():
            if len({seen.point for seen in mine}) < len(mine) or len(mine) == 1:
                continue
            owners = {self.owner[seen.point, seen.frame] for seen in mine}
            if len(owners) > 1 or None in owners:
                found.append((way, token, mine))
        return found

    def missed_matches(self) -> list[str]:
        """The same as text."""
        return [
            f"{way} {token}: {[(s.point, s.frame, self.owner[s.point, s.frame]) for s in mine]}"
            for way, token, mine in self.apart()
        ]

    def lost(self) -> dict[tuple[str, int], int]:
        """By direction and stage, how many packets the captures show before it and not behind it (no duplicates)."""
        found = {}
        for way in DIRECTIONS:
            names = self.points(way)
            for stage, (before, behind) in enumerate(pairwise(names)):
                seen = self.counts[way]
                left = seen[before] - seen[behind]
                found[way, stage] = sum(left.values())
        return found

    def vanished(self, direction: str, before: str, behind: str) -> list[Seen]:
        """Frames of one point none of whose bytes were seen at another."""
        parts: dict[Hashable, list[tuple[int, int]]] = defaultdict(list)
        for seen in self.seen:
            if seen.point == behind and seen.direction == direction:
                parts[seen.key].append((seen.begin, seen.end))
        return [
            seen
            for seen in self.seen
            if (seen.point, seen.direction) == (before, direction) and seen.token is not None
            if not (
                any(begin < seen.end and seen.begin < end for begin, end in parts[seen.key])
                if seen.key is not None
                else self.counts[direction][behind][seen.token]
            )
        ]

    def verdicts(self, verdict: str = "lost") -> dict[tuple[str, int], int]:
        """By path and stage, how many packets the analysis gives a verdict."""
        told = self.stages.filter(pl.col("verdict").cast(pl.String) == verdict)
        counted = Counter((str(path), stage) for path, stage in told.select("path", "stage").iter_rows())
        stages = range(len(self.order) - 1)
        return {(way, stage): counted[way, stage] for way in DIRECTIONS for stage in stages}

    def fates(self, path: str | None = None) -> dict[str, int]:
        chosen = self.trajectories if path is None else self.trajectories.filter(pl.col("path").cast(pl.String) == path)
        return dict(Counter(chosen["fate"].cast(pl.String).to_list()))

    def transforms(self) -> dict[tuple[str, int], set[str]]:
        """By path and stage, what changed there, besides hardware addresses, which every router replaces."""
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        table = pl.read_parquet(self.results / "transforms.parquet")
        for path, stage, kind in table.select("path", "stage", "kind").iter_rows():
            if not str(kind).startswith("mac-"):
                found[str(path), stage].add(str(kind))
        return dict(found)

    def changed_packets(self, path: str, stage: int, kind: str) -> int:
        """To how many packets something happened."""
        table = pl.read_parquet(self.results / "transforms.parquet").with_columns(
            pl.col("path", "kind").cast(pl.String)
        )
        chosen = table.filter((pl.col("path") == path) & (pl.col("stage") == stage) & (pl.col("kind") == kind))
        return int(chosen["packets"].sum())

    def reordered(self, direction: str, before: str, behind: str) -> int:
        """How many packets came behind one that had been sent after them, by the order of frames in the captures."""
        place: dict[Hashable, int] = {}
        for seen in self.seen:
            if seen.point == before and seen.direction == direction:
                place.setdefault(seen.token, len(place))
        found, latest = 0, -1
        for seen in self.seen:
            if seen.point == behind and seen.direction == direction and seen.token in place:
                found += place[seen.token] < latest
                latest = max(latest, place[seen.token])
        return found

    def fates_add_up(self) -> bool:
        paths = self.summary["paths"].values()
        return sum(self.fates().values()) == self.trajectories.height == sum(p["trajectories"] for p in paths) and all(
            sum(path["fates"].values()) == path["trajectories"] for path in paths
        )

    @cached_property
    def ranges(self) -> dict[tuple[str, int], list[tuple[int, int, int]]]:
        """By point and frame: (trajectory, first byte, end) of what the analysis says is in it."""
        found: dict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)
        table = pl.read_parquet(self.results / "ranges.parquet")
        for trajectory, point, frame, first, last in table.select(
            "trajectory", pl.col("point").cast(pl.String), "frame", "first_byte", "last_byte"
        ).iter_rows():
            found[point, frame].append((trajectory, first, last + 1))
        return found

    def wrong_parts(self) -> list[str]:
        """Frames that are said to hold bytes of a packet that they do not hold; and such as hold nothing of theirs."""
        wrong = []
        by_frame = {(seen.point, seen.frame): seen for seen in self.seen}
        origin: dict[int, Seen] = {}
        for trajectory, frames in self.by_trajectory.items():
            way = self.points(frames[0].direction)
            origin[trajectory] = min(frames, key=lambda seen: (way.index(seen.point), seen.begin))
        for place, parts in self.ranges.items():
            seen = by_frame[place]
            for trajectory, first, end in parts:
                whole = origin[trajectory]
                # Where fragments are concerned, bytes are counted from the first of the datagram, UDP header and all.
                fragments = any(isinstance(one.token, tuple) and one.token[0] == "fragment" for one in (seen, whole))
                base = first - 8 if fragments else whole.begin + first
                low, high = max(whole.begin, base), base + end - first
                inside = seen.begin <= low <= high <= seen.end and whole.begin <= low <= high <= whole.end
                if seen.key != whole.key or not inside or stamps(seen) != stamps(whole):
                    wrong.append(f"{trajectory} {first}..{end}: {seen} is no part of {whole}")
        for trajectory, frames in self.by_trajectory.items():
            whole = origin[trajectory]
            for seen in frames:
                if seen.token != whole.token and not any(
                    number == trajectory for number, _, _ in self.ranges.get((seen.point, seen.frame), [])
                ):
                    wrong.append(f"{trajectory}: {seen} is not {whole}")
        return wrong

    def unexplained(self) -> list[Seen]:
        """Frames with bytes of which not all are said to be of some packet."""
        found = []
        for seen in self.seen:
            trajectory = self.owner[seen.point, seen.frame]
            held = sum(end - first for _, first, end in self.ranges.get((seen.point, seen.frame), []))
            # Of fragments the UDP header is counted, too.
            if seen.key is not None and (trajectory is None or 0 < held < seen.end - seen.begin):
                found.append(seen)
        return found

    def fates_by_parts(self, before: str, behind: str, direction: str) -> dict[str, int]:
        """Fates that follow from which frames at one point are not seen at the next, where nothing else is lost."""
        arrived = self.counts[direction][behind].copy()
        parts: dict[int, list[bool]] = defaultdict(list)
        for seen in self.seen:
            if seen.point != before or seen.direction != direction or seen.token is None:
                continue
            owners = [number for number, _, _ in self.ranges.get((seen.point, seen.frame), [])]
            for number in owners or [self.owner[seen.point, seen.frame]]:
                assert number is not None, seen
                parts[number].append(arrived[seen.token] > 0)
            arrived[seen.token] -= 1
        names = {(True, True): "delivered", (False, False): "lost"}
        return dict(Counter(names.get((all(told), any(told)), "partial") for told in parts.values()))

    def fates_by_segments(self, before: str, behind: str, direction: str, mss: int) -> tuple[dict[str, int], int]:
        """The same where packets become segments of `mss` bytes at most; and how many segments were lost."""
        there = [seen for seen in self.seen if seen.direction == direction and seen.token is not None]
        arrived = Counter(part for seen in there if seen.point == behind for part in segments(seen, mss))
        names = {(True, True): "delivered", (False, False): "lost"}
        fates: Counter[str] = Counter()
        lost = 0
        for seen in there:
            if seen.point == before:
                told = [arrived[part] > 0 for part in segments(seen, mss)]
                arrived.subtract(segments(seen, mss))
                lost += told.count(False)
                fates[names.get((all(told), any(told)), "partial")] += 1
        return dict(fates), lost

    def report(self) -> str:
        """For a test that fails."""
        return (
            f"lost in captures {self.lost()}\nlost by analysis {self.verdicts()}\n"
            f"undetermined {self.verdicts('undetermined')}\nfates {self.fates('there')} {self.fates('back')}\n"
            f"transforms {self.transforms()}\nledger {self.summary['ledger']}\n"
            f"wrong {len(self.wrong_matches())}: {self.wrong_matches()[:3]}\n"
            f"missed {len(self.missed_matches())}: {self.missed_matches()[:3]}"
        )
