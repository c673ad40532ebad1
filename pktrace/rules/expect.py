"""Expected treatment of each packet: the first rule of its path that fits its headers, else the path's default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pktrace.decode.rows import rows_at
from pktrace.observations.headers import fits
from pktrace.run.model import PacketPath, Run
from pktrace.schema import TREATMENTS
from pktrace.trajectories.model import Trajectories

NO_RULE = -1


@dataclass(frozen=True)
class Expected:
    """Per trajectory: `rule` (index into the run's rules or NO_RULE), `action` (code of schema.TREATMENTS), `absorbed`
    (the service may answer or swallow the packet); `fitting` counts per (path, rule) all packets of the path that fit
    the rule, also if an earlier rule wins.
    """

    rule: np.ndarray[Any, Any]
    action: np.ndarray[Any, Any]
    absorbed: np.ndarray[Any, Any]
    fitting: dict[tuple[int, int], int]


def rules_of_path(run: Run, path: int) -> list[tuple[int, bool]]:
    """(rule, reversed) of a path, in file order.

    A stateful rule holds for both directions of the conversation: on its own path, and with source and destination
    exchanged on every path that can carry out its action.
    """
    found = []
    own = any(rule.path == path for rule in run.rules)
    for number, rule in enumerate(run.rules):
        if rule.path == path:
            found.append((number, False))
        if rule.stateful and (run.paths[path].has_detour or (rule.action != "punt" and own)):
            found.append((number, True))
    return found


def expected_treatment(trajectories: Trajectories) -> Expected:
    """The expected treatment of each packet, by its headers at the filter's input, or at its last sighting before."""
    run = trajectories.run
    count = len(trajectories)
    rule_of = np.full(count, NO_RULE, np.int32)
    action = np.zeros(count, np.uint8)
    absorbed = np.zeros(count, bool)
    fitting: dict[tuple[int, int], int] = {}
    for number, path in enumerate(run.paths):
        mine = np.flatnonzero(trajectories.path == number)
        action[mine] = TREATMENTS.index(path.default)
        headers = rows_at(trajectories.observations.rows, _at_filter(trajectories, mine, path))
        free = np.ones(len(mine), bool)
        for index, backwards in rules_of_path(run, number):
            rule = run.rules[index]
            fit = fits(rule.condition.reversed() if backwards else rule.condition, headers)
            fitting[number, index] = fitting.get((number, index), 0) + int(fit.sum())
            chosen = mine[fit & free]
            free &= ~fit
            rule_of[chosen] = index
            action[chosen] = TREATMENTS.index(rule.action)
            absorbed[chosen] = rule.absorbed
    return Expected(rule_of, action, absorbed, fitting)


def _at_filter(trajectories: Trajectories, mine: np.ndarray[Any, Any], path: PacketPath) -> np.ndarray[Any, Any]:
    """Row of each packet's last sighting up to the filter's input, else of its first; headers may change on the way."""
    found: np.ndarray[Any, Any] = trajectories.first_row[mine].copy()
    for position in range(path.filter_input + 1 if path.has_detour else 0):
        seen = trajectories.seen[mine, position]
        found[seen >= 0] = seen[seen >= 0]
    return found
