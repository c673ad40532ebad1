"""summary.json: the results in one small document."""

from __future__ import annotations

from typing import Any

from pktrace.analysis.analysis import Analysis
from pktrace.analysis.matching_quality import duplication, key_qualities, path_quality
from pktrace.analysis.tables import latency_table, ledger_rows, rules_table
from pktrace.analysis.tallies import fate_counts, stage_losses
from pktrace.schema import SCHEMA_VERSION
from pktrace.version import __version__
from pktrace.visible import json_text


def summary(analysis: Analysis, exit_code: int) -> dict[str, Any]:
    """The summary as plain values; everything in it is a count, a time in ns or a name."""
    run, verdicts, trajectories = analysis.run, analysis.verdicts, analysis.trajectories
    owner = trajectories.owner
    return {
        "schema": SCHEMA_VERSION,
        "pktrace_version": __version__,
        "run": run.name,
        "description": run.description,
        "inputs": {name: digest or None for name, digest in analysis.inputs.items()},  # null: could not be read
        "observations": {
            "total": len(owner),
            "placed": int((owner >= 0).sum()),
            "not_placed": int((owner < 0).sum()),
        },
        "points": _points(analysis),
        "paths": {path.name: _path(analysis, number) for number, path in enumerate(run.paths)},
        "keys": _keys(analysis),
        "latency": latency_table(analysis).to_pylist(),
        "rules": rules_table(analysis).to_pylist(),
        "ledger": ledger_rows(analysis),
        "parameters": {
            "loss_threshold_ns": run.threshold_ns,
            "window_ns": list(run.window) if run.window else None,
            "digest_payload_bytes": analysis.observations.digest_payload_bytes,
            "wait_ns": {
                path.name: {
                    path.stage_name(stage): int(verdicts.trust.wait[number, stage]) for stage in path.stage_numbers()
                }
                for number, path in enumerate(run.paths)
            },
            "clocks": sorted({point.clock for point in run.points}),
        },
        "exit_code": exit_code,
    }


def _path(analysis: Analysis, number: int) -> dict[str, Any]:
    """Fates, basis, duplicates and losses of a path."""
    verdicts, trajectories = analysis.verdicts, analysis.trajectories
    path = analysis.run.paths[number]
    fates = fate_counts(verdicts, number)
    quality = path_quality(verdicts, number)
    duplicated = duplication(verdicts, number)
    mine = trajectories.path == number
    return {
        "trajectories": sum(fates.values()),
        "fates": fates,
        "basis": quality.basis,
        "basis_share": {name: quality.share(count) for name, count in quality.basis.items()},
        "ambiguous_share": quality.share(quality.ambiguous),
        "ambiguous_candidates": quality.by_order,
        "duplicates": int(trajectories.duplicates[mine].sum()),
        "duplication_fraction": duplicated.fraction,
        "replicated_packet_rate": duplicated.replicated,
        "losses": [
            {
                "stage": loss.stage,
                "stage_name": path.stage_name(loss.stage),
                "lost": loss.lost,
                "late": loss.late,
                "partial": loss.partial,
                "ambiguous": loss.ambiguous,
                "undetermined": loss.undetermined,
                "unobserved": loss.unobserved,
            }
            for loss in stage_losses(verdicts)
            if loss.path == number
        ],
    }


def _points(analysis: Analysis) -> dict[str, Any]:
    """The coverage of each point, and its clock."""
    run, trajectories = analysis.run, analysis.trajectories
    return {
        point.name: {
            "packets": cover.packets,
            "first_ns": cover.first_ns,
            "last_ns": cover.last_ns,
            "capture_start_ns": cover.start_ns,
            "capture_end_ns": cover.end_ns,
            "dropped": cover.dropped,
            "unread": cover.unread,
            "cut": cover.cut,
            "lost_file": cover.lost_file,
            "clock": point.clock,
            "clock_offset_ns": int(trajectories.clocks.offset_ns[number]),
        }
        for number, (point, cover) in enumerate(zip(run.points, analysis.observations.coverage, strict=True))
    }


def _keys(analysis: Analysis) -> list[dict[str, Any]]:
    """How well each kind of key distinguishes packets."""
    return [
        {
            "key": key.name,
            "fields": key.fields,
            "bits": key.bits,
            "different": key.different,
            "pairs": key.pairs,
            "expected_chance_matches": key.expected,
            "pairs_within_threshold": key.near,
            "expected_chance_matches_within_threshold": key.expected_near,
        }
        for key in key_qualities(analysis.trajectories)
    ]


def summary_json(document: dict[str, Any]) -> str:
    """The document as text, the same bytes for the same document."""
    return json_text(document) + "\n"
