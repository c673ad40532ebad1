"""The surroundings of a recording, written to ``context/``: rules, counters, links, settings, versions.

The files of a lab do not identify the machine: no host name, and no address outside the lab. The files of other hosts
have the addresses of the recorded namespaces. Nothing is ever changed on those hosts.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..filter_rules import Rule
from ..processes import LabError, in_namespace, run
from .hosts import LOCAL, Host
from .run_file import render

TOOLS = {"tcpdump": "tcpdump", "ip": "iproute2", "nft": "nftables", "ethtool": "ethtool"}  # for a recording in the lab

Place = tuple[Host, str | None]  # a namespace of a machine; None: its default one

_SYSCTLS = (
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-arptables",
    "net/ipv4/ip_forward",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_timestamps",
    "net/ipv6/conf/all/disable_ipv6",
    "net/ipv6/conf/all/accept_dad",
    "net/ipv6/conf/all/accept_ra",
)


@functools.cache
def tool_versions() -> Mapping[str, str]:
    """The versions of the tools that make a recording; a tool that is missing is left out."""
    commands = {
        "tcpdump": ["tcpdump", "--version"],
        "dumpcap": ["dumpcap", "--version"],
        "bpftrace": ["bpftrace", "--version"],
        "nft": ["nft", "--version"],
        "iproute2": ["ip", "-V"],
        "ethtool": ["ethtool", "--version"],
    }
    versions = {"python": platform.python_version()}
    for tool, command in commands.items():
        try:
            said = run(["sh", "-c", 'exec "$@" 2>&1', "sh", *command])  # tcpdump writes its version to either
        except LabError:
            continue
        for key, pattern in ((tool, r"\bv?(\d+(?:\.\d+)+)"), ("libpcap", r"libpcap version (\S+)")):
            found = re.search(pattern, said)
            if found and (key == tool or tool == "tcpdump"):
                versions[key] = found.group(1)
    return versions


def kernel() -> str:
    """Kernel and architecture, without the machine's name."""
    system = os.uname()
    return f"{system.sysname} {system.release} {system.version} {system.machine}"


def counters(namespace: str) -> dict[str, int]:
    """Packets of every named nft counter in a namespace."""
    listed = json.loads(run(in_namespace(namespace, ["nft", "-j", "list", "counters"])))
    return {
        item["counter"]["name"]: int(item["counter"]["packets"]) for item in listed["nftables"] if "counter" in item
    }


class Context:
    """The ``context/`` folder of one recording in ``places``, by the role that each plays.

    The counters of ``filter_role`` belong to the data plane. The counters of other roles belong to the places that
    drop packets on purpose, or swallow them at the end. An empty role makes no such distinction. ``strict=False`` is
    for hosts outside the lab: a missing answer is noted in ``missing.txt`` and is no failure.
    """

    def __init__(
        self, folder: Path, places: Mapping[str, Place], filter_role: str = "", *, strict: bool = True
    ) -> None:
        self.folder = folder
        self._places = dict(places)
        self._filter_role = filter_role
        self._strict = strict
        self._missing: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def reset_counters(self) -> None:
        """Set every named counter of every namespace to zero; called when all points record. For labs only."""
        for host, namespace in self._places.values():
            host.run(["nft", "reset", "counters"], namespace)

    def write_counters(self, moment: str) -> None:
        """``counters-<moment>.json``, ``drop-counters-<moment>.json`` and ``ruleset-<moment>.nft``."""
        listed = {role: self._ask_json(role, ["nft", "-j", "list", "counters"]) for role in self._places}
        if self._filter_role:
            self.write_json(f"counters-{moment}.json", listed.pop(self._filter_role))
            self.write_json(f"drop-counters-{moment}.json", listed)
        else:
            self.write_json(f"counters-{moment}.json", _together(listed))
        rulesets = [f"# namespace: {role}\n{self._ask(role, ['nft', 'list', 'ruleset'])}" for role in self._places]
        self.write(f"ruleset-{moment}.nft", "\n".join(rulesets))

    def write_links(self, moment: str) -> None:
        """``ip-link.json`` or ``ip-link-<moment>.json``: links with their own packet counts."""
        name = f"ip-link-{moment}.json" if moment else "ip-link.json"
        self.write_json(name, {role: self._ask_json(role, ["ip", "-j", "-s", "link"]) for role in self._places})

    def write_surroundings(self, rules: Sequence[Rule] = ()) -> None:
        """Rules with their counters, links, addresses, neighbours, offloads, sysctls, kernel, versions."""
        if rules or self._strict:
            self.write("rules.toml", render({"rule": [dict(rule.written) for rule in rules]}) if rules else "")
        self.write_links("")
        for name, command in (
            ("ip-addr.json", ["ip", "-j", "addr"]),
            ("ip-neigh.json", ["ip", "-j", "neigh"]),
            ("bridge-fdb.json", ["bridge", "-j", "fdb"]),
        ):
            self.write_json(name, {role: self._ask_json(role, command) for role in self._places})
        self.write("ethtool-features.txt", self._features())
        self.write_json("sysctl.json", {role: self._sysctls(role) for role in self._places})
        self.write_tools()

    def write_tools(self) -> None:
        """The kernel and the versions of the capture tools."""
        self.write("uname.txt", kernel() + "\n")
        self.write_json("tool-versions.json", dict(tool_versions()))

    def _features(self) -> str:
        parts = []
        for role in self._places:
            links = self._ask_json(role, ["ip", "-j", "link"])
            for device in sorted(link["ifname"] for link in links if link["ifname"] != "lo"):
                said = self._ask(role, ["ethtool", "-k", device], check=not self._strict)
                kept = [line for line in said.splitlines() if not line.endswith("[fixed]")]
                parts.append(f"# namespace: {role}\n" + "\n".join(kept) + "\n")
        return "\n".join(parts)

    def _sysctls(self, role: str) -> dict[str, str]:
        script = "".join(f'[ ! -e /proc/sys/{key} ] || echo "{key} $(cat /proc/sys/{key})"\n' for key in _SYSCTLS)
        said = self._ask(role, ["sh", "-e"], stdin=script)
        return dict(line.split(" ", 1) for line in said.splitlines() if " " in line)

    def _ask(self, role: str, command: Sequence[str], *, stdin: str | None = None, check: bool = True) -> str:
        host, namespace = self._places[role]
        try:
            return host.run(command, namespace, stdin=stdin, check=check)
        except LabError as error:
            if self._strict:
                raise
            self._note(f"{role}: {error}")
            return ""

    def _ask_json(self, role: str, command: Sequence[str]) -> Any:
        text = self._ask(role, command)
        try:
            return json.loads(text) if text.strip() else []
        except ValueError as error:
            if self._strict:
                raise LabError(f"{' '.join(command)}: no JSON ({error})") from error
            self._note(f"{role}: {' '.join(command)}: no JSON ({error})")
            return []

    def _note(self, text: str) -> None:
        if text not in self._missing:
            self._missing.append(text)
            self.write("missing.txt", "".join(f"{line}\n" for line in self._missing))

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: object) -> None:
        self.write(name, json.dumps(value, indent=1) + "\n")


def _together(listed: Mapping[str, Any]) -> dict[str, Any]:
    """Counters of several namespaces as one list, without names that occur in several: they are ambiguous."""
    found: dict[str, list[Any]] = {}
    for document in listed.values():
        for entry in document.get("nftables", []) if isinstance(document, dict) else []:
            if "counter" in entry:
                found.setdefault(entry["counter"]["name"], []).append(entry)
    return {"nftables": [entries[0] for entries in found.values() if len(entries) == 1]}


def lab_places(roles: Mapping[str, str]) -> dict[str, Place]:
    """The places of a lab from the names of its namespaces."""
    return {role: (LOCAL, namespace) for role, namespace in roles.items()}
