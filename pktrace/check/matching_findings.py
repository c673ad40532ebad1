"""Findings about matching packets from point to point: clocks, equal packets, offloads, IP IDs."""

from __future__ import annotations

from collections.abc import Iterator

from pktrace.check.facts import (
    LONGEST_FRAME,
    Suitability,
    ends_of,
    limit_at,
    paths_of,
    stages_of,
)
from pktrace.check.finding import LATENCY, LOSSES, NO, PARTLY, RULES, Finding, duration, limits, listed, many, part
from pktrace.check.stage_facts import LITTLE_SHARED, StageFacts
from pktrace.trajectories.bounds import EARLY_NS
from pktrace.trajectories.clocks.alignment import Contradiction

# Bounds of the findings; each is a judgement, written down once.
_MUCH_BY_ORDER = 0.05  # of a path's packets
_BOTH_WAYS = 0.1  # of a stage's packets go one way, and as many the other
_SEEN_TWICE = 0.1  # of a point's packets
_FEW_STEPS = 10  # time stamp steps within a stage
_SURELY_COARSE_NS = 100  # nanosecond stamps are never
_FEW_PAYLOAD_BYTES = 16


def clocks(facts: Suitability) -> Iterator[Finding]:
    """Points on different clocks."""
    partly = limits(PARTLY if any(stage.same_clock for _, stage in stages_of(facts)) else NO, LATENCY)
    yield from _contradicted(facts, partly)
    yield from _set_or_drifting(facts, partly)
    yield from _declared_apart(facts)


def _contradicted(facts: Suitability, partly: tuple[tuple[str, str], ...]) -> Iterator[Finding]:
    """Clocks and orders of points that packets contradict."""
    late = [entry for entry in facts.contradictions if entry.late]
    if late:
        yield Finding(
            f"All packets take equally long, and longer than the loss threshold: {_stages(facts, late, 'after')}. The "
            "points share no clock. No packet counts as lost for being late there, and no latency is measured"
            f"{_offsets(facts)}.",
            "Name the clocks of the points in run.toml, or synchronise them (PTP).",
            partly,
            tuple(sorted({entry.path for entry in late})),
        )
    disordered = [entry for entry in facts.contradictions if entry.disordered]
    if disordered:
        yield Finding(
            f"Points stand in the wrong order: packets come to {_stages(facts, disordered, 'before')}, and more were "
            "seen at the second of them alone. Losses there are unknown.",
            "Put the points of this path into the order in which its packets pass them.",
            limits(NO, LATENCY, LOSSES, RULES),
            tuple(sorted({entry.path for entry in disordered})),
        )
    early = [entry for entry in facts.contradictions if not entry.late and not entry.disordered]
    if early:
        yield Finding(
            f"Nearly all packets come to {_stages(facts, early, 'before')}: the order of the points is wrong, or "
            f"they share no clock. No latency is measured between them{_offsets(facts)}.",
            "If they are on different hosts, name their clocks in run.toml; swap them if packets go the other way.",
            partly,
            tuple(sorted({entry.path for entry in early})),
        )


def _set_or_drifting(facts: Suitability, partly: tuple[tuple[str, str], ...]) -> Iterator[Finding]:
    """Clocks that were set during the run, or that gain on others."""
    for step in facts.steps:
        yield Finding(
            f"The clock of {facts.run.points[step.point].name}, or of its neighbours, was set by "
            f"{duration(step.jump_ns)} during the run, as {step.packets} packets show. Packets are matched across "
            "the jump, and no latency is measured there.",
            "Keep time synchronisation from setting clocks while captures run; let it change their speed (slew).",
            partly,
            tuple(n for n, path in enumerate(facts.run.paths) if step.point in path.points),
        )
    for drift in facts.drifts:
        yield Finding(
            f"Point {facts.run.points[drift.point].name} has a clock that gains {drift.ppm:g} ppm on its neighbour's, "
            f"as {drift.packets:,} packets show. Packets are matched by corrected times, and no latency is measured "
            "there.",
            "Synchronise the clocks of both hosts (PTP, NTP) before the next recording.",
            partly,
            tuple(n for n, path in enumerate(facts.run.paths) if drift.point in path.points),
        )


def _declared_apart(facts: Suitability) -> Iterator[Finding]:
    """Clocks that run.toml names, with their offsets or without."""
    apart: dict[str, dict[str, set[int]]] = {PARTLY: {}, NO: {}}
    for path, stage in stages_of(facts):
        if stage.same_clock:
            continue
        ends = [facts.points[point] for point in sorted((stage.from_point, stage.to_point))]
        if all(point.clock_known for point in ends):
            limit = PARTLY if any(other.same_clock for other in path.stages) else NO
            pair = f"{ends[0].name} and {ends[1].name} ({duration(ends[1].offset_ns - ends[0].offset_ns)})"
            apart[limit].setdefault(pair, set()).add(path.number)
            continue
        yield Finding(
            f"{ends_of(facts, stage)} have different clocks, and too few packets show their offset: there is no "
            "latency between them, and no packet counts as lost there.",
            "Record both on one host, or synchronise them (PTP) and give both the same `clock` in run.toml.",
            limits(limit_at(path, stage), LATENCY, LOSSES, RULES),
            (path.number,),
        )
    for limit, pairs in apart.items():
        if pairs:
            yield Finding(
                f"Different clocks, with their estimated offset: {listed(list(pairs))}. Packets are matched across "
                "them; the latency between them stays empty.",
                "Record on one host, or synchronise the clocks (PTP) and give the points the same `clock` in run.toml.",
                limits(limit, LATENCY),
                tuple(sorted(set().union(*pairs.values()))),
            )


def _stages(facts: Suitability, entries: list[Contradiction], word: str) -> str:
    """The stages of contradictions, each with the median of its packets, as part of a sentence."""
    points, paths = facts.run.points, facts.run.paths
    return listed(
        [
            f"{points[entry.to_point].name} {word} {points[entry.from_point].name} on path {paths[entry.path].name} "
            f"(median {duration(entry.median_ns)})"
            for entry in entries
        ]
    )


def _offsets(facts: Suitability) -> str:
    """The clocks that packets show to be far off, as part of a sentence."""
    off = [
        f"{point.name} by {duration(point.offset_ns)}"
        for point in facts.points
        if point.clock_known and abs(point.offset_ns) > EARLY_NS
    ]
    return f"; packets show clocks that are off from the clock of {facts.points[0].name}: {listed(off)}" if off else ""


def order(facts: Suitability) -> Iterator[Finding]:
    """Points that packets pass in another order than declared on the path, and time stamps that are too coarse."""
    run = facts.run
    coarse: dict[tuple[int, ...], str] = {}
    for path, stage in stages_of(facts):
        if not stage.same_clock or not stage.certain:
            continue
        told = (
            f"{stage.backwards:,} of {many(stage.certain, 'packet')} on path {run.paths[path.number].name} came to "
            f"{run.points[stage.to_point].name} before {run.points[stage.from_point].name}"
        )
        median, early = stage.median_ns or 0, -(stage.earliest_ns or 0)
        if stage.backwards and _BOTH_WAYS <= stage.backwards / stage.certain <= 1 - _BOTH_WAYS:
            yield Finding(
                f"{told}: the path holds both directions of the traffic, but its points are in the order of one.",
                "Give the path a `match` for one direction, and add a path with the points in reverse for the other.",
                limits(NO, LATENCY, LOSSES, RULES),
                (path.number,),
            )
        elif 2 * stage.backwards > stage.certain:
            yield Finding(
                f"{told} (median {duration(median)}): the order of the points is wrong, or they share no clock.",
                "Swap them if packets go the other way; if they are on different hosts, name their clocks in run.toml.",
                limits(NO, LATENCY, LOSSES, RULES),
                (path.number,),
            )
        elif stage.backwards:
            yield Finding(
                f"{told}, by up to {duration(early)}: times there are no better than that.",
                "Stamps are taken late, or the clock was stepped; use one clock, and hardware or kernel stamps.",
                limits(PARTLY, LATENCY, LOSSES) if early > EARLY_NS else (),
                (path.number,),
            )
        ends = tuple(sorted((stage.from_point, stage.to_point)))
        step = sum(facts.points[point].cover.resolution_ns for point in ends)
        if step > _SURELY_COARSE_NS and 0 <= median < _FEW_STEPS * step:
            coarse.setdefault(ends, f"{ends_of(facts, stage)} ({duration(median)}, stamps {duration(step)})")
    if coarse:
        yield Finding(
            f"Time stamps are coarse beside the median time between {listed(list(coarse.values()))}.",
            "Record nanoseconds (tcpdump --time-stamp-precision=nano, dumpcap).",
        )


def sharing(facts: Suitability) -> Iterator[Finding]:
    """Neighbouring points that share too few packets."""
    changed: dict[int, list[str]] = {}
    for path, stage in stages_of(facts):
        apart = stage.overlap_ns is not None and stage.overlap_ns < 0
        little = stage.changed > 0 if stage.share is None else stage.share < LITTLE_SHARED
        if not little or apart:
            continue
        name = facts.run.paths[path.number].name
        if stage.follows:
            changed.setdefault(path.number, []).append(
                f"{ends_of(facts, stage)} ({stage.followed:,} of {many(stage.entered, 'packet')} followed)"
            )
            continue
        split = bool(facts.points[stage.from_point].superpackets) != bool(facts.points[stage.to_point].superpackets)
        fix = (
            "Switch segmentation offloads off while recording (ethtool -K IF tso off gso off gro off)."
            if split
            else "Look for address translation, tunnels, encryption or a proxy between them; check that they are "
            "neighbours on this path."
        )
        if stage.both == 0:
            yield Finding(
                f"{ends_of(facts, stage)} share no packet on path {name} ({stage.at_from:,} and {stage.at_to:,}): "
                "nothing can be followed from one to the other, everything would look lost there.",
                fix,
                limits(limit_at(path, stage), LATENCY, LOSSES, RULES),
                (path.number,),
            )
        else:
            yield Finding(
                f"{ends_of(facts, stage)} share {part(stage.share or 0.0)} of the packets that they could share on "
                f"path {name} ({stage.both:,} of {min(stage.at_from, stage.at_to):,}): the rest was rewritten, "
                "split or lost.",
                fix,
                limits(PARTLY, LATENCY, LOSSES, RULES),
                (path.number,),
            )
    for number, stages in changed.items():
        yield Finding(
            f"Packets on path {facts.run.paths[number].name} are rewritten, split or merged between {listed(stages)}.",
            "None needed; `pktrace analyze` lists the changes.",
        )


def alike(facts: Suitability) -> Iterator[Finding]:
    """Packets with equal bytes, and packets that one capture holds twice."""
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
            for _, stage in stages_of(facts)
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
            paths_of(facts, number)[0],
        )
    if facts.digests > 0 and facts.digest_payload_bytes < _FEW_PAYLOAD_BYTES:
        yield Finding(
            f"Snap lengths leave {many(facts.digest_payload_bytes, 'byte')} of payload to distinguish packets.",
            "Record at least 128 bytes of each packet (-s 128; 256 with tunnels).",
        )
    if facts.chance_matches > 0.01:
        yield Finding(
            f"{many(facts.digests, 'digest')} of 64 bits: {facts.chance_matches:.2g} pairs are expected to be equal by "
            "chance.",
            "Analyse the run in parts.",
        )


def offloads(facts: Suitability) -> Iterator[Finding]:
    """Frames longer than a wire carries."""
    big = [point for point in facts.points if point.superpackets]
    if big:
        mixed = [
            (path.number, stage)
            for path, stage in stages_of(facts)
            if (stage.both or stage.followed)
            and bool(facts.points[stage.from_point].superpackets) != bool(facts.points[stage.to_point].superpackets)
        ]
        where = listed([f"{point.name} ({point.superpackets:,})" for point in big])
        told = f"Frames longer than {LONGEST_FRAME:,} bytes at {where}"
        fix = "Switch segmentation offloads off while recording: ethtool -K IF tso off gso off gro off."
        if mixed and all(stage.follows for _, stage in mixed):
            yield Finding(
                f"{told}, and none at {_ends_without(facts, mixed[0][1])}: superpackets are split or merged between "
                "them. They are followed by their bytes; each counts as one packet, with the latency of its first "
                "byte.",
                fix,
            )
        elif mixed:
            yield Finding(
                f"{told}, and none at {_ends_without(facts, mixed[0][1])}: superpackets are split or merged between "
                "them, and their segments are not recognised.",
                fix,
                limits(PARTLY, LATENCY, LOSSES, RULES),
                tuple(sorted({number for number, _ in mixed})),
            )
        else:
            yield Finding(f"{told}: superpackets of offloads (or jumbo frames); each counts as one packet.", fix)
    partial = [point for point in facts.points if point.partial_checksums]
    if partial:
        where = listed([f"{point.name} ({point.partial_checksums:,})" for point in partial])
        yield Finding(
            f"Checksums left to the interface (offload), at {where}: normal at virtual interfaces, and not used for "
            "matching.",
            "None needed; ethtool -K IF tx off if the checksums themselves matter.",
        )


def identification(facts: Suitability) -> Iterator[Finding]:
    """Senders whose IP IDs are no evidence, or repeat too soon."""
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
            "packet the same IP ID: packets are distinguished by ports, sequence numbers and payload alone.",
            "None needed while payloads differ.",
        )
    if soon:
        least = min(sender.shortest_repeat_ns or 0 for sender in soon)
        yield Finding(
            f"IP IDs of {many(len(soon), 'sender')} repeat within the loss threshold, at the earliest after "
            f"{duration(least)}: the ID alone does not identify a packet.",
            "None needed while payloads differ; a shorter loss threshold helps if they do not.",
        )


def _ends_without(facts: Suitability, stage: StageFacts) -> str:
    """The end of a stage that has no superpackets."""
    ends = (facts.points[stage.from_point], facts.points[stage.to_point])
    return next(point.name for point in ends if not point.superpackets)
