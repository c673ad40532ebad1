"""Record at all points at once and seal the captures: ``record OUT --points NAME=IFACE ... [-- COMMAND ...]``.

Points may be any interfaces, in any network namespaces, of this machine or of others. recorder/recording.py and
docs/recording.md explain the measures that make a recording trustworthy.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # started as a file: its folder is the package (PEP 366)
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    __package__ = Path(__file__).resolve().parent.name

from .processes import CannotStart, Interrupted, LabError, interruptible, need_root, need_tools
from .recorder.captures import Capture, Counts, Ring, Settings
from .recorder.hosts import LOCAL, Host
from .recorder.points import (
    ANY_DEVICE,
    Point,
    check_namespace,
    check_points,
    interfaces,
    parse_point,
    places,
    with_filter,
)
from .recorder.recording import Recorded, Running, record
from .recorder.run_file import check_fragment
from .recorder.run_folder import (
    Incomplete,
    RunPlan,
    exists_already,
    record_run,
    resume,
    what_is_left,
    with_filter_beside,
)
from .recorder.sentinels import SMALLEST_SNAPLEN, parse_sentinels
from .recorder.sources import one_per_namespace, one_per_point, two_per_point
from .recorder.stop_conditions import Ending
from .recorder.surroundings import TOOLS, Context, Place
from .visible import printing_visibly, visible

__all__ = [
    "Capture",
    "Counts",
    "Point",
    "Recorded",
    "Running",
    "Settings",
    "TOOLS",
    "main",
    "record",
    "what_is_left",
]

_NEEDED = {"tcpdump": "tcpdump", "ip": "iproute2"}  # outside the lab; other missing tools are only noted
LONGEST_NAME = 200  # of a run
_EXAMPLES = """\
examples:
  record run1 --points uplink=eth0 vnic=tap3 --filter 'host 10.0.0.7' --duration 60
  record run2 --points uplink=eth0 inside=eth0@guest --sentinels 10.0.0.7 -- ping -c 9 10.0.0.7
  record run3 --lab demo -- ip netns exec demo-client ping -c 9 10.77.0.1
  record run4 --points a=eth0 --ssh 'ssh root@b.example' --points b=eth0 --count 1000

Without COMMAND, --duration and --count, it records until Ctrl-C.
exit codes: 0 recorded and complete; 1 COMMAND or a capture failed (the captures are sealed and marked
incomplete); 2 not started: wrong call, not root, tool or interface missing; 130 interrupted.
"""


@dataclass(frozen=True)
class _Named:
    """Points of one ``--points``, with the host of the preceding ``--ssh``."""

    texts: tuple[str, ...]
    host: Host


class _NamePoints(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        namespace.points = [*namespace.points, _Named(tuple(values), Host(tuple(shlex.split(namespace.ssh))))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="record",
        usage="record OUT (--points NAME=IFACE[@NETNS] ... | --lab NAME) [options] [-- COMMAND ...]\n"
        "       record OUT --resume",
        description="Record at several points at once, while COMMAND runs, and seal the captures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="run folder to make")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="seal the captures in OUT after its recorder was killed, or left them unsealed; takes no other option",
    )
    _add_places(parser)
    _add_packets(parser)
    _add_tool(parser)
    _add_content(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Options that name the points."""
    where = parser.add_argument_group("where")
    where.add_argument(
        "--points",
        nargs="+",
        action=_NamePoints,
        default=[],
        metavar="NAME=IFACE[@NETNS]",
        help="detection points; may be given several times",
    )
    where.add_argument("--netns", metavar="NS", help="namespace of the points that name none")
    where.add_argument("--lab", "--name", metavar="NAME", help="the points, paths and rules of a lab that is up")
    where.add_argument(
        "--ssh",
        default="",
        metavar="PREFIX",
        help="command prefix of another host; the --points after it are there ('' is here again)",
    )
    where.add_argument(
        "--any",
        action="store_true",
        help="one capture of all devices per namespace, with directions; without --points, each device is a point",
    )


def _add_packets(parser: argparse.ArgumentParser) -> None:
    """Options that choose the packets, and that end the recording."""
    what = parser.add_argument_group("what")
    what.add_argument("--filter", default="", metavar="EXPR", help="capture filter of every point (pcap-filter(7))")
    what.add_argument(
        "--snaplen", type=int, default=Settings.snaplen, help="bytes kept per packet, 0 for all (%(default)s)"
    )
    what.add_argument("--direction", action="store_true", help="write each packet's direction (two captures per point)")
    what.add_argument(
        "--kernel-drops", action="store_true", help="also record which packets the kernel drops, and why (bpftrace)"
    )
    until = parser.add_argument_group("until (the first of these ends the recording, and COMMAND with it)")
    until.add_argument("--duration", type=float, metavar="S", help="seconds")
    until.add_argument("--count", metavar="N[@POINT]", help="packets at a point (default: the first)")


def _add_tool(parser: argparse.ArgumentParser) -> None:
    """Options of the capture tool and of the window."""
    how = parser.add_argument_group("how")
    how.add_argument("--tool", choices=("tcpdump", "dumpcap"), default=Settings.tool, help="capture tool (%(default)s)")
    how.add_argument(
        "--buffer", type=int, default=Settings.buffer_kib, metavar="KIB", help="buffer of each capture (%(default)s)"
    )
    how.add_argument("--ring", metavar="MB:FILES", help="keep only the last FILES files of MB million bytes, per point")
    how.add_argument(
        "--threshold",
        type=float,
        default=Settings.threshold_s,
        metavar="S",
        help="loss threshold: time to record after the traffic (%(default)s)",
    )
    how.add_argument(
        "--sentinels", metavar="ADDR[@NETNS]", help="bound the window by pings to ADDR, which must pass the points"
    )
    how.add_argument("--keep-raw", action="store_true", help="keep the capture tool's own files beside the sealed ones")


def _add_content(parser: argparse.ArgumentParser) -> None:
    """Options that say what run.toml holds."""
    run = parser.add_argument_group("content of run.toml")
    run.add_argument("--paths", type=Path, metavar="FILE", help="TOML with [[path]] and [[rule]] tables, copied in")
    run.add_argument("--run-name", default="", help="name (default: the folder's)")
    run.add_argument("--description", default="", help="one sentence")
    run.add_argument(
        "--rules",
        type=Path,
        help="with --lab: rules file that the lab must have loaded (default: the rules of the lab)",
    )
    run.add_argument("--no-context", action="store_true", help="leave out links, addresses, rule sets and settings")


def _settings(options: argparse.Namespace) -> Settings:
    snaplen, threshold, buffer_kib = options.snaplen, options.threshold, options.buffer
    if snaplen and not 64 <= snaplen <= 262144:
        raise CannotStart("--snaplen takes 0 (whole packets) or 64..262144")
    if not 0 < threshold <= 600:
        raise CannotStart("--threshold takes more than 0 and at most 600 seconds")
    if not 4 <= buffer_kib <= 2_000_000:
        raise CannotStart("--buffer takes 4..2000000 KiB")
    if options.sentinels and 0 < snaplen < SMALLEST_SNAPLEN:
        raise CannotStart(f"--sentinels needs --snaplen {SMALLEST_SNAPLEN} or more: the payload identifies them")
    remote = any(not named.host.is_local for named in options.points)
    if remote and (options.ring or options.tool == "dumpcap"):
        raise CannotStart("--ssh takes neither --ring nor --tool dumpcap: the packets come back as one stream")
    if options.any and options.direction:
        raise CannotStart("--any records directions already; leave out --direction")
    if options.ring and (options.any or options.direction):
        raise CannotStart("--ring does not go with --any or --direction")
    return Settings(
        snaplen=snaplen,
        buffer_kib=buffer_kib,
        threshold_s=threshold,
        keep_raw=options.keep_raw,
        tool=options.tool,
        ring=_ring(options.ring) if options.ring else None,
    )


def _ring(text: str) -> Ring:
    size, _, files = text.partition(":")
    if not (size.isdecimal() and files.isdecimal() and 1 <= int(size) <= 100_000 and 2 <= int(files) <= 9999):
        raise CannotStart(f"--ring {text!r}: write MB:FILES, such as 100:10 (at least 2 files)")
    return Ring(int(size), int(files))


def _ending(options: argparse.Namespace, command: Sequence[str], points: Sequence[Point]) -> Ending:
    if command and shutil.which(command[0]) is None:
        raise CannotStart(f"cannot run {command[0]}: there is no such command")
    if options.duration is not None and options.duration <= 0:
        raise CannotStart("--duration takes more than 0 seconds")
    count, where = None, points[0].name
    if options.count is not None:
        number, _, named = options.count.partition("@")
        where = named or where
        if not number.isdecimal() or int(number) == 0:
            raise CannotStart(f"--count {options.count!r}: write N or N@POINT")
        if where not in {point.name for point in points}:
            raise CannotStart(f"--count {options.count!r}: there is no point {where!r}")
        count = int(number)
    return Ending(tuple(command), options.duration, count, where)


def _points(options: argparse.Namespace) -> list[Point]:
    check_namespace(options.netns)
    points = [parse_point(text, options.netns, named.host) for named in options.points for text in named.texts]
    if options.any and not points:
        here = [name for name in interfaces(LOCAL, options.netns).values() if name not in ("lo", ANY_DEVICE)]
        points = [parse_point(f"{name.replace('.', '_')}={name}", options.netns, LOCAL) for name in here]
    check_points(points)
    return points


def _fragment(file: Path | None, points: Sequence[Point]) -> str:
    if file is None:
        return ""
    try:
        text = file.read_text(encoding="utf-8")
        check_fragment(text, [point.name for point in points])
    except (OSError, ValueError) as error:  # TOMLDecodeError is a ValueError
        why = error.strerror if isinstance(error, OSError) else error
        kind = "no valid TOML: " if isinstance(error, tomllib.TOMLDecodeError) else ""
        raise CannotStart(f"--paths {file}: {kind}{why}") from error
    return text


def _record(options: argparse.Namespace, command: Sequence[str]) -> Recorded:
    settings = _settings(options)
    if options.lab and (options.points or options.paths or options.netns):
        raise CannotStart("--lab brings its own points and paths: give it without --points, --netns and --paths")
    if options.out.exists():
        raise CannotStart(exists_already(options.out))
    words = f"recorded while running: {visible(shlex.join(command))}" if command else "recorded at all points"
    name = options.run_name or visible(options.out.resolve().name)[:LONGEST_NAME] or "run"
    description = options.description or words
    sentinels = parse_sentinels(options.sentinels, options.netns) if options.sentinels else None
    need_root("recording")
    if options.lab:
        from .testbed.service_chain import chain_plan, record_planned  # only a recording in the lab needs these
        from .testbed.topology import Lab

        need_tools(TOOLS)
        lab = Lab(options.lab)
        plan = chain_plan(lab, options.rules, name, description, settings)
    else:
        need_tools({**_NEEDED, **({"dumpcap": "wireshark-common"} if settings.tool == "dumpcap" else {})})
        points = _points(options)
        plan = RunPlan(name, description, points, settings, fragment=_fragment(options.paths, points))
    points = with_filter_beside(with_filter(plan.points, options.filter), sentinels)
    groups = (one_per_namespace if options.any else two_per_point if options.direction else one_per_point)(points)
    plan = replace(plan, points=points, groups=groups, sentinels=sentinels, kernel_drops=options.kernel_drops)
    ending = _ending(options, command, points)
    if options.lab:
        return record_planned(lab, options.out, plan, ending.wait)
    return _record_anywhere(options.out, plan, ending, surroundings=not options.no_context)


def _record_anywhere(folder: Path, plan: RunPlan, ending: Ending, *, surroundings: bool) -> Recorded:
    """Record on hosts outside the lab: nothing is set or reset there, and missing answers are noted."""
    roles: dict[str, Place] = {}
    for host, namespace in places(plan.points):
        roles[" ".join(filter(None, [host.label(), namespace])) or "host"] = (host, namespace)

    def before(context: Context) -> None:
        if surroundings:
            context.write_surroundings()
            context.write_counters("before")
        else:
            context.write_tools()

    def after(context: Context) -> None:
        if surroundings:
            context.write_counters("after")
            context.write_links("after")

    return record_run(
        folder,
        plan,
        before=before,
        traffic=ending.wait,
        after=after,
        context=lambda where: Context(where, roles, strict=False),
    )


@printing_visibly
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of ``record``; exit 0 done, 1 failed (the captures are sealed), 2 not started, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = _parser()
    options = parser.parse_args(given[:cut])
    if cut == len(given) - 1:
        parser.error("there is no COMMAND after --")
    if options.resume and len(given) != 2:
        parser.error("--resume takes OUT, and nothing else: record --resume OUT")
    try:
        with interruptible():
            recorded = resume(options.out) if options.resume else _record(options, given[cut + 1 :])
    except CannotStart as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    except Incomplete as error:
        _print(error.recorded)
        print(f"record: {error}", file=sys.stderr)
        return 1
    except LabError as error:
        print(f"record: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"record: interrupted ({error}); {what_is_left(options.out)}", file=sys.stderr)
        return 130
    _print(recorded)
    print(options.out)
    return 0


def _print(recorded: Recorded) -> None:
    """Print the counts of each capture, and the notes."""
    for name, counts in recorded.counts.items():
        print(f"{name}: {counts.captured} captured, {counts.dropped} dropped", file=sys.stderr)
    for note in recorded.notes:
        print(f"record: note: {note}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
