"""pktrace analyze: everything, from captures to results/."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from pktrace.cli.limits import limit_options, watching
from pktrace.cli.narration import analysis_of, say_why, show, tell, trust_option, with_kernels
from pktrace.errors import EXIT_CRITERION_FAILED, EXIT_DAMAGED_OR_UNDECIDED, EXIT_DONE, PktraceError
from pktrace.report.words import one_line, plural

if TYPE_CHECKING:
    from pktrace.analysis.analysis import Analysis

# Ledger counters of observations that belong to no followed packet.
_LEFT_OUT = (
    "not_ip", "no_path", "off_path", "malformed_ip", "cut_header", "unknown_link_type", "hidden_packet",
    "no_timestamp", "timestamp_out_of_range", "no_direction",
)  # fmt: skip
_WORST_FIRST = (2, EXIT_DAMAGED_OR_UNDECIDED, EXIT_CRITERION_FAILED, EXIT_DONE)


@click.command(epilog="Example: pktrace analyze fixtures/service-chain --fail-on loss,rules")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", metavar="DIR", help="Folder for the results; default RUN/results. One RUN only.")
@click.option("--plots/--no-plots", default=True, help="Draw the plots (default) or leave them out.")
@click.option(
    "--fail-on", default="", metavar="LIST", help="Criteria: loss, rules; exit 1 if one fails, 3 if undecided."
)
@click.option("--no-wait", is_flag=True, help="Give up if another analysis writes these results; default: wait.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of tables.")
@limit_options
@watching
def analyze(
    runs: tuple[str, ...],
    output: str | None,
    plots: bool,
    fail_on: str,
    no_wait: bool,
    trust: bool,
    as_json: bool,
    **limits: int | None,
) -> int:
    """Analyse recorded runs: follow every packet, judge it, measure each stage, write RUN/results/.

    RUN is a folder with a run.toml. Tables go to stdout, narration to stderr.
    """
    from pktrace.analysis.criteria import CRITERIA

    wanted = frozenset(name.strip() for name in fail_on.split(",") if name.strip())
    if wanted - set(CRITERIA):
        raise click.BadParameter(f"criteria are {', '.join(CRITERIA)}", param_hint="--fail-on")
    if output is not None and len(runs) > 1:
        raise click.BadParameter(
            "takes one RUN; the results of several would overwrite each other", param_hint="--output"
        )
    codes = []
    for number, location in enumerate(runs):
        if len(runs) == 1:
            codes.append(_analyze(location, output, plots, wanted, no_wait, trust, as_json, limits))
            continue
        try:
            if number and not as_json:
                click.echo()
            codes.append(_analyze(location, output, plots, wanted, no_wait, trust, as_json, limits))
        except PktraceError as problem:
            tell(f"pktrace: error: {one_line(str(problem))}")
            codes.append(problem.exit_code)
    return next((code for code in _WORST_FIRST if code in codes), max(codes))


def _analyze(
    location: str,
    output: str | None,
    plots: bool,
    fail_on: frozenset[str],
    no_wait: bool,
    trust: bool,
    as_json: bool,
    limits: dict[str, int | None],
) -> int:
    from pktrace import memory
    from pktrace.run.runfile import load_run

    run = load_run(location, trust)
    folder = Path(output) if output is not None else run.folder / "results"
    from pktrace.report.exchange import results_folder

    with results_folder(folder, output is None, tell, not no_wait) as results:
        # Start again from run.toml: it may have changed while this analysis waited.
        analysis = analysis_of(location, limits, memory.ANALYSIS, trust)
        memory.check_writing(len(analysis.observations.rows), len(analysis.trajectories))
        with_kernels(lambda: analysis.transforms)
        from pktrace.analysis.criteria import outcome
        from pktrace.analysis.summary import summary, summary_json
        from pktrace.report.results import write_results

        ended = outcome(analysis, fail_on)
        document = summary(analysis, ended.code)

        def draw(create: Callable[[str], BinaryIO]) -> list[str]:
            from pktrace.report.plots import draw_all

            return draw_all(analysis, create)

        written = write_results(analysis, results, document, draw if plots else None)
    if as_json:
        show(lambda: click.echo(summary_json(document), nl=False))
    else:
        from pktrace.report.terminal import print_analysis

        show(lambda: print_analysis(analysis, sys.stdout))
    counts = document["observations"]
    tell(
        f"{analysis.run.name}: {plural(counts['total'], 'observation')} at {plural(len(analysis.run.points), 'point')}"
        f", {plural(len(analysis.trajectories), 'packet')} followed{_not_placed(analysis, counts['not_placed'])}"
    )
    tell(f"Results: {plural(len(written), 'file')} in {os.path.join(folder, '')}")
    return say_why(analysis.run.name, ended)


def _not_placed(analysis: Analysis, count: int) -> str:
    """The observations that belong to no followed packet, with the reasons of the ledger."""
    if not count:
        return ""
    why = [f"{analysis.ledger.total(name):,} {name}" for name in _LEFT_OUT if analysis.ledger.total(name)]
    return f", {plural(count, 'observation')} not placed ({', '.join(why)})"
