"""run.toml, as far as the analysis needs it. The reference takes it to be right: complaints are the fast
one's business.
"""

from __future__ import annotations

import ipaddress
import itertools
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "sctp": 132,
}
UNITS = (("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000))


@dataclass(frozen=True)
class Point:
    name: str
    captures: tuple[str, ...]
    interface: str | None
    direction: str
    clock: str
    session: str | None = None


@dataclass(frozen=True)
class Rule:
    id: str
    path: str
    action: str
    match: dict[str, Any]
    counter: str | None = None
    absorbed: bool = False


@dataclass(frozen=True)
class Path_:
    """A path; positions count its points from 0. ``enter`` and ``leave`` are the first and last detour
    positions.
    """

    name: str
    points: tuple[str, ...]
    stages: tuple[str, ...]
    match: dict[str, Any]
    default: str
    enter: int | None = None
    leave: int | None = None

    @property
    def last(self) -> int:
        return len(self.points) - 1

    @property
    def filter_input(self) -> int | None:
        """Design 3: the filter's input is the point just before the detour."""
        return None if self.enter is None else self.enter - 1

    @property
    def after_detour(self) -> int | None:
        return None if self.leave is None else self.leave + 1

    @property
    def bypass(self) -> int:
        """Design 3: a packet that skips the detour crosses one more stage, numbered n."""
        return len(self.points) - 1

    def columns(self) -> list[str]:
        """The time column of each position: ``<point>_ns``, ``<point>_2_ns`` for the second visit."""
        seen: dict[str, int] = {}
        names = []
        for point in self.points:
            seen[point] = seen.get(point, 0) + 1
            names.append(f"{point}_ns" if seen[point] == 1 else f"{point}_{seen[point]}_ns")
        return names


@dataclass(frozen=True)
class Run:
    folder: Path
    name: str
    points: tuple[Point, ...]
    paths: tuple[Path_, ...]
    rules: tuple[Rule, ...]
    threshold_ns: int
    window: tuple[int, int] | None = None
    counters: dict[str, int] = field(default_factory=dict)

    def point(self, name: str) -> Point:
        return next(point for point in self.points if point.name == name)

    def rules_of(self, path: Path_) -> list[Rule]:
        return [rule for rule in self.rules if rule.path == path.name]

    def has_filter(self, path: Path_) -> bool:
        """A path has a filter if it has a detour or rules."""
        return path.enter is not None or bool(self.rules_of(path))


def duration_ns(text: str) -> int:
    """A duration such as "2s" or "500ms"."""
    for unit, factor in UNITS:
        number = text.strip().removesuffix(unit).strip()
        if number != text.strip() and number.replace(".", "", 1).isdigit():
            return round(float(number) * factor)
    raise ValueError(f"no duration: {text!r}")


def _path(table: dict[str, Any]) -> Path_:
    points = tuple(table["points"])
    detour = table.get("detour", [])
    enter = leave = None
    if detour:
        enter = points.index(detour[0])
        leave = enter + len(detour) - 1
    stages = tuple(table.get("stages") or (f"{a}-{b}" for a, b in itertools.pairwise(points)))
    return Path_(table["name"], points, stages, table.get("match", {}), table.get("default", "forward"), enter, leave)


def load_run(folder: Path) -> Run:
    """Design 3, with its defaults."""
    table = tomllib.loads((folder / "run.toml").read_text())
    points = []
    for entry in table["point"]:
        files: list[str] = []
        for pattern in entry["captures"]:
            files += sorted(str(found.relative_to(folder)) for found in folder.glob(pattern))
        points.append(
            Point(
                entry["name"],
                tuple(files),
                entry.get("interface"),
                entry.get("direction", "any"),
                entry.get("clock", ""),
                entry.get("session"),
            )
        )
    known = ("id", "path", "action", "counter", "absorbed", "stateful")
    rules = [
        Rule(
            entry["id"],
            entry["path"],
            entry["action"],
            {key: value for key, value in entry.items() if key not in known},
            entry.get("counter"),
            entry.get("absorbed", False),
        )
        for entry in table.get("rule", [])
    ]
    window = table.get("window")
    return Run(
        folder,
        table["name"],
        tuple(points),
        tuple(_path(entry) for entry in table.get("path", [])),
        tuple(rules),
        duration_ns(table.get("loss", {}).get("threshold", "2s")),
        (window["start_ns"], window["end_ns"]) if window else None,
    )


# --- matching -----------------------------------------------------------------------------------------------


def _many(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def address_fits(wanted: Any, address: str) -> bool:
    """Any of the addresses or prefixes contains it; an IPv4 prefix never fits an IPv6 address."""
    found = ipaddress.ip_address(address)
    networks = [ipaddress.ip_network(entry, strict=False) for entry in _many(wanted)]
    return any(network.version == found.version and found in network for network in networks)


def number_ranges(wanted: Any) -> list[tuple[int, int]]:
    """ "5201,9000-9099", a number, or a list of either, as inclusive ranges."""
    ranges = []
    for entry in _many(wanted):
        for part in str(entry).split(","):
            low, _, high = part.strip().partition("-")
            ranges.append((int(low), int(high or low)))
    return ranges


def protocol_numbers(wanted: Any) -> set[int]:
    """Names or numbers of protocols; "icmp" is 1 only, "icmpv6" is 58."""
    return {PROTOCOLS[str(entry).lower()] if not str(entry).isdigit() else int(entry) for entry in _many(wanted)}


def fits(match: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Design 3: every key must fit, a list means any of. Design 5: a rule that names ports never matches
    without ports.
    """
    for key, wanted in match.items():
        value = fields[key]
        if value is None:
            return False
        if key in ("source", "destination"):
            good = address_fits(wanted, value)
        elif key == "protocol":
            good = value in protocol_numbers(wanted)
        elif key in ("sport", "dport", "icmp_type"):
            good = any(low <= value <= high for low, high in number_ranges(wanted))
            if key == "icmp_type":  # ICMP in IPv4, ICMPv6 in IPv6; the other way round a filter sees none
                good = good and fields["protocol"] == (1 if fields["ip_version"] == 4 else 58)
        else:
            raise KeyError(key)
        if not good:
            return False
    return True


def covers(earlier: dict[str, Any], later: dict[str, Any]) -> bool:
    """Every packet that fits ``later`` fits ``earlier``: each key of ``earlier`` contains that key of
    ``later``.
    """
    for key, wide in earlier.items():
        if key not in later:
            return False
        narrow = later[key]
        if key in ("source", "destination"):
            wide_networks = [ipaddress.ip_network(entry, strict=False) for entry in _many(wide)]
            for entry in _many(narrow):
                network = ipaddress.ip_network(entry, strict=False)
                if not any(w.version == network.version and network.subnet_of(w) for w in wide_networks):  # type: ignore[arg-type]
                    return False
        elif key == "protocol":
            if not protocol_numbers(narrow) <= protocol_numbers(wide):
                return False
        else:
            wide_numbers = {n for low, high in number_ranges(wide) for n in range(low, high + 1)}
            if not {n for low, high in number_ranges(narrow) for n in range(low, high + 1)} <= wide_numbers:
                return False
    return True
