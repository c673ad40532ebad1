"""The text of `pktrace check`: points and their coverage over time, paths, IP IDs, findings, and the verdict."""

from __future__ import annotations

import ipaddress
from typing import IO

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pktrace.check.answers import Answer
from pktrace.check.capture_strip import strip, window_strip
from pktrace.check.facts import LONGEST_FRAME, PointFacts, Suitability
from pktrace.check.finding import NO, PARTLY, YES, Finding, duration
from pktrace.check.silences import EXPECTED_IN_PAUSE
from pktrace.report.console import console, plain_table
from pktrace.report.words import clock_time, count, date_time, percent, plural
from pktrace.visible import visible

_WIDE = 120
_WIDEST_TEXT = 120
_MOST_SENDERS = 12
_MOST_NUMBERS = 6
_LONGEST_NAME = 24
_LEVEL_STYLE = {YES: "green", PARTLY: "yellow", NO: "bold red"}
_LEVEL_OF_RANK = (YES, PARTLY, NO)
_MARK = ("note", "limits", "blocks")

LINK_TYPES = {
    0: "BSD loopback", 1: "Ethernet", 9: "PPP", 12: "raw IP", 14: "raw IP", 50: "PPP", 51: "PPPoE", 101: "raw IP",
    105: "802.11", 108: "BSD loopback", 113: "Linux cooked", 119: "802.11 Prism", 127: "802.11 radiotap",
    163: "802.11 AVS", 166: "PPP", 204: "PPP", 219: "MPLS", 228: "raw IPv4", 229: "raw IPv6", 276: "Linux cooked 2",
}  # fmt: skip


def print_suitability(
    facts: Suitability, findings: tuple[Finding, ...], answers: tuple[Answer, ...], stream: IO[str]
) -> None:
    """Print all facts, findings and answers, the verdict last."""
    out = console(stream)
    wide = out.width >= _WIDE
    parts = [_points(facts, wide), _coverage(facts, out.width), _frames(facts, wide)]
    for part in (*parts, *_paths(facts, wide), *_senders(facts)):
        out.print(part)
        out.print()
    out.print(Text("Findings, worst first" if findings else "Findings: none", style="bold"))
    for number, finding in enumerate(findings, 1):
        head = Text(f"{number:>2} {_MARK[finding.rank]:<6} ", style=_LEVEL_STYLE[_LEVEL_OF_RANK[finding.rank]])
        grid = Table.grid(padding=0, expand=False)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_row(head, Text(visible(finding.sentence)))
        grid.add_row("", Text(visible(finding.fix), style="dim"))
        out.print(grid, width=min(out.width, _WIDEST_TEXT))
    out.print()
    out.print(_verdict(answers, out.width))


def _verdict(answers: tuple[Answer, ...], width: int) -> Text:
    """The last line: each question, its answer, and the numbers of the findings behind it; three if it is too long."""
    said = []
    for answer in answers:
        one = Text.assemble(f"{answer.question}: ", (answer.answer, _LEVEL_STYLE[answer.answer]))
        if answer.findings:
            numbers = [str(number + 1) for number in answer.findings[:_MOST_NUMBERS]]
            numbers += ["…"] if len(answer.findings) > _MOST_NUMBERS else []
            one.append(f" ({', '.join(numbers)})", style="dim")
        said.append(one)
    head = "Can answer  "
    fits = len(head) + sum(len(one) + 3 for one in said) <= width
    return Text.assemble((head, "bold"), Text("   " if fits else "\n" + " " * len(head)).join(said))


def _part(title: str, rows: Table) -> Group:
    return Group(Text(title, style="bold"), rows)


def _points(facts: Suitability, wide: bool) -> Group:
    columns = [("point", "left"), ("packets", "right"), ("first, UTC", "left"), ("span", "right")]
    columns += [("last, UTC", "left"), ("capture ran", "right")] if wide else []
    columns += [("dropped", "right"), ("unread", "right"), ("twice", "right"), ("clock", "left")]
    made = plain_table("", columns, 2 if wide else 1)
    first = next((point.cover.first_ns for point in facts.points if point.cover.first_ns is not None), None)
    for point in facts.points:
        cover = point.cover
        times = [cover.first_ns, cover.last_ns]
        shown = ["–" if time is None else _time(time, first, wide) for time in times]
        lasted = None if cover.first_ns is None or cover.last_ns is None else cover.last_ns - cover.first_ns
        ran = None if cover.start_ns is None or cover.end_ns is None else cover.end_ns - cover.start_ns
        made.add_row(
            _name(point.name),
            _alarm(count(cover.packets), not cover.packets),
            shown[0],
            "–" if lasted is None else duration(lasted),
            *((shown[1], "–" if ran is None else duration(ran)) if wide else ()),
            _alarm("unknown" if cover.dropped is None else count(cover.dropped), cover.dropped != 0),
            _alarm(_dot(cover.unread), cover.unread > 0),
            _dot(point.repeats) if not point.repeats else percent(point.repeats / max(1, cover.packets)),
            _clock(point),
        )
    return _part(f"Points of {visible(facts.run.name)}", made)


def _time(time: int, first: int | None, wide: bool) -> str:
    """Time of day, with the date if it is another day than the first point's."""
    other_day = first is not None and time // 86_400_000_000_000 != first // 86_400_000_000_000
    text = date_time(time).removesuffix(" UTC") if other_day else clock_time(time)
    return text if wide else text[:-6]


def _clock(point: PointFacts) -> str:
    if not point.clock_known:
        return f"{_name(point.clock)}, offset unknown"
    return _name(point.clock) + (
        f" {'+' if point.offset_ns > 0 else ''}{duration(point.offset_ns)}" if point.offset_ns else ""
    )


def _coverage(facts: Suitability, width: int) -> Text:
    """The strips, one line per point, over the time axis of all points."""
    shifted = {point.name: _shift(facts, point) for point in facts.points}
    edges = [
        time - shifted[point.name]
        for point in facts.points
        for time in (*(point.span or ()), *((int(point.times[0]), int(point.times[-1])) if len(point.times) else ()))
    ]
    if not edges:
        return Text("Coverage: no packets, and no capture that says when it ran", style="bold")
    axis = min(edges), max(edges)
    label = max(len(_name(point.name)) for point in facts.points)
    label = max(label, len("window") if facts.run.window else 0)
    room = max(20, width - label - 2)
    shown = Text("Coverage", style="bold")
    shown.append(
        f", {date_time(axis[0]).removesuffix(' UTC')[:-6]} UTC and {duration(axis[1] - axis[0])} on; ", style=""
    )
    shown.append(f"a column is {duration((axis[1] - axis[0]) / room)}")
    alone = False
    for point in facts.points:
        shift = shifted[point.name]
        alone |= shift != 0
        span = None if point.span is None else (point.span[0] - shift, point.span[1] - shift)
        pauses = () if shift else point.pauses
        line = strip(point.times - shift, span, pauses, axis, room, EXPECTED_IN_PAUSE)
        shown.append(f"\n{_name(point.name):<{label}} {'~' if shift else ' '}")
        shown.append(line, style="cyan")
    if facts.run.window:
        line = window_strip(facts.run.window, axis, room)
        shown.append(f"\n{'window':<{label}}  {line}", style="dim")
    shown.append("\n█ packets  · none  - none for unusually long  × none, but neighbours had some", style="dim")
    if alone:
        shown.append("\n~ unknown clock: drawn from its own beginning", style="dim")
    return shown


def _shift(facts: Suitability, point: PointFacts) -> int:
    """The shift in ns that moves a point of unknown clock to the beginning of the first point."""
    begins = [other.span[0] for other in facts.points if other.clock_known and other.span is not None]
    if point.clock_known or point.span is None or not begins:
        return 0
    return point.span[0] - min(begins)


def _frames(facts: Suitability, wide: bool) -> Group:
    """Kinds of frames of each point, and the captured part of them."""
    long = f">{LONGEST_FRAME:,}"
    columns = [("point", "left"), ("link type", "left"), ("snap", "right"), ("cut", "right"), (long, "right")]
    columns += [("partial sum", "right")] if wide else []
    columns += [("non-IP", "right"), ("unknown", "right"), ("without IP ID", "right"), ("stamps", "right")]
    columns += [("missed", "right"), ("files", "right")] if wide else []
    made = plain_table("", columns, 2 if wide else 1)
    for point in facts.points:
        cover = point.cover
        packets = max(1, cover.packets)
        links = ", ".join(LINK_TYPES.get(number, f"type {number}") for number in cover.link_types) or "–"
        snap = cover.snap_length
        made.add_row(
            _name(point.name),
            links,
            "–" if snap is None else "whole" if snap >= 65535 else count(snap),
            _dot(point.snapped),
            _dot(point.superpackets),
            *([_dot(point.partial_checksums)] if wide else []),
            "·" if not point.not_ip else percent(point.not_ip / packets),
            _alarm("·" if not point.other else percent(point.other / packets), point.other > 0),
            "·" if not point.without_id else percent(point.without_id / packets),
            duration(cover.resolution_ns),
            *((_alarm(_dot(point.missed), point.missed > 0), count(len(point.captures))) if wide else ()),
        )
    return _part("Frames", made)


def _paths(facts: Suitability, wide: bool) -> list[Group]:
    """A table per path that has packets: the packets that neighbouring points share."""
    found = []
    for path in facts.paths:
        if not path.packets:
            continue
        described = facts.run.paths[path.number]
        told = f"{count(path.by_order)} distinguished by order only" if path.by_order else "all distinct"
        title = f"Path {visible(described.name)}: {plural(path.packets, 'packet')}, {told}"
        columns = [("stage", "left"), ("from", "left"), ("to", "left"), ("at from", "right"), ("at to", "right")]
        columns += [("both", "right"), ("share", "right")]
        # Packets that were rewritten, split or merged on the way have other bytes, and are still followed.
        more = any(stage.followed > stage.both for stage in path.stages)
        columns += [("followed", "right")] if more else []
        columns += [("median", "right"), ("backwards", "right")]
        columns += [("earliest", "right"), ("both ran", "right")] if wide else []
        made = plain_table("", columns, 2 if wide else 1)
        for stage in path.stages:
            share = stage.share
            ends = [facts.points[point].name for point in (stage.from_point, stage.to_point)]
            name = described.stage_name(stage.stage)
            overlap = stage.overlap_ns
            made.add_row(
                str(stage.stage) if name == "-".join(ends) else f"{stage.stage} {_name(name)}",
                *map(_name, ends),
                count(stage.at_from),
                count(stage.at_to),
                count(stage.both),
                _alarm(percent(share), share is not None and share < 0.5 and not stage.follows),
                *([count(stage.followed)] if more else ()),
                "–" if stage.median_ns is None else duration(stage.median_ns),
                _alarm(_dot(stage.backwards) if stage.same_clock else "–", stage.same_clock and stage.backwards > 0),
                *(
                    (
                        "–" if stage.earliest_ns is None else duration(stage.earliest_ns),
                        _alarm("–" if overlap is None else duration(overlap), overlap is not None and overlap < 0),
                    )
                    if wide
                    else ()
                ),
            )
        found.append(_part(title, made))
    return found


def _senders(facts: Suitability) -> list[Group]:
    """A table of the IP IDs of each IPv4 sender, the one with most packets first; nothing without senders."""
    if not facts.senders:
        return []
    columns = [("sender", "left"), ("at", "left"), ("packets", "right"), ("flows", "right"), ("IP ID", "left")]
    columns += [("zero", "right"), ("same ID after", "right")]
    made = plain_table("", columns)
    for sender in facts.senders[:_MOST_SENDERS]:
        again = sender.shortest_repeat_ns
        made.add_row(
            str(ipaddress.IPv4Address(sender.source)),
            _name(facts.points[sender.point].name),
            count(sender.packets),
            count(sender.flows),
            sender.behaviour,
            "·" if not sender.zero else percent(sender.zero / sender.packets),
            "–" if again is None else duration(again),
        )
    more = len(facts.senders) - _MOST_SENDERS
    title = f"IP IDs by IPv4 sender{f', {_MOST_SENDERS} of {len(facts.senders):,}' if more > 0 else ''}"
    told = f"; {plural(facts.digests, 'digest')}, {_small(facts.chance_matches)} pairs equal by chance"
    return [_part(title + told, made)]


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.1g}"


def _name(text: str) -> str:
    plain = visible(text)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1]}…"


def _dot(value: int) -> str:
    return count(value) if value else "·"


def _alarm(text: str, bad: bool) -> Text:
    return Text(text, style="yellow" if bad else "")
