"""What a run is looked at for: each function takes the facts and yields findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pktrace.findings.finding import LATENCY, LOSSES, NO, PARTLY, RULES, Finding, duration, limits, listed, many, part
from pktrace.findings.shared import StageFacts
from pktrace.findings.suitability import LONGEST_FRAME, PathFacts, Suitability
from pktrace.run.context import counter_packets, marked_incomplete
from pktrace.trajectories.exact import EARLY_NS

# Bounds of what is told; each is a judgement, written down once.
_LITTLE_SHARED = 0.5  # of the packets that two neighbours could share
_MUCH_BY_ORDER = 0.05  # of a path's packets
_BOTH_WAYS = 0.1  # of a stage's packets go one way, and as many the other
_SEEN_TWICE = 0.1  # of a point's packets
EXPECTED_IN_PAUSE = 20
_LEAST_COMMON = 0.9  # of the time in which the points of a path captured
_FEW_STEPS = 10  # time stamp steps within a stage
_FEW_PAYLOAD_BYTES = 16


def _paths(facts: Suitability) -> Iterator[Finding]:
    """What run.toml asks for at all."""
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
    if not run.rules:
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


def _traffic(facts: Suitability) -> Iterator[Finding]:
    """Empty points and paths."""
    run = facts.run
    for number, point in enumerate(facts.points):
        if point.cover.packets:
            continue
        on, only_detour = _paths_of(facts, number)
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
            f"No packets on path {listed(empty)}: nothing can be said of {'it' if len(empty) == 1 else 'them'}.",
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


def _damage(facts: Suitability) -> Iterator[Finding]:
    """Files that end early, and packets in them that cannot be followed."""
    run = facts.run
    kinds = {
        "capture_cut": "ends in the middle of a packet",
        "capture_corrupt": "contradicts itself, and reading stopped there",
    }
    for counter, name, capture, _ in facts.ledger.rows():
        if counter.name in kinds:
            number = next(index for index, point in enumerate(run.points) if point.name == name)
            yield Finding(
                f"{name}: {capture} {kinds[counter.name]}; after its last whole packet nothing proves a loss.",
                "End captures with SIGINT and wait for the tool; copy files again if a copy was cut.",
                limits(PARTLY, LOSSES, RULES),
                _paths_of(facts, number)[0],
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
                "Record with a link type that is read, time stamps, and at least 128 bytes of each packet.",
                limits(PARTLY, LOSSES, RULES),
                _paths_of(facts, number)[0],
            )
    if marked_incomplete(run.folder):
        yield Finding(
            "The recorder says that something went wrong (context/incomplete.txt).",
            "Read that file, and record again.",
            limits(PARTLY, LATENCY, LOSSES, RULES),
        )


_UNUSABLE = ("unknown_link_type", "cut_header", "no_timestamp", "timestamp_out_of_range",
             "no_direction")  # fmt: skip


def _capture_loss(facts: Suitability) -> Iterator[Finding]:
    """What the captures dropped, left unread or provably missed, and those that do not say."""
    silent, concerned = [], set()
    for number, point in enumerate(facts.points):
        on = _paths_of(facts, number)[0]
        cover = point.cover
        if cover.dropped:
            total = cover.packets + cover.dropped
            yield Finding(
                f"{point.name} dropped {many(cover.dropped, 'packet')} ({part(cover.dropped / total)}): losses next to "
                "it cannot be told apart from capture loss.",
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
                "Look for drops and filters of that capture, and whether packets take another way.",
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


def _windows(facts: Suitability) -> Iterator[Finding]:
    """Captures that did not run at the same time."""
    for path, stage in _stages(facts):
        if stage.overlap_ns is not None and stage.overlap_ns < 0:
            yield Finding(
                f"{_ends(facts, stage)} were not captured at the same time ({duration(-stage.overlap_ns)} apart): no "
                f"packet of path {facts.run.paths[path.number].name} can be seen at both.",
                "Record all points at the same time; if they were, give them the clocks that they have.",
                limits(NO, LATENCY, LOSSES, RULES),
                (path.number,),
            )
    for path in facts.paths:
        points = [facts.points[point] for point in facts.run.paths[path.number].points]
        spans = [point.span for point in points if point.span is not None]
        if not spans or not path.packets or not all(point.clock_known for point in points):
            continue
        longest = max(end for _, end in spans) - min(start for start, _ in spans)
        common = min(end for _, end in spans) - max(start for start, _ in spans)
        if 0 <= common < _LEAST_COMMON * longest and longest > facts.run.threshold_ns:
            yield Finding(
                f"All points of path {facts.run.paths[path.number].name} captured together for {duration(common)} of "
                f"{duration(longest)}: for packets outside of that, absence proves nothing.",
                "Start all captures before the traffic, and stop them after it.",
                limits(PARTLY, LOSSES, RULES),
                (path.number,),
            )


def _sharing(facts: Suitability) -> Iterator[Finding]:
    """Neighbours whose packets are not the same."""
    for path, stage in _stages(facts):
        apart = stage.overlap_ns is not None and stage.overlap_ns < 0
        if stage.share is None or stage.share >= _LITTLE_SHARED or apart:
            continue
        name = facts.run.paths[path.number].name
        split = bool(facts.points[stage.from_point].superpackets) != bool(facts.points[stage.to_point].superpackets)
        fix = (
            "Switch segmentation offloads off while recording (ethtool -K IF tso off gso off gro off)."
            if split
            else "Look for address translation, tunnels, encryption or a proxy between them; check that they are "
            "neighbours on this path."
        )
        if stage.both == 0:
            yield Finding(
                f"{_ends(facts, stage)} share no packet on path {name} ({stage.at_from:,} and {stage.at_to:,}): "
                "nothing can be followed from one to the other, everything would look lost.",
                fix,
                limits(NO, LATENCY, LOSSES, RULES),
                (path.number,),
            )
        else:
            yield Finding(
                f"{_ends(facts, stage)} share {part(stage.share)} of what could be shared on path {name} "
                f"({stage.both:,} of {min(stage.at_from, stage.at_to):,}): the rest was rewritten, split or lost.",
                fix,
                limits(PARTLY, LATENCY, LOSSES, RULES),
                (path.number,),
            )


def _clocks(facts: Suitability) -> Iterator[Finding]:
    """Points on different clocks, points in the wrong order, steps of the clock that are too coarse."""
    run = facts.run
    for path, stage in _stages(facts):
        name = run.paths[path.number].name
        if not stage.same_clock:
            known = facts.points[stage.from_point].clock_known and facts.points[stage.to_point].clock_known
            offset = facts.points[stage.to_point].offset_ns - facts.points[stage.from_point].offset_ns
            told = f"estimated offset {duration(offset)}" if known else "offset unknown"
            yield Finding(
                f"{_ends(facts, stage)} have different clocks ({told}): the latency between them stays empty."
                + ("" if known else " Nor can packets be called lost there."),
                "Record both on one host, or synchronise them (PTP) and give both the same `clock` in run.toml.",
                limits(PARTLY, LATENCY) if known else (*limits(NO, LATENCY, LOSSES), (RULES, PARTLY)),
                (path.number,),
            )
            continue
        told = (
            f"{stage.backwards:,} of {many(stage.certain, 'packet')} on path {name} came to "
            f"{run.points[stage.to_point].name} before {run.points[stage.from_point].name}"
        )
        if stage.backwards and _BOTH_WAYS <= stage.backwards / stage.certain <= 1 - _BOTH_WAYS:
            yield Finding(
                f"{told}: it holds both directions of the traffic, and the order of its points is that of one.",
                "Give the path a `match` for one direction, and add a path with the points in reverse for the other.",
                limits(NO, LATENCY, LOSSES, RULES),
                (path.number,),
            )
        elif stage.certain and 2 * stage.backwards > stage.certain:
            yield Finding(
                f"{told} (median {duration(stage.median_ns or 0)}): the order of the points is wrong, or their clocks "
                "are not one.",
                "Swap them if packets go the other way; if they are on different hosts, name their clocks in run.toml.",
                limits(NO, LATENCY, LOSSES, RULES),
                (path.number,),
            )
        elif stage.backwards:
            early = -(stage.earliest_ns or 0)
            yield Finding(
                f"{told}, by up to {duration(early)}: times there are no better than that.",
                "Stamps are taken late, or the clock was stepped; use one clock, and hardware or kernel stamps.",
                limits(PARTLY, LATENCY, LOSSES) if early > EARLY_NS else (),
                (path.number,),
            )
    coarse: dict[str, tuple[int, int]] = {}
    for _, stage in _stages(facts):
        step = sum(facts.points[point].cover.resolution_ns for point in (stage.from_point, stage.to_point))
        if stage.same_clock and stage.certain and 0 <= (stage.median_ns or 0) < _FEW_STEPS * step and step > 100:
            coarse.setdefault(_ends(facts, stage), (step, stage.median_ns or 0))
    for ends, (step, median) in coarse.items():
        yield Finding(
            f"{ends}: a packet takes {duration(median)} (median), and time stamps are good to {duration(step)}.",
            "Record nanoseconds (tcpdump --time-stamp-precision=nano, dumpcap).",
        )


def _alike(facts: Suitability) -> Iterator[Finding]:
    """Packets that cannot be told apart, and packets that one capture holds twice."""
    run = facts.run
    concerned = [path for path in facts.paths if path.by_order]
    much = [path for path in concerned if path.by_order > _MUCH_BY_ORDER * path.packets]
    if concerned:
        each = listed(
            [f"{path.by_order:,} of {path.packets:,} on path {run.paths[path.number].name}" for path in concerned]
        )
        yield Finding(
            f"Packets with the same bytes as others within {duration(run.threshold_ns)}: {each}. How many of them were "
            "lost is counted; which ones, and their latency, are judged by order.",
            "Let the sender number its payloads, or send slower; a shorter loss threshold separates them too.",
            limits(PARTLY, LATENCY, RULES) if much else (),
            tuple(path.number for path in much or concerned),
        )
    for number, point in enumerate(facts.points):
        packets = point.cover.packets
        if not packets or point.repeats < _SEEN_TWICE * packets:
            continue
        others = [
            facts.points[end]
            for _, stage in _stages(facts)
            if number in (stage.from_point, stage.to_point)
            for end in (stage.from_point, stage.to_point)
            if end != number
        ]
        if not others or any(other.repeats >= _SEEN_TWICE / 2 * max(1, other.cover.packets) for other in others):
            continue
        yield Finding(
            f"{point.name} holds {many(point.repeats, 'packet')} ({part(point.repeats / packets)}) again, typically "
            f"{duration(point.repeat_ns or 0)} later, and its neighbours do not: the capture sees packets twice.",
            "Record one interface and one direction (a mirror port of both directions and `-i any` show packets "
            "twice), or let the path visit the point twice.",
            limits(PARTLY, LATENCY),
            _paths_of(facts, number)[0],
        )
    if facts.digests > 0 and facts.digest_payload_bytes < _FEW_PAYLOAD_BYTES:
        yield Finding(
            f"Snap lengths leave {many(facts.digest_payload_bytes, 'byte')} of payload to tell packets apart by.",
            "Record at least 128 bytes of each packet (-s 128; 256 with tunnels).",
        )
    if facts.chance_matches > 0.01:
        yield Finding(
            f"{many(facts.digests, 'digest')} of 64 bits: {facts.chance_matches:.2g} pairs are expected to be equal by "
            "chance.",
            "Analyse the run in parts.",
        )


def _offloads(facts: Suitability) -> Iterator[Finding]:
    """Frames that no wire carries."""
    big = [point for point in facts.points if point.superpackets]
    if big:
        mixed = [
            (path.number, stage)
            for path, stage in _stages(facts)
            if stage.both
            and bool(facts.points[stage.from_point].superpackets) != bool(facts.points[stage.to_point].superpackets)
        ]
        total = sum(point.superpackets for point in big)
        told = f"{many(total, 'frame')} longer than {LONGEST_FRAME:,} bytes at {listed([point.name for point in big])}"
        fix = "Switch segmentation offloads off while recording: ethtool -K IF tso off gso off gro off."
        if mixed:
            yield Finding(
                f"{told}, and none at {_ends_without(facts, mixed[0][1])}: superpackets are split or merged between "
                "them, and what is split is not recognised.",
                fix,
                limits(PARTLY, LATENCY, LOSSES, RULES),
                tuple(sorted({number for number, _ in mixed})),
            )
        else:
            yield Finding(f"{told}: superpackets of offloads (or jumbo frames); each counts as one packet.", fix)
    partial = [point for point in facts.points if point.partial_checksums]
    if partial:
        total = sum(point.partial_checksums for point in partial)
        yield Finding(
            f"{many(total, 'packet')} with a checksum that the interface was to complete, at "
            f"{listed([point.name for point in partial])}: normal at virtual interfaces, and not used for matching.",
            "None needed; ethtool -K IF tx off if the checksums themselves matter.",
        )


def _pauses(facts: Suitability) -> Iterator[Finding]:
    """Points that saw nothing while their neighbours did."""
    for number, point in enumerate(facts.points):
        deaf = [pause for pause in point.pauses if pause.expected >= EXPECTED_IN_PAUSE]
        if deaf:
            worst = max(deaf, key=lambda pause: pause.end_ns - pause.start_ns)
            again = f" ({len(deaf)} such pauses)" if len(deaf) > 1 else ""
            yield Finding(
                f"{point.name} saw nothing for {duration(worst.end_ns - worst.start_ns)}, where its neighbours let "
                f"expect about {worst.expected:,.0f} packets{again}: the capture may have been deaf, or traffic "
                "changed.",
                "Look at the strip above; compare with the interface's own counters.",
                limits(PARTLY, LOSSES),
                _paths_of(facts, number)[0],
            )


def _identification(facts: Suitability) -> Iterator[Finding]:
    """Senders whose IP IDs do not help, or come again too soon."""
    threshold = facts.run.threshold_ns
    none = [sender for sender in facts.senders if sender.behaviour in ("zero", "constant")]
    soon = [
        sender
        for sender in facts.senders
        if sender.behaviour not in ("zero", "constant") and sender.shortest_repeat_ns is not None
        and sender.shortest_repeat_ns <= threshold
    ]  # fmt: skip
    if none:
        yield Finding(
            f"{many(len(none), 'IPv4 sender')} of {len(facts.senders):,} {'gives' if len(none) == 1 else 'give'} every "
            "packet the same IP ID: packets are told apart by ports, sequence numbers and payload alone.",
            "None needed while payloads differ.",
        )
    if soon:
        least = min(sender.shortest_repeat_ns or 0 for sender in soon)
        yield Finding(
            f"IP IDs of {many(len(soon), 'sender')} come again within the loss threshold, at best after "
            f"{duration(least)}: the ID alone does not identify a packet.",
            "None needed while payloads differ; a shorter loss threshold helps where they do not.",
        )


def _counters(facts: Suitability) -> Iterator[Finding]:
    """Rules whose own counter is missing."""
    named = [rule.counter for rule in facts.run.rules if rule.counter is not None]
    if not named:
        return
    missing = sorted(set(named) - set(counter_packets(facts.run.folder)))
    if missing:
        yield Finding(
            f"context/ does not hold {many(len(missing), 'counter')} that rules name ({listed(missing)}): there is no "
            "second witness for what the filter dropped.",
            "Keep `nft -j list counters` from before and after the run in context/.",
        )


def _stages(facts: Suitability) -> Iterator[tuple[PathFacts, StageFacts]]:
    """Every stage of a path that has packets."""
    for path in facts.paths:
        if path.packets:
            for stage in path.stages:
                yield path, stage


def _ends(facts: Suitability, stage: StageFacts) -> str:
    return f"{facts.run.points[stage.from_point].name} and {facts.run.points[stage.to_point].name}"


def _ends_without(facts: Suitability, stage: StageFacts) -> str:
    """The end of a stage that has no superpackets."""
    ends = (facts.points[stage.from_point], facts.points[stage.to_point])
    return next(point.name for point in ends if not point.superpackets)


def _paths_of(facts: Suitability, point: int) -> tuple[tuple[int, ...], bool]:
    """(paths that visit a point, whether it only lies in detours)."""
    on, outside = [], False
    for number, path in enumerate(facts.run.paths):
        for at, visited in enumerate(path.points):
            if visited == point:
                on.append(number)
                outside |= not (path.has_detour and path.detour_first <= at <= path.detour_last)
    return tuple(dict.fromkeys(on)), bool(on) and not outside


LOOKS: tuple[Callable[[Suitability], Iterator[Finding]], ...] = (
    _paths, _traffic, _damage, _windows, _clocks, _sharing, _capture_loss, _alike, _offloads, _pauses,
    _identification, _counters,
)  # fmt: skip
