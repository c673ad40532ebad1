"""The report on a laboratory: namespaces, services, rules, impairments and counters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..filter_rules import Agent, default_counter, load_rules
from ..forwarder.impairment import Impairment
from .impairments import Impairments
from .topology import Lab


def status(lab: Lab) -> dict[str, Any]:
    """The content of ``lab status``, for people and for programs."""
    found: dict[str, Any] = {"name": lab.name, "state": lab.status(), "state_folder": str(lab.state.folder)}
    if found["state"] != "up":
        return {**found, "existing": [lab.namespace(role) for role in lab.existing()] if lab.state.exists() else []}
    found |= {key: lab.state.read()[key] for key in ("agents", "offloads")}
    found["namespaces"] = {
        lab.namespace(role): [
            {
                "device": link["ifname"],
                "up": "UP" in link["flags"],
                "addresses": [
                    a["local"] for a in link.get("addr_info", []) if a.get("scope") == "global" or ":" in a["local"]
                ],
                "mac": link.get("address", ""),
                "received": link["stats64"]["rx"]["packets"],
                "sent": link["stats64"]["tx"]["packets"],
            }
            for link in json.loads(lab.run_in(role, ["ip", "-j", "-s", "addr", "show"]))
            if link["ifname"] != "lo"
        ]
        for role in lab.roles()
    }
    found["services"] = {str(agent.number): dict(lab.service(agent).described()) for agent in lab.agents()}
    found["rules"] = {str(agent.number): rules_of(lab, agent) for agent in lab.agents()}
    found["faults"] = lab.state.read().get("faults", {})
    found["impairments"] = Impairments(lab).shown()
    found["counters"] = counters(lab)
    return found


def counters(lab: Lab) -> dict[str, dict[str, int]]:
    """Packets of every named counter, per role."""
    return {
        role: {
            item["counter"]["name"]: int(item["counter"]["packets"])
            for item in json.loads(lab.run_in(role, ["nft", "-j", "list", "counters"]))["nftables"]
            if "counter" in item
        }
        for role in lab.roles()
    }


def rules_of(lab: Lab, agent: Agent) -> list[dict[str, Any]]:
    """The intended rules of an agent with their counters, and at the end the default of each path."""
    packets = counters(lab)["host"]
    rows = [
        {
            "rule": rule.id,
            "path": rule.path,
            "action": rule.action,
            "counter": rule.counter,
            "packets": packets.get(rule.counter, 0),
        }
        for rule in load_rules(lab.state.rules(agent.number), agent.number)
    ]
    for path in ("ingress", "egress"):
        name = default_counter(agent, path)
        rows.append(
            {"rule": "(default)", "path": path, "action": "forward", "counter": name, "packets": packets.get(name, 0)}
        )
    return rows


def status_text(found: Mapping[str, Any]) -> str:
    """The report as text for the terminal."""
    if found["state"] != "up":
        lines = [f"lab {found['name']}: {found['state']}"]
        if found["state"] == "partial":
            lines += [f"  left: {' '.join(found['existing']) or 'no namespace'}", "  remove it with 'lab down'"]
        return "\n".join(lines)
    lines = [
        f"lab {found['name']}: up, agents: {found['agents']}, offloads at the ends: "
        f"{'on' if found['offloads'] else 'off'}",
        f"state and journal: {found['state_folder']}",
        "",
    ]
    lines += table(
        ("namespace", "device", "state", "received", "sent", "addresses"),
        [
            (
                name,
                link["device"],
                "up" if link["up"] else "DOWN",
                link["received"],
                link["sent"],
                " ".join(link["addresses"]),
            )
            for name, links in found["namespaces"].items()
            for link in links
        ],
    )
    for number, service in found["services"].items():
        words = service["kind"]
        if service["kind"] == "forwarder":
            words += f", process {service['pid']}" + ("" if service["running"] else " (HAS DIED)")
        lines += ["", f"service of agent {number}: {words}"]
        fault = found["faults"].get(number)
        lines += [f"rules of agent {number}:" + (f" FAULT {fault['kind']}: {fault['words']}" if fault else "")]
        lines += _rules_table(found["rules"][number])
    if found["impairments"]:
        lines += ["", impairments_text(found["impairments"])]
    losses = [
        (role, name, packets)
        for role, named in found["counters"].items()
        for name, packets in named.items()
        if name.startswith(("loss_", "sink_", "back", "fault")) and packets
    ]
    if losses:
        lines += ["", *table(("namespace", "other counters", "packets"), losses)]
    return "\n".join(lines)


def rules_text(lab: Lab, agent: Agent) -> str:
    fault = lab.state.read().get("faults", {}).get(str(agent.number))
    lines = [f"agent {agent.number}" + (f", FAULT {fault['kind']}: {fault['words']}" if fault else "")]
    return "\n".join([*lines, *_rules_table(rules_of(lab, agent))])


def _rules_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = ("path", "rule", "action", "counter", "packets")
    return table(keys, [tuple(row[key] for key in keys) for row in rows])


def impairments_text(shown: Sequence[Mapping[str, Any]]) -> str:
    if not shown:
        return "no impairments"
    rows = []
    for entry in shown:
        kept = {key: value for key, value in entry.items() if key not in ("agent", "by", "counts")}
        counts = entry.get("counts", {})
        split = {path: of for path, of in counts.items() if isinstance(of, Mapping)} or {"all": counts}
        for path, of in split.items():
            rows.append(
                (
                    entry["number"],
                    entry["agent"],
                    entry["stage"],
                    path if path != "all" else " ".join(entry["paths"]),
                    Impairment.from_table(kept).words(),
                    entry["by"],
                    of.get("seen", "-"),
                    of.get("applied", "-"),
                )
            )
    return "\n".join(table(("no", "agent", "stage", "path", "impairment", "by", "seen", "applied"), rows))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table with columns of minimal width, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in [list(head), *cells]) for at in range(len(head))]
    right = [bool(rows) and all(isinstance(row[at], int) for row in rows) for at in range(len(head))]

    def line(row: Sequence[str]) -> str:
        parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return [line(head), *(line(row) for row in cells)]
