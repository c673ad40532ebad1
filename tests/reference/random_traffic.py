"""Frames of random runs: what is sent, and what the stages of a path make of it."""

from __future__ import annotations

import hashlib
import ipaddress
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.reference.sightings import ICMP, ICMPV6, TCP, UDP

START_NS = 1_795_410_000_000_000_000


@dataclass(frozen=True)
class Options:
    """What happens in a run. Shares are of packets; positions and stages count from 0 along each path."""

    seed: int = 0
    points: int = 3
    shape: str = "line"  # or "detour": the second and third point from the end; "twice": the first point comes again
    paths: int = 1
    match_all: bool = True  # the first path takes everything; else it goes by destination
    packets: int = 20
    flows: int = 2
    protocols: tuple[int, ...] = (TCP, UDP, ICMP)
    six: float = 0.0  # share of flows over IPv6
    ip_id: str = "host"  # "zero", "shared" by all flows, "few" different ones, by "host"
    identical: float = 0.0  # repeat an earlier packet byte for byte
    small: float = 0.5  # without or with equal payload
    errors: float = 0.0  # share of ICMP that reports errors: whole packets without an identifier
    gap_ns: int = 100_000
    delay_ns: int = 30_000
    threshold_ns: int = 50_000_000
    loss: float = 0.0
    copies: float = 0.0
    reordered: float = 0.0
    late: float = 0.0  # later than the threshold
    # At which stage what is done: "nat-source", "nat-destination", "nat-many", "new-id", "change", "change-some",
    # "longer", "split", "merge", "fragment", "reassemble", "window".
    changes: tuple[tuple[int, str], ...] = ()
    clocks: tuple[int, ...] = ()  # offset per point, ns; none: one clock
    silent: int | None = None  # a point without any packets
    missed: float = 0.0  # by each capture
    missed_at: int | None = None  # or by one point's only
    told: str = "all"  # whether captures say what they missed: "all", "nothing" (0), "unknown"
    tick_ns: int = 1  # of the stamps
    edges: bool = False  # some captures begin late or end early
    numbered: str = "no"  # epb_packetid: "session", "all but one" point


@dataclass(frozen=True)
class Frame:
    """A packet on its way."""

    protocol: int
    source: str
    destination: str
    sport: int | None
    dport: int | None
    ip_id: int | None
    payload: bytes
    seq: int | None = None
    ack: int | None = None
    flags: int | None = None
    window: int | None = None
    icmp_type: int | None = None
    icmp_id: int | None = None
    icmp_seq: int | None = None
    offset: int = 0
    more: bool = False
    packet_id: int | None = None
    punted: bool = False
    whole: Frame | None = field(default=None, compare=False, repr=False)
    origin: int = field(default=0, compare=False)  # the packet that was sent

    @property
    def version(self) -> int:
        return ipaddress.ip_address(self.source).version

    @property
    def header(self) -> int:
        """Bytes of the transport header."""
        if self.offset:
            return 0
        return 20 if self.protocol == TCP else 8

    @property
    def flow(self) -> tuple[Any, ...]:
        return (self.protocol, self.source, self.destination, self.sport, self.dport, self.icmp_id)

    def row(self) -> dict[str, Any]:
        """As the reference's decoder shows it."""
        first = self.offset == 0
        numbers = (self.sport, self.dport, self.seq, self.ack, self.flags, self.window)
        icmp = (self.icmp_type, self.icmp_id, self.icmp_seq)
        head = struct.pack(">HHIIHHHHH", *(number or 0 for number in (*numbers, *icmp))) if first else b""
        segment = self.header + len(self.payload)
        return {
            "ip_version": self.version,
            "protocol": self.protocol,
            "source": self.source,
            "destination": self.destination,
            "sport": self.sport,
            "dport": self.dport,
            "ip_id": self.ip_id,
            "fragment_offset": self.offset if self.version == 4 or self.more or self.offset else None,
            "more_fragments": self.more if self.version == 4 or self.more or self.offset else None,
            "tcp_seq": self.seq,
            "tcp_ack": self.ack,
            "tcp_flags": self.flags,
            "icmp_type": self.icmp_type,
            "icmp_code": None if self.icmp_type is None else 0,
            "icmp_id": self.icmp_id,
            "icmp_seq": self.icmp_seq,
            "payload_length": len(self.payload),
            "packet_id": self.packet_id,
            "length": 34 + segment,
            "_origin": self.origin,
            "_tcp_window": self.window,
            "_identity": head + self.payload[:64],
            "_content": self.payload[:64],
            "_ip_length": 20 + segment,
            "_segment_length": segment,
        }


Flight = list[tuple[int, Frame]]  # frames with the time at which they pass a point


def number_of(data: object) -> int:
    """64 bits that stand for some value, as a hash does."""
    return int.from_bytes(hashlib.blake2b(repr(data).encode(), digest_size=8).digest(), "big")


def sent(options: Options, inward: bool, rng: random.Random) -> Flight:
    """What is sent into a path."""
    flows = [new_flow(options, number, inward, rng) for number in range(options.flows)]
    found: Flight = []
    now = START_NS + rng.randrange(1_000_000)
    counter = rng.choice([1, 65_500])
    first_id = 1 if inward else 1 + options.packets
    sequence = [rng.choice([rng.randrange(2**31), 2**32 - 1 - rng.randrange(700)]) for _ in flows]
    acknowledged = [rng.randrange(2**32 - 1) for _ in flows]
    for number in range(options.packets):
        now += rng.randrange(1, 2 * options.gap_ns)
        if found and rng.random() < options.identical:
            repeated = rng.choice(found[-6:])[1]
            found.append((now, replace(repeated, packet_id=first_id + number, origin=first_id + number)))
            continue
        which = rng.randrange(len(flows))
        flow = flows[which]
        payload = bytes(rng.choice([0, 0, 8])) if rng.random() < options.small else rng.randbytes(rng.choice([40, 300]))
        counter += 4  # segments have those between
        ip_ids = {"zero": 0, "shared": number // 2 + 1, "few": number % 3 + 1, "host": counter % 65_536}
        ip_id = None if flow.version == 6 else ip_ids[options.ip_id]
        frame = replace(flow, payload=payload, ip_id=ip_id, packet_id=first_id + number)
        frame = replace(frame, origin=first_id + number)
        if flow.protocol == TCP:
            frame = replace(frame, seq=sequence[which], ack=acknowledged[which] + rng.randrange(2), window=500)
            sequence[which] = (sequence[which] + len(payload)) % 2**32
        elif flow.icmp_id is not None:
            frame = replace(frame, icmp_seq=number if rng.random() < 0.9 else 1)
        found.append((now, frame))
    return found


def new_flow(options: Options, number: int, inward: bool, rng: random.Random) -> Frame:
    """The headers that all packets of a flow share."""
    protocol = rng.choice(options.protocols)
    six = rng.random() < options.six
    here = f"{'fd77::' if six else '10.77.0.'}{rng.randrange(1, 4)}"
    there = f"{'2001:db8::' if six else '192.0.2.'}{rng.randrange(1, 4)}"
    source, destination = (there, here) if inward else (here, there)
    flow = Frame(protocol, source, destination, None, None, None, b"", punted=rng.random() < 0.6)
    if protocol == ICMP:
        if options.errors and rng.random() < options.errors:
            return replace(flow, protocol=ICMPV6 if six else ICMP, icmp_type=1 if six else 3)
        kind = 128 if six else 8
        return replace(flow, protocol=ICMPV6 if six else ICMP, icmp_type=kind, icmp_id=100 + number)
    ports = (40_000 + number, 443) if inward else (443, 40_000 + number)
    flow = replace(flow, sport=ports[0], dport=ports[1])
    return replace(flow, flags=0x10) if protocol == TCP else flow


def nat(kind: str, rng: random.Random) -> Callable[[Flight], Flight]:
    """Other addresses, ports, IP IDs, the same for all packets of a flow."""
    ports: dict[tuple[Any, ...], int] = {}
    counter = rng.randrange(60_000, 65_536)

    def change(flight: Flight) -> Flight:
        nonlocal counter
        found = []
        for time, frame in flight:
            counter += 1
            new = frame
            outer = "2001:db8:1::9" if frame.version == 6 else "203.0.113.9"
            if kind == "nat-destination":
                new = replace(frame, destination=outer)
            elif kind != "new-id":
                new = replace(frame, source=outer)
            if kind == "nat-many" and frame.sport is not None:
                new = replace(new, sport=ports.setdefault(frame.flow, 20_000 + len(ports)))
            if kind in ("new-id", "nat-new-id") and frame.ip_id is not None and not (frame.more or frame.offset):
                new = replace(new, ip_id=counter % 65_536)
            found.append((time, new))
        return found

    return change


def changed(kind: str, rng: random.Random) -> Callable[[Flight], Flight]:
    """Another payload, window, or length."""
    key = rng.randrange(1, 256)

    def change(flight: Flight) -> Flight:
        found = []
        for time, frame in flight:
            new = frame
            if kind == "window" and frame.window is not None:
                new = replace(frame, window=frame.window + 1)
            elif kind == "longer" and frame.payload:
                new = replace(frame, payload=bytes(4) + frame.payload)
            elif kind == "change" or (kind == "change-some" and rng.random() < 0.4):
                new = replace(frame, payload=bytes(byte ^ key for byte in frame.payload))
            found.append((time, new))
        return found

    return change


def split(flight: Flight) -> Flight:
    """TCP superpackets become segments."""
    found = []
    for time, frame in flight:
        size = 120
        if frame.protocol != TCP or len(frame.payload) <= size or frame.offset or frame.more:
            found.append((time, frame))
            continue
        for number, begin in enumerate(range(0, len(frame.payload), size)):
            part = replace(
                frame,
                payload=frame.payload[begin : begin + size],
                seq=((frame.seq or 0) + begin) % 2**32,
                ip_id=None if frame.ip_id is None else (frame.ip_id + number) % 65_536,
            )
            found.append((time + 100 * number, part))
    return found


def merge(flight: Flight) -> Flight:
    """Neighbouring TCP segments become one frame."""
    found: Flight = []
    for time, frame in sorted(flight, key=lambda entry: entry[0]):
        before = found[-1][1] if found else None
        follows = (
            before is not None
            and frame.protocol == TCP
            and before.flow == frame.flow
            and before.payload
            and frame.payload
            and not (before.offset or before.more or frame.offset or frame.more)
            and ((before.seq or 0) + len(before.payload)) % 2**32 == frame.seq
            and len(before.payload) < 700
        )
        if before is not None and follows:
            found[-1] = (time, replace(before, payload=before.payload + frame.payload, ack=frame.ack))
        else:
            found.append((time, frame))
    return found


def fragment(flight: Flight) -> Flight:
    """Large packets become fragments."""
    found = []
    for time, frame in flight:
        size = 96
        if frame.header + len(frame.payload) <= size or frame.offset or frame.more:
            found.append((time, frame))
            continue
        ip_id = frame.ip_id if frame.ip_id is not None else number_of(frame) % 2**32
        header, left, number = frame.header, frame.payload, 0
        frame = replace(frame, ip_id=ip_id)
        first = replace(frame, payload=left[: size - header], more=True, whole=frame)
        found.append((time, first))
        left = left[size - header :]
        later = Frame(frame.protocol, frame.source, frame.destination, None, None, ip_id, b"", punted=frame.punted)
        while left:
            number += 1
            part = replace(later, payload=left[:size], offset=number * size, more=len(left) > size, whole=frame)
            found.append((time + 200 * number, replace(part, packet_id=frame.packet_id, origin=frame.origin)))
            left = left[size:]
    return found


def reassemble(flight: Flight) -> Flight:
    """Fragments become their packet when all of them have come."""
    found: Flight = []
    waiting: dict[tuple[Any, ...], list[Frame]] = {}
    for time, frame in sorted(flight, key=lambda entry: entry[0]):
        if not (frame.offset or frame.more) or frame.whole is None:
            found.append((time, frame))
            continue
        parts = waiting.setdefault((frame.source, frame.destination, frame.protocol, frame.ip_id), [])
        parts.append(frame)
        if sum(part.header + len(part.payload) for part in parts) == 8 * (frame.whole.protocol != TCP) + 20 * (
            frame.whole.protocol == TCP
        ) + len(frame.whole.payload):
            addresses = {"source": frame.source, "destination": frame.destination}
            found.append((time, replace(frame.whole, **addresses)))
            parts.clear()
    return found


def stage(options: Options, number: int, rng: random.Random) -> Callable[[Flight], Flight]:
    """Everything that a stage does."""
    steps: list[Callable[[Flight], Flight]] = []
    for at, kind in options.changes:
        if at != number:
            continue
        if kind.startswith("nat") or kind == "new-id":
            steps.append(nat(kind, rng))
        elif kind in ("split", "merge", "fragment", "reassemble"):
            steps.append({"split": split, "merge": merge, "fragment": fragment, "reassemble": reassemble}[kind])
        else:
            steps.append(changed(kind, rng))

    def pass_on(flight: Flight) -> Flight:
        for step in steps:
            flight = step(flight)
        found = []
        for time, frame in flight:
            if rng.random() < options.loss:
                continue
            came = time + options.delay_ns // 2 + rng.randrange(1, options.delay_ns)
            if rng.random() < options.reordered:
                came += rng.randrange(1, 6 * options.gap_ns)
            if rng.random() < options.late:
                came += options.threshold_ns + rng.randrange(1, options.threshold_ns)
            found.append((came, frame))
            if rng.random() < options.copies:
                found.append((came + rng.randrange(1, 3 * options.gap_ns), frame))
        return found

    return pass_on
