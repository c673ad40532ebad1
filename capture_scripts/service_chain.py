"""The run that is recorded in the lab: its points, its paths, and everything beside the captures."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from .context import Context, counters
from .nft_rules import Rule, default_counter, load_rules
from .processes import LabError
from .record import Point, Recorded, Settings, new_folder, record
from .run_file import PathTable, RunFile
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
    """LabError if the lab's filter does not have exactly the counters of these rules."""
    expected = {rule.counter for rule in rules} | {default_counter(AGENT1, path) for path in ("ingress", "egress")}
    found = {
        name
        for name in counters(lab.namespace("host"))
        if name.startswith(("in", "eg")) and not name.endswith(("_other", "_back"))
    }
    if found != expected:
        raise LabError(f"lab {lab.name!r} was brought up with other rules: give record the same --rules as 'lab up'")


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
    rules = load_rules(rules_file)
    if lab.status() != "up":
        raise LabError(f"lab {lab.name!r} is {lab.status()}: bring it up with 'lab up --name {lab.name}'")
    check_rules(lab, rules)
    new_folder(folder)
    context = Context(folder / "context", {role: lab.namespace(role) for role in ROLES})

    def before() -> None:
        context.write_surroundings(rules)
        context.reset_counters()
        context.write_counters("before")

    try:
        recorded, trouble = record(
            folder,
            points(lab),
            settings,
            before=before,
            traffic=traffic,
            after=lambda: context.write_counters("after"),
        )
    except BaseException:  # not one point was certain yet: nothing was recorded, and the folder is ours
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if recorded.problems:
        text = "".join(f"{problem}\n" for problem in recorded.problems)
        (folder / "context" / "incomplete.txt").write_text(text, encoding="utf-8")
        description = f"INCOMPLETE ({recorded.problems[0]}): {description}"
    run_file = RunFile(
        name=run_name,
        description=description,
        started=recorded.started,
        points=tuple(DEVICES),
        paths=PATHS,
        rules=[rule.written for rule in rules],
        window_ns=None if recorded.problems else recorded.window_ns,
        threshold=f"{settings.threshold_s:g}s",
    )
    (folder / "run.toml").write_text(run_file.text(), encoding="utf-8")
    if trouble is not None:
        raise trouble
    if recorded.problems:
        raise LabError(f"{folder} is incomplete: {'; '.join(recorded.problems)}")
    return recorded
