"""The laboratory: an L2 service chain in network namespaces of its own.

::

    client:eth0 -- host:uplink [bridge vs0] host:sp1 -- host:fi1 {filter} host:vnic1 -- pvm1:eth0
                                   |             host:punt1 -- svm:p1 [bridge br1] svm:r1 -- host:ret1
                                   +-- host:vnic3 -- pvm3:eth0          (no agent: a plain bridge port)

Packets to pvm1 (``ingress``) are judged at fi1, packets from it (``egress``) at vnic1. What is punted
leaves by punt1, crosses the service namespace from p1 to r1 and comes back at ret1, whichever its
direction. Each protected machine with an agent needs a punt/return pair of its own: nothing on the frame
would tell two of them apart.

Also the "host" is a namespace made here, so the machine's own network is never touched. Every namespace
carries the lab's name as a prefix: labs of different names stand side by side.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import known_loss
from .nft_rules import Agent, compile_filter, load_rules
from .processes import Interrupted, LabError, in_namespace, interruptible, need_root, need_tools, run

TOOLS = {"ip": "iproute2", "bridge": "iproute2", "nft": "nftables", "ethtool": "ethtool"}
DEFAULT_NAME = "pktlab"
DEFAULT_RULES = Path(__file__).resolve().parent / "rules" / "service-chain.toml"
ROLES = ("host", "client", "svm", "pvm1", "pvm3")
_NAME = re.compile(r"[a-z][a-z0-9]{0,19}")


@dataclass(frozen=True)
class EndHost:
    """A machine at an end of the chain; ``port`` is the host's side of its cable."""

    role: str
    port: str
    mac: str
    ipv4: str
    ipv6: str


CLIENT = EndHost("client", "uplink", "02:77:00:00:00:12", "10.77.0.12", "fd77::12")
PVM1 = EndHost("pvm1", "vnic1", "02:77:00:00:00:01", "10.77.0.1", "fd77::1")
PVM3 = EndHost("pvm3", "vnic3", "02:77:00:00:00:03", "10.77.0.3", "fd77::3")
END_HOSTS = (CLIENT, PVM1, PVM3)

AGENT1 = Agent(
    number=1,
    protected_mac=PVM1.mac,
    switch_side="fi1",
    machine_side="vnic1",
    punt="punt1",
    returned="ret1",
)


@dataclass(frozen=True)
class Cable:
    """A veth pair: two (role, device) ends."""

    near: tuple[str, str]
    far: tuple[str, str]
    far_mac: str = ""


CABLES = (
    Cable(("host", "uplink"), ("client", "eth0"), CLIENT.mac),
    Cable(("host", "sp1"), ("host", "fi1")),
    Cable(("host", "vnic1"), ("pvm1", "eth0"), PVM1.mac),
    Cable(("host", "punt1"), ("svm", "p1")),
    Cable(("host", "ret1"), ("svm", "r1")),
    Cable(("host", "vnic3"), ("pvm3", "eth0"), PVM3.mac),
)
# Where the switch finds each machine. Written down instead of learned: a switch that has still to learn
# floods, and a flooded packet would be seen (and counted by the filter) where it has no business.
SWITCH_PORTS = {"uplink": CLIENT.mac, "sp1": PVM1.mac, "vnic3": PVM3.mac}
PROMISCUOUS = ("fi1", "vnic1", "punt1", "ret1")

# What an end host's kernel says of itself: neighbour and router discovery, listener reports. Nobody asked,
# and a packet that is in no plan would be counted by the filter. A marked packet of such a type is in a plan.
_SILENCE = f"""\
table netdev silence {{
    chain own_noise {{
        type filter hook egress device "eth0" priority 0; policy accept;
        meta l4proto ipv6-icmp @th,72,32 0x{known_loss.MARK.hex()} accept;
        icmpv6 type {{ 130, 131, 132, 133, 134, 135, 136, 137, 143 }} drop;
    }}
}}
"""


class Lab:
    """One laboratory, known by its name."""

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        if not _NAME.fullmatch(name):
            raise LabError(f"lab name {name!r}: use a lower-case letter, then up to 19 letters and digits")
        self.name = name

    def namespace(self, role: str) -> str:
        return f"{self.name}-{role}"

    def existing(self) -> list[str]:
        """Roles whose namespaces exist now; a crashed ``up`` or ``down`` can leave some of them."""
        listed = {line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line.strip()}
        return [role for role in ROLES if self.namespace(role) in listed]

    def up(self, rules_file: Path = DEFAULT_RULES, *, offloads: bool = False) -> None:
        """Build everything, or raise LabError and leave nothing behind.

        ``offloads=False`` switches segmentation and checksum offload off on the end hosts. With offloads on,
        local senders hand over packets of up to 64 KiB with unfinished checksums, which is what every point
        would then show.
        """
        rules = load_rules(rules_file)
        if self.existing():
            raise LabError(f"lab {self.name!r} stands already (or partly): run 'lab down --name {self.name}' first")
        try:
            self._build(compile_filter(rules, AGENT1), offloads=offloads)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove the lab and end what runs inside it, by process id. Nothing there: nothing to do."""
        roles = self.existing()
        self._end_inhabitants(roles)
        for role in roles:
            run(["ip", "netns", "del", self.namespace(role)], check=False)

    def status(self) -> str:
        """``up``, ``down`` or ``partial``."""
        existing = self.existing()
        return "up" if len(existing) == len(ROLES) else "partial" if existing else "down"

    def run_in(self, role: str, command: Sequence[str], *, stdin: str | None = None, check: bool = True) -> str:
        """Run one command in a namespace of this lab and return its stdout."""
        return run(in_namespace(self.namespace(role), command), stdin=stdin, check=check)

    def _build(self, filter_rules: str, *, offloads: bool) -> None:
        for role in ROLES:
            run(["ip", "netns", "add", self.namespace(role)])
            self._write_sysctls(role)
        for cable in CABLES:
            (near_role, near), (far_role, far) = cable.near, cable.far
            address = f"address {cable.far_mac}" if cable.far_mac else ""
            run(
                f"ip link add {near} netns {self.namespace(near_role)} type veth "
                f"peer name {far} {address} netns {self.namespace(far_role)}".split()
            )
        self._ip("host", self._switch_commands())
        self.run_in("host", ["bridge", "-batch", "-"], stdin=_switch_ports())
        self._ip("svm", ["link add br1 type bridge mcast_snooping 0 stp_state 0 forward_delay 0"])
        self._ip("svm", [f"link set {port} master br1" for port in ("p1", "r1")])
        # Both directions enter at p1 and leave at r1: a bridge that learned would find every machine behind
        # p1, the port the packet came from, and drop it.
        self.run_in(
            "svm",
            ["bridge", "-batch", "-"],
            stdin="link set dev p1 learning off\nlink set dev r1 learning off\n",
        )
        self._ip("svm", [f"link set {device} up" for device in ("lo", "p1", "r1", "br1")])
        for host in END_HOSTS:
            if not offloads:
                self.run_in(host.role, ["ethtool", "-K", "eth0", "tso", "off", "gso", "off", "tx", "off"])
            self.run_in(host.role, ["nft", "-f", "-"], stdin=_SILENCE)
            self._ip(host.role, _addresses(host))
        self.run_in("host", ["nft", "-f", "-"], stdin=filter_rules)
        for role in ROLES:
            chains = known_loss.ruleset(role)
            if chains:
                self.run_in(role, ["nft", "-f", "-"], stdin=chains)

    def _ip(self, role: str, commands: Sequence[str]) -> None:
        run(["ip", "-n", self.namespace(role), "-batch", "-"], stdin="\n".join(commands) + "\n")

    def _write_sysctls(self, role: str) -> None:
        """Through ``sh`` inside the namespace, because /proc/sys/net shows the reader's own namespace."""
        wanted = {f"bridge/bridge-nf-call-{family}": 0 for family in ("iptables", "ip6tables", "arptables")}
        if role in ("host", "svm"):
            wanted |= {"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1}
        else:
            wanted |= {
                f"ipv6/conf/{which}/{key}": 0
                for which in ("all", "default")
                for key in ("accept_dad", "accept_ra", "router_solicitations", "autoconf")
            }
            # No link-local address: it would only bring traffic of its own.
            wanted |= {"ipv6/conf/default/addr_gen_mode": 1}
        script = "".join(
            f"[ ! -e /proc/sys/net/{key} ] || echo {value} > /proc/sys/net/{key}\n" for key, value in wanted.items()
        )
        self.run_in(role, ["sh", "-e"], stdin=script)

    def _switch_commands(self) -> list[str]:
        commands = ["link add vs0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0"]
        commands += [f"link set {port} master vs0" for port in SWITCH_PORTS]
        commands += [f"link set {device} promisc on" for device in PROMISCUOUS]
        devices = {end[1] for cable in CABLES for end in (cable.near, cable.far) if end[0] == "host"}
        return commands + [f"link set {device} up" for device in ["lo", "vs0", *sorted(devices)]]

    def _end_inhabitants(self, roles: Sequence[str]) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 1.0
            inhabitants = self._inhabitants(roles)
            for process in inhabitants:
                try:
                    os.kill(process, sign)
                except ProcessLookupError:
                    continue
            while inhabitants and time.monotonic() < deadline:
                time.sleep(0.02)
                inhabitants = self._inhabitants(roles)

    def _inhabitants(self, roles: Sequence[str]) -> list[int]:
        found = [
            int(process)
            for role in roles
            for process in run(["ip", "netns", "pids", self.namespace(role)], check=False).split()
        ]
        return [process for process in found if process != os.getpid()]


def _switch_ports() -> str:
    lines = []
    for port, mac in SWITCH_PORTS.items():
        lines += [
            f"link set dev {port} learning off flood off",
            f"fdb replace {mac} dev {port} master static",
        ]
    return "\n".join(lines) + "\n"


def _addresses(host: EndHost) -> list[str]:
    """ip commands for one end host, with permanent neighbours: no ARP or neighbour discovery is sent."""
    commands = [
        "link set lo up",
        "link set eth0 up",
        f"addr add {host.ipv4}/24 dev eth0",
        f"addr add {host.ipv6}/64 dev eth0 nodad",
    ]
    for other in END_HOSTS:
        if other is not host:
            commands += [
                f"neigh replace {address} lladdr {other.mac} dev eth0 nud permanent"
                for address in (other.ipv4, other.ipv6)
            ]
    return commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``capture_scripts/lab``; exit 0 done, 1 could not, 2 usage, 3 (status only) not up."""
    parser = argparse.ArgumentParser(
        prog="lab",
        description="Bring the namespace laboratory up or down.",
        epilog="example: lab up --name demo, then ip netns exec demo-client ping -c3 fd77::1",
    )
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("--name", default=DEFAULT_NAME, help="prefix of the namespaces (default: %(default)s)")
    parser.add_argument("--rules", type=Path, default=DEFAULT_RULES, help="rules file for 'up' (TOML, [[rule]])")
    parser.add_argument("--offloads", choices=("off", "on"), default="off", help="TSO, GSO and tx checksum at the ends")
    options = parser.parse_args(arguments)
    try:
        need_root("the lab")
        need_tools(TOOLS)
        lab = Lab(options.name)
        with interruptible():
            if options.action == "up":
                lab.up(options.rules, offloads=options.offloads == "on")
            elif options.action == "down":
                lab.down()
            else:
                state = lab.status()
                print(state)
                return 0 if state == "up" else 3
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"lab: interrupted ({error}); what was made is removed", file=sys.stderr)
        return 130
    return 0
