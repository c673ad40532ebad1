"""Known losses: the places that drop marked packets and a share of kernel TCP, and the counters of these drops.

A marked packet's payload starts with 14 printable bytes: its drop code, ``PKTR``, the letter of its path,
and eight digits. A drop code names exactly one place. An ingress hook drops behind the packet tap of its device, and an
egress hook drops in front of the tap. The stage of every loss is therefore certain:

==== ======== ====================== ============ ============================================
code path     place                  lost stage   last seen at
==== ======== ====================== ============ ============================================
a    ingress  uplink, ingress hook   0 vswitch    uplink
b    ingress  punt1, egress hook     1 filter     switchport (the rule has counted it)
c    ingress  svm p1, ingress hook   2 service    punt
d    ingress  ret1, ingress hook     3 delivery   return
e    ingress  vnic1, egress hook     4 bypass     switchport (the rule has counted it)
h    to-pvm3  uplink, ingress hook   0 vswitch    uplink
g    to-pvm3  vnic3, egress hook     0 vswitch    uplink
B    egress   punt1, egress hook     0 filter     vnic (the rule has counted it)
C    egress   svm p1, ingress hook   1 service    punt
D    egress   ret1, ingress hook     2 delivery   return
E    egress   fi1, egress hook       4 bypass     vnic (the rule has counted it)
F    egress   sp1, ingress hook      3 vswitch    switchport
G    from-pvm3 vnic3, ingress hook   0 vswitch    vnic3
==== ======== ====================== ============ ============================================

A second agent has the same places on its own devices (punt2, p2, ...), with counters of its own. A user-space forwarder
moves the places in the service from the ingress hook of p1 to the egress hook of r1, because a packet socket sees a
packet before the ingress hook drops it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace

MARK = b"PKTR"
NO_DROP = "-"
IDENTICAL = "z"
IDENTICAL_SENT = 20
IDENTICAL_LOST = 1
KERNEL_TCP_PORT = 5201
KERNEL_TCP_LOSS_PERCENT = 1


@dataclass(frozen=True)
class Place:
    """One drop code. ``lost_stage`` is the number of the stage of ``path`` that loses its packets."""

    code: str
    path: str
    lost_stage: int
    namespace: str  # role of the namespace in the lab
    device: str
    hook: str  # ingress | egress
    counter: str


PLACES = (
    Place("a", "ingress", 0, "host", "uplink", "ingress", "loss_in_uplink"),
    Place("b", "ingress", 1, "host", "punt1", "egress", "loss_in_punt1"),
    Place("c", "ingress", 2, "svm", "p1", "ingress", "loss_in_p1"),
    Place("d", "ingress", 3, "host", "ret1", "ingress", "loss_in_ret1"),
    Place("e", "ingress", 4, "host", "vnic1", "egress", "loss_in_vnic1"),
    Place("h", "to-pvm3", 0, "host", "uplink", "ingress", "loss_to3_uplink"),
    Place("g", "to-pvm3", 0, "host", "vnic3", "egress", "loss_to3_vnic3"),
    Place("B", "egress", 0, "host", "punt1", "egress", "loss_eg_punt1"),
    Place("C", "egress", 1, "svm", "p1", "ingress", "loss_eg_p1"),
    Place("D", "egress", 2, "host", "ret1", "ingress", "loss_eg_ret1"),
    Place("E", "egress", 4, "host", "fi1", "egress", "loss_eg_fi1"),
    Place("F", "egress", 3, "host", "sp1", "ingress", "loss_eg_sp1"),
    Place("G", "from-pvm3", 0, "host", "vnic3", "ingress", "loss_from3_vnic3"),
)
BY_CODE = {place.code: place for place in PLACES}

IDENTICAL_COUNTER = "loss_in_identical"
KERNEL_TCP_COUNTERS = {"ingress": "loss_in_kernel_tcp", "egress": "loss_eg_kernel_tcp"}
KERNEL_TCP_STAGE = {"ingress": 2, "egress": 1}
SINK_COUNTER = "sink_marked"
SINKS = ("client", "pvm1", "pvm3")
_PROTECTED_MAC = "02:77:00:00:00:01"
_OF_AGENT = ("punt1", "p1", "ret1", "vnic1", "fi1", "sp1")


def _marked(code: str, statement: str) -> list[str]:
    """The rules that recognise one drop code, behind a TCP or UDP header and behind an 8 byte header such as ICMP."""
    word = (code.encode() + MARK).hex()
    return [
        f"meta l4proto {{ tcp, udp }} @ih,0,40 0x{word} {statement};",
        f"meta l4proto != {{ tcp, udp }} @th,64,40 0x{word} {statement};",
    ]


def _in_service(agent: int, forwarders: Collection[int]) -> tuple[str, str]:
    """Device and hook at which a service loses packets, visibly for both points: after its entry, before its exit."""
    return (f"r{agent}", "egress") if agent in forwarders else (f"p{agent}", "ingress")


def _counted(name: str) -> str:
    return f"counter name {name} drop"


def places(agents: int = 1) -> tuple[Place, ...]:
    """The places of a lab with one agent or two."""
    second = [
        replace(place, device=place.device[:-1] + "2", counter=place.counter[:-1] + "2")
        for place in PLACES
        if place.device in _OF_AGENT
    ]
    return (*PLACES, *second) if agents == 2 else PLACES


def ruleset(role: str, agents: int = 1, forwarders: Collection[int] = ()) -> str:
    """The nft script of all known losses in the namespace of ``role``; empty where there are none.

    ``forwarders``: the agents whose service is a forwarder in user space. The script replaces the tables of an earlier
    one; counters start from zero.
    """
    counters: list[str] = []
    chains: dict[tuple[str, str], list[str]] = defaultdict(list)
    for place in places(agents):
        if place.namespace == role:
            counters.append(place.counter)
            at = _in_service(int(place.device[1:]), forwarders) if role == "svm" else (place.device, place.hook)
            chains[at] += _marked(place.code, _counted(place.counter))
    if role == "svm":
        service = _in_service(1, forwarders)
        counters += [IDENTICAL_COUNTER, *KERNEL_TCP_COUNTERS.values()]
        # Identical datagrams are indistinguishable: the truth is the number of drops, not a packet.
        once = f"numgen inc mod {IDENTICAL_SENT} == 7 {_counted(IDENTICAL_COUNTER)}"
        chains[service] += _marked(IDENTICAL, once)[:1]
        # Marked packets to the same port have their own losses; the rules below skip them.
        chains[service].append(f"meta l4proto tcp @ih,8,32 0x{MARK.hex()} accept;")
        for path, side in (("ingress", "daddr"), ("egress", "saddr")):
            chains[service] += [
                f"ether {side} {_PROTECTED_MAC} tcp {port} {KERNEL_TCP_PORT} "
                f"numgen random mod 100 < {KERNEL_TCP_LOSS_PERCENT} {_counted(KERNEL_TCP_COUNTERS[path])};"
                for port in ("dport", "sport")
            ]
    if role in (*SINKS, "pvm2"):
        # Behind the last point: no marked packet reaches a socket, so none is answered.
        counters.append(SINK_COUNTER)
        word = MARK.hex()
        chains["eth0", "ingress"] += [
            f"meta l4proto {{ tcp, udp }} @ih,8,32 0x{word} {_counted(SINK_COUNTER)};",
            f"meta l4proto != {{ tcp, udp }} @th,72,32 0x{word} {_counted(SINK_COUNTER)};",
        ]
    if not counters:
        return ""
    lines = ["table netdev known_loss {", "}", "delete table netdev known_loss", "table netdev known_loss {"]
    lines += [f"    counter {name} {{\n    }}" for name in counters]
    for (device, hook), rules in chains.items():
        lines.append(f"    chain {device}_{hook} {{")
        # Before the filter (priority 0): a packet lost on the way to a hook never reaches the filter.
        lines.append(f'        type filter hook {hook} device "{device}" priority -10; policy accept;')
        lines += [f"        {rule}" for rule in rules]
        lines.append("    }")
    return "\n".join([*lines, "}", ""])
