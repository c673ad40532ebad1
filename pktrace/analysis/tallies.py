"""Counts over packets: fates, losses by stage, and how the filter treated each rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.rules.expect import NO_RULE, rules_of_path
from pktrace.run.model import Condition, Network
from pktrace.schema import FATES, REASONS, RULE_VERDICTS, VERDICTS
from pktrace.verdicts.verdicts import Verdicts


@dataclass(frozen=True)
class RuleTally:
    """One rule on one path (`rule` None: packets that hit no rule), with its counts and the conclusion."""

    path: int
    rule: int | None
    action: str
    matched: int
    counts: dict[str, int]  # by schema.RULE_VERDICTS
    counter: str | None
    counter_packets: int | None
    status: str


@dataclass(frozen=True)
class StageLoss:
    """Losses of one stage of one path. `partial` counts packets that arrived in part and lost bytes here."""

    path: int
    stage: int
    lost: int
    late: int
    partial: int
    ambiguous: int
    undetermined: int
    unobserved: int
    crossed: int


def fate_counts(verdicts: Verdicts, path: int) -> dict[str, int]:
    """Packets of a path by fate; they add up to all its trajectories."""
    counts = np.bincount(verdicts.fate[verdicts.trajectories.path == path], minlength=len(FATES))
    return {name: int(counts[code]) for code, name in enumerate(FATES)}


def stage_losses(verdicts: Verdicts) -> list[StageLoss]:
    """The losses of every stage of every path."""
    found = []
    came_late = verdicts.reason == REASONS.index("late")
    in_part, part_lost = verdicts.packets_with("partial"), REASONS.index("part_lost")
    for number, path in enumerate(verdicts.trajectories.run.paths):
        mine = verdicts.trajectories.path == number
        for stage in path.stage_numbers():
            of_stage = np.bincount(verdicts.stage_verdict[mine, stage], minlength=len(VERDICTS))
            counts = dict(zip(VERDICTS, of_stage.tolist(), strict=False))
            lost = mine & (verdicts.lost_stage == stage)
            found.append(
                StageLoss(
                    number,
                    stage,
                    lost=int(lost.sum()),
                    late=int((lost & came_late).sum()),
                    partial=int((mine & in_part & (verdicts.stage_reason[:, stage] == part_lost)).sum()),
                    ambiguous=counts["ambiguous"],
                    undetermined=counts["undetermined"],
                    unobserved=counts["unobserved"],
                    crossed=counts["crossed"],
                )
            )
    return found


def tally_rules(verdicts: Verdicts, counters: dict[str, int]) -> list[RuleTally]:
    """Every rule on its path, in file order, then the path's default on paths with a filter."""
    run = verdicts.trajectories.run
    reached = verdicts.reached_filter
    found: list[RuleTally] = []
    for number, path in enumerate(run.paths):
        indices: list[int] = []
        for index, _ in rules_of_path(run, number):
            if index not in indices:
                indices.append(index)
        if not indices and not path.has_detour and path.default == "forward":
            continue
        mine = reached & (verdicts.trajectories.path == number)
        for place, index in enumerate([*indices, NO_RULE]):
            chosen = mine & (verdicts.expected.rule == index)
            counts = np.bincount(
                verdicts.rule_verdict[chosen & (verdicts.rule_verdict < len(RULE_VERDICTS))],
                minlength=len(RULE_VERDICTS),
            )
            by_name = {name: int(counts[code]) for code, name in enumerate(RULE_VERDICTS)}
            matched = int(chosen.sum())
            rule = run.rules[index] if index != NO_RULE else None
            counter = rule.counter if rule is not None and rule.path == number else None
            told = counters.get(counter) if counter is not None else None
            fitting = verdicts.expected.fitting.get((number, index), 0)
            earlier = [run.rules[other].condition for other in indices[:place]]
            shadowed = rule is not None and matched == 0 and (fitting > 0 or _covered(rule.condition, earlier))
            found.append(
                RuleTally(
                    number,
                    None if rule is None else index,
                    path.default if rule is None else rule.action,
                    matched,
                    by_name,
                    counter,
                    told,
                    _status(matched, by_name, told, shadowed, int(verdicts.trajectories.duplicates[chosen].sum())),
                )
            )
    return found


def _status(matched: int, counts: dict[str, int], told: int | None, shadowed: bool, duplicates: int) -> str:
    """Violated if a packet was certainly treated wrongly; verified if all were right and the counter agrees.

    The counter also counts duplicates of a packet that were made before the filter. The captures cannot distinguish
    them from duplicates made after it, so the counter may exceed the packets by up to the number of duplicates.
    """
    if any(counts[name] for name in ("false_punt", "false_forward", "missed_drop", "false_drop")):
        return "violated"
    if matched == 0:
        if told:
            return "undetermined"  # the data plane counted packets that no point saw
        return "shadowed" if shadowed else "not_exercised"
    if counts["hit"] == matched and (told is None or matched <= told <= matched + duplicates):
        return "verified"
    return "undetermined"


def _covered(condition: Condition, earlier: Sequence[Condition]) -> bool:
    """True if one earlier condition fits every packet that this one fits; then the rule can never be hit."""
    return any(_wider(other, condition) for other in earlier)


def _wider(wide: Condition, narrow: Condition) -> bool:
    return (
        _values_within(narrow.protocols, wide.protocols)
        and _networks_within(narrow.sources, wide.sources)
        and _networks_within(narrow.destinations, wide.destinations)
        and _ranges_within(narrow.sports, wide.sports)
        and _ranges_within(narrow.dports, wide.dports)
        and _ranges_within(narrow.icmp_types, wide.icmp_types)
        and _ranges_within(narrow.vlans, wide.vlans)
        and _ranges_within(narrow.tunnel_ids, wide.tunnel_ids)
    )


def _values_within(narrow: Sequence[Any] | None, wide: Sequence[Any] | None) -> bool:
    if wide is None:
        return True
    return narrow is not None and set(narrow) <= set(wide)


def _ranges_within(narrow: Sequence[tuple[int, int]] | None, wide: Sequence[tuple[int, int]] | None) -> bool:
    if wide is None:
        return True
    return narrow is not None and all(any(a <= low and high <= b for a, b in wide) for low, high in narrow)


def _networks_within(narrow: Sequence[Network] | None, wide: Sequence[Network] | None) -> bool:
    if wide is None:
        return True
    return narrow is not None and all(any(_inside(one, other) for other in wide) for one in narrow)


def _inside(one: Network, other: Network) -> bool:
    return (
        one.version == other.version
        and one.mask_high & other.mask_high == other.mask_high
        and one.mask_low & other.mask_low == other.mask_low
        and one.high & other.mask_high == other.high
        and one.low & other.mask_low == other.low
    )
