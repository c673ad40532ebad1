"""Terminal tables: mode 0 (latency per stage), mode 1 (rules), losses and fates, the ledger. No frames."""

from __future__ import annotations

from collections import Counter
from typing import IO, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pktrace.analysis.analysis import Analysis
from pktrace.analysis.tallies import RuleTally, fate_counts, stage_losses
from pktrace.latency.stages import StageLatency, percentile, shares, summary_row
from pktrace.report.console import console, plain_table
from pktrace.report.matching import print_matching
from pktrace.report.words import count, microseconds, percent, plural
from pktrace.schema import RULE_VERDICTS
from pktrace.visible import visible

_MISSES = tuple(name for name in RULE_VERDICTS if name != "hit")
_WIDE = 120
_WIDE_FOR_RULES = 150
_STATUS_STYLE = {"verified": "green", "violated": "bold red", "undetermined": "yellow"}
# Ledger counters of further sightings, summed up in one line.
_COPIES = (
    ("copies_network", "made by the network"),
    ("copies_here", "at one point only"),
    ("copies_last", "where last seen"),
    ("copies_retried", "802.11 retries"),
    ("copies_rewritten", "rewritten at that point"),
)
_SEVERITY_STYLE = {"error": "bold red", "data_loss": "yellow"}
# The most lines of one counter of the ledger.
_MOST_LINES = 20


def latency_tables(analysis: Analysis, wide: bool) -> list[Table]:
    """Mode 0: one table per path that has packets."""
    run = analysis.run
    found = []
    rows = list(zip(analysis.latencies, shares(analysis.latencies), strict=True))
    for number, path in enumerate(run.paths):
        packets = int((analysis.trajectories.path == number).sum())
        if not packets:
            continue
        columns = [("stage", "left"), ("from", "left"), ("to", "left"), ("N", "right")]
        columns += [(name, "right") for name in ("mean", "median", "p99")]
        columns += [(name, "right") for name in (("p99.9", "min", "max", "lost") if wide else ("max",))]
        columns.append(("share", "right"))
        table = plain_table(f"Latency of {path.name}, µs ({plural(packets, 'packet')})", columns, 2 if wide else 1)
        for latency, share in rows:
            if latency.path != number:
                continue
            row = summary_row(latency, share)
            name = latency.name if latency.stage is None else f"{latency.stage} {latency.name}"
            ends = [run.points[path.points[at]].name for at in (latency.from_position, latency.to_position)]
            cells = [name, *ends, count(row["count"])]
            cells += [microseconds(row["mean_ns"]), *(_percentile(row, key) for key in ("median_ns", "p99_ns"))]
            if wide:
                cells += [_percentile(row, "p999_ns"), microseconds(row["min_ns"]), microseconds(row["max_ns"])]
                cells.append(count(row["lost"]))
            else:
                cells.append(microseconds(row["max_ns"]))
            table.add_row(*cells, percent(share) if latency.stage is not None else "", end_section=False)
        found.append(table)
    return found


def _percentile(row: dict[str, Any], key: str) -> str:
    """A percentile; the sign of infinity if it falls on a lost packet, a dash if nothing was measured."""
    unmeasured = row["error_ns"] is None
    return "∞" if row[key] is None and not unmeasured and row["count"] + row["lost"] else microseconds(row[key])


def rules_tables(analysis: Analysis, wide: bool) -> list[Table]:
    """Mode 1: per path with a filter, every rule with the filter's actions, beside the data plane's own counter."""
    paths = sorted({tally.path for tally in analysis.rule_tallies})
    return [_rules_of_path(analysis, path, wide) for path in paths]


def _rules_of_path(analysis: Analysis, path: int, wide: bool) -> Table:
    columns = [("rule", "left"), ("action", "left"), ("matched", "right"), ("hit", "right")]
    columns += [(name.replace("_", " "), "right") for name in _MISSES] if wide else [("misses", "left")]
    columns += [("counter", "right"), ("status", "left")]
    table = plain_table(f"Rules of {analysis.run.paths[path].name}: what each says, and what the filter did", columns)
    for tally in analysis.rule_tallies:
        if tally.path != path:
            continue
        cells: list[str | Text] = [
            "(no rule)" if tally.rule is None else analysis.run.rules[tally.rule].id,
            tally.action,
            count(tally.matched),
            count(tally.counts["hit"]),
        ]
        cells += [_zero_as_dot(tally.counts[name]) for name in _MISSES] if wide else [_misses(tally)]
        cells += [count(tally.counter_packets), Text(tally.status, style=_STATUS_STYLE.get(tally.status, ""))]
        table.add_row(*cells)
    return table


def _zero_as_dot(value: int) -> str:
    return count(value) if value else "·"


def _misses(tally: RuleTally) -> str:
    return ", ".join(f"{tally.counts[name]:,} {name}" for name in _MISSES if tally.counts[name])


def losses_table(analysis: Analysis, wide: bool) -> Table:
    """Every stage with lost packets or packets in doubt; lost, unobserved and undetermined are separate."""
    columns = [("path", "left"), ("stage", "left")]
    columns += [("from", "left"), ("to", "left")] if wide else []
    losses = stage_losses(analysis.verdicts)
    # Columns for counts that few runs have.
    seldom = [name for name in ("partial", "ambiguous") if any(getattr(loss, name) for loss in losses)]
    columns += [(name, "right") for name in ("entered", "lost", "ratio", *seldom, "unobserved", "undetermined")]
    table = plain_table("Losses and their stage", columns)
    for loss in losses:
        if not (loss.lost or loss.partial or loss.ambiguous or loss.undetermined or loss.unobserved):
            continue
        path = analysis.run.paths[loss.path]
        ends = [analysis.run.points[path.points[at]].name for at in path.ends_of(loss.stage)]
        entered = loss.crossed + loss.lost
        table.add_row(
            path.name,
            f"{loss.stage} {path.stage_name(loss.stage)}",
            *(ends if wide else []),
            count(entered),
            Text(count(loss.lost), style="bold red" if loss.lost else ""),
            percent(loss.lost / entered if entered else None),
            *(_zero_as_dot(getattr(loss, name)) for name in seldom),
            _zero_as_dot(loss.unobserved),
            _zero_as_dot(loss.undetermined),
        )
    return table


def fates_lines(analysis: Analysis) -> list[str]:
    """Per path: all packets as the sum of their fates."""
    lines = []
    for number, path in enumerate(analysis.run.paths):
        fates = fate_counts(analysis.verdicts, number)
        if not any(fates.values()):
            continue
        parts = " + ".join(f"{value:,} {name}" for name, value in fates.items() if value)
        lines.append(f"{path.name}: {plural(sum(fates.values()), 'packet')} = {parts}")
    return lines


def ledger_lines(analysis: Analysis) -> list[Text]:
    """Lines of the ledger above severity `info`: damaged input and missing packets.

    Each counter has at most _MOST_LINES lines and a count of the others, since a run may have thousands of files.
    """
    lines = []
    rows = [row for row in analysis.ledger.rows() if row[0].severity != "info"]
    left = Counter(counter.name for counter, _, _, _ in rows)
    shown: Counter[str] = Counter()
    for counter, point, capture, number in rows:
        shown[counter.name] += 1
        if shown[counter.name] > _MOST_LINES:
            if shown[counter.name] == left[counter.name]:
                more = left[counter.name] - _MOST_LINES
                lines.append(
                    Text(f"{counter.name}: {more:,} more in ledger.parquet", style=_SEVERITY_STYLE[counter.severity])
                )
            continue
        where = " ".join(visible(part) for part in (point, capture) if part)
        lines.append(
            Text(
                f"{counter.name}: {number:,} at {where or 'the run'}. {counter.sentence}",
                style=_SEVERITY_STYLE[counter.severity],
            )
        )
    return lines


def print_analysis(analysis: Analysis, stream: IO[str]) -> None:
    """All tables of an analysis, as `pktrace analyze` shows them."""
    print_latency(analysis, stream)
    print_rules(analysis, stream)
    print_matching(analysis, stream)
    print_losses(analysis, stream)


def print_latency(analysis: Analysis, stream: IO[str]) -> None:
    """Mode 0 only."""
    out = console(stream)
    _print_tables(out, latency_tables(analysis, out.width >= _WIDE), "Latency: no packet of this run was followed.")
    last_bytes = last_byte_table(analysis)
    if last_bytes.row_count:
        out.print(last_bytes)
        out.print()
    if any(_falls_on_lost(latency) for latency in analysis.latencies):
        out.print(Text("∞: the percentile falls on a lost packet (RFC 7679 5).", style="dim"))
    for path, stage, share in _told_by_order(analysis):
        out.print(
            Text(
                f"{path}, {stage}: {percent(share)} of these packets are distinguished from equal ones by their order "
                "only. "
                "Their mean is exact; percentiles, least and greatest are not.",
                style="dim",
            )
        )
    if any(latency.error_ns is None for latency in analysis.latencies):
        out.print(Text("–: the points are on different clocks, so no latency is measured between them.", style="dim"))
    if analysis.latencies:
        out.print()


def _told_by_order(analysis: Analysis) -> list[tuple[str, str, float]]:
    """(path, stage, share) of packets that order alone distinguishes; the stage with the largest share of each path."""
    found: dict[int, tuple[float, str]] = {}
    for latency in analysis.latencies:
        if latency.by_order and len(latency.values):
            share = latency.by_order / len(latency.values)
            found[latency.path] = max(found.get(latency.path, (0.0, "")), (share, latency.name))
    return [(analysis.run.paths[path].name, stage, share) for path, (share, stage) in sorted(found.items())]


def last_byte_table(analysis: Analysis) -> Table:
    """Latency of split or merged packets until the last byte of each had come, beside the latency of its first byte."""
    columns = [("path", "left"), ("stage", "left"), ("N", "right"), ("divided", "right")]
    columns += [(name, "right") for name in ("mean, first byte", "last byte", "max")]
    table = plain_table("Until the last byte of packets that were split or merged, µs", columns)
    for latency in analysis.latencies:
        if not latency.divided:
            continue
        row = summary_row(latency, None)
        table.add_row(
            analysis.run.paths[latency.path].name,
            latency.name if latency.stage is None else f"{latency.stage} {latency.name}",
            count(len(latency.last_bytes)),
            count(latency.divided),
            *(microseconds(row[name]) for name in ("mean_ns", "last_byte_mean_ns", "last_byte_max_ns")),
        )
    return table


def _falls_on_lost(latency: StageLatency) -> bool:
    total = len(latency.values) + latency.lost
    return total > 0 and latency.error_ns is not None and percentile(latency.values, latency.lost, 999, 1000) is None


def print_rules(analysis: Analysis, stream: IO[str]) -> None:
    """Mode 1 only."""
    out = console(stream)
    tables = rules_tables(analysis, out.width >= _WIDE_FOR_RULES)
    _print_tables(out, tables, "Rules: no path of this run has a filter (a detour or rules).")


def _print_tables(out: Console, tables: list[Table], instead: str) -> None:
    for table in tables:
        out.print(table)
        out.print()
    if not tables:
        out.print(instead)
        out.print()


def print_losses(analysis: Analysis, stream: IO[str]) -> None:
    """Losses, fates and the ledger's warnings."""
    out = console(stream)
    table = losses_table(analysis, out.width >= _WIDE)
    if table.row_count:
        out.print(table)
    else:
        out.print("Losses: none.")
    out.print()
    if not analysis.run.paths:
        out.print("No packet was followed: run.toml has no [[path]] that says in which order points are passed.")
    out.print(Text("Fates", style="bold"))
    for line in fates_lines(analysis):
        out.print(line)
    verdicts = analysis.verdicts
    lost = int(verdicts.packets_with("lost").sum())
    partial = int(verdicts.packets_with("partial").sum())
    missed = sum(loss.unobserved for loss in stage_losses(verdicts))
    doubtful = int((verdicts.packets_with("undetermined") | verdicts.packets_with("ambiguous")).sum())
    dropped = sum((cover.dropped or 0) + cover.unread for cover in analysis.observations.coverage)
    unknown = sum(cover.dropped is None for cover in analysis.observations.coverage)
    out.print()
    in_part = f", and {partial:,} in part" if partial else ""
    out.print(f"Network loss  {plural(lost, 'packet')}{in_part}")
    silent = f"; {plural(unknown, 'point')} did not count" if unknown else ""
    out.print(f"Capture loss  {plural(dropped, 'packet')} dropped, {plural(missed, 'stage')} unobserved{silent}")
    out.print(f"Cannot tell   {plural(doubtful, 'packet')}")
    copies = [f"{analysis.ledger.total(name):,} {where}" for name, where in _COPIES if analysis.ledger.total(name)]
    if copies:
        out.print(f"Copies        {', '.join(copies)}")
    for warning in ledger_lines(analysis):
        out.print(warning)
