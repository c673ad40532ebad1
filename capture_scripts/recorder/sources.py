"""The captures to start for the points of a run.

The default is one capture per point. With directions there are two per point. With ``any`` (link type LINUX_SLL2) one
capture per namespace takes all devices, and sealing separates its packets by device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .hosts import Host
from .points import ANY_DEVICE, Point, places

IN, OUT = "in", "out"


@dataclass(frozen=True)
class Source:
    """One capture: ``stem`` names its files. ``direction`` is ``in``, ``out`` or empty for both."""

    stem: str
    device: str
    namespace: str | None
    host: Host
    points: tuple[Point, ...]
    filter: str = ""
    direction: str = ""

    @property
    def cooked(self) -> bool:
        """True for a capture of all devices of a namespace."""
        return self.device == ANY_DEVICE


@dataclass(frozen=True)
class Group:
    """The sources that become one sealed file, ``<stem>.pcapng`` (or one per ring file)."""

    stem: str
    sources: tuple[Source, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        return self.sources[0].points


def one_per_point(points: Sequence[Point]) -> list[Group]:
    """A capture of its own for each point."""
    return [Group(p.name, (Source(p.name, p.device, p.namespace, p.host, (p,), p.filter),)) for p in points]


def two_per_point(points: Sequence[Point]) -> list[Group]:
    """A capture for each direction of each point."""
    return [
        Group(
            p.name,
            tuple(Source(f"{p.name}.{way}", p.device, p.namespace, p.host, (p,), p.filter, way) for way in (IN, OUT)),
        )
        for p in points
    ]


def one_per_namespace(points: Sequence[Point]) -> list[Group]:
    """A capture of all devices for each namespace, whose points must have equal filters."""
    found = places(points)
    groups = []
    for number, ((host, namespace), here) in enumerate(found.items(), 1):
        stem = ANY_DEVICE if len(found) == 1 else f"{ANY_DEVICE}-{number}"
        groups.append(Group(stem, (Source(stem, ANY_DEVICE, namespace, host, tuple(here), here[0].filter),)))
    return groups
