"""The JSON document of `pktrace check --json`."""

from __future__ import annotations

import ipaddress
from typing import Any

from pktrace.check.answers import Answer
from pktrace.check.facts import PathFacts, PointFacts, Suitability
from pktrace.check.finding import Finding
from pktrace.version import __version__
from pktrace.visible import json_text


def suitability_json(
    facts: Suitability, findings: tuple[Finding, ...], answers: tuple[Answer, ...], exit_code: int
) -> str:
    """All facts, findings and answers as one document; the same bytes for the same run."""
    run = facts.run
    document: dict[str, Any] = {
        "pktrace_version": __version__,
        "run": run.name,
        "answers": {
            answer.question: {"answer": answer.answer, "findings": list(answer.findings)} for answer in answers
        },
        "findings": [
            {
                "sentence": finding.sentence,
                "fix": finding.fix,
                "limits": dict(finding.limits),
                "paths": None if finding.paths is None else [run.paths[number].name for number in finding.paths],
            }
            for finding in findings
        ],
        "points": {point.name: _point(point) for point in facts.points},
        "paths": {run.paths[path.number].name: _path(facts, path) for path in facts.paths},
        "senders": [
            {
                "source": str(ipaddress.IPv4Address(sender.source)),
                "point": facts.points[sender.point].name,
                "packets": sender.packets,
                "flows": sender.flows,
                "behaviour": sender.behaviour,
                "zero": sender.zero,
                "shortest_repeat_ns": sender.shortest_repeat_ns,
            }
            for sender in facts.senders
        ],
        "digests": facts.digests,
        "digest_payload_bytes": facts.digest_payload_bytes,
        "chance_matches": facts.chance_matches,
        "no_path": facts.no_path,
        "loss_threshold_ns": run.threshold_ns,
        "window_ns": list(run.window) if run.window else None,
        "exit_code": exit_code,
    }
    return json_text(document) + "\n"


def _point(point: PointFacts) -> dict[str, Any]:
    cover = point.cover
    return {
        "captures": list(point.captures),
        "packets": cover.packets,
        "first_ns": cover.first_ns,
        "last_ns": cover.last_ns,
        "capture_start_ns": cover.start_ns,
        "capture_end_ns": cover.end_ns,
        "dropped": cover.dropped,
        "unread": cover.unread,
        "missed": point.missed,
        "damaged": cover.cut,
        "hole": cover.hole,
        "unusable": cover.unusable,
        "clock": point.clock,
        "clock_offset_ns": point.offset_ns if point.clock_known else None,
        "resolution_ns": cover.resolution_ns,
        "link_types": list(cover.link_types),
        "snap_length": cover.snap_length,
        "cut_by_snap_length": point.snapped,
        "superpackets": point.superpackets,
        "partial_checksums": point.partial_checksums,
        "not_ip": point.not_ip,
        "unknown": point.other,
        "without_ip_id": point.without_id,
        "repeats": point.repeats,
        "repeat_ns": point.repeat_ns,
        "alike": point.alike,
        "pauses": [
            {
                "start_ns": pause.start_ns,
                "end_ns": pause.end_ns,
                "usual_ns": pause.usual_ns,
                "expected_packets": pause.expected,
            }
            for pause in point.pauses
        ],
    }


def _path(facts: Suitability, path: PathFacts) -> dict[str, Any]:
    described = facts.run.paths[path.number]
    return {
        "packets": path.packets,
        "by_order": path.by_order,
        "at_filter_input": path.at_input,
        "outside_common_time": path.outside,
        "stages": [
            {
                "stage": stage.stage,
                "stage_name": described.stage_name(stage.stage),
                "from_point": facts.points[stage.from_point].name,
                "to_point": facts.points[stage.to_point].name,
                "overlap_ns": stage.overlap_ns,
                "at_from": stage.at_from,
                "at_to": stage.at_to,
                "shared": stage.both,
                "share": stage.share,
                "entered": stage.entered,
                "arrived": stage.arrived,
                "followed": stage.followed,
                "changed": stage.changed,
                "same_clock": stage.same_clock,
                "certain": stage.certain,
                "backwards": stage.backwards,
                "earliest_ns": stage.earliest_ns,
                "median_ns": stage.median_ns,
            }
            for stage in path.stages
        ],
    }
