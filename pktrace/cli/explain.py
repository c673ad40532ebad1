"""pktrace explain: one packet's life, point by point."""

from __future__ import annotations

import json
import sys

import click

from pktrace.cli.narration import analysis_of, show, trust_option, with_kernels


@click.command(epilog="Example: pktrace explain fixtures/service-chain 1184")
@click.argument("run")
@click.argument("trajectory", type=int, metavar="ID")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
def explain(run: str, trajectory: int, trust: bool, as_json: bool) -> int:
    """Tell the life of one packet: every sighting, every changed field, and why the verdict is what it is.

    ID is the number in the column `trajectory` of trajectories.parquet.
    """
    analysis = analysis_of(run, trust)
    from pktrace.findings.criteria import exit_code
    from pktrace.report.explain import explain_packet

    explanation = with_kernels(lambda: explain_packet(analysis, trajectory))
    if as_json:
        show(lambda: click.echo(json.dumps(explanation.as_dict(), indent=2, ensure_ascii=False)))
    else:
        show(lambda: explanation.print(sys.stdout))
    return exit_code(analysis)
