"""Impairments of a lab: install them at a named stage, show them with their counts, clear them.

An impairment that the kernel can do is an nft table of its own (``impair_<number>``) with two counters per direction,
for packets seen and packets changed. The table hooks in behind the packet tap of the first point of its stage and in
front of the tap of the last, so the stage is certain. The forwarder in the service does the other impairments: delay,
jitter, reordering, merging, splitting to an MTU. An impairment that needs the forwarder starts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..filter_rules import PATHS, Agent
from ..forwarder.impairment import KINDS, NAT_FIELDS, ForwarderPlan, Impairment
from ..marks import MARK
from ..processes import LabError, run
from .topology import CLIENT, Lab

STAGES = ("vswitch", "filter", "service", "delivery", "bypass")
BY_NFT = ("loss", "every", "marked", "dup", "nat", "ttl", "dscp", "payload")
BY_ETHTOOL = ("split",)  # at any stage, with the MTU of the link
_FAMILIES = {4: "ip", 6: "ip6"}
_FIRST_PRIORITY = -9  # between the known losses (-10) and the filter (0)
_PARTS = 1_000_000  # resolution of probabilities


@dataclass(frozen=True)
class Hook:
    """The hook of a stage: behind the tap of its first point, in front of the tap of its last."""

    role: str
    device: str
    hook: str  # ingress | egress
    onward: str  # the device at which the stage ends
    bypass: bool = False


def hook_of(stage: str, path: str, agent: Agent) -> Hook:
    """The hook of a stage on a path; LabError if there is no such stage."""
    into = path == "ingress"
    onward = agent.machine_side if into else agent.switch_side
    places = {
        "vswitch": Hook("host", CLIENT.port if into else agent.switch_port, "ingress", CLIENT.port),
        "filter": Hook("host", agent.punt, "egress", agent.punt),
        # At the exit: a packet socket, such as the forwarder's, is in front of the ingress hook.
        "service": Hook("svm", agent.service_out, "egress", agent.service_out),
        "delivery": Hook("host", agent.returned, "ingress", onward),
        "bypass": Hook("host", onward, "egress", onward, bypass=True),
    }
    if stage not in places:
        raise LabError(f"stage {stage!r}: known are {', '.join(STAGES)}")
    return replace(places[stage], onward=agent.switch_port) if stage == "vswitch" and into else places[stage]


def _marks(agent: Agent) -> tuple[str, str]:
    """(returned from the service, duplicated): marks on packets within the host.

    A mark is lost on the way into another namespace and kept on the way to the other agent, so each agent has its own.
    """
    return f"0x5054{agent.number:02x}01", f"0x5054{agent.number:02x}02"


def table_of(number: int) -> str:
    return f"impair_{number}"


def counter_of(number: int, path: str, what: str) -> str:
    """``imp3_in_seen``, ``imp3_eg_applied``."""
    return f"imp{number}_{PATHS[path]}_{what}"


def scripts(impairment: Impairment, agent: Agent) -> dict[str, str]:
    """The nft script per role that installs an impairment of a kind in ``BY_NFT``."""
    chains: dict[str, list[str]] = {}
    counters: dict[str, list[str]] = {}
    for path in impairment.paths:
        place = hook_of(impairment.stage, path, agent)
        if impairment.kind == "dup" and place.role == "svm":
            # A copy made at an egress hook would be copied again; a copy made at an ingress hook leaves once.
            place = replace(place, device=agent.service_in, hook="ingress")
        side = "daddr" if path == "ingress" else "saddr"
        name = f"{PATHS[path]}_act"
        conditions = f"ether {side} {agent.protected_mac} "
        from_service, duplicated = _marks(agent)
        conditions += f"meta mark != {{ {from_service}, {duplicated} }} " if place.bypass else ""
        if place.role == "host" and place.hook == "egress" and not place.bypass:
            conditions += f"meta mark != {duplicated} "  # a copy passes here again, and is not copied
        lines = chains.setdefault(place.role, [])
        seen, applied = (counter_of(impairment.number, path, what) for what in ("seen", "applied"))
        counters.setdefault(place.role, []).extend((seen, applied))
        # One chain for all kinds of packets, so that "every Nth" counts over all of them.
        lines += [f"    chain {name} {{", f"        counter name {seen};"]
        lines += [
            f"        {line};" for line in _actions(impairment, path, place, f"counter name {applied}", duplicated)
        ]
        lines += ["    }"]
        lines += _base(
            place,
            path,
            impairment.kind,
            [f"{conditions}{rule}" for rule in impairment.rule().matching(f"jump {name};")],
        )
        if place.bypass:
            lines += _marking(agent, path)
    table = f"table netdev {table_of(impairment.number)}"
    return {
        role: "\n".join([f"{table} {{", *(f"    counter {c} {{\n    }}" for c in counters[role]), *lines, "}", ""])
        for role, lines in chains.items()
    }


def _base(place: Hook, path: str, kind: str, rules: Sequence[str]) -> list[str]:
    # In the order in which the forwarder applies them.
    priority = _FIRST_PRIORITY + [one for one in KINDS if one in BY_NFT].index(kind)
    return [
        f"    chain {PATHS[path]}_{place.device}_{place.hook} {{",
        f'        type filter hook {place.hook} device "{place.device}" priority {priority}; policy accept;',
        *(f"        {rule}" for rule in rules),
        "    }",
    ]


def _marking(agent: Agent, path: str) -> list[str]:
    """Mark packets from the service: they leave by the same device as packets that bypassed it."""
    return [
        f"    chain {PATHS[path]}_marking {{",
        f'        type filter hook ingress device "{agent.returned}" priority {_FIRST_PRIORITY}; policy accept;',
        f"        meta mark set {_marks(agent)[0]};",
        "    }",
    ]


def _actions(impairment: Impairment, path: str, place: Hook, count: str, duplicated: str) -> list[str]:
    kind = impairment.kind
    if kind in ("loss", "dup"):
        parts = round(impairment.probability * _PARTS)
        if parts == 0:
            return []
        chance = f"numgen random mod {_PARTS} < {parts} " if parts < _PARTS else ""
        if kind == "loss":
            return [f"{chance}{count} drop"]
        mark = f"meta mark set {duplicated} " if place.hook == "egress" else ""
        return [f'{chance}{count} {mark}dup to "{place.onward}"']
    if kind == "every":
        return [f"numgen inc mod {impairment.integer} == {impairment.integer - 1} {count} drop"]
    if kind == "marked":
        word = (impairment.value.encode() + MARK).hex()
        return [
            f"meta l4proto {{ tcp, udp }} @ih,0,40 0x{word} {count} drop",
            f"meta l4proto {{ icmp, ipv6-icmp }} @th,64,40 0x{word} {count} drop",
        ]
    if kind == "nat":
        return _nat(impairment, path, count)
    if kind == "ttl":
        if impairment.integer < 0:
            raise LabError("ttl: nft can set it, not lower it; use the forwarder (--by forwarder)")
        return [f"ip ttl set {impairment.integer} {count}", f"ip6 hoplimit set {impairment.integer} {count}"]
    if kind == "dscp":
        return [f"ip dscp set {impairment.integer} {count}", f"ip6 dscp set {impairment.integer} {count}"]
    return _payload(impairment, count)


def _nat(impairment: Impairment, path: str, count: str) -> list[str]:
    which, old, new = impairment.nat()
    if path != impairment.paths[0]:
        if impairment.one_way:
            return []
        which, old, new = NAT_FIELDS[which], new, old
    if which in ("sport", "dport"):
        return [f"{protocol} {which} {old} {protocol} {which} set {new} {count}" for protocol in ("tcp", "udp")]
    family = _FAMILIES[6 if ":" in old else 4]
    field = {"source": "saddr", "destination": "daddr"}[which]
    return [f"{family} {field} {old} {family} {field} set {new} {count}"]


def _payload(impairment: Impairment, count: str) -> list[str]:
    return [
        f"meta l4proto {protocol} @ih,{impairment.offset * 8},8 set {impairment.integer} {count}"
        for protocol in ("tcp", "udp")
    ]


def ethtool_device(stage: str, path: str, agent: Agent) -> tuple[str, str]:
    """(role, device) that loses its segmentation offload for ``split`` without an MTU."""
    place = hook_of(stage, path, agent)
    return (place.role, place.onward)


class Impairments:
    """The impairments in force in one lab, kept in its state."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def listed(self) -> list[dict[str, Any]]:
        """The tables of all impairments in force, each with ``agent`` and ``by``."""
        found: list[dict[str, Any]] = self._lab.state.read().get("impairments", [])
        return found

    def add(self, impairment: Impairment, agent: Agent, by: str = "auto", log: str = "") -> dict[str, Any]:
        """Number and install an impairment; returns its entry, in the form of ``listed``."""
        impairment = replace(impairment, number=self._lab.state.read().get("impairments_made", 0) + 1)
        for path in impairment.paths:
            hook_of(impairment.stage, path, agent)
        by = self._chosen(impairment, by)
        entry = {**impairment.table(), "agent": agent.number, "by": by}
        if by == "nft":
            for role, script in scripts(impairment, agent).items():
                self._lab.run_in(role, ["nft", "-f", "-"], stdin=script)
        elif by == "ethtool":
            self._segmentation(impairment, agent, "off")
        else:
            self._through_forwarder(impairment, agent, log)
        self.introduce(impairment)
        self._lab.state.update(impairments=[*self.listed(), entry], impairments_made=impairment.number)
        self._lab.state.note("impair", **entry)
        return entry

    def clear(self, number: int | None = None) -> list[dict[str, Any]]:
        """Remove one impairment, or all; returns their entries, with the last counts. LabError: no such number."""
        listed = self.shown()
        chosen = [entry for entry in listed if number in (None, entry["number"])]
        if number is not None and not chosen:
            raise LabError(f"there is no impairment {number}: 'lab impair show' lists them")
        for entry in chosen:
            agent = self._lab.agent(entry["agent"])
            impairment = _impairment(entry)
            if entry["by"] == "nft":
                for role in scripts(impairment, agent):
                    self._lab.run_in(role, ["nft", "delete", "table", "netdev", table_of(impairment.number)])
            elif entry["by"] == "ethtool":
                self._segmentation(impairment, agent, "on")
            elif self._lab.service(agent).kind == "forwarder":
                service = self._lab.service(agent)
                plan = service.plan()
                kept = tuple(one for one in plan.impairments if one.number != impairment.number)
                service.change(replace(plan, impairments=kept))
            kept_entries = [other for other in self.listed() if other["number"] != entry["number"]]
            self._lab.state.update(impairments=kept_entries)
            self._lab.state.note("impair clear", **entry)
        return chosen

    def forget_forwarder(self, agent: Agent) -> None:
        """Remove the entries of this agent's forwarder, which is gone."""
        kept = [one for one in self.listed() if one["by"] != "forwarder" or one["agent"] != agent.number]
        self._lab.state.update(impairments=kept)

    def remember_forwarder(self, agent: Agent, impairments: Sequence[Impairment]) -> list[Impairment]:
        """Number and enter the impairments of a new forwarder; returns them with their numbers."""
        made = self._lab.state.read().get("impairments_made", 0)
        numbered = [replace(one, number=made + at) for at, one in enumerate(impairments, start=1)]
        entries = [{**one.table(), "agent": agent.number, "by": "forwarder"} for one in numbered]
        self._lab.state.update(impairments=[*self.listed(), *entries], impairments_made=made + len(numbered))
        return numbered

    def shown(self) -> list[dict[str, Any]]:
        """``listed`` with ``counts``: ``seen`` and ``applied``, per path, or over both paths for a forwarder."""
        return [{**entry, "counts": self._counts(entry)} for entry in self.listed()]

    def _counts(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        impairment, agent = _impairment(entry), self._lab.agent(entry["agent"])
        if entry["by"] == "ethtool":
            return {}  # the kernel does not count them
        if entry["by"] == "forwarder":
            counted = self._lab.service(agent).counts()["impairments"]
            found: dict[str, Any] = next((one for one in counted if one["number"] == impairment.number), {})
            return {key: found.get(key, 0) for key in ("seen", "applied", "held")}
        packets: dict[str, int] = {}
        for role in scripts(impairment, agent):
            command = ["nft", "-j", "list", "counters", "table", "netdev", table_of(impairment.number)]
            for item in json.loads(self._lab.run_in(role, command))["nftables"]:
                if "counter" in item:
                    packets[item["counter"]["name"]] = int(item["counter"]["packets"])
        return {
            path: {what: packets[counter_of(impairment.number, path, what)] for what in ("seen", "applied")}
            for path in impairment.paths
        }

    def _chosen(self, impairment: Impairment, by: str) -> str:
        kind = impairment.kind
        if kind == "split" and by == "ethtool" and impairment.match:
            raise LabError("split by ethtool takes all packets of a device: it cannot be limited to some")
        if by == "auto":
            only_forwarder = kind not in BY_NFT or (kind == "ttl" and impairment.integer < 0)
            by = "forwarder" if only_forwarder else "nft"
        possible = {"nft": kind in BY_NFT, "ethtool": kind in BY_ETHTOOL, "forwarder": True}
        if not possible.get(by, False):
            raise LabError(f"{kind} cannot be done by {by}")
        if by == "forwarder" and impairment.stage != "service":
            other = " (other stages need --by ethtool)" if kind in BY_ETHTOOL else ""
            raise LabError(f"{kind} needs the forwarder, in the stage 'service'{other}")
        return by

    def _through_forwarder(self, impairment: Impairment, agent: Agent, log: str) -> None:
        service = self._lab.service(agent)
        if service.kind != "forwarder":
            swap_service(self._lab, agent, "forwarder", (), log=log)
        plan = service.plan()
        service.change(replace(plan, impairments=(*plan.impairments, impairment), log=log or plan.log))

    def _segmentation(self, impairment: Impairment, agent: Agent, setting: str) -> None:
        devices = {ethtool_device(impairment.stage, path, agent) for path in impairment.paths}
        for role, device in sorted(devices):
            self._lab.run_in(role, ["ethtool", "-K", device, "tso", setting, "gso", setting])

    def introduce(self, impairment: Impairment) -> None:
        """Give the end hosts a neighbour entry for a translated address, which no machine would answer for."""
        which, old, new = impairment.nat() if impairment.kind == "nat" else ("", "", "")
        if which not in ("source", "destination"):
            return
        owner = {address: host for host in self._lab.end_hosts() for address in (host.ipv4, host.ipv6)}
        strange = [(alias, owner[known]) for alias, known in ((new, old), (old, new)) if known in owner]
        for alias, host in strange:
            if alias in owner:
                continue
            for other in self._lab.end_hosts():
                if other is not host:
                    words = f"neigh replace {alias} lladdr {host.mac} dev eth0 nud permanent".split()
                    run(["ip", "-n", self._lab.namespace(other.role), *words])


def _impairment(entry: Mapping[str, Any]) -> Impairment:
    return Impairment.from_table({k: v for k, v in entry.items() if k not in ("agent", "by", "counts")})


def start_service(
    lab: Lab, agent: Agent, kind: str, impairments: Sequence[Impairment] = (), *, seed: int = 1, log: str = ""
) -> None:
    """Start the service of an agent without one, move the known losses to fit it, and note it."""
    if impairments and kind != "forwarder":
        raise LabError(f"a {kind} impairs nothing: start a forwarder, or use 'lab impair'")
    service = lab.service(agent)
    if service.kind != "none":
        raise LabError(f"agent {agent.number} has a service ({service.kind}): stop it first, or swap it")
    numbered = Impairments(lab).remember_forwarder(agent, impairments) if impairments else []
    try:
        service.start(kind, ForwarderPlan(seed, tuple(numbered), log))
    except BaseException:
        Impairments(lab).forget_forwarder(agent)
        raise
    for one in numbered:
        Impairments(lab).introduce(one)
    lab.install_known_losses()
    lab.state.note(
        "service start", agent=agent.number, kind=kind, seed=seed, impairments=[one.table() for one in numbered]
    )


def stop_service(lab: Lab, agent: Agent) -> Mapping[str, Any]:
    """Stop the service; returns the last counts of a forwarder. Packets punted later are lost."""
    service = lab.service(agent)
    kind = service.kind
    if kind == "none":
        raise LabError(f"agent {agent.number} has no service to stop")
    counts = service.stop()
    Impairments(lab).forget_forwarder(agent)
    lab.state.note("service stop", agent=agent.number, kind=kind, counts=dict(counts))
    return counts


def swap_service(
    lab: Lab, agent: Agent, kind: str, impairments: Sequence[Impairment] = (), *, seed: int = 1, log: str = ""
) -> Mapping[str, Any]:
    """Stop the present service and start another; packets between the two are lost in the service."""
    counts = stop_service(lab, agent) if lab.service(agent).kind != "none" else {}
    start_service(lab, agent, kind, impairments, seed=seed, log=log)
    return counts
