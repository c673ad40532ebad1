"""A recording in the lab: its points, its paths, and the files beside the captures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..filter_rules import Rule, default_counter, load_rules
from ..processes import CannotStart
from ..recorder.captures import Settings
from ..recorder.points import Point
from ..recorder.recording import Recorded, Running
from ..recorder.run_file import PathTable, render
from ..recorder.run_folder import RunPlan, record_run
from ..recorder.surroundings import Context, counters, lab_places
from .topology import PVM1, PVM2, PVM3, Lab

# Detection points: name in the run, device in the host's namespace.
DEVICES = {
    "uplink": "uplink",
    "switchport": "sp1",
    "punt": "punt1",
    "return": "ret1",
    "vnic": "vnic1",
    "vnic3": "vnic3",
}
SECOND_DEVICES = {"switchport2": "sp2", "punt2": "punt2", "return2": "ret2", "vnic2": "vnic2"}

PATHS = (
    PathTable(
        name="ingress",
        points=("uplink", "switchport", "punt", "return", "vnic"),
        detour=("punt", "return"),
        stages=("vswitch", "filter", "service", "delivery"),
        match={"destination": (PVM1.ipv4, PVM1.ipv6)},
        default="forward",
    ),
    PathTable(
        name="egress",
        points=("vnic", "punt", "return", "switchport", "uplink"),
        detour=("punt", "return"),
        stages=("filter", "service", "delivery", "vswitch"),
        match={"source": (PVM1.ipv4, PVM1.ipv6)},
        default="forward",
    ),
    PathTable(
        name="to-pvm3",
        points=("uplink", "vnic3"),
        stages=("vswitch",),
        match={"destination": (PVM3.ipv4, PVM3.ipv6)},
    ),
    PathTable(
        name="from-pvm3",
        points=("vnic3", "uplink"),
        stages=("vswitch",),
        match={"source": (PVM3.ipv4, PVM3.ipv6)},
    ),
)
PATH_BY_NAME = {path.name: path for path in PATHS}

_INGRESS, _EGRESS, *_OTHERS = PATHS
# Between the protected machines a packet passes both filters. A path has at most one detour, so these have none: a
# punted packet on them is seen at points outside its path.
SECOND_PATHS = (
    PathTable(
        name="pvm1-to-pvm2",
        points=("vnic", "switchport", "switchport2", "vnic2"),
        stages=("agent1", "vswitch", "agent2"),
        match={"source": (PVM1.ipv4, PVM1.ipv6), "destination": (PVM2.ipv4, PVM2.ipv6)},
    ),
    PathTable(
        name="pvm2-to-pvm1",
        points=("vnic2", "switchport2", "switchport", "vnic"),
        stages=("agent2", "vswitch", "agent1"),
        match={"source": (PVM2.ipv4, PVM2.ipv6), "destination": (PVM1.ipv4, PVM1.ipv6)},
    ),
    _INGRESS,
    _EGRESS,
    *(
        replace(
            path,
            name=f"{path.name}2",
            points=tuple("uplink" if point == "uplink" else f"{point}2" for point in path.points),
            detour=("punt2", "return2"),
            match=dict.fromkeys(path.match, (PVM2.ipv4, PVM2.ipv6)),
        )
        for path in (_INGRESS, _EGRESS)
    ),
    *_OTHERS,
)


def devices(lab: Lab) -> dict[str, str]:
    """Device by point, of a lab with one agent or two."""
    return {**DEVICES, **SECOND_DEVICES} if len(lab.agents()) == 2 else dict(DEVICES)


def paths(lab: Lab) -> tuple[PathTable, ...]:
    return SECOND_PATHS if len(lab.agents()) == 2 else PATHS


def points(lab: Lab) -> list[Point]:
    """The points of a lab, in the order of the ingress path."""
    return [Point(name, device, lab.namespace("host"), "host") for name, device in devices(lab).items()]


def rules_of(lab: Lab, rules_file: Path | None) -> dict[int, list[Rule]]:
    """Rules by agent: the intended rules of the lab, or the rules of a file."""
    return {
        agent.number: load_rules(rules_file or lab.state.rules(agent.number), agent.number) for agent in lab.agents()
    }


def rule_tables(rules: Mapping[int, Sequence[Rule]]) -> list[dict[str, Any]]:
    """The rules as tables for ``run.toml``; rules of the second agent have its own paths, and new names."""
    tables = [dict(rule.written) for rule in rules[1]]
    for rule in rules.get(2, []):
        tables.append({**rule.written, "id": f"{rule.id}-2", "path": f"{rule.path}2"})
    return tables


def check_rules(lab: Lab, rules: Mapping[int, Sequence[Rule]]) -> None:
    """CannotStart unless the filters of the lab have exactly the counters of these rules."""
    expected = {rule.counter for of_agent in rules.values() for rule in of_agent}
    expected |= {default_counter(agent, path) for agent in lab.agents() for path in ("ingress", "egress")}
    found = {
        name
        for name in counters(lab.namespace("host"))
        if name.startswith(("in", "eg")) and not name.endswith(("_other", "_back"))
    }
    if found != expected:
        raise CannotStart(f"lab {lab.name!r} was brought up with other rules: give record the same --rules as 'lab up'")


def chain_plan(lab: Lab, rules_file: Path | None, run_name: str, description: str, settings: Settings) -> RunPlan:
    """The plan of a recording at all points of a lab; CannotStart unless it is up.

    Without ``rules_file`` the rules are the intended rules of the lab. With a file, the filters must have its counters.
    """
    if lab.status() != "up":
        raise CannotStart(f"lab {lab.name!r} is {lab.status()}: bring it up with 'lab up --name {lab.name}'")
    rules = rules_of(lab, rules_file)
    if rules_file is not None:
        check_rules(lab, rules)
    return RunPlan(
        name=run_name,
        description=description,
        points=points(lab),
        settings=settings,
        paths=paths(lab),
        rules=rule_tables(rules),
        drops_in=[lab.namespace(role) for role in lab.roles()],
    )


def record_chain(
    lab: Lab,
    folder: Path,
    traffic: Callable[[], None],
    *,
    rules_file: Path | None,
    run_name: str,
    description: str,
    settings: Settings,
) -> Recorded:
    """Record ``traffic`` in a lab that is up and write the whole run folder.

    A recording that failed or was interrupted is written, too, with ``context/incomplete.txt`` and without a
    window; then the cause is raised: LabError, Interrupted, or the exception of ``traffic``.
    """
    plan = chain_plan(lab, rules_file, run_name, description, settings)
    return record_planned(lab, folder, plan, lambda _: traffic())


def record_planned(lab: Lab, folder: Path, plan: RunPlan, traffic: Callable[[Running], None]) -> Recorded:
    """Record like ``record_chain``, by a plan that may differ from the plan of ``chain_plan``."""

    def before(context: Context) -> None:
        context.write_surroundings()
        context.write("rules.toml", render({"rule": list(plan.rules)}) if plan.rules else "")
        context.reset_counters()
        context.write_counters("before")

    def watched(running: Running) -> None:
        try:
            traffic(running)
        finally:
            copy_state(lab, folder / "context")

    def after(context: Context) -> None:
        context.write_counters("after")
        context.write_links("after")

    places = lab_places({role: lab.namespace(role) for role in lab.roles()})
    return record_run(
        folder,
        plan,
        before=before,
        traffic=watched,
        after=after,
        context=lambda where: Context(where, places, "host"),
    )


def copy_state(lab: Lab, context: Path) -> None:
    """Copy the journal of the lab and the logs of its forwarders to ``context/``, as ``lab-*``."""
    for file in sorted(lab.state.folder.glob("*.json*")):
        if file.suffix in (".json", ".jsonl"):
            shutil.copyfile(file, context / f"lab-{file.name}")
