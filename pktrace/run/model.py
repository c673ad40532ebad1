"""The model of a run, after run.toml has been read and checked: frozen values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from pktrace.inputs import Location

ANY_DIRECTION = "any"


@dataclass(frozen=True)
class Network:
    """An address prefix: `version` 4 or 6, address and mask as two 64 bit halves (IPv4 in the low half)."""

    version: int
    high: int
    low: int
    mask_high: int
    mask_low: int


@dataclass(frozen=True)
class Condition:
    """A condition on headers: every field that is not None must fit, by any of its values.

    Ports, ICMP types, VLANs and numbers of tunnels are inclusive ranges. A packet without ports never fits a condition
    that names ports.
    """

    protocols: tuple[int, ...] | None = None
    sources: tuple[Network, ...] | None = None
    destinations: tuple[Network, ...] | None = None
    sports: tuple[tuple[int, int], ...] | None = None
    dports: tuple[tuple[int, int], ...] | None = None
    icmp_types: tuple[tuple[int, int], ...] | None = None
    vlans: tuple[tuple[int, int], ...] | None = None
    tunnel_ids: tuple[tuple[int, int], ...] | None = None

    def reversed(self) -> Condition:
        """The same conversation seen in the other direction."""
        return replace(
            self, sources=self.destinations, destinations=self.sources, sports=self.dports, dports=self.sports
        )


@dataclass(frozen=True)
class Point:
    """A detection point: a name and the captures that were taken there."""

    name: str
    captures: tuple[str, ...]  # relative to the run folder, in order
    interface: str | None = None
    direction: str = ANY_DIRECTION
    clock: str = "run"
    session: str | None = None


@dataclass(frozen=True)
class PacketPath:
    """The expected order of points for one kind of traffic.

    Positions are indices into `points`; stage k lies between positions k and k + 1, and the stage `bypass`,
    numbered `len(points) - 1`, between the filter's input and the point after the detour.
    """

    name: str
    points: tuple[int, ...]  # indices into Run.points
    stages: tuple[str, ...]
    condition: Condition = field(default_factory=Condition)
    default: str = "forward"
    detour_first: int = -1  # position of the first detour point, -1 without detour
    detour_last: int = -1

    @property
    def has_detour(self) -> bool:
        """True if the path has a detour for punted packets."""
        return self.detour_first >= 0

    @property
    def filter_input(self) -> int:
        """The position of the filter's input: just before the detour, or the first point without a detour."""
        return self.detour_first - 1 if self.has_detour else 0

    @property
    def bypass(self) -> int:
        """Number of the stage for packets that skip the detour."""
        return len(self.points) - 1

    def ends_of(self, stage: int) -> tuple[int, int]:
        """Positions where a stage begins and ends."""
        if stage == self.bypass:
            return self.filter_input, self.detour_last + 1
        return stage, stage + 1

    def stage_numbers(self) -> tuple[int, ...]:
        """All stages, the bypass last if the path has a detour."""
        return tuple(range(self.bypass + (1 if self.has_detour else 0)))

    def stage_name(self, stage: int) -> str:
        """Name of a stage."""
        return "bypass" if stage == self.bypass else self.stages[stage]


@dataclass(frozen=True)
class Rule:
    """A filter rule on a path; the first that fits wins, in file order."""

    id: str
    path: int
    condition: Condition
    action: str
    counter: str | None = None
    stateful: bool = False
    absorbed: bool = False


@dataclass(frozen=True)
class Run:
    """One recording: a folder with run.toml and captures, checked.

    Its files lie inside the folder, over no link, unless it is `trusted`; `file` is the name of its run.toml.
    """

    folder: Path
    name: str
    description: str
    points: tuple[Point, ...]
    paths: tuple[PacketPath, ...]
    rules: tuple[Rule, ...]
    threshold_ns: int
    window: tuple[int, int] | None
    run_toml_sha256: str
    criteria: int = 0  # [[criterion]] tables: reserved, counted and not evaluated
    trusted: bool = False
    file: str = "run.toml"

    def input(self, name: str) -> Location:
        """The location of a file of the run, by its name relative to the folder."""
        return Location(str(self.folder / name)) if self.trusted else Location(name, self.folder)

    def position_columns(self, path: PacketPath) -> tuple[str, ...]:
        """Name of the time column of each position of a path: `<point>_ns`, `<point>_2_ns` at a second visit."""
        seen: dict[int, int] = {}
        names = []
        for point in path.points:
            seen[point] = seen.get(point, 0) + 1
            suffix = "" if seen[point] == 1 else f"_{seen[point]}"
            names.append(f"{self.points[point].name}{suffix}_ns")
        return tuple(names)
