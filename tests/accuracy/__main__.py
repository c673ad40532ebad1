"""`python -m tests.accuracy [NAMES]`: every scenario generated, analysed and compared with its truth, a row each."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from fixtures.scenarios.catalogue import SCENARIOS
from tests.accuracy.measure import measure
from tests.accuracy.score import Score

COLUMNS = (
    "scenario", "packets", "decidable", "right", "wrong matches", "recall", "precision", "surplus", "invented losses",
    "missed losses", "losses per stage", "cautious", "changes", "ranges",
)  # fmt: skip

PREFACE = """\
# How right it is

Written by `make accuracy`: each scenario of `fixtures/scenarios/` is generated, analysed, and compared with its truth,
packet by packet.

* *Decidable* packets are those whose unchanged bytes are unique within the loss threshold; *right* ones own exactly
  their frames and have the right fate and stage.
* A *wrong match* is a trajectory that owns frames of packets that can be told apart; *recall* and *precision* are of
  the frames of decidable packets; *surplus* trajectories are more than there were packets.
* *Invented* losses were none, *missed* ones were not told. *Losses per stage* counts all packets, also those that
  cannot be told apart.
* *Cautious* are `undetermined` and `ambiguous` where the captures do show what happened.
* *Changes* are the transforms of each right packet, and where all are right `transforms.parquet` as a whole; *ranges*
  the bytes that frames hold of right packets that were split or merged.

Demanded are no wrong match, 99.9 % right, at most 0.1 % surplus, exact losses, at most 1 % cautious, and changes and
ranges that are equal to those of the truth.
"""


def cells(name: str, score: Score) -> list[str]:
    """A row of the table."""
    return [
        name, f"{score.packets:,}", f"{score.decidable:,}", _percent(score.right_share), str(score.wrong_matches),
        _percent(score.recall), _percent(score.precision), str(score.surplus), str(score.invented), str(score.missed),
        "exact" if score.stages_exact else "wrong", _percent(score.cautious_share),
        _equal(score.wrong_kinds + len(score.wrong_changes)), _equal(score.wrong_ranges),
    ]  # fmt: skip


def _percent(share: float) -> str:
    """A share with two decimals that is 100 % only if it is one."""
    rounded = f"{100 * share:.2f} %"
    return "99.99 %" if rounded == "100.00 %" and share < 1 else rounded


def _equal(wrong: int) -> str:
    return f"{wrong:,} wrong" if wrong else "equal"


COMPARED = "## Beside other methods"


def page(rows: list[tuple[str, Score]]) -> str:
    """docs/accuracy.md."""
    lines = [
        PREFACE,
        "| " + " | ".join(COLUMNS) + " |",
        "|---" + "|---:" * (len(COLUMNS) - 1) + "|",
        *("| " + " | ".join(cells(name, score)) + " |" for name, score in rows),
        "",
        "## The scenarios",
        "",
    ]
    lines += [f"* `{name}`: {SCENARIOS[name].sentence}" for name, _ in rows]
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("names", nargs=-1)
@click.option("--packets", type=click.IntRange(1), help="About how many packets; default: the scenario's size.")
@click.option("--seed", default=1, show_default=True)
@click.option("--write", "write_to", type=click.Path(path_type=Path), help="Write the table to this page, too.")
@click.option("--losses", "show_losses", is_flag=True, help="Show the losses of each stage, as they are and as said.")
def main(names: tuple[str, ...], packets: int | None, seed: int, write_to: Path | None, show_losses: bool) -> None:
    """Score the scenarios NAMES (default: all). Exit code 1 if one does not reach what is demanded."""
    for name in names:
        if name not in SCENARIOS:
            raise click.UsageError(f"no scenario {name!r}")
    widths = [max(len(name) for name in SCENARIOS), *(len(column) + 1 for column in COLUMNS[1:])]
    _print([*COLUMNS, "seconds"], [*widths, 8])
    rows, failed = [], []
    for name in names or SCENARIOS:
        with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
            try:
                score, seconds = measure(name, Path(folder), packets=packets, seed=seed)
            except Exception as error:  # noqa: BLE001 - one that fails is reported, and the others are still measured
                click.echo(f"{name}: {type(error).__name__}: {error}")
                failed.append(name)
                continue
        _print([*cells(name, score), f"{seconds:.1f}", *score.faults], [*widths, 8])
        if show_losses:
            for path, stage, true, said in score.losses:
                click.echo(f"    {path} stage {stage}: {true} lost, {said} said")
        rows.append((name, score))
        failed += [name] if score.faults else []
    if write_to is not None:
        text = page(rows)
        kept = write_to.read_text(encoding="utf-8") if write_to.exists() else ""
        begin = kept.find(COMPARED)
        write_to.write_text(text + ("\n" + kept[begin:] if begin >= 0 else ""), encoding="utf-8")
    click.echo(
        f"{len(rows)} scenarios, {len(failed)} below what is demanded{': ' if failed else ''}{', '.join(failed)}"
    )
    sys.exit(1 if failed else 0)


def _print(texts: list[str], widths: list[int]) -> None:
    parts = [text.ljust(width) if at == 0 else text.rjust(width) for at, (text, width) in
             enumerate(zip(texts, widths, strict=False))]  # fmt: skip
    click.echo(" ".join(parts) + "".join(f"  {text}" for text in texts[len(widths) :]))


if __name__ == "__main__":
    main()
