"""Terminal tables of the matching and of changes in packets."""

from __future__ import annotations

from typing import IO

from rich.table import Table
from rich.text import Text

from pktrace.analysis.analysis import Analysis
from pktrace.analysis.matching_quality import PathQuality, key_qualities, path_quality
from pktrace.report.console import console, plain_table
from pktrace.report.words import count, percent
from pktrace.schema import BASES

_CHANGES_SHOWN = 6  # kinds of changes of one stage, the most frequent first


def matching_table(analysis: Analysis) -> Table:
    """Per path the share of its packets by basis, and the share of ambiguous packets."""
    qualities = [path_quality(analysis.verdicts, number) for number in range(len(analysis.run.paths))]
    used = [name for name in BASES if any(quality.basis.get(name) for quality in qualities)]
    columns = [("path", "left"), ("packets", "right"), *((name, "right") for name in used), ("ambiguous", "right")]
    table = plain_table("How packets were matched", columns)
    for path, quality in zip(analysis.run.paths, qualities, strict=True):
        if quality.packets:
            shares = [_share(quality, quality.basis.get(name, 0)) for name in used]
            table.add_row(path.name, count(quality.packets), *shares, _share(quality, quality.ambiguous))
    return table


def _share(quality: PathQuality, number: int) -> str:
    return percent(quality.share(number)) if number else "·"


def chance_lines(analysis: Analysis) -> list[str]:
    """Per kind of key in use, the expected number of matches by chance."""
    threshold = f"{analysis.run.threshold_ns / 1e9:g} s"
    return [
        f"Expected by chance, key {key.name} ({key.bits} bits, {count(key.different)} different): {key.expected:.1g} "
        f"matches, {key.expected_near:.1g} within {threshold}."
        for key in key_qualities(analysis.trajectories)
    ]


def changes_table(analysis: Analysis) -> Table:
    """Per stage with changed packets, the kinds of changes and the packets with each."""
    table = plain_table("Changes in packets", [("path", "left"), ("stage", "left"), ("packets of each", "left")])
    found: dict[tuple[int, int | None], dict[str, int]] = {}
    for path, stage, kind, _, _, packets in analysis.transforms.table:  # in order of path and stage
        kinds = found.setdefault((path, stage), {})
        kinds[kind] = kinds.get(kind, 0) + packets
    for (number, stage), kinds in found.items():
        on = analysis.run.paths[number]
        most = sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0]))
        shown = [f"{kind} {packets:,}" for kind, packets in most[:_CHANGES_SHOWN]]
        if len(most) > _CHANGES_SHOWN:
            shown.append(f"{len(most) - _CHANGES_SHOWN} further kinds")
        where = "(a point missed)" if stage is None else f"{stage} {on.stage_name(stage)}"
        table.add_row(on.name, where, ", ".join(shown))
    return table


def print_matching(analysis: Analysis, stream: IO[str]) -> None:
    """Print the certainty of the matching, and the changes on the way."""
    out = console(stream)
    changes = changes_table(analysis)
    if changes.row_count:
        out.print(changes)
        out.print()
    if len(analysis.trajectories):
        out.print(matching_table(analysis))
        for line in chance_lines(analysis):
            out.print(Text(line, style="dim"))
        out.print()
