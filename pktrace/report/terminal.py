"""Terminal tables: mode 0 (latency per stage), mode 1 (rules), losses and fates, the ledger. Plain columns, no frames."""

from __future__ import annotations

from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pktrace.findings.analysis import Analysis
from pktrace.findings.tallies import RuleTally, fate_counts, stage_losses
from pktrace.latency.stages import shares, summary_row
from pktrace.report.words import count, microseconds, percent, plural, safe
from pktrace.schema import RULE_VERDICTS

_MISSES = tuple(name for name in RULE_VERDICTS if name != "hit")
_WIDE = 120
_STATUS_STYLE = {"verified": "green", "violated": "bold red", "undetermined": "yellow"}
_SEVERITY_STYLE = {"error": "bold red", "data_loss": "yellow"}


def console(stream: IO[str]) -> Console:
    """A console that follows NO_COLOR, COLUMNS and whether it writes to a terminal; nothing is taken as markup."""
    return Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=False)


def _table(title: str, columns: list[tuple[str, str]]) -> Table:
    """A table without frames; columns are (heading, "left" or "right")."""
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    for heading, justify in columns:
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=justify == "right")
    return table


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
        table = _table(f"Latency of {path.name}, µs ({plural(packets, 'packet')})", columns)
        for latency, share in rows:
            if latency.path != number:
                continue
            row = summary_row(latency, share)
            name = latency.name if latency.stage is None else f"{latency.stage} {latency.name}"
            ends = [
                run.points[path.points[at]].name for at in (latency.from_position, latency.to_position)
            ]
            cells = [name, *ends, count(row["count"])]
            cells += [microseconds(row[key]) for key in ("mean_ns", "median_ns", "p99_ns")]
            if wide:
                cells += [microseconds(row[key]) for key in ("p999_ns", "min_ns", "max_ns")] + [count(row["lost"])]
            else:
                cells.append(microseconds(row["max_ns"]))
            table.add_row(*cells, percent(share) if latency.stage is not None else "", end_section=False)
        found.append(table)
    return found


def rules_table(analysis: Analysis, wide: bool) -> Table | None:
    """Mode 1: every rule with what the filter did, beside the data plane's own counter; None without any filter."""
    if not analysis.rule_tallies:
        return None
    columns = [("path", "left"), ("rule", "left"), ("action", "left"), ("matched", "right"), ("hit", "right")]
    columns += [(name.replace("_", " "), "right") for name in _MISSES] if wide else [("misses", "left")]
    columns += [("counter", "right"), ("status", "left")]
    table = _table("Rules: what each says, and what the filter did", columns)
    for tally in analysis.rule_tallies:
        cells: list[str | Text] = [
            analysis.run.paths[tally.path].name,
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


def losses_table(analysis: Analysis) -> Table:
    """Every stage in which a packet was lost, or where that cannot be told; three numbers kept apart."""
    table = _table(
        "Losses and their stage",
        [
            ("path", "left"),
            ("stage", "left"),
            ("from", "left"),
            ("to", "left"),
            ("entered", "right"),
            ("lost", "right"),
            ("ratio", "right"),
            ("missed by capture", "right"),
            ("cannot tell", "right"),
        ],
    )
    for loss in stage_losses(analysis.verdicts):
        if not loss.lost and not loss.undetermined and not loss.unobserved:
            continue
        path = analysis.run.paths[loss.path]
        a, b = (analysis.run.points[path.points[at]].name for at in path.ends_of(loss.stage))
        entered = loss.crossed + loss.lost
        table.add_row(
            path.name,
            f"{loss.stage} {path.stage_name(loss.stage)}",
            a,
            b,
            count(entered),
            Text(count(loss.lost), style="bold red" if loss.lost else ""),
            percent(loss.lost / entered if entered else None),
            _zero_as_dot(loss.unobserved),
            _zero_as_dot(loss.undetermined),
        )
    return table


def fates_lines(analysis: Analysis) -> list[str]:
    """Per path: all packets as the sum of their fates."""
    lines = []
    for number, path in enumerate(analysis.run.paths):
        fates = fate_counts(analysis.verdicts, number)
        parts = " + ".join(f"{value:,} {name}" for name, value in fates.items() if value)
        lines.append(f"{path.name}: {plural(sum(fates.values()), 'packet')} = {parts or '0'}")
    return lines


def ledger_lines(analysis: Analysis) -> list[Text]:
    """What was not used and is no mere information: damaged input and missing packets."""
    lines = []
    for counter, point, capture, number in analysis.ledger.rows():
        if counter.severity == "info":
            continue
        where = " ".join(safe(part) for part in (point, capture) if part)
        lines.append(
            Text(f"{counter.name}: {number:,} at {where or 'the run'}. {counter.sentence}", style=_SEVERITY_STYLE[counter.severity])
        )
    return lines


def print_analysis(analysis: Analysis, stream: IO[str]) -> None:
    """All tables of an analysis, as `pktrace analyze` shows them."""
    out = console(stream)
    wide = out.width >= _WIDE
    for table in latency_tables(analysis, wide):
        out.print(table)
        out.print()
    print_rules(analysis, stream)
    print_losses(analysis, stream)


def print_latency(analysis: Analysis, stream: IO[str]) -> None:
    """Mode 0 only."""
    out = console(stream)
    for table in latency_tables(analysis, out.width >= _WIDE):
        out.print(table)
        out.print()


def print_rules(analysis: Analysis, stream: IO[str]) -> None:
    """Mode 1 only."""
    out = console(stream)
    table = rules_table(analysis, out.width >= _WIDE)
    if table is None:
        out.print("Rules: no path of this run has a filter (a detour or rules).")
    else:
        out.print(table)
    out.print()


def print_losses(analysis: Analysis, stream: IO[str]) -> None:
    """Losses, fates and the ledger's warnings."""
    out = console(stream)
    table = losses_table(analysis)
    if table.row_count:
        out.print(table)
        out.print()
    else:
        out.print("Losses: none; every packet is accounted for.")
    out.print(Text("Fates", style="bold"))
    for line in fates_lines(analysis):
        out.print(line)
    verdicts = analysis.verdicts
    lost = int(verdicts.packets_with("lost").sum())
    missed = sum(loss.unobserved for loss in stage_losses(verdicts))
    doubtful = int((verdicts.packets_with("undetermined") | verdicts.packets_with("ambiguous")).sum())
    dropped = sum(cover.dropped or 0 for cover in analysis.observations.coverage)
    out.print(
        f"Lost in the network: {lost:,}.  Lost by the captures: {dropped:,} dropped, {missed:,} sightings missed.  "
        f"Cannot tell: {doubtful:,}."
    )
    for warning in ledger_lines(analysis):
        out.print(warning)
