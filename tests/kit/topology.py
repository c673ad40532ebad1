"""The service chain of the synthetic runs: points, paths, rules, and flows whose right treatment is written
by hand.

The expected rule of a flow is a constant here and not the result of a rule engine, so that an error in the
matching of rules cannot hide in both the program and its truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.kit.packets import ICMP, ICMPV6, TCP, UDP, Header

AGENT4, AGENT6 = "10.77.0.1", "fd77::1"
PLAIN4, PLAIN6 = "10.77.0.3", "fd77::3"
CLIENT4, CLIENT6 = "10.77.0.10", "fd77::10"
LOOP4 = "10.77.0.9"

POINTS = ("uplink", "switchport", "punt", "return", "vnic", "vnic3")


@dataclass(frozen=True)
class PathPlan:
    """A path of the plan; positions count its points from 0, ``detour`` are the first and last detour
    position.
    """

    name: str
    points: tuple[str, ...]
    stages: tuple[str, ...]
    match: dict[str, Any]
    detour: tuple[int, int] | None = None
    default: str = "forward"

    @property
    def last(self) -> int:
        return len(self.points) - 1

    @property
    def filter_input(self) -> int | None:
        return None if self.detour is None else self.detour[0] - 1

    def route(self, treatment: str) -> list[int]:
        """The positions that a packet of this treatment passes."""
        everything = list(range(len(self.points)))
        if self.detour is None or treatment == "punt":
            return everything
        before, after = everything[: self.detour[0]], everything[self.detour[1] + 1 :]
        return before + after if treatment == "forward" else before

    def stage(self, origin: int, target: int) -> int:
        """The number of the stage between two neighbouring positions of a route; n for the bypass."""
        return origin if target == origin + 1 else len(self.points) - 1

    def table(self) -> dict[str, Any]:
        """The [[path]] of run.toml."""
        entry: dict[str, Any] = {"name": self.name, "points": list(self.points), "stages": list(self.stages)}
        entry["match"] = self.match
        if self.detour is not None:
            entry["detour"] = [self.points[self.detour[0]], self.points[self.detour[1]]]
            entry["default"] = self.default
        return entry


INGRESS = PathPlan(
    "ingress",
    ("uplink", "switchport", "punt", "return", "vnic"),
    ("vswitch", "filter", "service", "delivery"),
    {"destination": [AGENT4, AGENT6]},
    (2, 3),
)
EGRESS = PathPlan(
    "egress",
    ("vnic", "punt", "return", "switchport", "uplink"),
    ("filter", "service", "handback", "vswitch"),
    {"source": [AGENT4, AGENT6]},
    (1, 2),
)
DIRECT = PathPlan("direct", ("uplink", "vnic3"), ("vswitch",), {"destination": [PLAIN4, PLAIN6]})
DIRECT_BACK = PathPlan("direct-back", ("vnic3", "uplink"), ("vswitch",), {"source": [PLAIN4, PLAIN6]})
LOOP = PathPlan(
    "loop",
    ("uplink", "switchport", "punt", "switchport", "vnic"),
    ("vswitch", "out", "back", "delivery"),
    {"destination": LOOP4},
)

RULES: tuple[dict[str, Any], ...] = (
    {
        "id": "punt-tcp",
        "path": "ingress",
        "protocol": "tcp",
        "dport": "5201",
        "action": "punt",
        "counter": "in_r1",
    },
    {
        "id": "punt-range",
        "path": "ingress",
        "protocol": "udp",
        "source": "10.77.0.0/24",
        "dport": "5300,9000-9099",
        "action": "punt",
        "counter": "in_r2",
    },
    {
        "id": "drop-udp",
        "path": "ingress",
        "protocol": "udp",
        "dport": "6666",
        "action": "drop",
        "counter": "in_r3",
    },
    {"id": "forward-echo", "path": "ingress", "protocol": "icmp", "icmp_type": 8, "action": "forward"},
    {"id": "punt-echo6", "path": "ingress", "protocol": "icmpv6", "icmp_type": 128, "action": "punt"},
    {"id": "drop-prefix6", "path": "ingress", "source": "fd77:0:0:1::/64", "action": "drop"},
    {"id": "absorb", "path": "ingress", "protocol": 6, "dport": "3128", "action": "punt", "absorbed": True},
    {
        "id": "forward-list",
        "path": "ingress",
        "protocol": ["tcp", "udp"],
        "sport": "7000-7001",
        "action": "forward",
    },
    {
        "id": "shadowed",
        "path": "ingress",
        "protocol": "tcp",
        "source": "10.77.0.12",
        "dport": "5201",
        "action": "forward",
    },
    {"id": "idle", "path": "ingress", "protocol": "udp", "dport": "7777", "action": "punt"},
    {
        "id": "e-punt-tcp",
        "path": "egress",
        "protocol": "tcp",
        "sport": "5201",
        "action": "punt",
        "counter": "out_r1",
    },
    {"id": "e-drop", "path": "egress", "protocol": "udp", "dport": "6667", "action": "drop"},
    {"id": "e-punt-icmp", "path": "egress", "protocol": "icmp", "action": "punt"},
)


@dataclass(frozen=True)
class Flow:
    """A kind of traffic with the rule and treatment that are right for it (rule None: no rule, the path's
    default).
    """

    path: PathPlan
    rule: str | None
    expected: str | None
    header: dict[str, Any] = field(default_factory=dict)
    absorbed: bool = False

    def packet(self, number: int, payload: bytes) -> Header:
        """The n-th packet of this flow: IPv4 gets an IP ID of its own, TCP a sequence number of its own."""
        values = dict(self.header)
        values.setdefault("ip_id", 0 if ":" in values["source"] else number % 65535 + 1)
        if values["protocol"] == TCP:
            values.setdefault("seq", 1000 + 1448 * number)
        if values["protocol"] in (ICMP, ICMPV6):
            values.setdefault("icmp_id", 77)
            values.setdefault("icmp_seq", number & 0xFFFF)
        return Header(payload=payload, **values)


def _flow(
    path: PathPlan,
    rule: str | None,
    expected: str | None,
    source: str,
    destination: str,
    protocol: int,
    **more: Any,
) -> Flow:
    absorbed = more.pop("absorbed", False)
    return Flow(
        path,
        rule,
        expected,
        {"source": source, "destination": destination, "protocol": protocol, **more},
        absorbed,
    )


FLOWS: tuple[Flow, ...] = (
    _flow(INGRESS, "punt-tcp", "punt", CLIENT4, AGENT4, TCP, sport=40001, dport=5201),
    _flow(INGRESS, "punt-tcp", "punt", "10.77.0.12", AGENT4, TCP, sport=40002, dport=5201),
    _flow(INGRESS, "punt-tcp", "punt", CLIENT6, AGENT6, TCP, sport=40003, dport=5201),
    _flow(INGRESS, "punt-range", "punt", CLIENT4, AGENT4, UDP, sport=40004, dport=9000),
    _flow(INGRESS, "punt-range", "punt", CLIENT4, AGENT4, UDP, sport=40004, dport=9099),
    _flow(INGRESS, "punt-range", "punt", "10.77.0.255", AGENT4, UDP, sport=40004, dport=5300),
    _flow(INGRESS, None, "forward", CLIENT4, AGENT4, UDP, sport=40004, dport=9100),
    _flow(INGRESS, None, "forward", "10.77.1.1", AGENT4, UDP, sport=40004, dport=9000),
    _flow(INGRESS, None, "forward", CLIENT6, AGENT6, UDP, sport=40004, dport=9000),
    _flow(INGRESS, "drop-udp", "drop", CLIENT4, AGENT4, UDP, sport=40005, dport=6666),
    _flow(INGRESS, "drop-udp", "drop", CLIENT6, AGENT6, UDP, sport=40005, dport=6666),
    _flow(INGRESS, "forward-echo", "forward", CLIENT4, AGENT4, ICMP, icmp_type=8),
    _flow(INGRESS, None, "forward", CLIENT4, AGENT4, ICMP, icmp_type=0),
    _flow(INGRESS, "punt-echo6", "punt", CLIENT6, AGENT6, ICMPV6, icmp_type=128),
    _flow(INGRESS, "drop-prefix6", "drop", "fd77:0:0:1::5", AGENT6, TCP, sport=40006, dport=80),
    _flow(INGRESS, None, "forward", "fd77:0:0:2::5", AGENT6, TCP, sport=40006, dport=80),
    _flow(INGRESS, "forward-list", "forward", CLIENT4, AGENT4, TCP, sport=7001, dport=80),
    _flow(INGRESS, "forward-list", "forward", CLIENT4, AGENT4, UDP, sport=7000, dport=80),
    _flow(INGRESS, None, "forward", CLIENT4, AGENT4, 47),
    _flow(EGRESS, "e-punt-tcp", "punt", AGENT4, CLIENT4, TCP, sport=5201, dport=40001),
    _flow(EGRESS, "e-punt-tcp", "punt", AGENT6, CLIENT6, TCP, sport=5201, dport=40003),
    _flow(EGRESS, "e-drop", "drop", AGENT4, CLIENT4, UDP, sport=40007, dport=6667),
    _flow(EGRESS, "e-punt-icmp", "punt", AGENT4, CLIENT4, ICMP, icmp_type=0),
    _flow(EGRESS, None, "forward", AGENT6, CLIENT6, ICMPV6, icmp_type=129),
    _flow(EGRESS, None, "forward", AGENT4, CLIENT4, UDP, sport=9000, dport=40004),
    _flow(DIRECT, None, "forward", CLIENT4, PLAIN4, UDP, sport=40008, dport=9000),
    _flow(DIRECT, None, "forward", CLIENT6, PLAIN6, TCP, sport=40009, dport=80),
    _flow(DIRECT_BACK, None, "forward", PLAIN4, CLIENT4, TCP, sport=80, dport=40010),
)
ABSORBED = _flow(INGRESS, "absorb", "punt", CLIENT4, AGENT4, TCP, sport=40011, dport=3128, absorbed=True)
IDENTICAL = _flow(INGRESS, "punt-range", "punt", CLIENT4, AGENT4, UDP, sport=41000, dport=9001, ip_id=0)
IDENTICAL_FORWARD = _flow(INGRESS, None, "forward", CLIENT4, AGENT4, UDP, sport=41000, dport=9500, ip_id=0)
FRAGMENTED = _flow(INGRESS, "punt-range", "punt", CLIENT4, AGENT4, UDP, sport=41001, dport=9002)
LOOPED = _flow(LOOP, None, "forward", CLIENT4, LOOP4, UDP, sport=41002, dport=53)
FLOWS_BY_EXPECTED = {
    action: [flow for flow in FLOWS if flow.expected == action] for action in ("punt", "forward", "drop")
}
