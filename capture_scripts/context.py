"""What surrounded a recording, written to ``context/``: rules, counters, links, settings, versions.

Nothing here names the machine: no host name, no address that is not the lab's.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .nft_rules import Rule
from .processes import LabError, in_namespace, run
from .run_file import render

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


def tool_versions() -> dict[str, str]:
    """The versions of the tools that make a recording; a tool that is missing is left out."""
    commands = {
        "tcpdump": ["tcpdump", "--version"],
        "nft": ["nft", "--version"],
        "iproute2": ["ip", "-V"],
        "ethtool": ["ethtool", "--version"],
    }
    versions = {"python": platform.python_version()}
    for tool, command in commands.items():
        try:
            said = run(["sh", "-c", 'exec "$@" 2>&1', "sh", *command])  # tcpdump tells its version on either
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
    """The ``context/`` folder of one recording in the namespaces ``roles`` (role to namespace).

    ``filter_role`` is the one whose counters are the data plane's own; the counters of the others belong to
    the places where packets are dropped on purpose, or swallowed at the end.
    """

    def __init__(self, folder: Path, roles: Mapping[str, str], filter_role: str = "host") -> None:
        self._folder = folder
        self._roles = dict(roles)
        self._filter_role = filter_role
        folder.mkdir(parents=True, exist_ok=True)

    def reset_counters(self) -> None:
        """Set every named counter of every namespace to zero; called when all points record."""
        for namespace in self._roles.values():
            run(in_namespace(namespace, ["nft", "reset", "counters"]))

    def write_counters(self, moment: str) -> None:
        """``counters-<moment>.json``, ``drop-counters-<moment>.json`` and ``ruleset-<moment>.nft``."""
        listed = {
            role: json.loads(run(in_namespace(namespace, ["nft", "-j", "list", "counters"])))
            for role, namespace in self._roles.items()
        }
        self._write_json(f"counters-{moment}.json", listed.pop(self._filter_role))
        self._write_json(f"drop-counters-{moment}.json", listed)
        rulesets = [
            f"# namespace: {role}\n{run(in_namespace(namespace, ['nft', 'list', 'ruleset']))}"
            for role, namespace in self._roles.items()
        ]
        self._write(f"ruleset-{moment}.nft", "\n".join(rulesets))

    def write_surroundings(self, rules: Sequence[Rule]) -> None:
        """Rules with their counters, links, addresses, neighbours, offloads, sysctls, kernel, versions."""
        self._write("rules.toml", render({"rule": [dict(rule.written) for rule in rules]}) if rules else "")
        for name, command in (
            ("ip-link.json", ["ip", "-j", "-s", "link"]),
            ("ip-addr.json", ["ip", "-j", "addr"]),
            ("ip-neigh.json", ["ip", "-j", "neigh"]),
            ("bridge-fdb.json", ["bridge", "-j", "fdb"]),
        ):
            self._write_json(
                name, {role: _json(run(in_namespace(there, command))) for role, there in self._roles.items()}
            )
        self._write("ethtool-features.txt", self._features())
        self._write_json("sysctl.json", {role: self._sysctls(there) for role, there in self._roles.items()})
        self._write("uname.txt", kernel() + "\n")
        self._write_json("tool-versions.json", tool_versions())

    def _features(self) -> str:
        parts = []
        for role, namespace in self._roles.items():
            links = _json(run(in_namespace(namespace, ["ip", "-j", "link"])))
            for device in sorted(link["ifname"] for link in links if link["ifname"] != "lo"):
                said = run(in_namespace(namespace, ["ethtool", "-k", device]), check=False)
                kept = [line for line in said.splitlines() if not line.endswith("[fixed]")]
                parts.append(f"# namespace: {role}\n" + "\n".join(kept) + "\n")
        return "\n".join(parts)

    def _sysctls(self, namespace: str) -> dict[str, str]:
        script = "".join(f'[ ! -e /proc/sys/{key} ] || echo "{key} $(cat /proc/sys/{key})"\n' for key in _SYSCTLS)
        said = run(in_namespace(namespace, ["sh", "-e"]), stdin=script)
        return dict(line.split(" ", 1) for line in said.splitlines())

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text, encoding="utf-8")

    def _write_json(self, name: str, value: object) -> None:
        self._write(name, json.dumps(value, indent=1) + "\n")


def _json(text: str) -> Any:
    return json.loads(text) if text.strip() else []
