"""An impairment as data: a change, made on purpose, to packets at one stage.

``lab impair`` and the forwarder read and write the same form. An impairment that the kernel can do becomes nft.
"""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..filter_rules import Rule, parse_rules
from ..processes import LabError

# Per kind: the name of its value, and a sentence. The forwarder applies them in this order.
KINDS: dict[str, tuple[str, str]] = {
    "loss": ("P", "drop a packet with probability P"),
    "every": ("N", "drop every Nth packet"),
    "marked": ("CODE", "drop marked packets that carry this drop code"),
    "nat": ("FIELD=OLD,NEW", "rewrite source, destination, sport or dport; back again in the other direction"),
    "ttl": ("N", "set TTL or hop limit to N; the forwarder also takes -N: lower it by N"),
    "dscp": ("N", "set the DSCP, 0..63"),
    "payload": ("BYTE", "set one payload byte (--offset) to this value, 0..255"),
    "merge": ("US", "merge TCP segments that follow each other within US microseconds"),
    "split": ("MTU", "split TCP superpackets into segments that fit this MTU"),
    "dup": ("P", "send a packet twice with probability P"),
    "reorder": ("P", "hold a packet with probability P until the next one has passed"),
    "delay": ("US", "hold every packet for US microseconds (and up to --jitter more); the order is kept"),
}
DROPPING = ("loss", "every", "marked")
NAT_FIELDS = {"source": "destination", "destination": "source", "sport": "dport", "dport": "sport"}
PATHS = ("ingress", "egress")
MATCH_KEYS = ("protocol", "source", "destination", "sport", "dport", "icmp_type")
DEFAULT_OFFSET = 16  # behind the marker of a marked packet, which still identifies the packet
REORDER_HOLD_US = 20_000


@dataclass(frozen=True)
class Impairment:
    """``value`` is the text of the user; ``match`` has the keys of a rule and limits the impairment to some packets."""

    number: int
    kind: str
    value: str
    stage: str = "service"
    paths: tuple[str, ...] = PATHS
    match: Mapping[str, Any] = field(default_factory=dict)
    jitter_us: int = 0
    offset: int = DEFAULT_OFFSET
    one_way: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LabError(f"impairment {self.kind!r}: known are {', '.join(KINDS)}")
        try:
            self._check()
        except ValueError as error:
            name, words = KINDS[self.kind]
            raise LabError(f"{self.kind} {self.value!r}: use {self.kind} {name} ({words}): {error}") from error
        self.rule()

    def _check(self) -> None:
        if self.kind in ("loss", "dup", "reorder"):
            _within(self.probability, 0, 1)
        elif self.kind == "marked":
            if len(self.value.encode()) != 1 or not self.value.isprintable():
                raise ValueError("a drop code is one printable character")
        elif self.kind == "nat":
            self.nat()
        else:
            bounds = {"every": (1, 1 << 31), "ttl": (-255, 255), "dscp": (0, 63), "payload": (0, 255)}
            _within(self.integer, *bounds.get(self.kind, (0, 10_000_000)))
            if self.kind == "split":
                _within(self.integer, 68, 65535)
        _within(self.offset, 0, 65000)
        _within(self.jitter_us, 0, 10_000_000)

    @property
    def probability(self) -> float:
        return float(self.value)

    @property
    def integer(self) -> int:
        return int(self.value, 0)

    def nat(self) -> tuple[str, str, str]:
        """(field, old, new) of a translation, checked."""
        which, _, pair = self.value.partition("=")
        old, _, new = pair.partition(",")  # a colon would also stand inside an IPv6 address
        if which not in NAT_FIELDS:
            raise ValueError(f"the field is one of {', '.join(NAT_FIELDS)}")
        if which in ("sport", "dport"):
            for port in (old, new):
                _within(int(port), 1, 65535)
            return which, old, new
        addresses = [ipaddress.ip_address(address) for address in (old, new)]
        if addresses[0].version != addresses[1].version:
            raise ValueError("OLD and NEW are addresses of one IP version")
        return which, str(addresses[0]), str(addresses[1])

    def rule(self) -> Rule:
        """The affected packets as a rule (whose action and path mean nothing)."""
        table = {"id": f"impairment {self.number}", "path": "ingress", "action": "forward", "counter": "none"}
        (rule,) = parse_rules({"rule": [{**table, **self.match}]})
        return rule

    def table(self) -> dict[str, Any]:
        return {**asdict(self), "paths": list(self.paths), "match": dict(self.match)}

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> Impairment:
        return Impairment(**{**table, "paths": tuple(table["paths"])})

    def words(self) -> str:
        """The impairment in one line, for people."""
        parts = [self.kind, self.value]
        parts += [f"jitter {self.jitter_us}"] if self.jitter_us else []
        parts += [f"offset {self.offset}"] if self.kind == "payload" else []
        parts += [f"{key} {value}" for key, value in self.match.items()]
        return " ".join(parts)


def _within(number: float, low: float, high: float) -> None:
    if not low <= number <= high:
        raise ValueError(f"it must be within {low:g}..{high:g}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag per kind, for the forwarder; all apply to both directions unless ``--path`` names one."""
    group = parser.add_argument_group("impairments")
    names = {"marked": "drop-marked", "payload": "payload-change"}
    for kind, (name, words) in KINDS.items():
        group.add_argument(
            f"--{names.get(kind, kind)}",
            dest=kind,
            metavar=name,
            nargs="?" if kind in ("merge", "payload") else None,
            const={"merge": "1000", "payload": "0x5a"}.get(kind),
            help=words,
        )
    group.add_argument("--jitter", type=int, default=0, metavar="US", help="additional delay up to this, evenly spread")
    group.add_argument("--offset", type=int, default=DEFAULT_OFFSET, help="offset of the payload byte (%(default)s)")
    group.add_argument("--one-way", action="store_true", help="nat: leave the other direction alone")
    group.add_argument("--path", choices=(*PATHS, "both"), default="both", help="direction (default: both)")
    add_match_flags(parser)


def add_match_flags(parser: argparse.ArgumentParser) -> None:
    """Add the keys of a rule as flags."""
    group = parser.add_argument_group("only packets with", "as in a rule; all of them must fit")
    for key in MATCH_KEYS:
        group.add_argument(f"--{key.replace('_', '-')}", dest=f"match_{key}", metavar=key.upper())


def match_from_flags(options: argparse.Namespace) -> dict[str, Any]:
    """The ``match`` from the flags of ``add_match_flags``; a comma also separates addresses and protocols."""
    found = {}
    for key in MATCH_KEYS:
        value = getattr(options, f"match_{key}")
        if value is not None:
            found[key] = value if key.endswith(("port", "type")) else value.split(",")
    return found


def paths_of(kind: str, path: str, one_way: bool) -> tuple[str, ...]:
    """The paths for ``--path``. A translation works on both, starting with the named one."""
    if path == "both":
        return PATHS
    other = next(one for one in PATHS if one != path)
    return (path, other) if kind == "nat" and not one_way else (path,)


def from_flags(options: argparse.Namespace) -> list[Impairment]:
    """The impairments from the flags of ``add_flags``."""
    if options.jitter and options.delay is None:
        options.delay = "0"
    return [
        Impairment(
            number=number,
            kind=kind,
            value=getattr(options, kind),
            paths=paths_of(kind, options.path, options.one_way),
            match=match_from_flags(options),
            jitter_us=options.jitter if kind == "delay" else 0,
            offset=options.offset,
            one_way=options.one_way,
        )
        for number, kind in enumerate((kind for kind in KINDS if getattr(options, kind) is not None), start=1)
    ]


def in_order(impairments: Sequence[Impairment]) -> list[Impairment]:
    """The impairments in the order of the forwarder: by kind, then by number."""
    kinds = list(KINDS)
    return sorted(impairments, key=lambda one: (kinds.index(one.kind), one.number))


@dataclass(frozen=True)
class ForwarderPlan:
    """The plan of a forwarder: the form of its ``--config`` file."""

    seed: int = 1
    impairments: tuple[Impairment, ...] = ()
    log: str = ""

    def table(self) -> dict[str, Any]:
        return {"seed": self.seed, "log": self.log, "impairments": [one.table() for one in self.impairments]}

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> ForwarderPlan:
        impairments = tuple(Impairment.from_table(one) for one in table.get("impairments", []))
        return ForwarderPlan(int(table.get("seed", 1)), impairments, str(table.get("log", "")))

    def log_path(self) -> Path | None:
        return Path(self.log) if self.log else None
