"""A client, two gateways and a server in namespaces of their own, and what tests do to the gateways.

    client:eth0 -- lan:gw1:wan -- [wire] -- wan:gw2:dmz -- eth0:server

Points: ``client``, ``near`` (gw1's wan), ``far`` (gw2's wan), ``server``; with a wire in user space between the
gateways also ``middle``. Hardware addresses tell directions: frames from client to server come from odd ones.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from capture_scripts.processes import Children, LabError, run
from capture_scripts.quiet import DEADLINE_S, wait_until
from tests.conftest import ROOT
from tests.lab.conftest import record

TOOLS = ("tcpdump", "ip", "tc", "nft", "ethtool")
POINTS = ("client", "near", "far", "server")
_NUMBER = itertools.count()
# Role and device of each end, in order from client to server; the number is the last byte of its hardware address.
_ENDS = (("client", "eth0"), ("gw1", "lan"), ("gw1", "wan"), ("gw2", "wan"), ("gw2", "dmz"), ("server", "eth0"))
_NETS = (1, 1, 2, 2, 3, 3)
_HOSTS = (2, 1, 1, 2, 1, 2)
CLIENTS = tuple(f"10.81.1.{host}" for host in range(2, 8))
SERVER = "10.81.3.2"
GW1, GW2 = "10.81.2.1", "10.81.2.2"

PATHS = """
[[path]]
name = "there"
points = [{there}]
match = {{ source = {client}, destination = {server} }}

[[path]]
name = "back"
points = [{back}]
match = {{ source = {server} }}
"""


def mac(number: int) -> str:
    return f"02:81:00:00:00:{number:02x}"


def paths_file(
    folder: Path, points: Sequence[str] = POINTS, client: str = '"10.81.1.0/24"', server: str = f'"{SERVER}"'
) -> Path:
    """Both directions over ``points``, for ``record --paths``.

    Without the destination, what the first gateway itself tells the client (ICMP) would be on the way there, too.
    """
    there, back = (", ".join(f'"{name}"' for name in names) for names in (points, tuple(reversed(points))))
    made = folder / "paths.toml"
    made.write_text(PATHS.format(there=there, back=back, client=client, server=server), encoding="utf-8")
    return made


class Gateways:
    """The namespaces and what is in them; ``wired`` puts a namespace for a wire in user space between the gateways."""

    def __init__(self, wired: bool = False, offloads: bool = False, six: bool = False) -> None:
        self.name = f"rr{os.getpid()}x{next(_NUMBER)}"
        self.roles = ("client", "gw1", "gw2", "server", *(("wire",) if wired else ()))
        self.wired, self.offloads, self.six = wired, offloads, six
        self.children = Children()
        self._links: list[dict[str, Any]] = []
        self._shaped: list[list[str]] = []

    def namespace(self, role: str) -> str:
        return f"{self.name}{role}"

    def ip(self, role: str, *words: object) -> str:
        return run(["ip", "-n", self.namespace(role), *map(str, words)])

    def inside(self, role: str, *command: str, stdin: str | None = None) -> str:
        return run(["ip", "netns", "exec", self.namespace(role), *command], stdin=stdin)

    def up(self) -> None:
        for role in self.roles:
            run(["ip", "netns", "add", self.namespace(role)])
            settings = {"net/ipv6/conf/default/disable_ipv6": 0 if self.six and role != "wire" else 1}
            settings |= {"net/ipv6/conf/default/accept_dad": 0, "net/ipv6/conf/default/router_solicitations": 0}
            if role.startswith("gw"):
                settings |= {"net/ipv4/ip_forward": 1, "net/ipv4/conf/all/rp_filter": 0}
                settings |= {"net/ipv6/conf/all/forwarding": 1} if self.six else {}
            self.set(role, **settings)
            self.ip(role, "link", "set", "lo", "up")
        self._cable(0, 1)
        self._cable(4, 5)
        if self.wired:
            for number, side in ((2, "left"), (3, "right")):
                role, device = _ENDS[number]
                self._veth(role, device, "wire", side)
                self._address(number)
                self.ip("wire", "link", "set", side, "promisc", "on", "up")
            self._veth("wire", "m0", "wire", "m1")
            for device in ("m0", "m1"):
                self.ip("wire", "link", "set", device, "up")
        else:
            self._cable(2, 3)
        for role, gateway in (("client", "10.81.1.1"), ("gw1", GW2), ("gw2", GW1), ("server", "10.81.3.1")):
            self.ip(role, "route", "add", "default", "via", gateway)
            if self.six:
                net, host = gateway.split(".")[2:]
                self.ip(role, "-6", "route", "add", "default", "via", f"fd81:{net}::{host}")
        for address in CLIENTS[1:]:
            self.ip("client", "addr", "add", f"{address}/24", "dev", "eth0")
            self.ip("gw1", "neigh", "replace", address, "lladdr", mac(1), "dev", "lan", "nud", "permanent")

    def down(self) -> None:
        self.children.end_all()
        for role in self.roles:
            run(["ip", "netns", "del", self.namespace(role)], check=False)

    def set(self, role: str, **settings: object) -> None:
        """Write below /proc/sys of a namespace."""
        lines = "; ".join(f"echo {value} > /proc/sys/{name} 2>/dev/null" for name, value in settings.items())
        run(["ip", "netns", "exec", self.namespace(role), "sh", "-c", f"{lines}; true"])

    def _veth(self, role: str, device: str, other: str, peer: str) -> None:
        here, there = self.namespace(role), self.namespace(other)
        run(["ip", "link", "add", device, "netns", here, "type", "veth", "peer", "name", peer, "netns", there])
        if not self.offloads:
            for place, name in ((role, device), (other, peer)):
                self.inside(place, "ethtool", "-K", name, "tso", "off", "gso", "off", "gro", "off", "tx", "off")

    def _cable(self, one: int, other: int) -> None:
        self._veth(*_ENDS[one], *_ENDS[other])
        for number in (one, other):
            self._address(number)

    def _address(self, number: int) -> None:
        role, device = _ENDS[number]
        self.ip(role, "link", "set", device, "address", mac(number + 1), "up")
        self.ip(role, "addr", "add", f"10.81.{_NETS[number]}.{_HOSTS[number]}/24", "dev", device)
        other = number + 1 if number % 2 == 0 else number - 1
        addresses = [f"10.81.{_NETS[other]}.{_HOSTS[other]}"]
        if self.six:
            self.ip(role, "addr", "add", f"fd81:{_NETS[number]}::{_HOSTS[number]}/64", "dev", device, "nodad")
            addresses.append(f"fd81:{_NETS[other]}::{_HOSTS[other]}")
        for address in addresses:  # no ARP, no neighbour discovery
            self.ip(role, "neigh", "replace", address, "lladdr", mac(other + 1), "dev", device, "nud", "permanent")

    def ethtool(self, role: str, device: str, *features: str) -> None:
        self.inside(role, "ethtool", "-K", device, *features)

    def nft(self, role: str, script: str) -> None:
        self.inside(role, "nft", "-f", "-", stdin=script)

    def counters(self, role: str) -> dict[str, int]:
        """Packets of every named nft counter of a namespace."""
        told = json.loads(self.inside(role, "nft", "-j", "list", "counters"))["nftables"]
        return {entry["counter"]["name"]: entry["counter"]["packets"] for entry in told if "counter" in entry}

    def races_lost(self, role: str) -> int:
        """Packets that connection tracking dropped because two flows were given the same ports at the same time."""
        head, *lines = self.inside(role, "cat", "/proc/net/stat/nf_conntrack").splitlines()
        column = head.split().index("drop")
        return sum(int(line.split()[column], 16) for line in lines)

    def too_long(self, role: str) -> int:
        """Packets that a gateway refused because they do not fit, and must not be fragmented."""
        names, values = (line.split() for line in self.inside(role, "cat", "/proc/net/snmp").splitlines()[:2])
        return int(values[names.index("FragFails")])

    def shape(self, role: str, device: str) -> None:
        """A queue that drops what does not fit. No more than one segment passes at once, so superpackets are split
        before they get in, and each drop is one of a segment."""
        shaper = ["tbf", "rate", "60mbit", "burst", "1600", "limit", "30kb"]
        self.inside(role, "tc", "qdisc", "add", "dev", device, "root", *shaper)
        self._shaped.append([self.namespace(role), device])

    def queue_drops(self, role: str, device: str) -> int:
        """Packets that the queues of a device dropped."""
        told = json.loads(self.inside(role, "tc", "-s", "-j", "qdisc", "show", "dev", device))
        return sum(int(entry.get("drops", 0)) for entry in told)

    def link(self, *options: str, log: Path) -> None:
        """Start the wire or tunnel in user space, and wait until it is there."""
        command = [sys.executable, "-m", "tests.lab.user_space_links", "--log", str(log), *options]
        child = self.children.start(command, environment={"PYTHONPATH": str(ROOT)})
        wait_until(lambda: log.exists() or child.poll() is not None, f"{' '.join(command)} starts")
        if not log.exists():
            raise LabError(f"{' '.join(command)}: did not start")
        self._links.append({"process": child.pid, "answer": str(log.with_suffix(".quiet"))})

    def link_counts(self, log: Path) -> dict[str, Any]:
        """End the wire and return what it counted."""
        self.children.end_all(grace_s=DEADLINE_S)
        found: dict[str, Any] = json.loads(log.read_text(encoding="utf-8"))
        return found

    def points(self, names: Sequence[str] = POINTS, **others: str) -> list[str]:
        places = {"client": "eth0@client", "near": "wan@gw1", "middle": "m0@wire", "far": "wan@gw2"}
        places |= {"server": "eth0@server", **others}
        return [f"{name}={places[name].replace('@', '@' + self.name)}" for name in names]

    def record(
        self, folder: Path, spec: dict[str, Any], paths: Path, points: Sequence[str], beside: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Record while the conversations of ``spec`` go on, and a command beside; returns what the former told."""
        speak = self.conversations(folder, spec)
        given = ["--points", *points, "--paths", paths, "--snaplen", 0, "--threshold", 0.3, "--no-context"]
        both = ["sh", "-c", f"{shlex.join(beside)} & {shlex.join(speak)}; wait"] if beside else speak
        record(folder / "run", *given, "--", *both)
        found: dict[str, Any] = json.loads(Path(speak[-1]).read_text(encoding="utf-8"))
        return found

    def conversations(self, folder: Path, spec: dict[str, Any], name: str = "conversations") -> list[str]:
        """A command that speaks as ``spec`` says, to be started in the root of the project."""
        wanted = folder / f"{name}.json"
        named = {"client": self.namespace("client"), "server": self.namespace("server")}
        named |= {"links": self._links, "shaped": self._shaped}
        wanted.write_text(json.dumps({**named, **spec}), encoding="utf-8")
        return [sys.executable, "-m", "tests.lab.marked_traffic", str(wanted), str(folder / f"{name}-told.json")]


@contextmanager
def gateways(**options: bool) -> Iterator[Gateways]:
    made = Gateways(**options)
    try:
        made.up()
        yield made
    finally:
        made.down()


def missing_tools() -> list[str]:
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def kernel_refuses(*kind: str) -> str:
    """Why this kernel cannot make a device of a kind; empty where it can."""
    name = f"rr{os.getpid()}p{next(_NUMBER)}"
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "-n", name, "link", "add", "probe", "type", *kind])
    except LabError as error:
        return str(error).rsplit("): ", 1)[-1]
    finally:
        run(["ip", "netns", "del", name], check=False)
    return ""


def kernel_knows_qdisc(*kind: str) -> bool:
    """Whether a queueing discipline can be put on a device."""
    name = f"rr{os.getpid()}p{next(_NUMBER)}"
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "lo", "root", *kind])
    except LabError:
        return False
    finally:
        run(["ip", "netns", "del", name], check=False)
    return True
