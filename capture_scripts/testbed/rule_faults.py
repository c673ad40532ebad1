"""Faults of a filter, made on purpose: the installed rules differ from the rules file.

The lab still reports the intended rules, also in ``run.toml``: an analysis has to find the fault. The journal of the
lab notes every fault, with its rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..filter_rules import WITH_PORTS, Agent, Rule, compile_filter, load_rules
from ..processes import LabError
from .topology import Lab

_WIDENED_BY = 100
FAULTS = {
    "false-punt": "a forward rule punts",
    "false-forward": "a punt rule forwards",
    "missed-drop": "a drop rule forwards",
    "shadowed": "a wider rule in front of a punt rule takes its packets and forwards them",
    "never-reached": "a rule stands behind the default, where no packet comes",
    "drops-too-much": f"a drop rule takes up to {_WIDENED_BY} ports more on either side, or all types",
}
# The action of the rules that a fault can change; never-reached: any rule with a visible effect.
_CONCERNS = {
    "false-punt": ("forward",),
    "false-forward": ("punt",),
    "missed-drop": ("drop",),
    "shadowed": ("punt",),
    "never-reached": ("punt", "drop"),
    "drops-too-much": ("drop",),
}


def faulty(rules: Sequence[Rule], kind: str, agent: Agent, rule_id: str | None = None) -> tuple[str, Rule, str]:
    """(nft script, changed rule, description of the fault). LabError if no rule fits the fault."""
    rule = _concerned(rules, kind, rule_id)
    at = list(rules).index(rule)
    before, after = list(rules[:at]), list(rules[at + 1 :])
    if kind in ("false-punt", "false-forward", "missed-drop"):
        action = "punt" if kind == "false-punt" else "forward"
        installed = [*before, replace(rule, action=action), *after]
        return compile_filter(installed, agent), rule, f"rule {rule.id!r} says {rule.action} and does {action}"
    if kind == "shadowed":
        wider = replace(
            rule,
            id="fault",
            action="forward",
            counter=f"fault{agent.number}_shadow",
            sources=(),
            destinations=(),
            sports=(),
            dports=(),
            icmp_types=(),
            # A rule without ports would else take every protocol.
            protocols=rule.protocols or (WITH_PORTS if rule.sports or rule.dports else ()),
        )
        words = f"a rule for its whole protocol stands before rule {rule.id!r} and forwards"
        return compile_filter([*before, wider, rule, *after], agent), rule, words
    if kind == "never-reached":
        script = compile_filter([*before, *after], agent, [rule])
        return script, rule, f"rule {rule.id!r} stands behind the default and is never reached"
    wide = replace(rule, sports=_widened(rule.sports), dports=_widened(rule.dports), icmp_types=())
    words = f"rule {rule.id!r} drops more than it says: {wide.statements('drop')[0]}"
    return compile_filter([*before, wide, *after], agent), rule, words


def _widened(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in ranges:
        low, high = max(0, low - _WIDENED_BY), min(65535, high + _WIDENED_BY)
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _concerned(rules: Sequence[Rule], kind: str, rule_id: str | None) -> Rule:
    if kind not in FAULTS:
        raise LabError(f"fault {kind!r}: known are {', '.join(FAULTS)}")
    possible = [rule for rule in rules if rule.action in _CONCERNS[kind] and rule_id in (None, rule.id)]
    if kind == "drops-too-much":
        possible = [rule for rule in possible if rule.sports or rule.dports or rule.icmp_types]
    if not possible:
        which = f"rule {rule_id!r}" if rule_id else "no rule"
        raise LabError(f"{which} is no rule for {kind!r} ({FAULTS[kind]})")
    return possible[0]


def load_into(lab: Lab, agent: Agent, rules: Sequence[Rule]) -> None:
    """Install the rules without a fault; an earlier fault is gone."""
    lab.install_rules(agent, compile_filter(rules, agent), rules)
    _remember(lab, agent, None)


def install_fault(lab: Lab, agent: Agent, kind: str, rule_id: str | None = None) -> str:
    """Install the intended rules of an agent with one fault, which replaces any other; returns its description."""
    rules = load_rules(lab.state.rules(agent.number), agent.number)
    script, rule, words = faulty(rules, kind, agent, rule_id)
    lab.install_rules(agent, script, rules)
    _remember(lab, agent, {"kind": kind, "rule": rule.id, "words": words})
    lab.state.note("fault", agent=agent.number, kind=kind, rule=rule.id, words=words)
    return words


def clear_fault(lab: Lab, agent: Agent) -> None:
    """Install the intended rules without a fault."""
    load_into(lab, agent, load_rules(lab.state.rules(agent.number), agent.number))
    lab.state.note("fault clear", agent=agent.number)


def _remember(lab: Lab, agent: Agent, fault: dict[str, str] | None) -> None:
    faults = dict(lab.state.read().get("faults", {}))
    faults.pop(str(agent.number), None)
    if fault is not None:
        faults[str(agent.number)] = fault
    lab.state.update(faults=faults)
