"""Runs with known truth in which boxes change packets on the way: who sent each frame is known frame by frame."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tests.kit.packets import TCP, UDP, Header, frame
from tests.kit.pcap_files import Interface, Record, Section, Statistics, pcapng_bytes

START_NS = 1_760_000_000_000_000_000
STAGE_NS = 80_000
Forms = Sequence[Header | Sequence[Header] | None]


@dataclass(frozen=True)
class Traffic:
    """A kind of traffic: `points`, the stages' loss and the packets.

    `forms(number, random)` gives the headers of packet `number` at each point, the same object where nothing changed;
    None where the packet does not come by; several where it is sent on several times.
    """

    points: tuple[str, ...]
    forms: Callable[[int], Forms]
    gap_ns: int = 2_000_000
    clock_ns: tuple[int, ...] = ()  # what each point's clock is ahead
    both_ways: bool = False  # every second packet goes from the last point to the first, with its addresses swapped
    clock_set: tuple[int, float, int] | None = None  # a place, a share of the packets, and the ns that it is set then


@dataclass(frozen=True)
class Recorded:
    """Captures by point; per point and frame the packet; per packet the points that saw it; losses per stage."""

    files: dict[str, bytes]
    packet: dict[tuple[str, int], int]
    seen: dict[int, tuple[str, ...]]
    lost: tuple[int, ...]


def record(traffic: Traffic, packets: int, seed: int, loss: float = 0.0, reordered: float = 0.0) -> Recorded:
    """Send packets through the boxes; each stage loses some, and holds some back for three packets' time."""
    rng = random.Random(seed)
    frames: dict[str, list[tuple[int, int, int, bytes]]] = {point: [] for point in traffic.points}
    set_at = START_NS + int((traffic.clock_set[1] if traffic.clock_set else 0) * packets) * traffic.gap_ns
    seen: dict[int, list[str]] = {}
    lost = [0] * (len(traffic.points) - 1)
    for number in range(packets):
        time = START_NS + number * traffic.gap_ns + rng.randrange(traffic.gap_ns // 4)
        forms = traffic.forms(number)
        way = list(enumerate(zip(traffic.points, forms, strict=True)))
        for step, (place, (point, form)) in enumerate(way[::-1] if traffic.both_ways and number % 2 else way):
            if step:
                if rng.random() < loss:
                    lost[step - 1] += 1
                    break
                time += STAGE_NS + rng.randrange(STAGE_NS)
                time += 3 * traffic.gap_ns if rng.random() < reordered else 0
            if form is None:
                continue
            ahead = traffic.clock_ns[place] if traffic.clock_ns else 0
            for copy, header in enumerate([form] if isinstance(form, Header) else form):
                passed = time + copy * 90_000
                later = traffic.clock_set[2] if traffic.clock_set and traffic.clock_set[0] == place else 0
                stamp = passed + ahead + (later if passed >= set_at else 0)
                frames[point].append((passed, number, stamp, frame(header)))
            seen.setdefault(number, []).append(point)
    files, packet = {}, {}
    end = START_NS + packets * traffic.gap_ns + 3_000_000_000
    for place, (point, held) in enumerate(frames.items()):
        held.sort(key=lambda entry: entry[:2])
        for at, (_, number, _, _) in enumerate(held, start=1):
            packet[point, at] = number
        ahead = traffic.clock_ns[place] if traffic.clock_ns else 0
        later = traffic.clock_set[2] if traffic.clock_set and traffic.clock_set[0] == place else 0
        span = (START_NS - 1_000_000 + ahead, end + ahead + later)
        told = Statistics(ts_ns=span[1], start_ns=span[0], end_ns=span[1], received=len(held), dropped=0)
        section = Section([Interface(name=point)], [Record(time, data) for _, _, time, data in held], [told])
        files[point] = pcapng_bytes(section)
    return Recorded(files, packet, {number: tuple(points) for number, points in seen.items()}, tuple(lost))


def _payload(number: int, length: int = 60) -> bytes:
    return random.Random(number + 7).randbytes(length)


def restored(protocol: int, six: bool = False) -> Callable[[int], Forms]:
    """Rewritten at one box and restored at the next: NAT and back, or IPv4 over IPv6 (464XLAT) without IP IDs."""

    def forms(number: int) -> Forms:
        ip_id = 0 if six else number % 65535 + 1
        outer = Header("10.1.0.5", "10.2.0.9", protocol, _payload(number), sport=4000, dport=5000, ip_id=ip_id)
        outer = replace(outer, seq=100_000 + 60 * number, ack=777)
        middle = replace(outer, source="2001:db8:1::5", destination="2001:db8:2::9", ip_id=0) if six else None
        return outer, middle or replace(outer, destination="172.31.0.9"), outer

    return forms


def rebinding(number: int) -> Forms:
    """A NAT gives a flow another public port after every 10 packets."""
    inside = Header(
        "192.168.1.5", "203.0.113.80", UDP, _payload(number), sport=54_912, dport=443, ip_id=number % 65535 + 1
    )
    return inside, replace(inside, source="198.51.100.1", sport=40_000 + number // 10)


def reused_port(number: int) -> Forms:
    """Flows of four queries from many hosts leave by one of two public ports, one after the other."""
    host = number // 4
    inside = Header(
        f"192.168.{host // 200}.{host % 200 + 1}", "203.0.113.53", UDP, _payload(number), sport=50_000 + host % 999,
        dport=53, ip_id=number % 65535 + 1,
    )  # fmt: skip
    return inside, replace(inside, source="198.51.100.1", sport=40_000 + host % 2)


def helper(number: int) -> Forms:
    """A gateway's helper makes every tenth payload 5 bytes longer; the numbers of all later packets are shifted."""
    told = number % 10 == 3
    payload = b"PORT 10,0,0,5,%03d,%03d\r\n" % (number // 256 % 256, number % 256) if told else _payload(number)
    inside = Header("10.0.0.5", "203.0.113.21", TCP, payload, sport=40_000, dport=21, ip_id=number % 65535 + 1)
    inside = replace(inside, seq=1000 + 100 * number, ack=5000 + number)
    shift = 5 * ((number + 6) // 10)
    longer = payload.replace(b"10,0,0,5", b"198,51,100,1") + b"!" if told else payload
    return inside, replace(inside, seq=inside.seq + shift, payload=longer)


def twice(number: int) -> Forms:
    """A gateway forwards everything twice."""
    sent = Header("10.1.0.1", "10.2.0.2", UDP, _payload(number), sport=1000, dport=2000, ip_id=number % 65535 + 1)
    return sent, (sent, sent)


def plain(number: int) -> Forms:
    """Nothing is changed."""
    sent = Header("192.0.2.1", "192.0.2.2", UDP, _payload(number), sport=5000, dport=6000, ip_id=number % 65535 + 1)
    return sent, sent


def both_ways(number: int) -> Forms:
    """Nothing is changed; every second packet is an answer."""
    sent = Header("192.0.2.1", "192.0.2.2", UDP, _payload(number), sport=5000, dport=6000, ip_id=number % 65535 + 1)
    if number % 2:
        sent = replace(sent, source="192.0.2.2", destination="192.0.2.1", sport=6000, dport=5000)
    return sent, sent


def proxy(number: int) -> Forms:
    """A transparent proxy ends TCP: the same payloads, in segments with its own numbers and IP IDs."""
    sent = Header("10.0.0.1", "192.0.2.1", TCP, _payload(number), sport=1000, dport=80, ip_id=number % 65535 + 1)
    sent = replace(sent, seq=1000 + 60 * number, ack=900)
    return sent, replace(sent, seq=5_000_000 + 60 * number, ack=70_000, ip_id=(number * 7919 + 13) % 65535 + 1)


TRAFFIC = {
    "restored": Traffic(("a", "b", "d"), restored(UDP)),
    "restored-tcp": Traffic(("a", "b", "d"), restored(TCP)),
    "xlat-464": Traffic(("a", "b", "d"), restored(UDP, six=True)),
    "rebinding": Traffic(("lan", "wan"), rebinding),
    "port-used-again": Traffic(("lan", "wan"), reused_port),
    "helper": Traffic(("lan", "wan"), helper),
    "forwarded-twice": Traffic(("lan", "wan"), twice),
    "clock-set-forward": Traffic(("left", "right"), both_ways, both_ways=True, clock_set=(1, 0.4, 5_000_000_000)),
    "clock-set-back": Traffic(("left", "right"), both_ways, both_ways=True, clock_set=(1, 0.5, -3_000_000_000)),
    "clock-of-the-first-set": Traffic(("left", "right"), both_ways, both_ways=True, clock_set=(0, 0.5, 7_000_000_000)),
    "clock-five-seconds-ahead": Traffic(("left", "right"), plain, clock_ns=(0, 5_000_030_000)),
}
