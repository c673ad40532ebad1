"""The plan of the marked packets: what is sent, what every rule should do with it, and where it is lost.

The plan is made from a seed alone, before anything is sent; the truth is written from it and never from
captures. Expected rules and actions are stated here by hand, so that they check the compiled rules instead
of repeating them. They belong to ``rules/service-chain.toml``.

How a marked packet is told from every other packet in the tables:

* TCP and UDP: each has a source or destination port in 20000-29999 that no other packet between these
  addresses has, so (source, destination, protocol, sport, dport) is unique; the kernel's own ports start at
  32768;
* ICMP and ICMPv6: identifier 0x4d4b, and a sequence number from 1000 on that is used once per direction;
* IPv4: the IP ID is not zero and is used once per sender.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from .known_loss import MARK, NO_DROP, PLACES
from .topology import CLIENT, PVM1, PVM3

DEFAULT_SEED = 20261123
DEFAULT_RATE_PPS = 700.0
ICMP_ID = 0x4D4B
FIRST_ICMP_SEQUENCE = 1000
FIRST_PORT = 20000
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
LETTERS = {"ingress": "I", "egress": "E", "to-pvm3": "T", "from-pvm3": "F"}
SENDERS = {"ingress": "client", "egress": "pvm1", "to-pvm3": "client", "from-pvm3": "pvm3"}
MARKER_BYTES = 14
# Payload lengths: mostly small, some longer than what is kept of a packet, some full frames.
_PAYLOADS = (14, 18, 24, 32, 48, 64, 64, 100, 256, 700, 1200)
_EACH = 18  # packets of each kind that nothing drops on purpose
_EACH_LOST_IN_SERVICE = 2  # packets of each kind lost in the service: the loss that the recording is about
_KINDS_PER_LOSS_ELSEWHERE = 3  # elsewhere one packet of every third kind: below 1 %, so that p99 is a latency
_IN_SERVICE = "cC"
# Bypass and detour have places of their own; a packet that a rule drops can be lost only before the filter.
_CODES = {
    ("ingress", "punt"): "abcd",
    ("ingress", "forward"): "ae",
    ("ingress", "drop"): "a",
    ("egress", "punt"): "BCDF",
    ("egress", "forward"): "EF",
    ("egress", "drop"): "",
    ("to-pvm3", None): "hg",
    ("from-pvm3", None): "G",
}


@dataclass(frozen=True)
class Kind:
    """Packets that should meet the same fate at the filter. ``rule`` None with an action: the path's default.

    A port that is None is chosen per packet, so that the packet is unique.
    """

    path: str
    rule: str | None
    action: str | None
    protocol: int
    version: int
    sport: int | None = None
    dport: int | None = None
    icmp_type: int | None = None
    source: str = ""

    def addresses(self) -> tuple[str, str]:
        first, second = {
            "ingress": (CLIENT, PVM1),
            "egress": (PVM1, CLIENT),
            "to-pvm3": (CLIENT, PVM3),
            "from-pvm3": (PVM3, CLIENT),
        }[self.path]
        if self.version == 4:
            return self.source or first.ipv4, second.ipv4
        return self.source or first.ipv6, second.ipv6


@dataclass(frozen=True)
class MarkedPacket:
    """One planned packet; ``due_s`` is when to send it, in seconds after its sender starts."""

    kind: Kind
    code: str
    sequence: int
    ip_id: int | None
    sport: int | None
    dport: int | None
    icmp_sequence: int | None
    tcp_sequence: int | None
    payload: bytes
    due_s: float

    @property
    def marker(self) -> str:
        return f"{self.code}{MARK.decode()}{LETTERS[self.kind.path]}{self.sequence:08d}"

    @property
    def sender(self) -> str:
        return SENDERS[self.kind.path]

    @property
    def length(self) -> int:
        """Bytes on the wire: Ethernet, IP, transport header (without options) and payload."""
        transport = {ICMP: 8, ICMPV6: 8, UDP: 8, TCP: 20}[self.kind.protocol]
        return 14 + (20 if self.kind.version == 4 else 40) + transport + len(self.payload)

    @property
    def lost_stage(self) -> int | None:
        """The stage of its path in which it is dropped on purpose."""
        return next((place.lost_stage for place in PLACES if place.code == self.code), None)

    @property
    def fate(self) -> str:
        if self.lost_stage is not None:
            return "lost"
        return "dropped" if self.kind.action == "drop" else "delivered"


def _both(
    path: str,
    rule: str | None,
    action: str | None,
    protocol: int,
    *,
    sport: int | None = None,
    dport: int | None = None,
) -> list[Kind]:
    return [Kind(path, rule, action, protocol, version, sport, dport) for version in (4, 6)]


def kinds() -> list[Kind]:
    """Every rule at least once per IP version it serves, the defaults, and the port without an agent."""
    backup4, backup6 = "10.77.0.130", "fd77::b:2"
    ingress = [
        *_both("ingress", "drop-cleartext-login", "drop", TCP, dport=23),
        *_both("ingress", "drop-cleartext-login", "drop", TCP, dport=513),
        *_both("ingress", "drop-udp-games", "drop", UDP, dport=6666),
        Kind("ingress", "drop-timestamp-request", "drop", ICMP, 4, icmp_type=13),
        Kind("ingress", "forward-backup-network", "forward", UDP, 4, dport=53, source=backup4),
        Kind("ingress", "forward-backup-network", "forward", TCP, 6, dport=5201, source=backup6),
        Kind("ingress", "drop-udp-games", "drop", UDP, 4, dport=6660, source=backup4),
        *_both("ingress", "punt-bulk", "punt", TCP, dport=5201),
        *_both("ingress", "punt-bulk-answers", "punt", TCP, sport=5201),
        Kind("ingress", "punt-web", "punt", TCP, 4, dport=443),
        Kind("ingress", "punt-web", "punt", TCP, 6, dport=9042),
        *_both("ingress", "punt-dns", "punt", UDP, dport=53),
        *_both("ingress", "punt-client-media", "punt", UDP, sport=7004),
        Kind("ingress", "punt-echo", "punt", ICMP, 4, icmp_type=8),
        Kind("ingress", "punt-echo6", "punt", ICMPV6, 6, icmp_type=128),
        *_both("ingress", "forward-http-alt", "forward", TCP, dport=8080),
        *_both("ingress", None, "forward", UDP, dport=4000),
        Kind("ingress", None, "forward", UDP, 4, sport=7004, source="10.77.0.99"),
        Kind("ingress", None, "forward", ICMP, 4, icmp_type=0),
        Kind("ingress", None, "forward", ICMPV6, 6, icmp_type=129),
    ]
    egress = [
        *_both("egress", "drop-smtp-out", "drop", TCP, dport=25),
        *_both("egress", "drop-discovery-out", "drop", UDP, dport=1900),
        *_both("egress", "punt-bulk-out", "punt", TCP, dport=5201),
        *_both("egress", "punt-bulk-answers-out", "punt", TCP, sport=5201),
        *_both("egress", "punt-dns-answers-out", "punt", UDP, sport=53),
        Kind("egress", "punt-echo-reply-out", "punt", ICMP, 4, icmp_type=0),
        Kind("egress", "punt-echo-reply6-out", "punt", ICMPV6, 6, icmp_type=129),
        *_both("egress", "forward-http-alt-out", "forward", TCP, sport=8080),
        *_both("egress", None, "forward", UDP, dport=4000),
        *_both("egress", None, "forward", TCP, dport=8443),
    ]
    direct = [
        kind
        for path in ("to-pvm3", "from-pvm3")
        for kind in (
            *_both(path, None, None, UDP, dport=53),
            *_both(path, None, None, TCP, dport=5201),
            Kind(path, None, None, ICMP, 4, icmp_type=8),
            Kind(path, None, None, ICMPV6, 6, icmp_type=128),
        )
    ]
    return ingress + egress + direct


def _times_lost(code: str, turn: int) -> int:
    if code in _IN_SERVICE:
        return _EACH_LOST_IN_SERVICE
    return 1 if turn % _KINDS_PER_LOSS_ELSEWHERE == 0 else 0


def make_plan(seed: int = DEFAULT_SEED, rate_pps: float = DEFAULT_RATE_PPS) -> list[MarkedPacket]:
    """The whole plan: the same for the same seed. Each sender sends about ``rate_pps`` packets per second."""
    chance = random.Random(seed)
    wanted = [(kind, NO_DROP) for kind in kinds() for _ in range(_EACH)]
    wanted += [
        (kind, code)
        for number, kind in enumerate(kinds())
        for place, code in enumerate(_CODES[kind.path, kind.action])
        for _ in range(_times_lost(code, number + place))
    ]
    chance.shuffle(wanted)
    # One draw for all senders: an IP ID is used once, whoever sends it.
    ip_ids = iter(chance.sample(range(1, 0x10000), len(wanted)))
    sequences = dict.fromkeys(LETTERS, 0)
    due = dict.fromkeys(SENDERS.values(), 0.0)
    return [_packet(kind, code, sequences, due, ip_ids, chance, rate_pps) for kind, code in wanted]


def _packet(
    kind: Kind,
    code: str,
    sequences: dict[str, int],
    due: dict[str, float],
    ip_ids: Iterable[int],
    chance: random.Random,
    rate_pps: float,
) -> MarkedPacket:
    sequences[kind.path] += 1
    sequence = sequences[kind.path]
    sender = SENDERS[kind.path]
    # Arrivals at random, as in RFC 2330 section 11.1: no beat of ours shows up in what is measured.
    due[sender] += chance.expovariate(rate_pps)
    with_ports = kind.protocol in (TCP, UDP)
    own_port = FIRST_PORT + sequence
    packet = MarkedPacket(
        kind=kind,
        code=code,
        sequence=sequence,
        ip_id=next(iter(ip_ids)) if kind.version == 4 else None,
        sport=(kind.sport or own_port) if with_ports else None,
        dport=(kind.dport or own_port) if with_ports else None,
        icmp_sequence=None if with_ports else FIRST_ICMP_SEQUENCE + sequence,
        tcp_sequence=chance.randrange(1, 1 << 32) if kind.protocol == TCP else None,
        payload=b"",
        due_s=due[sender],
    )
    filling = chance.randbytes(chance.choice(_PAYLOADS) - MARKER_BYTES)
    return MarkedPacket(**{**packet.__dict__, "payload": packet.marker.encode() + filling})
