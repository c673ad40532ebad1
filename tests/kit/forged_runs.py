"""Runs in which a packet of another host was made to look, to a hash without a key, like one that was lost.

Each builder returns the analysis, and how many packets were lost or dropped in truth. The forged packets have other
addresses, ports, identification and bytes than what they imitate: nobody who compares fields takes them for it.
"""

from __future__ import annotations

import ipaddress
import random
from pathlib import Path

import numpy as np

from pktrace.analysis.analysis import Analysis
from pktrace.schema import BASES, FATES, RULE_VERDICTS
from tests.kit import forgery
from tests.kit.packets import Header, frame
from tests.kit.pcap_files import Record
from tests.test_named_cases import CHAIN, DELAYS, MS, PUNTED, START, S, analyzed, file_of, sent

POINTS = ("p0", "p1", "p2", "p3")
SHAPES = tuple((last, begin, end) for last in range(3) for begin in range(last + 1, 4) for end in range(begin + 1, 5))


def _number(address: str) -> int:
    return int(ipaddress.ip_address(address))


def _with_digest_of(lost: Header, host: str, rng: random.Random) -> bytes:
    """A packet of another host with the digest of a lost UDP packet."""
    ends = _number(lost.source), _number(lost.destination), lost.version, lost.ip_id
    digest = forgery.udp_digest(*ends, lost.sport, lost.dport, lost.payload)
    version = ipaddress.ip_address(host).version
    ip_id = rng.randrange(1, 65536) if version == 4 else 0
    target = "203.0.113.9" if version == 4 else "fd00:9::9"
    ports = rng.randrange(1024, 65536), rng.randrange(1024, 65536)
    payload = forgery.udp_payload_for(digest, _number(host), _number(target), version, ip_id, *ports, rng.randbytes(56))
    return frame(Header(host, target, 17, payload, sport=ports[0], dport=ports[1], ip_id=ip_id))


def forged_digest(folder: Path, number: int) -> str | None:
    """A packet was lost behind point `last`; one of another host, with its digest, comes by at points [begin, end)."""
    rng = random.Random(number)
    last, begin, end = SHAPES[number % len(SHAPES)]
    lost = Header("10.0.0.1", "10.0.0.2", 17, rng.randbytes(64), sport=1000, dport=2000, ip_id=rng.randrange(1, 65536))
    host = rng.choice(("198.51.100.7", "fd00:7::7"))
    forged = _with_digest_of(lost, host, rng)
    at = START + S
    files = {}
    for place, name in enumerate(POINTS):
        records = sent(20, place * 50_000)
        records += [Record(at + place * 50_000, frame(lost))] if place <= last else []
        records += (
            [Record(at + place * 50_000 + rng.randrange(-40_000, 40_000), forged)] if begin <= place < end else []
        )
        files[name] = file_of(records)
    analysis = analyzed(folder, files, [{"name": "p", "points": list(POINTS)}])
    return _told(analysis, 20, 1)


def _told(analysis: Analysis, delivered: int, lost: int) -> str | None:
    sent_first = analysis.trajectories.seen[:, 0] >= 0
    counts = np.bincount(analysis.verdicts.fate[sent_first], minlength=len(FATES))
    found = {name: int(counts[code]) for code, name in enumerate(FATES) if counts[code]}
    # A flow that begins in step where another ends may be that flow, changed by a box: honest, but never delivered.
    if found.get("delivered", 0) != delivered or found.get("lost", 0) + found.get("ambiguous", 0) != lost:
        return f"of what was sent {lost} were lost and {delivered} delivered, and the analysis says {found}"
    return None


def forged_violation(folder: Path, number: int) -> str | None:
    """The filter dropped a packet, as its rule says; one of another host, with its digest, comes by behind it."""
    rng = random.Random(number)
    dropped = Header(
        "10.0.0.1", "10.0.0.2", 17, rng.randbytes(64), sport=1000, dport=666, ip_id=rng.randrange(1, 65536)
    )
    forged = _with_digest_of(dropped, "198.51.100.7", rng)
    behind = rng.choice((("punt",), ("punt", "ret"), ("punt", "ret", "vnic"), ("vnic",)))
    at = START + S
    files = {}
    for name, delay in zip(CHAIN, DELAYS, strict=True):
        records = sent(20, delay)
        records += [Record(at + delay, frame(dropped))] if name in ("up", "sw") else []
        records += [Record(at + delay + 2_000, forged)] if name in behind else []
        files[name] = file_of(records)
    rule = {"id": "drop-666", "path": "p", "protocol": "udp", "dport": 666, "action": "drop"}
    analysis = analyzed(folder, files, PUNTED, rule=[rule])
    for tally in analysis.rule_tallies:
        if tally.rule == 0 and tally.counts != {name: int(name == "hit") for name in RULE_VERDICTS}:
            return f"the filter dropped one packet, as the rule says, and the analysis says {tally.counts}"
    return None


def forged_content(folder: Path, number: int) -> str | None:
    """A whole flow was lost; another host sends as many packets with other bytes of the same hash behind it."""
    rng = random.Random(number)
    version = rng.choice((4, 6))
    victim, server = ("10.0.0.1", "10.0.0.2") if version == 4 else ("fd00::1", "fd00::2")
    host = "10.9.9.9" if version == 4 else "fd00:9::9"
    first, second = sent(20), sent(20, 50_000)
    for packet in range(16):
        payload, at = rng.randbytes(64), START + S + packet * MS
        forged = forgery.with_content_hash(rng.randbytes(56), forgery.content_hash(payload))
        first.append(Record(at, frame(Header(victim, server, 17, payload, sport=7, dport=9, ip_id=packet + 1))))
        second.append(Record(at + 50_000, frame(Header(host, server, 17, forged, sport=8, dport=9, ip_id=packet + 1))))
    return _told(analyzed(folder, {"a": file_of(first), "b": file_of(second)}), 20, 16)


def forged_flow(folder: Path, number: int) -> str | None:
    """A TCP flow was lost; another host sends its numbers, from an address that gives the same flow."""
    rng = random.Random(number)
    victim, server, high = "fd00::1", "fd00::2", 0xFD00_0009 << 32
    wanted = forgery.column_hash(6, _number(victim) >> 64, 1, _number(server) >> 64, 2, 1000, 80, 0)
    ports = rng.randrange(1024, 65536), rng.randrange(1, 65536)
    low = forgery.column_for(wanted, (6, high), (_number(server) >> 64, 2, *ports, 0))
    host = str(ipaddress.IPv6Address(high << 64 | low))
    first, second = sent(20), sent(20, 50_000)
    for packet in range(16):
        at, of = START + S + packet * MS, {"seq": 1000 + 64 * packet, "ack": 77}
        lost = Header(victim, server, 6, rng.randbytes(64), sport=1000, dport=80, **of)
        forged = Header(host, server, 6, rng.randbytes(64), sport=ports[0], dport=ports[1], **of)
        first.append(Record(at, frame(lost)))
        second.append(Record(at + 50_000, frame(forged)))
    return _told(analyzed(folder, {"a": file_of(first), "b": file_of(second)}), 20, 16)


def forged_header(folder: Path, number: int) -> str | None:
    """Packets that differ only in payload were lost, and others came; a packet that was cut has their header's hash."""
    rng = random.Random(number)
    victim, server, host, high = "fd00::1", "fd00::2", "fd00:9::9", 0xFD00_0009 << 32
    size = 16
    wanted = forgery.header_hash(_number(victim), _number(server), 6, 0, 17, 8 + size)
    length = rng.randrange(64, 512)
    state = forgery.state_before(0, forgery.state_before(17 << 32 | 8 + length, wanted))
    begun = (forgery.header_hash_begun(_number(host)), high)
    target = high << 64 | forgery.value_between(forgery.mix(*begun), state)
    whole = frame(Header(host, str(ipaddress.IPv6Address(target)), 17, rng.randbytes(length), sport=1, dport=2))
    first, second = sent(20), sent(20, 50_000)
    first.append(Record(START + 2 * S, whole[:62], length=len(whole)))
    for packet in range(3):
        at = START + S + packet * MS
        for records, moment in ((first, at), (second, at + 50_000)):
            records.append(Record(moment, frame(Header(victim, server, 17, rng.randbytes(size), sport=1, dport=2))))
    analysis = analyzed(folder, {"a": file_of(first), "b": file_of(second)})
    both = (analysis.trajectories.seen >= 0).all(axis=1)
    if np.count_nonzero(both) != 20:
        basis = sorted({BASES[code] for code in analysis.trajectories.basis[both].tolist()})
        return f"20 packets came to the other end, and the analysis says {np.count_nonzero(both)} by {basis}"
    return None
