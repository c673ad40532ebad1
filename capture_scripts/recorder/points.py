"""Detection points: their form on a command line, and the check that they exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..processes import CannotStart, LabError
from .hosts import LOCAL, Host

# A point's name becomes a file name and the name of a column.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
ANY_DEVICE = "any"


@dataclass(frozen=True)
class Point:
    """A detection point: its name and its device; ``filter`` is a capture filter, often empty."""

    name: str
    device: str
    namespace: str | None = None
    role: str = ""
    filter: str = ""
    host: Host = LOCAL

    def description(self) -> str:
        """``role/device``, without the name of the lab, which does not matter to a reader."""
        return f"{self.role}/{self.device}" if self.role else self.device

    def place(self) -> str:
        """The device and its namespace and host, for messages."""
        inside = f" in namespace {self.namespace}" if self.namespace else ""
        beyond = "" if self.host.is_local else f" on {self.host.label()}"
        return f"{self.device}{inside}{beyond}"


def parse_point(text: str, namespace: str | None, host: Host) -> Point:
    """``NAME=IFACE[@NETNS]``, or IFACE alone, which is then also the name. CannotStart for other forms."""
    name, equals, where = text.partition("=")
    if not equals:
        name, where = text.partition("@")[0], text
    device, at, given = where.partition("@")
    if not _NAME.fullmatch(name):
        raise CannotStart(
            f"point {text!r}: a name has letters, digits, '-' and '_'; write NAME=IFACE or NAME=IFACE@NETNS"
        )
    if not device or (at and not given):
        raise CannotStart(f"point {text!r}: write NAME=IFACE or NAME=IFACE@NETNS")
    check_namespace(given or namespace)
    return Point(name, device, given or namespace, role=given or namespace or "", host=host)


def check_namespace(name: str | None) -> None:
    """CannotStart if this is no name of a network namespace, but a path or an option of ip."""
    if name is not None and (name.startswith(("-", ".")) or "/" in name or not name):
        raise CannotStart(f"{name!r} is no name of a network namespace; `ip netns list` shows them")


def check_points(points: Sequence[Point]) -> None:
    """CannotStart unless the names differ, and every namespace and device exists."""
    if not points:
        raise CannotStart("no point to record at: give --points NAME=IFACE ..., or --lab NAME")
    seen: set[str] = set()
    for point in points:
        if point.name.lower() in seen:
            raise CannotStart(
                f"point {point.name!r} is given twice (perhaps in other case); every point needs a name of its own"
            )
        seen.add(point.name.lower())
    for (host, namespace), here in places(points).items():
        there = set(interfaces(host, namespace).values())
        for point in here:
            if point.device not in there | {ANY_DEVICE}:
                known = ", ".join(sorted(there))
                raise CannotStart(f"point {point.name!r}: there is no interface {point.place()}; there are: {known}")


def places(points: Iterable[Point]) -> dict[tuple[Host, str | None], list[Point]]:
    """Points by machine and namespace, in their order."""
    found: dict[tuple[Host, str | None], list[Point]] = {}
    for point in points:
        found.setdefault((point.host, point.namespace), []).append(point)
    return found


def interfaces(host: Host, namespace: str | None) -> dict[int, str]:
    """Names of the devices of a namespace by their index. CannotStart if the namespace cannot be read."""
    try:
        listed = json.loads(host.run(["ip", "-j", "link"], namespace) or "[]")
    except (LabError, ValueError) as error:
        where = f"namespace {namespace}" if namespace else "the interfaces"
        raise CannotStart(
            f"cannot look into {where}{'' if host.is_local else ' on ' + host.label()}: {error}"
        ) from error
    return {int(link["ifindex"]): str(link["ifname"]) for link in listed if "ifname" in link}


def clocks(points: Iterable[Point]) -> Mapping[str, str]:
    """The clock of each point by name: ``host`` for this kernel, ``host-2`` and so on for others.

    Namespaces of one kernel share its clock, also behind a command prefix: the boot id identifies the kernel.
    """
    names: dict[str, str] = {LOCAL.boot_id(): "host"}
    known: dict[Host, str] = {LOCAL: "host"}
    found = {}
    for point in points:
        if point.host not in known:
            boot = point.host.boot_id() or point.host.label()
            known[point.host] = names.setdefault(boot, f"host-{len(names) + 1}")
        found[point.name] = known[point.host]
    return found


def with_filter(points: Sequence[Point], expression: str) -> list[Point]:
    """The points with this capture filter added; a point's own filter must hold, too."""
    if not expression:
        return list(points)
    return [
        replace(point, filter=f"({point.filter}) and ({expression})" if point.filter else expression)
        for point in points
    ]
