"""The laboratory: an L2 service chain in network namespaces of its own.

::

    client:eth0 -- host:uplink [bridge vs0] host:sp1 -- host:fi1 {filter} host:vnic1 -- pvm1:eth0
                                   |             host:punt1 -- svm:p1 [service] svm:r1 -- host:ret1
                                   +-- host:sp2 -- host:fi2 {filter} host:vnic2 -- pvm2:eth0
                                   |             host:punt2 -- svm:p2 [service] svm:r2 -- host:ret2
                                   +-- host:vnic3 -- pvm3:eth0          (no agent: a plain bridge port)

The filter judges packets to pvm1 (``ingress``) at fi1, and packets from it (``egress``) at vnic1. A punted packet
leaves by punt1, crosses the service namespace from p1 to r1 and returns at ret1, in both directions. Each protected
machine with an agent needs a punt/return pair of its own, because a frame does not name its agent. The second agent
and pvm2 exist only on demand.

The "host" is a namespace, too, so the machine's own network is never touched. Every namespace has the name of the lab
as a prefix: labs of different names stand side by side. The state (``state.py``) lists each part of a lab before the
part is made; nothing else is ever removed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import marks
from ..filter_rules import Agent, Rule, compile_filter, load_rules
from ..processes import LabError, in_namespace, run
from ..quiet import unread_bytes, wait_until, wait_until_handled
from ..recorder.run_file import render
from .service import Service
from .state import LabState

TOOLS = {"ip": "iproute2", "bridge": "iproute2", "nft": "nftables", "ethtool": "ethtool"}
DEFAULT_NAME = "pktlab"
DEFAULT_RULES = Path(__file__).resolve().parents[1] / "rules" / "service-chain.toml"
ROLES = ("host", "client", "svm", "pvm1", "pvm3")  # of every lab
SECOND_ROLES = ("pvm2",)  # of a lab with two agents
_NAME = re.compile(r"[a-z][a-z0-9]{0,19}")
_END_S = 5.0  # from SIGTERM to SIGKILL


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
PVM2 = EndHost("pvm2", "vnic2", "02:77:00:00:00:02", "10.77.0.2", "fd77::2")
PVM3 = EndHost("pvm3", "vnic3", "02:77:00:00:00:03", "10.77.0.3", "fd77::3")
END_HOSTS = (CLIENT, PVM1, PVM3)


def _agent(number: int, protected: EndHost) -> Agent:
    return Agent(
        number=number,
        protected_mac=protected.mac,
        switch_side=f"fi{number}",
        machine_side=protected.port,
        punt=f"punt{number}",
        returned=f"ret{number}",
    )


AGENT1 = _agent(1, PVM1)
AGENT2 = _agent(2, PVM2)


@dataclass(frozen=True)
class Cable:
    """A veth pair: two (role, device) ends."""

    near: tuple[str, str]
    far: tuple[str, str]
    far_mac: str = ""


def cables(hosts: Sequence[EndHost], agents: Sequence[Agent]) -> list[Cable]:
    """All cables of a lab with these end hosts and agents."""
    found = [Cable(("host", host.port), (host.role, "eth0"), host.mac) for host in hosts]
    for agent in agents:
        found += [
            Cable(("host", agent.switch_port), ("host", agent.switch_side)),
            Cable(("host", agent.punt), ("svm", agent.service_in)),
            Cable(("host", agent.returned), ("svm", agent.service_out)),
        ]
    return found


# Packets that the kernel of an end host sends unasked: neighbour and router discovery, listener reports. The filter
# would count them, and they are in no plan. Marked packets of these types are in a plan.
_SILENCE = f"""\
table netdev silence {{
    chain own_noise {{
        type filter hook egress device "eth0" priority 0; policy accept;
        meta l4proto ipv6-icmp @th,72,32 0x{marks.MARK.hex()} accept;
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
        self.state = LabState(name)

    def namespace(self, role: str) -> str:
        return f"{self.name}-{role}"

    def roles(self) -> tuple[str, ...]:
        """The roles of this lab: ``ROLES``, and one more with two agents; ``ROLES`` if the lab is down."""
        return tuple(self.state.read().get("roles", ROLES))

    def agents(self) -> tuple[Agent, ...]:
        """The agents of this lab; one if the lab is down."""
        return (AGENT1, AGENT2) if self.state.read().get("agents") == 2 else (AGENT1,)

    def agent(self, number: int) -> Agent:
        """The agent with this number; LabError if the lab has none."""
        found = next((agent for agent in self.agents() if agent.number == number), None)
        if found is None:
            raise LabError(f"lab {self.name!r} has no agent {number}: bring it up with --agents 2")
        return found

    def end_hosts(self) -> tuple[EndHost, ...]:
        return (*END_HOSTS, PVM2) if len(self.agents()) == 2 else END_HOSTS

    def service(self, agent: Agent) -> Service:
        return Service(self.state, self.namespace("svm"), agent)

    def existing(self) -> list[str]:
        """Roles with an existing namespace; a crashed ``up`` or ``down`` can leave some."""
        listed = {line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line.strip()}
        return [role for role in (*ROLES, *SECOND_ROLES) if self.namespace(role) in listed]

    def up(
        self,
        rules_file: Path = DEFAULT_RULES,
        *,
        offloads: bool = False,
        agents: int = 1,
        service: str = "bridge",
    ) -> None:
        """Build everything, or raise LabError and leave nothing behind.

        ``offloads=False`` switches segmentation and checksum offload off on the end hosts. With offloads on, local
        senders hand over packets of up to 64 KiB with unfinished checksums, and every point sees them in that form. All
        agents get the same rules, each with counters of its own.
        """
        if agents not in (1, 2):
            raise LabError(f"{agents} agents: a lab has 1 or 2")
        rules = {number: load_rules(rules_file, number) for number in range(1, agents + 1)}
        check_counters(rules)
        existing = self.existing()
        if existing and not self.state.exists():
            names = " ".join(self.namespace(role) for role in existing)
            raise LabError(f"namespaces of that name exist, and no lab has made them ({names}): use another name")
        roles = (*ROLES, *SECOND_ROLES) if agents == 2 else ROLES
        self.state.claim({"name": self.name, "roles": roles, "agents": agents, "offloads": offloads})
        try:
            self._build(rules, offloads=offloads, service=service)
            self.state.update(complete=True)
            self.state.note("up", agents=agents, offloads=offloads, service=service, rules=rules_file.name)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove all parts of the lab and end the processes inside, by process id. Without a lab, do nothing."""
        if not self.state.exists():
            return
        roles = [role for role in self.existing() if role in self.roles()]
        self._end_inhabitants(roles)
        for role in roles:
            run(["ip", "netns", "del", self.namespace(role)], check=False)
        self.state.remove()

    def status(self) -> str:
        """``up``, ``down`` or ``partial``."""
        if not self.state.exists():
            return "down"
        complete = self.state.read().get("complete") and set(self.roles()) <= set(self.existing())
        return "up" if complete else "partial"

    def run_in(self, role: str, command: Sequence[str], *, stdin: str | None = None, check: bool = True) -> str:
        """Run one command in a namespace of this lab and return its stdout."""
        return run(in_namespace(self.namespace(role), command), stdin=stdin, check=check)

    def wait_until_quiet(self) -> None:
        """Return when no packet is on its way any more, in the kernel or in a forwarder."""
        forwarders = [service for service in map(self.service, self.agents()) if service.described().get("running")]

        def counted(what: str) -> int:
            return sum(int(service.counts()[what]) for service in forwarders)

        before = None
        while True:
            wait_until_handled()
            wait_until(lambda: unread_bytes(self.namespace("svm")) == 0, "the forwarders read all arrived frames")
            if not forwarders:
                return
            wait_until(lambda: counted("held") == 0, "the forwarders pass on the frames that they hold")
            received = counted("received")  # a frame that was passed on may be answered
            if received == before:
                return
            before = received

    def install_rules(self, agent: Agent, script: str, intended: Sequence[Rule]) -> None:
        """Replace the filter of the agent by ``script``, and note the intended rules."""
        self.run_in("host", ["nft", "-f", "-"], stdin=script)
        text = render({"rule": [dict(rule.written) for rule in intended]}) if intended else ""
        self.state.rules(agent.number).write_text(text, encoding="utf-8")

    def install_known_losses(self) -> None:
        """Install the drops of marked packets at the places that fit the present services."""
        agents = self.agents()
        forwarders = [agent.number for agent in agents if self.service(agent).kind == "forwarder"]
        for role in self.roles():
            chains = marks.ruleset(role, len(agents), forwarders)
            if chains:
                self.run_in(role, ["nft", "-f", "-"], stdin=chains)

    def _build(self, rules: dict[int, list[Rule]], *, offloads: bool, service: str) -> None:
        hosts, agents = self.end_hosts(), self.agents()
        for role in self.roles():
            run(["ip", "netns", "add", self.namespace(role)])
            self._write_sysctls(role)
        made = cables(hosts, agents)
        for cable in made:
            (near_role, near), (far_role, far) = cable.near, cable.far
            address = f"address {cable.far_mac}" if cable.far_mac else ""
            run(
                f"ip link add {near} netns {self.namespace(near_role)} type veth "
                f"peer name {far} {address} netns {self.namespace(far_role)}".split()
            )
        # The port of each machine, entered instead of learned: a switch that has not learned a port floods, and a
        # flooded packet would be seen (and counted by the filter) off its path.
        ports = {CLIENT.port: CLIENT.mac, PVM3.port: PVM3.mac}
        ports |= {agent.switch_port: agent.protected_mac for agent in agents}
        self._ip("host", _switch_commands(ports, agents, made))
        self.run_in("host", ["bridge", "-batch", "-"], stdin=_switch_ports(ports))
        self._ip("svm", ["link set lo up"])
        for agent in agents:
            self._ip("svm", [f"link set {port} up" for port in (agent.service_in, agent.service_out)])
            self.service(agent).start(service)
        for host in hosts:
            if not offloads:
                self.run_in(host.role, ["ethtool", "-K", "eth0", "tso", "off", "gso", "off", "tx", "off"])
            self.run_in(host.role, ["nft", "-f", "-"], stdin=_SILENCE)
            self._ip(host.role, _addresses(host, hosts))
        for agent in agents:
            intended = rules[agent.number]
            self.install_rules(agent, compile_filter(intended, agent), intended)
        self.install_known_losses()

    def _ip(self, role: str, commands: Sequence[str]) -> None:
        run(["ip", "-n", self.namespace(role), "-batch", "-"], stdin="\n".join(commands) + "\n")

    def _write_sysctls(self, role: str) -> None:
        """Write through ``sh`` inside the namespace, because /proc/sys/net belongs to the namespace of the process."""
        wanted = {f"bridge/bridge-nf-call-{family}": 0 for family in ("iptables", "ip6tables", "arptables")}
        if role in ("host", "svm"):
            wanted |= {"ipv6/conf/all/disable_ipv6": 1, "ipv6/conf/default/disable_ipv6": 1}
        else:
            wanted |= {
                f"ipv6/conf/{which}/{key}": 0
                for which in ("all", "default")
                for key in ("accept_dad", "accept_ra", "router_solicitations", "autoconf")
            }
            # No link-local address: it would only cause traffic of its own.
            wanted |= {"ipv6/conf/default/addr_gen_mode": 1}
        script = "".join(
            f"[ ! -e /proc/sys/net/{key} ] || echo {value} > /proc/sys/net/{key}\n" for key, value in wanted.items()
        )
        self.run_in(role, ["sh", "-e"], stdin=script)

    def _end_inhabitants(self, roles: Sequence[str]) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + _END_S
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


def check_counters(rules: dict[int, list[Rule]]) -> None:
    """LabError if two agents would share the name of a counter, whose packets would be ambiguous."""
    names = [rule.counter for of_agent in rules.values() for rule in of_agent]
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise LabError(f"counter {min(double)!r} would belong to both agents: leave out the counter names")


def _switch_commands(ports: dict[str, str], agents: Sequence[Agent], made: Sequence[Cable]) -> list[str]:
    commands = ["link add vs0 type bridge mcast_snooping 0 stp_state 0 forward_delay 0"]
    commands += [f"link set {port} master vs0" for port in ports]
    for agent in agents:
        devices = (agent.switch_side, agent.machine_side, agent.punt, agent.returned)
        commands += [f"link set {device} promisc on" for device in devices]
    devices_of_host = {end[1] for cable in made for end in (cable.near, cable.far) if end[0] == "host"}
    return commands + [f"link set {device} up" for device in ["lo", "vs0", *sorted(devices_of_host)]]


def _switch_ports(ports: dict[str, str]) -> str:
    lines = []
    for port, mac in ports.items():
        lines += [
            f"link set dev {port} learning off flood off",
            f"fdb replace {mac} dev {port} master static",
        ]
    return "\n".join(lines) + "\n"


def _addresses(host: EndHost, hosts: Sequence[EndHost]) -> list[str]:
    """ip commands for one end host, with permanent neighbours: no ARP or neighbour discovery is sent."""
    commands = [
        "link set lo up",
        "link set eth0 up",
        f"addr add {host.ipv4}/24 dev eth0",
        f"addr add {host.ipv6}/64 dev eth0 nodad",
    ]
    for other in hosts:
        if other is not host:
            commands += [
                f"neigh replace {address} lladdr {other.mac} dev eth0 nud permanent"
                for address in (other.ipv4, other.ipv6)
            ]
    return commands
