"""The tables of an analysis (docs/tables.md), as Arrow tables in their total order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from pktrace import schema
from pktrace.analysis.analysis import Analysis
from pktrace.decode import rows as field
from pktrace.latency.stages import shares, summary_row
from pktrace.observations.table import address_columns, nullable, observations_table
from pktrace.schema import Column
from pktrace.trajectories.model import UNSEEN
from pktrace.verdicts.codes import NONE

Array = np.ndarray[Any, Any]


def all_tables(analysis: Analysis) -> dict[str, pa.Table]:
    """Every table of the analysis by name."""
    return {
        "observations": observations_table(analysis.observations, analysis.trajectories.owner),
        "trajectories": trajectories_table(analysis),
        "stages": stages_table(analysis),
        "latency": latency_table(analysis),
        "rules": rules_table(analysis),
        "ranges": ranges_table(analysis),
        "transforms": transforms_table(analysis),
        "ledger": ledger_table(analysis),
    }


def trajectories_table(analysis: Analysis) -> pa.Table:
    """A row per packet followed, with a time column per visit of a point."""
    trajectories, verdicts, run = analysis.trajectories, analysis.verdicts, analysis.run
    rows = trajectories.first_rows
    count = len(trajectories)
    source, destination = address_columns(rows)
    last_point = np.full(count, -1, np.int64)
    times: dict[str, Array] = {}
    for point in run.points:
        times[f"{point.name}_ns"] = np.full(count, UNSEEN)
    for number, path in enumerate(run.paths):
        mine = np.flatnonzero(trajectories.path == number)
        last_point[mine] = np.array(path.points, np.int64)[verdicts.last_at[mine]]
        for position, column in enumerate(run.position_columns(path)):
            times.setdefault(column, np.full(count, UNSEEN))[mine] = trajectories.raw_times[mine, position]
    spec = schema.TRAJECTORIES.with_columns([_time_column(name) for name in times])
    changed = analysis.transforms
    values: dict[str, Any] = {
        "trajectory": np.arange(count, dtype=np.int64),
        "path": schema.words(trajectories.path, [path.name for path in run.paths]),
        "first_ns": rows["ts_ns"],
        "source": source,
        "destination": destination,
        "protocol": nullable(rows, "protocol", field.HAS_IP),
        "sport": nullable(rows, "sport", field.HAS_PORTS),
        "dport": nullable(rows, "dport", field.HAS_PORTS),
        "ip_id": nullable(rows, "ip_id", field.HAS_ID),
        "length": rows["length"],
        "fate": schema.words(verdicts.fate, schema.FATES),
        "reason": schema.words(verdicts.reason, schema.REASONS),
        "lost_stage": np.ma.MaskedArray(verdicts.lost_stage, verdicts.lost_stage < 0),
        "last_point": schema.words(last_point, [point.name for point in run.points]),
        "rule": schema.words(analysis.expected.rule, [rule.id for rule in run.rules]),
        "expected_action": schema.words(analysis.expected.action, schema.TREATMENTS),
        "observed_action": schema.words(_codes(verdicts.observed), schema.TREATMENTS),
        "rule_verdict": schema.words(_codes(verdicts.rule_verdict), schema.RULE_VERDICTS),
        "basis": schema.words(trajectories.basis, schema.BASES),
        "transforms": schema.word_lists(count, changed.trajectory, changed.kind, changed.kinds),
        "candidates": trajectories.candidates,
        "sightings": trajectories.sightings,
        "duplicates": trajectories.duplicates,
    }
    values.update({name: np.ma.MaskedArray(at, at == UNSEEN) for name, at in times.items()})
    return spec.build(values)


def ranges_table(analysis: Analysis) -> pa.Table:
    """A row per observation and packet whose bytes it holds, for split and merged packets."""
    ranges, observations = analysis.trajectories.ranges, analysis.observations
    rows = observations.rows[ranges.row]
    return schema.RANGES.build(
        {
            "trajectory": ranges.trajectory,
            "point": schema.words(rows["point"], observations.points),
            "frame": rows["frame"],
            "first_byte": ranges.first,
            "last_byte": ranges.last,
        }
    )


def transforms_table(analysis: Analysis) -> pa.Table:
    """A row per kind of change, stage and pair of values."""
    names = [path.name for path in analysis.run.paths]
    columns = list(zip(*analysis.transforms.table, strict=True)) or [()] * 6
    return schema.TRANSFORMS.build(
        {
            "path": [names[path] for path in columns[0]],
            "stage": list(columns[1]),
            "kind": list(columns[2]),
            "from": list(columns[3]),
            "to": list(columns[4]),
            "packets": list(columns[5]),
        }
    )


def stages_table(analysis: Analysis) -> pa.Table:
    """A row per packet per stage that it should have crossed."""
    trajectories, verdicts, run = analysis.trajectories, analysis.verdicts, analysis.run
    packet, stage = np.nonzero(verdicts.stage_verdict != NONE)
    path = trajectories.path[packet].astype(np.int64)
    width = verdicts.stage_verdict.shape[1]
    begins = np.zeros((max(1, len(run.paths)), width), np.int64)
    ends = np.zeros_like(begins)
    from_point, to_point, name = np.zeros_like(begins), np.zeros_like(begins), np.zeros_like(begins)
    names: list[str] = []
    for number, way in enumerate(run.paths):
        for index in way.stage_numbers():
            begins[number, index], ends[number, index] = way.ends_of(index)
            from_point[number, index] = way.points[begins[number, index]]
            to_point[number, index] = way.points[ends[number, index]]
            if way.stage_name(index) not in names:
                names.append(way.stage_name(index))
            name[number, index] = names.index(way.stage_name(index))
    times = trajectories.raw_first_bytes
    at_begin, at_end = times[packet, begins[path, stage]], times[packet, ends[path, stage]]
    known = (at_begin != UNSEEN) & (at_end != UNSEEN) & verdicts.trust.same_clock[path, stage]
    known &= ~trajectories.backwards[packet]
    complete = analysis.completed
    last_begin, last_end = complete[packet, begins[path, stage]], complete[packet, ends[path, stage]]
    whole = known & (last_begin != UNSEEN) & (last_end != UNSEEN)
    point_names = [point.name for point in run.points]
    return schema.STAGES.build(
        {
            "trajectory": packet.astype(np.int64),
            "path": schema.words(path, [way.name for way in run.paths]),
            "stage": stage.astype(np.int16),
            "stage_name": schema.words(name[path, stage], names),
            "from_point": schema.words(from_point[path, stage], point_names),
            "to_point": schema.words(to_point[path, stage], point_names),
            "verdict": schema.words(verdicts.stage_verdict[packet, stage], schema.VERDICTS),
            "reason": schema.words(verdicts.stage_reason[packet, stage], schema.REASONS),
            "latency_ns": np.ma.MaskedArray(np.where(known, at_end, 0) - np.where(known, at_begin, 0), ~known),
            "error_ns": np.ma.MaskedArray(verdicts.trust.error_ns[path, stage], ~known),
            "last_byte_ns": np.ma.MaskedArray(np.where(whole, last_end, 0) - np.where(whole, last_begin, 0), ~whole),
        }
    )


def latency_table(analysis: Analysis) -> pa.Table:
    """A row per stage, then one end to end, per path."""
    run = analysis.run
    rows = []
    for latency, share in zip(analysis.latencies, shares(analysis.latencies), strict=True):
        path = run.paths[latency.path]
        rows.append(
            {
                "path": path.name,
                "stage": latency.stage,
                "stage_name": latency.name,
                "from_point": run.points[path.points[latency.from_position]].name,
                "to_point": run.points[path.points[latency.to_position]].name,
                **summary_row(latency, share),
            }
        )
    return _from_rows(schema.LATENCY, rows)


def rules_table(analysis: Analysis) -> pa.Table:
    """A row per path and rule, in file order, then the path's default."""
    run = analysis.run
    return _from_rows(
        schema.RULES,
        [
            {
                "path": run.paths[tally.path].name,
                "rule": None if tally.rule is None else run.rules[tally.rule].id,
                "action": tally.action,
                "matched": tally.matched,
                **tally.counts,
                "counter": tally.counter,
                "counter_packets": tally.counter_packets,
                "status": tally.status,
            }
            for tally in analysis.rule_tallies
        ],
    )


def ledger_table(analysis: Analysis) -> pa.Table:
    """A row per ledger entry: something that was counted and not used."""
    return _from_rows(schema.LEDGER, ledger_rows(analysis))


def ledger_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """The rows of the ledger as plain values, with the unchanged names of files."""
    return [
        {
            "counter": counter.name,
            "point": point,
            "capture": capture,
            "severity": counter.severity,
            "count": count,
            "sentence": counter.sentence,
        }
        for counter, point, capture, count in analysis.ledger.rows()
    ]


def _from_rows(spec: schema.TableSpec, rows: list[dict[str, Any]]) -> pa.Table:
    return spec.build({column.name: [row[column.name] for row in rows] for column in spec.columns})


def _codes(values: Array) -> Array:
    codes = values.astype(np.int64)
    codes[values == NONE] = -1
    return codes


def _time_column(name: str) -> Column:
    point = name.removesuffix("_ns")
    return Column(name, schema.INT64, f"Time stamp of the first sighting at {point}, its first byte; null if not seen.")
