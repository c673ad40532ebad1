"""Findings about the recording: paths of run.toml, packets captured, times of capture, and packets missed."""

from __future__ import annotations

from collections.abc import Iterator

from pktrace.check.facts import Suitability, ends_of, limit_at, paths_of, stages_of
from pktrace.check.finding import LATENCY, LOSSES, NO, PARTLY, RULES, Finding, duration, limits, listed, many, part
from pktrace.check.silences import EXPECTED_IN_PAUSE

_FEW_OUTSIDE = 0.01  # of a path's packets
_UNUSABLE = (
    "unknown_link_type", "hidden_packet", "cut_header", "no_timestamp", "timestamp_out_of_range", "no_direction",
)  # fmt: skip


def paths(facts: Suitability) -> Iterator[Finding]:
    """Paths and rules that run.toml lacks, paths of one point, and points on no path."""
    run = facts.run
    if not run.paths:
        yield Finding(
            "run.toml has no [[path]]: the order of the points is unknown, so no packet can be followed.",
            'Add a [[path]] with its points in the order in which packets pass them: points = ["a", "b"].',
            limits(NO, LATENCY, LOSSES, RULES),
        )
        return
    for facts_of_path in facts.paths:
        path = run.paths[facts_of_path.number]
        if len(path.points) < 2:
            yield Finding(
                f"Path {path.name} has one point: there is no stage that a packet could be lost or delayed in.",
                "Name at least two points.",
                limits(NO, LATENCY, LOSSES),
                (facts_of_path.number,),
            )
    if not run.rules and any(path.has_detour for path in run.paths):
        yield Finding(
            "run.toml has no [[rule]]: nothing says what the filter should do.",
            "Add the filter's rules, in its order, if rules are to be checked.",
            limits(NO, RULES),
            unasked=True,
        )
    used = {point for path in run.paths for point in path.points}
    unused = [point.name for number, point in enumerate(run.points) if number not in used]
    if unused:
        yield Finding(f"{listed(unused)}: on no path, so not used.", "Add to a path, or leave out.")


def traffic(facts: Suitability) -> Iterator[Finding]:
    """Empty points and paths."""
    run = facts.run
    for number, point in enumerate(facts.points):
        if point.cover.packets:
            continue
        on, only_detour = paths_of(facts, number)
        if only_detour:
            yield Finding(
                f"{point.name} has no packets: nothing was punted, or the capture there did not work.",
                "If punted traffic was expected, look at the interface and the capture filter.",
            )
        elif on:
            yield Finding(
                f"{point.name} has no packets: an idle point looks like a capture that did not work.",
                "Look at the interface and the capture filter; send traffic while recording.",
                limits(PARTLY, LATENCY, LOSSES, RULES),
                on,
            )
    empty = [run.paths[path.number].name for path in facts.paths if not path.packets]
    if run.paths and len(empty) == len(run.paths):
        total = sum(point.cover.packets for point in facts.points)
        reason = f"none of {many(total, 'packet')} fits its `match`" if total else "the captures hold none"
        yield Finding(
            f"No path has packets: {reason}.",
            "Compare `match` with the addresses in the captures (pktrace observe), or send traffic while recording.",
            limits(NO, LATENCY, LOSSES, RULES),
        )
    elif empty:
        yield Finding(
            f"No packets on path {listed(empty)}: nothing can be said about {'it' if len(empty) == 1 else 'them'}.",
            "If traffic was expected, compare `match` with the addresses in the captures.",
        )
    followed = sum(path.packets for path in facts.paths)
    if followed and facts.no_path > followed:
        yield Finding(
            f"{many(facts.no_path, 'sighting')} fit no path, more than the {followed:,} packets that are followed.",
            "If these are of interest, widen `match` or add a path.",
        )
    for path in facts.paths:
        has_rules = any(rule.path == path.number for rule in run.rules)
        if has_rules and path.packets and not path.at_input:
            name = run.points[run.paths[path.number].points[run.paths[path.number].filter_input]].name
            yield Finding(
                f"No packet of path {run.paths[path.number].name} was seen at {name}, where its filter decides.",
                f"Look at the capture of {name}, and at the order of the path's points.",
                limits(NO, RULES),
                (path.number,),
            )


def damage(facts: Suitability) -> Iterator[Finding]:
    """Files that end early, and packets in them that cannot be followed."""
    run = facts.run
    kinds = {
        "capture_cut": "ends in the middle of a packet",
        "capture_corrupt": "contradicts itself, and reading stopped there",
        "capture_empty": "has 0 bytes",
        "capture_unreadable": "cannot be used",
    }
    for counter, name, capture, _ in facts.ledger.rows():
        if counter.name in kinds:
            number = next(index for index, point in enumerate(run.points) if point.name == name)
            yield Finding(
                f"{name}: {capture} {kinds[counter.name]}; after its last whole packet nothing proves a loss.",
                "End captures with SIGINT and wait for the tool; copy files again if a copy was cut.",
                limits(PARTLY, LOSSES, RULES),
                paths_of(facts, number)[0],
            )
    for number, point in enumerate(facts.points):
        if point.cover.unusable:
            why = ", ".join(
                f"{count:,} {counter.name}"
                for counter, name, _, count in facts.ledger.rows()
                if name == point.name and counter.name in _UNUSABLE
            )
            yield Finding(
                f"{point.name} has {many(point.cover.unusable, 'packet')} that cannot be followed ({why}): a packet "
                "that is missing there may be one of them.",
                "Record with a link type that pktrace decodes, time stamps, and at least 128 bytes of each packet.",
                limits(PARTLY, LOSSES, RULES),
                paths_of(facts, number)[0],
            )
    if facts.context.incomplete:
        yield Finding(
            "The recorder says that something went wrong (context/incomplete.txt).",
            "Read that file, and record again.",
            limits(PARTLY, LATENCY, LOSSES, RULES),
        )


def capture_loss(facts: Suitability) -> Iterator[Finding]:
    """Packets that captures dropped, left unread or provably missed, and captures without such counts."""
    silent, concerned = [], set()
    for number, point in enumerate(facts.points):
        on = paths_of(facts, number)[0]
        cover = point.cover
        if cover.dropped:
            total = cover.packets + cover.dropped
            yield Finding(
                f"{point.name} dropped {many(cover.dropped, 'packet')} ({part(cover.dropped / total)}): losses next "
                "to it may be capture losses.",
                "Record with a larger buffer (tcpdump -B 32768) and a snap length of 256 (-s 256).",
                limits(PARTLY, LOSSES, RULES),
                on,
            )
        if cover.unread:
            yield Finding(
                f"{point.name}: {many(cover.unread, 'packet')} received and not written: the end of the capture is "
                "missing.",
                "Wait 1.3 s after the last packet before the capture tool is stopped.",
                limits(PARTLY, LOSSES, RULES),
                on,
            )
        if cover.hole:
            yield Finding(
                f"{point.name}: packets may be missing between its {many(len(point.captures), 'file')}.",
                "Rotate files within one capture process, and keep them all.",
                limits(PARTLY, LOSSES, RULES),
                on,
            )
        if point.missed:
            yield Finding(
                f"{point.name} missed {many(point.missed, 'packet')} while it ran: they were seen before and after it. "
                "Others that are missing there may not be lost.",
                "Look for drops and filters of that capture, and for packets that take another way.",
                limits(PARTLY, LOSSES, RULES),
                on,
            )
        if cover.dropped is None and cover.packets and on:
            silent.append(point.name)
            concerned |= set(on)
    if silent:
        yield Finding(
            f"{listed(silent)} {'does' if len(silent) == 1 else 'do'} not say how many packets the capture dropped: "
            "a loss may be the capture's. Unknown is not zero.",
            "Record with dumpcap, or keep what tcpdump prints at its end as captures/<point>.log.",
            limits(PARTLY, LOSSES),
            tuple(sorted(concerned)),
        )


def windows(facts: Suitability) -> Iterator[Finding]:
    """Captures that did not run at the same time."""
    for path, stage in stages_of(facts):
        if stage.overlap_ns is not None and stage.overlap_ns < 0:
            yield Finding(
                f"{ends_of(facts, stage)} were not captured at the same time ({duration(-stage.overlap_ns)} apart): no "
                f"packet of path {facts.run.paths[path.number].name} can be seen at both.",
                "Record all points at the same time; if they were, name their clocks in run.toml.",
                limits(limit_at(path, stage), LATENCY, LOSSES, RULES),
                (path.number,),
            )
    outside = [(path, path.outside) for path in facts.paths if path.outside]
    much = [path.number for path, number in outside if number > _FEW_OUTSIDE * path.packets]
    if outside:
        each = [
            f"{number:,} of {path.packets:,} on path {facts.run.paths[path.number].name}" for path, number in outside
        ]
        yield Finding(
            f"Packets that passed while not all points of their path captured: {listed(each)}. Absence proves nothing "
            "for them.",
            "Start all captures before the traffic, and stop them after it.",
            limits(PARTLY, LOSSES, RULES) if much else (),
            tuple(much or [path.number for path, _ in outside]),
        )


def pauses(facts: Suitability) -> Iterator[Finding]:
    """Points that saw no packets while their neighbours saw some."""
    for number, point in enumerate(facts.points):
        deaf = [pause for pause in point.pauses if pause.expected >= EXPECTED_IN_PAUSE]
        if deaf:
            worst = max(deaf, key=lambda pause: pause.end_ns - pause.start_ns)
            again = f" ({len(deaf)} such pauses)" if len(deaf) > 1 else ""
            yield Finding(
                f"{point.name} saw nothing for {duration(worst.end_ns - worst.start_ns)}, while its neighbours "
                f"suggest about {worst.expected:,.0f} packets{again}: the capture may have been deaf, or traffic "
                "changed.",
                "Look at the strip above; compare with the interface's own counters.",
                limits(PARTLY, LOSSES),
                paths_of(facts, number)[0],
            )


def counters(facts: Suitability) -> Iterator[Finding]:
    """Rules whose own counter is missing."""
    named = [rule.counter for rule in facts.run.rules if rule.counter is not None]
    if not named:
        return
    missing = sorted(set(named) - set(facts.context.counters))
    if missing:
        yield Finding(
            f"context/ does not hold {many(len(missing), 'counter')} that rules name ({listed(missing)}): there is "
            "no second witness for drops of the filter.",
            "Keep `nft -j list counters` from before and after the run in context/.",
        )
