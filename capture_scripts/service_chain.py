"""The run that is recorded in the lab: its points, its paths, and everything beside the captures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from .captures import Settings
from .context import Context, counters, lab_places
from .nft_rules import Rule, default_counter, load_rules
from .points import Point
from .processes import CannotStart
from .recording import Recorded, Running
from .run_file import PathTable
from .run_folder import RunPlan, record_run
from .topology import AGENT1, PVM1, PVM3, ROLES, Lab

# Detection points: name in the run, device in the host's namespace.
DEVICES = {
    "uplink": "uplink",
    "switchport": "sp1",
    "punt": "punt1",
    "return": "ret1",
    "vnic": "vnic1",
    "vnic3": "vnic3",
}

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


def points(lab: Lab) -> list[Point]:
    """The points of a lab, in the order of the ingress path."""
    return [Point(name, device, lab.namespace("host"), "host") for name, device in DEVICES.items()]


def check_rules(lab: Lab, rules: Sequence[Rule]) -> None:
    """CannotStart if the lab's filter does not have exactly the counters of these rules."""
    expected = {rule.counter for rule in rules} | {default_counter(AGENT1, path) for path in ("ingress", "egress")}
    found = {
        name
        for name in counters(lab.namespace("host"))
        if name.startswith(("in1_", "eg1_")) and not name.endswith(("_other", "_back"))
    }
    if found != expected:
        raise CannotStart(f"lab {lab.name!r} was brought up with other rules: give record the same --rules as 'lab up'")


def chain_plan(lab: Lab, rules_file: Path, run_name: str, description: str, settings: Settings) -> RunPlan:
    """The plan of a recording at all points of a lab; CannotStart unless it is up, with these rules."""
    rules = load_rules(rules_file)
    if lab.status() != "up":
        raise CannotStart(f"lab {lab.name!r} is {lab.status()}: bring it up with 'lab up --name {lab.name}'")
    check_rules(lab, rules)
    return RunPlan(
        name=run_name,
        description=description,
        points=points(lab),
        settings=settings,
        paths=PATHS,
        rules=[rule.written for rule in rules],
        drops_in=[lab.namespace(role) for role in ROLES],
    )


def record_chain(
    lab: Lab,
    folder: Path,
    traffic: Callable[[], None],
    *,
    rules_file: Path,
    run_name: str,
    description: str,
    settings: Settings,
) -> Recorded:
    """Record ``traffic`` in a lab that is up and write the whole run folder.

    A recording that failed or was interrupted is written too, with ``context/incomplete.txt`` and without a
    window; then the cause is raised: LabError, Interrupted, or what ``traffic`` raised.
    """
    plan = chain_plan(lab, rules_file, run_name, description, settings)
    return record_planned(lab, folder, plan, lambda _: traffic(), rules_file=rules_file)


def record_planned(
    lab: Lab, folder: Path, plan: RunPlan, traffic: Callable[[Running], None], *, rules_file: Path
) -> Recorded:
    """As ``record_chain``, by a plan that may differ from that of ``chain_plan``."""

    def before(context: Context) -> None:
        context.write_surroundings(load_rules(rules_file))
        context.reset_counters()
        context.write_counters("before")

    def after(context: Context) -> None:
        context.write_counters("after")
        context.write_links("after")
        if lab.state.journal.exists():
            shutil.copyfile(lab.state.journal, folder / "context" / "lab-journal.jsonl")

    places = lab_places({role: lab.namespace(role) for role in ROLES})
    return record_run(
        folder,
        plan,
        before=before,
        traffic=traffic,
        after=after,
        context=lambda where: Context(where, places, "host"),
    )
