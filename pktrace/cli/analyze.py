"""pktrace analyze: everything, from captures to results/."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pktrace.cli.narration import analysis_of, tell
from pktrace.errors import EXIT_CRITERION_FAILED, EXIT_DAMAGED_OR_UNDECIDED, EXIT_DONE, PktraceError

_WORST_FIRST = (2, EXIT_DAMAGED_OR_UNDECIDED, EXIT_CRITERION_FAILED, EXIT_DONE)


@click.command(epilog="Example: pktrace analyze fixtures/service-chain --fail-on loss,rules")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--output", metavar="DIR", help="Where results go; default RUN/results. One RUN only.")
@click.option("--plots/--no-plots", default=True, help="Draw the plots (default) or leave them out.")
@click.option(
    "--fail-on", default="", metavar="LIST", help="Criteria: loss, rules; exit 1 if one fails, 3 if undecided."
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json instead of tables.")
def analyze(runs: tuple[str, ...], output: str | None, plots: bool, fail_on: str, as_json: bool) -> int:
    """Analyse recorded runs: follow every packet, judge it, measure each stage, write RUN/results/.

    RUN is a folder with a run.toml. Tables go to stdout, narration to stderr.
    """
    from pktrace.findings.criteria import CRITERIA

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
            codes.append(_analyze(location, output, plots, wanted, as_json))
            continue
        try:
            if number and not as_json:
                click.echo()
            codes.append(_analyze(location, output, plots, wanted, as_json))
        except PktraceError as problem:
            click.echo(f"pktrace: error: {problem}", err=True)
            codes.append(problem.exit_code)
    return next((code for code in _WORST_FIRST if code in codes), max(codes))


def _analyze(location: str, output: str | None, plots: bool, fail_on: frozenset[str], as_json: bool) -> int:
    analysis = analysis_of(location)
    from pktrace.findings.criteria import exit_code
    from pktrace.findings.summary import summary, summary_json
    from pktrace.report.results import write_results

    code = exit_code(analysis, fail_on)
    document = summary(analysis, code)
    folder = Path(output) if output is not None else analysis.run.folder / "results"

    def draw(into: Path) -> list[Path]:
        from pktrace.report.plots import draw_all

        return draw_all(analysis, into)

    if as_json:
        click.echo(summary_json(document), nl=False)
    else:
        from pktrace.report.terminal import print_analysis

        print_analysis(analysis, sys.stdout)
    written = write_results(analysis, folder, document, draw if plots else None)
    counts = document["observations"]
    tell(
        f"{analysis.run.name}: {counts['total']:,} observations at {len(analysis.run.points)} points, "
        f"{len(analysis.trajectories):,} packets followed, {counts['not_placed']:,} observations not placed"
    )
    tell(f"Results: {len(written)} files in {os.path.join(folder, '')}")
    return code
