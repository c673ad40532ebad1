"""pktrace trace: the paper's one command - record some packets at the points, then show where they went."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pktrace.cli.narration import analysis_of, say_why, show, tell
from pktrace.errors import EXIT_DAMAGED_OR_UNDECIDED, EXIT_INTERRUPTED, CallerError, PktraceError
from pktrace.surroundings import shipped_file
from pktrace.visible import toml_text

if TYPE_CHECKING:
    from pktrace.analysis.analysis import Analysis

_PAPER_LIMIT = 64
_WITH_PORTS = {6, 17, 132, 136}
_POINTS = ("uplink", "switchport", "punt", "return", "vnic")


class NothingPassed(PktraceError):
    """No matching packet passed in time: there are no results, which is neither a finding nor a mistake."""

    exit_code = EXIT_DAMAGED_OR_UNDECIDED


class RecordingFailed(PktraceError):
    """The recorder could not record, and has printed the reason."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__("nothing was recorded, so there is nothing to analyse (see above)")


@click.command(
    epilog="Example: pktrace trace -m 0 -c 64 --proto 6 -d 10.77.0.1 --uplink uplink --switchport sp1 "
    "--vnicbackend vnic1 --punt punt1 --return ret1 --netns demo-host"
)
@click.option(
    "-c",
    "count",
    type=click.IntRange(1),
    default=_PAPER_LIMIT,
    show_default=True,
    help="Packets at the uplink, at least.",
)
@click.option("-m", "mode", type=click.Choice(["0", "1"]), default="0", show_default=True, help="0: latency; 1: rules.")
@click.option("--proto", metavar="P", help="IP protocol of the packets: name or number (6 is TCP).")
@click.option("-s", "--source", metavar="ADDR", help="Source of the packets that come in, address or prefix.")
@click.option("--sport", metavar="PORT", help="Their source port or range.")
@click.option("-d", "--destination", metavar="ADDR", help="Their destination, address or prefix.")
@click.option("--dport", metavar="PORT", help="Their destination port or range.")
@click.option("--uplink", required=True, metavar="IF", help="Interface towards the network.")
@click.option("--switchport", required=True, metavar="IF", help="Switch port, before the filter.")
@click.option("--vnicbackend", required=True, metavar="IF", help="Interface at the protected machine.")
@click.option("--punt", metavar="IF", help="Interface to the service.")
@click.option("--return", "back", metavar="IF", help="Interface where the service's packets come back.")
@click.option("--netns", metavar="NS", help="Network namespace of the interfaces.")
@click.option("--rules", metavar="FILE", help="TOML with [[rule]] tables: the rules of the filter.")
@click.option(
    "--timeout", type=click.FloatRange(0.1), default=30.0, show_default=True, help="Seconds to wait for the packets."
)
@click.option("--detail", is_flag=True, help="Dump every packet at each point (needs tshark).")
@click.option("-o", "--output", metavar="DIR", help="Run folder to make; default pktrace-<date>-<time> here.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of tables.")
def trace(
    count: int,
    mode: str,
    proto: str | None,
    source: str | None,
    sport: str | None,
    destination: str | None,
    dport: str | None,
    uplink: str,
    switchport: str,
    vnicbackend: str,
    punt: str | None,
    back: str | None,
    netns: str | None,
    rules: str | None,
    timeout: float,
    detail: bool,
    output: str | None,
    as_json: bool,
) -> int:
    """Record until COUNT matching packets passed the uplink, then show latency (mode 0) or rules (mode 1).

    Needs root. Both directions are recorded: -s, --sport, -d and --dport describe packets that come in at the uplink;
    answers have both ends exchanged. Recording continues for the loss threshold (2 s) after COUNT packets, and all
    packets that passed by then are shown. The run folder stays, for every other command.
    """
    from pktrace.run.conditions import BadValue, condition_of

    if (punt is None) != (back is None):
        raise click.BadParameter("takes --return with it, and the other way round", param_hint="--punt")
    try:
        condition = condition_of(proto, source, destination, sport, dport, None)
    except BadValue as problem:
        raise click.BadParameter(str(problem), param_hint=f"--{problem.key.replace('protocol', 'proto')}") from None
    if condition.protocols is not None and (sport or dport) and not set(condition.protocols) & _WITH_PORTS:
        raise click.BadParameter(f"protocol {proto} has no ports", param_hint="--sport/--dport")
    if mode == "1" and rules is None:
        raise click.BadParameter(
            "needs --rules: without them nobody knows what the filter should do", param_hint="-m 1"
        )
    said = _rules_of(rules)
    _can_run(detail)
    folder = Path(output) if output is not None else Path(time.strftime("pktrace-%Y%m%d-%H%M%S"))
    interfaces = dict(zip(_POINTS, (uplink, switchport, punt, back, vnicbackend), strict=True))
    try:
        _record(folder, interfaces, netns, capture_filter(condition), count, timeout, detail)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command is ending; the rest takes a moment
        with contextlib.suppress(PktraceError):
            write_paths(folder, interfaces, said)
        raise
    write_paths(folder, interfaces, said)
    analysis = analysis_of(str(folder), {})
    return _print(analysis, mode, detail, as_json)


def _can_run(detail: bool) -> None:
    """Raise errors that are known before the recording: missing root rights, missing tshark."""
    if os.geteuid() != 0:
        raise CallerError("trace records packets, which needs root: run it with sudo")
    if detail:
        from pktrace.report.dissect import need_tshark

        need_tshark()


def _recorder() -> Path:
    """The recorder that comes with pktrace."""
    recorder = shipped_file("_capture_scripts/record.py", "capture_scripts/record.py")
    if recorder is None:
        raise CallerError("the capture scripts are not installed with this pktrace; install it anew")
    return recorder


def _record(
    folder: Path,
    interfaces: dict[str, str | None],
    netns: str | None,
    expression: str,
    count: int,
    timeout: float,
    whole_packets: bool,
) -> None:
    """Run the recorder as a process of its own; its output goes to stderr."""
    points = [f"{name}={interface}" for name, interface in interfaces.items() if interface is not None]
    command = [sys.executable, str(_recorder()), str(folder), "--points", *points]
    command += ["--netns", netns] if netns else []
    command += ["--filter", expression] if expression else []
    command += ["--snaplen", "0"] if whole_packets else []
    command += ["--count", f"{count}@uplink", "--duration", str(timeout), "--run-name", "trace"]
    tell(f"Recording at {', '.join(points)} until {count:,} packets passed, at most {timeout:g} s ...")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr) as process:
        try:
            code = _outlast(process)
        except BaseException:
            process.terminate()
            _outlast(process)  # it seals the captures so far
            raise
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise RecordingFailed(code if code in (1, 2) else 2)


def _outlast(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that gets every Ctrl-C itself, however often that is pressed."""
    interrupted = False
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            interrupted = True
            continue
        return EXIT_INTERRUPTED if interrupted else code


def capture_filter(condition: Any) -> str:
    """A capture filter (pcap-filter(7)) for packets that fit a condition, and for their answers.

    Non-first fragments have no ports and pass only if no port is asked for, as in a rule.
    """
    both = [_one_way(condition), _one_way(condition.reversed())]
    if not both[0]:
        return "ip or ip6"
    return both[0] if both[0] == both[1] else f"({both[0]}) or ({both[1]})"


def _one_way(condition: Any) -> str:
    from pktrace.observations.tunnels import address_text

    parts: list[list[str]] = []
    if condition.protocols is not None:
        parts.append([f"ip proto {number} or ip6 proto {number}" for number in condition.protocols])
    for side, networks in (("src", condition.sources), ("dst", condition.destinations)):
        if networks is not None:
            parts.append(
                [
                    f"{side} net {address_text(n.version, n.high, n.low)}/{_prefix_length(n)}"
                    for n in networks
                ]
            )  # fmt: skip
    for side, ports in (("src", condition.sports), ("dst", condition.dports)):
        if ports is not None:
            parts.append([f"{side} portrange {low}-{high}" for low, high in ports])
    return " and ".join(f"({' or '.join(alternatives)})" for alternatives in parts)


def _prefix_length(network: Any) -> int:
    bits = bin(network.mask_high).count("1") + bin(network.mask_low).count("1")
    return bits if network.version == 6 else bin(network.mask_low & 0xFFFFFFFF).count("1")


def write_paths(folder: Path, interfaces: dict[str, str | None], rules: dict[str, Any]) -> None:
    """Add the paths to the recorded run: in at the uplink, and out in the opposite order.

    The packets show the addresses behind the vNIC: packets first seen at the uplink go to them, and packets first seen
    at the vNIC come from them.

    Raises:
        NothingPassed: no packet was seen at both ends.
    """
    import tomli_w

    inside = _addresses_inside(folder)
    if not inside:
        raise NothingPassed(f"no matching packet passed in time; what was recorded is in {folder}")
    names = [name for name in _POINTS if interfaces[name] is not None]
    detour = {"detour": ["punt", "return"]} if interfaces["punt"] is not None else {}
    stages = ["vswitch", "filter", "service", "delivery"] if detour else ["vswitch", "delivery"]
    outwards = ["vnic", "punt", "return", "switchport", "uplink"] if detour else list(reversed(names))
    paths = [
        {"name": "ingress", "points": names, **detour, "stages": stages, "match": {"destination": inside}},
        {
            "name": "egress",
            "points": outwards,
            **detour,
            "stages": ["filter", "service", "delivery", "vswitch"] if detour else ["delivery", "vswitch"],
            "match": {"source": inside},
        },
    ]
    text = toml_text(tomli_w.dumps({"path": paths, **rules}))
    opened = os.open(folder / "run.toml", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(opened, "a", encoding="utf-8") as file:
        file.write(f"\n{text}")


def _rules_of(file: str | None) -> dict[str, Any]:
    if file is None:
        return {}
    import tomllib

    try:
        with open(file, "rb") as opened:
            return {"rule": tomllib.load(opened).get("rule", [])}
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise CallerError(f"{file}: cannot be read as rules: {why}") from None


def _addresses_inside(folder: Path) -> list[str]:
    """Addresses behind the vNIC, by the order in which uplink and switch port saw each packet.

    A packet that only one of them saw is no evidence, since captures do not begin and end at the same moment.
    """
    import numpy as np

    from pktrace.decode import rows as field
    from pktrace.observations.observe import observe_run
    from pktrace.observations.tunnels import address_text
    from pktrace.run.runfile import load_run

    observations = observe_run(load_run(folder))
    rows = observations.rows[observations.rows["has"] & field.HAS_IP != 0]
    first: dict[str, tuple[Any, Any]] = {}
    for name in ("uplink", "switchport"):
        here = rows[rows["point"] == observations.points.index(name)]
        first[name] = np.unique(here["identity"], return_index=True)  # rows are in order of time
        first[name] = (first[name][0], here[first[name][1]])
    _, at_uplink, at_port = np.intersect1d(
        first["uplink"][0], first["switchport"][0], assume_unique=True, return_indices=True
    )
    found = set()
    for up, port in zip(first["uplink"][1][at_uplink], first["switchport"][1][at_port], strict=True):
        side = "destination" if up["ts_ns"] < port["ts_ns"] else "source"
        found.add(address_text(int(up["ip_version"]), int(up[f"{side}_high"]), int(up[f"{side}_low"])))
    return sorted(found)


def _print(analysis: Analysis, mode: str, detail: bool, as_json: bool) -> int:
    from pktrace.analysis.criteria import outcome
    from pktrace.analysis.summary import summary, summary_json
    from pktrace.report.exchange import results_folder
    from pktrace.report.results import write_results
    from pktrace.report.terminal import print_latency, print_losses, print_rules

    ended = outcome(analysis)
    document = summary(analysis, ended.code)
    with results_folder(analysis.run.folder / "results", own=True, say=tell) as results:
        write_results(analysis, results, document)
    if as_json:
        show(lambda: click.echo(summary_json(document), nl=False))
    else:
        show(lambda: (print_latency if mode == "0" else print_rules)(analysis, sys.stdout))
        show(lambda: print_losses(analysis, sys.stdout))
        if detail:
            show(lambda: _dump(analysis, range(min(len(analysis.trajectories), _PAPER_LIMIT))))
    tell(f"Run and results: {os.path.join(analysis.run.folder, '')}")
    return say_why(analysis.run.name, ended)


def _dump(analysis: Analysis, packets: Sequence[int]) -> None:
    """Every packet point by point, with the headers that each point saw (the paper's detailed option)."""
    from pktrace.report.dissect import dissect
    from pktrace.report.explain import explain_packet

    width = max(80, shutil.get_terminal_size().columns)
    told = [explain_packet(analysis, packet) for packet in packets]
    frames: dict[str, list[int]] = {}
    for explanation in told:
        for sighting in explanation.sightings:
            if sighting.capture is not None and sighting.frame is not None:
                frames.setdefault(sighting.capture, []).append(sighting.frame)
    places = {name: analysis.observations.location(analysis.observations.captures.index(name)) for name in frames}
    dissected = {name: dissect(places[name], numbers) for name, numbers in frames.items()}
    for explanation in told:
        click.echo()
        explanation.print(sys.stdout)
        shown: list[str] = []
        for sighting in explanation.sightings:
            if sighting.capture is None or sighting.frame is None:
                continue
            lines = dissected[sighting.capture].get(sighting.frame, ["not dissected"])
            if lines == shown:
                click.echo(f"\n  {sighting.point}, frame {sighting.frame}: the same headers")
                continue
            click.echo(f"\n  {sighting.point}, frame {sighting.frame}:")
            for line in lines:
                click.echo(textwrap.fill(line, width, initial_indent="    ", subsequent_indent="        "))
            shown = lines
