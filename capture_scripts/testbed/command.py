"""The command line of the laboratory: ``lab ACTION ...``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..filter_rules import Agent, load_rules
from ..forwarder import impairment as impairment_flags
from ..forwarder.impairment import DEFAULT_OFFSET, KINDS, Impairment
from ..processes import Interrupted, LabError, interruptible, need_root, need_tools
from ..visible import printing_visibly
from .impairments import STAGES, Impairments, start_service, stop_service, swap_service
from .report import impairments_text, rules_text, status, status_text
from .rule_faults import FAULTS, clear_fault, install_fault, load_into
from .service import KINDS as SERVICES
from .topology import DEFAULT_NAME, DEFAULT_RULES, TOOLS, Lab, check_counters

_BRIEF = "The namespace laboratory: a service chain to record in."


@printing_visibly
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``capture_scripts/lab``; exit 0 done, 1 could not, 2 usage, 3 (status only) not up."""
    options = _parser().parse_args(arguments)
    action: Callable[[Lab, argparse.Namespace], int] = options.action
    try:
        need_root("the lab")
        need_tools(TOOLS)
        lab = Lab(options.name)
        with interruptible():
            if options.alone:
                with lab.state.alone():
                    return action(lab, options)
            return action(lab, options)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        what = "the unfinished lab is removed" if options.command == "up" else "look at it with 'lab status'"
        print(f"lab: interrupted ({error}); {what}", file=sys.stderr)
        return 130


def _up(lab: Lab, options: argparse.Namespace) -> int:
    lab.up(options.rules, offloads=options.offloads == "on", agents=options.agents, service=options.service)
    return 0


def _down(lab: Lab, _: argparse.Namespace) -> int:
    lab.down()
    return 0


def _status(lab: Lab, options: argparse.Namespace) -> int:
    found = status(lab)
    print(json.dumps(found, indent=1) if options.json else status_text(found))
    return 0 if found["state"] == "up" else 3


def _need_up(lab: Lab) -> None:
    if lab.status() != "up":
        raise LabError(f"lab {lab.name!r} is {lab.status()}: bring it up with 'lab up --name {lab.name}'")


def _agents(lab: Lab, options: argparse.Namespace) -> list[Agent]:
    """The named agent, else all agents."""
    return [lab.agent(options.agent)] if options.agent else list(lab.agents())


def _rules_load(lab: Lab, options: argparse.Namespace) -> int:
    _need_up(lab)
    agent = lab.agent(options.agent or 1)
    rules = load_rules(options.file, agent.number)
    others = {a.number: load_rules(lab.state.rules(a.number), a.number) for a in lab.agents() if a is not agent}
    check_counters({**others, agent.number: rules})
    load_into(lab, agent, rules)
    lab.state.note("rules load", agent=agent.number, file=options.file.name, rules=[dict(r.written) for r in rules])
    if options.fault:
        install_fault(lab, agent, options.fault, options.rule)
    return 0


def _rules_show(lab: Lab, options: argparse.Namespace) -> int:
    _need_up(lab)
    for agent in _agents(lab, options):
        if options.form == "nft":
            print(lab.run_in("host", ["nft", "list", "table", "netdev", f"agent{agent.number}"]), end="")
        elif options.form == "toml":
            print(lab.state.rules(agent.number).read_text(encoding="utf-8"), end="")
        else:
            print(rules_text(lab, agent))
    return 0


def _fault(lab: Lab, options: argparse.Namespace) -> int:
    _need_up(lab)
    agent = lab.agent(options.agent or 1)
    if options.kind == "clear":
        clear_fault(lab, agent)
    else:
        print(install_fault(lab, agent, options.kind, options.rule), file=sys.stderr)
    return 0


def _service(lab: Lab, options: argparse.Namespace) -> int:
    _need_up(lab)
    if options.do == "stop":
        for agent in _agents(lab, options):
            counts = stop_service(lab, agent)
            if counts:
                print(json.dumps(counts, indent=1))
        return 0
    impairments = impairment_flags.from_flags(options)
    change = start_service if options.do == "start" else swap_service
    for agent in _agents(lab, options):
        log = str(lab.service(agent).log) if options.log else ""
        change(lab, agent, options.kind, impairments, seed=options.seed, log=log)
    return 0


def _impair(lab: Lab, options: argparse.Namespace) -> int:
    _need_up(lab)
    at_work = Impairments(lab)
    if options.stage == "show":
        shown = at_work.shown()
        print(json.dumps(shown, indent=1) if options.json else impairments_text(shown))
        return 0
    if options.stage == "clear":
        number = int(options.kind) if options.kind else None
        removed = at_work.clear(number)
        print(json.dumps(removed, indent=1) if options.json else impairments_text(removed))
        return 0
    agent = lab.agent(options.agent or 1)
    by = options.by
    value = options.value
    if options.kind == "split" and value is None and by in ("auto", "ethtool"):
        by, value = "ethtool", "1500"
    if options.kind == "merge" and value is None:
        value = "1000"
    if options.kind is None or value is None:
        raise LabError(f"say what to do: lab impair STAGE KIND VALUE; kinds are {', '.join(KINDS)}")
    wanted = Impairment(
        number=0,
        kind=options.kind,
        value=value,
        stage=options.stage,
        paths=impairment_flags.paths_of(options.kind, options.path, options.one_way),
        match=impairment_flags.match_from_flags(options),
        jitter_us=options.jitter,
        offset=options.offset,
        one_way=options.one_way,
    )
    log = str(lab.service(agent).log) if options.log else ""
    before = lab.service(agent).kind
    entry = at_work.add(wanted, agent, by, log)
    if before != lab.service(agent).kind:
        print(f"lab: the service of agent {agent.number} is a forwarder now (it was: {before})", file=sys.stderr)
    print(json.dumps(entry, indent=1) if options.json else f"impairment {entry['number']} by {entry['by']}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description=_BRIEF,
        epilog="example: lab up --name demo, then ip netns exec demo-client ping -c3 fd77::1",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="ACTION")

    up = _command(
        commands, "up", _up, "Build the lab; an error if it stands already.", "lab up --agents 2", alone=False
    )
    up.add_argument("--rules", type=Path, default=DEFAULT_RULES, help="rules of all agents (TOML, [[rule]])")
    up.add_argument("--agents", type=int, choices=(1, 2), default=1, help="protected machines with a filter")
    up.add_argument("--service", choices=SERVICES, default="bridge", help="service for punted packets (%(default)s)")
    up.add_argument("--offloads", choices=("off", "on"), default="off", help="TSO, GSO and tx checksum at the ends")
    _command(commands, "down", _down, "Remove the lab and end the programs in it.", "lab down --name demo", alone=False)
    shown = _command(
        commands, "status", _status, "Show the lab; exit code 3 if it is not up.", "lab status", alone=False
    )
    shown.add_argument("--json", action="store_true", help="as JSON")

    _add_rules(commands)
    _add_fault(commands)
    _add_service(commands)
    _add_impair(commands)
    return parser


def _command(
    under: Any, name: str, action: Callable[[Lab, argparse.Namespace], int], words: str, example: str, *,
    alone: bool = True,
) -> argparse.ArgumentParser:  # fmt: skip
    """Add a command with its help, its example and the option that names the lab.

    Args:
        alone: no other command may work on this lab at the same time.
    """
    made: argparse.ArgumentParser = under.add_parser(name, help=words, description=words, epilog=f"example: {example}")
    made.add_argument("--name", default=DEFAULT_NAME, help="prefix of the namespaces (default: %(default)s)")
    made.set_defaults(action=action, alone=alone)
    return made


def _add_rules(commands: Any) -> None:
    """Commands that load and show rules."""
    rules = commands.add_parser("rules", help="Load or show the rules of a filter.").add_subparsers(
        dest="do", required=True, metavar="load|show"
    )
    load = _command(rules, "load", _rules_load, "Load a rules file.", "lab rules load rules.toml --agent 2")
    load.add_argument("file", type=Path, metavar="FILE")
    load.add_argument("--fault", choices=FAULTS, help="install with this fault; 'lab fault' explains them")
    load.add_argument("--rule", help="the rule that the fault concerns (default: the first that fits)")
    show = _command(rules, "show", _rules_show, "Show the rules with their counters.", "lab rules show")
    show.add_argument("--as", dest="form", choices=("table", "toml", "nft"), default="table")
    for one in (load, show):
        one.add_argument("--agent", type=int, choices=(1, 2))


def _add_fault(commands: Any) -> None:
    """The command that installs wrong rules."""
    fault = _command(
        commands,
        "fault",
        _fault,
        "Install other rules than run.toml will say: " + "; ".join(f"{k}: {w}" for k, w in FAULTS.items()) + ".",
        "lab fault false-punt --rule forward-http-alt",
    )
    fault.add_argument("kind", choices=(*FAULTS, "clear"))
    fault.add_argument("--rule", help="id of the rule (default: the first that fits)")
    fault.add_argument("--agent", type=int, choices=(1, 2))


def _add_service(commands: Any) -> None:
    """Commands that start, stop and swap the service."""
    service = commands.add_parser("service", help="Start, stop or swap the service.").add_subparsers(
        dest="do", required=True, metavar="start|stop|swap"
    )
    for do, words in (("start", "Start a service."), ("swap", "Replace the service by another one.")):
        made = _command(service, do, _service, words, f"lab service {do} forwarder --delay 2000 --jitter 500")
        made.add_argument("kind", choices=SERVICES)
        made.add_argument("--seed", type=int, default=1, help="seed of a forwarder (default: %(default)s)")
        made.add_argument("--log", action="store_true", help="a forwarder writes each impairment to its log")
        impairment_flags.add_flags(made)
        made.add_argument("--agent", type=int, choices=(1, 2), help="(default: all)")
    stop = _command(service, "stop", _service, "Stop the service: punted packets are lost.", "lab service stop")
    stop.add_argument("--agent", type=int, choices=(1, 2), help="(default: all)")


def _add_impair(commands: Any) -> None:
    """The command that impairs packets."""
    impair = _command(
        commands,
        "impair",
        _impair,
        "Impair packets at a stage, show the impairments in force, or clear them. Kinds: "
        + "; ".join(f"{kind} {value}: {words}" for kind, (value, words) in KINDS.items())
        + ".",
        "lab impair delivery loss 0.01 --path ingress --protocol udp",
    )
    impair.add_argument("stage", choices=(*STAGES, "show", "clear"), metavar="STAGE|show|clear")
    impair.add_argument("kind", nargs="?", metavar="KIND|NUMBER", help="for clear: the number of one impairment")
    impair.add_argument("value", nargs="?", metavar="VALUE")
    impair.add_argument("--agent", type=int, choices=(1, 2))
    impair.add_argument("--path", choices=(*impairment_flags.PATHS, "both"), default="both", help="(default: both)")
    impair.add_argument("--by", choices=("auto", "nft", "ethtool", "forwarder"), default="auto", help="tool to use")
    impair.add_argument("--jitter", type=int, default=0, metavar="US", help="delay: up to this much longer")
    impair.add_argument("--offset", type=int, default=DEFAULT_OFFSET, help="payload: offset of the byte (%(default)s)")
    impair.add_argument("--one-way", action="store_true", help="nat: leave the other direction alone")
    impair.add_argument("--log", action="store_true", help="a forwarder writes each impairment to its log")
    impair.add_argument("--json", action="store_true", help="as JSON")
    impairment_flags.add_match_flags(impair)
