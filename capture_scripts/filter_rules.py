"""Filter rules: from ``[[rule]]`` tables (as in ``run.toml``) to an nft ruleset with a named counter each.

On each path the first matching rule in file order decides. The default forwards and counts all other packets. A rule
that names ports or an ICMP type cannot match a fragment without them. A value may be a list; any entry may then match.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .processes import LabError

ACTIONS = ("forward", "drop", "punt")
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58}
WITH_PORTS = (6, 17)
WITH_TYPE = (1, 58)
PATHS = {"ingress": "in", "egress": "eg"}
_KEYS = {
    "id",
    "path",
    "protocol",
    "source",
    "destination",
    "sport",
    "dport",
    "icmp_type",
    "action",
    "counter",
}
# Names of the two address families in nft, by IP version.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_FAMILY = {4: "ip", 6: "ip6"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Range = tuple[int, int]


@dataclass(frozen=True)
class Agent:
    """The devices of one filter: its two sides, and its own way to the service and back."""

    number: int
    protected_mac: str
    switch_side: str
    machine_side: str
    punt: str
    returned: str

    def counter(self, path: str, name: str) -> str:
        return f"{PATHS[path]}{self.number}_{name}"

    @property
    def switch_port(self) -> str:
        """The port of the switch at which the filter is connected."""
        return f"sp{self.number}"

    @property
    def service_in(self) -> str:
        """The device of the service namespace at which punted packets arrive, in both directions."""
        return f"p{self.number}"

    @property
    def service_out(self) -> str:
        """The device of the service namespace by which punted packets leave."""
        return f"r{self.number}"


@dataclass(frozen=True)
class Rule:
    """One rule, checked. Empty tuples match everything; ports and types are inclusive ranges."""

    id: str
    path: str
    action: str
    counter: str
    protocols: tuple[int, ...] = ()
    sources: tuple[Network, ...] = ()
    destinations: tuple[Network, ...] = ()
    sports: tuple[Range, ...] = ()
    dports: tuple[Range, ...] = ()
    icmp_types: tuple[Range, ...] = ()
    written: Mapping[str, Any] = field(default_factory=dict)  # as in the file, with the counter's name

    def statements(self, verdict: str) -> list[str]:
        """nft rules that together match the packets of this rule; all share its counter."""
        return self.matching(f"counter name {self.counter} {verdict};")

    def matching(self, tail: str) -> list[str]:
        """nft rules that apply ``tail`` to the packets of this rule; no packet fits two of them."""
        families = self.families()
        protocols = self.protocols or (WITH_PORTS if self.sports or self.dports else ())
        if self.icmp_types:
            protocols = tuple(number for number in WITH_TYPE if number in (self.protocols or WITH_TYPE))
            # nft reads an ICMP type in packets of the other IP version, too, where that byte is no type.
            own = {1: ("ip", "icmp", 4), 58: ("ip6", "icmpv6", 6)}
            return [
                self._join(
                    family,
                    [number],
                    [f"meta protocol {own[number][0]} {own[number][1]} type", _set(self.icmp_types)],
                    tail,
                )
                for family, number in itertools.product(families, protocols)
                if family in (None, own[number][2])
            ]
        ports: list[str] = []
        for key, ranges in (("th sport", self.sports), ("th dport", self.dports)):
            if ranges:
                ports += [key, _set(ranges)]
        return [self._join(family, protocols, ports, tail) for family in families]

    def families(self) -> list[int | None]:
        """IP versions that need a statement of their own; None: one statement serves both."""
        named = [addresses for addresses in (self.sources, self.destinations) if addresses]
        if not named:
            return [None]
        versions = [v for v in (4, 6) if all(any(a.version == v for a in addresses) for addresses in named)]
        if not versions:
            raise LabError(f"rule {self.id!r}: source and destination have no IP version in common")
        return list(versions)

    def _join(self, family: int | None, protocols: Sequence[int], layer4: Sequence[str], tail: str) -> str:
        words = [] if family or protocols else ["meta protocol { ip, ip6 }"]
        if family is not None:
            for key, addresses in (("saddr", self.sources), ("daddr", self.destinations)):
                mine = [str(address) for address in addresses if address.version == family]
                if mine:
                    words.append(f"{_FAMILY[family]} {key} {{ {', '.join(mine)} }}")
        if protocols:
            words.append(f"meta l4proto {{ {', '.join(str(number) for number in protocols)} }}")
        return " ".join([*words, *layer4, tail])


def load_rules(path: Path, agent_number: int = 1) -> list[Rule]:
    """Read and check a rules file; LabError names the file, the rule and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"{path}: cannot read the rules: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: no TOML: {error}") from error
    try:
        return parse_rules(document, agent_number)
    except LabError as error:
        raise LabError(f"{path}: {error}") from error


def parse_rules(document: Mapping[str, Any], agent_number: int = 1) -> list[Rule]:
    """Rules of a parsed document; counters without a name are numbered per path: ``in1_r1``, ``eg1_r1``."""
    unknown = sorted(set(document) - {"rule"})
    if unknown:
        raise LabError(f"unknown key {unknown[0]!r}: only [[rule]] tables belong here")
    rules: list[Rule] = []
    if not isinstance(document.get("rule", []), list):
        raise LabError("rule must be a list of tables: write [[rule]]")
    position = dict.fromkeys(PATHS, 0)
    for number, table in enumerate(document.get("rule", []), start=1):
        label = f"rule {table.get('id', number)!r}"
        unknown = sorted(set(table) - _KEYS)
        if unknown:
            raise LabError(f"{label}: unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
        for key, allowed in (("id", None), ("path", tuple(PATHS)), ("action", ACTIONS)):
            value = table.get(key)
            if not isinstance(value, str) or not value or (allowed and value not in allowed):
                raise LabError(f"{label}: {key} must be {'a name' if allowed is None else ' | '.join(allowed)}")
        position[table["path"]] += 1
        counter = table.get("counter", f"{PATHS[table['path']]}{agent_number}_r{position[table['path']]}")
        if not isinstance(counter, str) or not _NAME.fullmatch(counter):
            raise LabError(f"{label}: counter {counter!r}: use letters, digits, _ and -, at most 32")
        rules.append(_parse_rule(table, label, counter))
    for what, names in (("id", [rule.id for rule in rules]), ("counter", [rule.counter for rule in rules])):
        double = {name for name in names if names.count(name) > 1}
        if double:
            raise LabError(f"{what} {min(double)!r} is used twice")
    return rules


def _parse_rule(table: Mapping[str, Any], label: str, counter: str) -> Rule:
    rule = Rule(
        id=table["id"],
        path=table["path"],
        action=table["action"],
        counter=counter,
        protocols=tuple(_protocol(value, label) for value in _listed(table.get("protocol"))),
        sources=_networks(table, "source", label),
        destinations=_networks(table, "destination", label),
        sports=_ranges(table, "sport", label, 65535),
        dports=_ranges(table, "dport", label, 65535),
        icmp_types=_ranges(table, "icmp_type", label, 255),
        written={**table, "counter": counter},
    )
    if (rule.sports or rule.dports) and any(number not in WITH_PORTS for number in rule.protocols):
        raise LabError(f"{label}: sport and dport fit only protocol tcp and udp")
    if rule.icmp_types and (rule.sports or rule.dports or any(n not in WITH_TYPE for n in rule.protocols)):
        raise LabError(f"{label}: icmp_type fits only protocol icmp and icmpv6, without ports")
    rule.families()  # raises LabError when no packet could ever match
    return rule


def _listed(value: object) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def _protocol(value: object, label: str) -> int:
    if isinstance(value, str) and value in PROTOCOLS:
        return PROTOCOLS[value]
    if isinstance(value, int | str) and str(value).isdecimal() and int(value) <= 255:
        return int(value)
    raise LabError(f"{label}: protocol {value!r}: use {', '.join(PROTOCOLS)} or a number up to 255")


def _networks(table: Mapping[str, Any], key: str, label: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(value) for value in _listed(table.get(key)))
    except ValueError as error:
        raise LabError(f"{label}: {key}: {error}") from error


def _ranges(table: Mapping[str, Any], key: str, label: str, largest: int) -> tuple[Range, ...]:
    """``"5201,9000-9099"``, 5201, or a list of these, as sorted inclusive ranges that do not overlap."""
    found: list[Range] = []
    for part in (part for value in _listed(table.get(key)) for part in str(value).split(",")):
        first, _, last = part.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal() and int(first) <= int(last or first) <= largest):
            raise LabError(f"{label}: {key} {part.strip()!r}: use numbers up to {largest} and ranges like 9000-9099")
        found.append((int(first), int(last or first)))
    merged: list[Range] = []
    for low, high in sorted(found):
        if merged and low <= merged[-1][1] + 1:  # nft refuses a set whose elements overlap
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _set(ranges: Sequence[Range]) -> str:
    return "{ " + ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges) + " }"


def default_counter(agent: Agent, path: str) -> str:
    """The counter of packets that hit no rule on this path."""
    return agent.counter(path, "default")


def compile_filter(rules: Sequence[Rule], agent: Agent, unreachable: Sequence[Rule] = ()) -> str:
    """The nft script of one agent: its filter in both directions and the way back from the service.

    The script replaces the present filter of the agent in one step. ``unreachable`` rules stand behind the default,
    where no packet arrives: this fault is made on purpose.
    """
    other = {path: agent.counter(path, "other") for path in PATHS}
    back = {path: agent.counter(path, "back") for path in PATHS}
    back_other = f"back{agent.number}_other"
    counters = [rule.counter for rule in (*rules, *unreachable)]
    counters += [default_counter(agent, path) for path in PATHS] + [
        *other.values(),
        *back.values(),
        back_other,
    ]
    sides = {
        "ingress": (agent.switch_side, agent.machine_side),
        "egress": (agent.machine_side, agent.switch_side),
    }
    table = f"table netdev agent{agent.number}"
    lines = [f"{table} {{", "}", f"delete {table}", f"{table} {{"]
    lines += [f"    counter {name} {{\n    }}" for name in counters]
    for path, (hooked, onward) in sides.items():
        verdicts = {"forward": f'fwd to "{onward}"', "punt": f'fwd to "{agent.punt}"', "drop": "drop"}
        lines += _chain(
            f"filter_{path}",
            hooked,
            [f'meta protocol != {{ ip, ip6 }} counter name {other[path]} fwd to "{onward}";']
            + [statement for rule in rules if rule.path == path for statement in rule.statements(verdicts[rule.action])]
            + [f"counter name {default_counter(agent, path)} {verdicts['forward']};"]
            + [s for rule in unreachable if rule.path == path for s in rule.statements(verdicts[rule.action])],
        )
    mac = agent.protected_mac
    lines += _chain(
        "from_service",
        agent.returned,
        [
            f'ether daddr {mac} counter name {back["ingress"]} fwd to "{agent.machine_side}";',
            f'ether saddr {mac} counter name {back["egress"]} fwd to "{agent.switch_side}";',
            f"counter name {back_other} drop;",
        ],
    )
    return "\n".join([*lines, "}", ""])


def _chain(name: str, device: str, rules: Sequence[str]) -> list[str]:
    # Every statement ends with ; and a newline: nft 1.0.6 refuses a brace right behind a statement.
    return [
        f"    chain {name} {{",
        f'        type filter hook ingress device "{device}" priority 0; policy drop;',
        *(f"        {rule}" for rule in rules),
        "    }",
    ]
