"""pktrace explain: the life of one packet, point by point."""

from __future__ import annotations

import sys

import click

from pktrace.cli.limits import limit_options, watching
from pktrace.cli.narration import analysis_of, say_why, show, trust_option, with_kernels
from pktrace.visible import json_text


@click.command(epilog="Example: pktrace explain fixtures/service-chain 1184")
@click.argument("run")
@click.argument("trajectory", type=int, metavar="ID")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the explanation as JSON.")
@limit_options
@watching
def explain(run: str, trajectory: int, trust: bool, as_json: bool, **limits: int | None) -> int:
    """Show the life of one packet: every sighting, every changed field, and the reasons of its verdict.

    ID is the number in the column `trajectory` of trajectories.parquet.
    """
    analysis = analysis_of(run, limits, trust=trust)
    from pktrace.analysis.criteria import outcome
    from pktrace.report.explain import explain_packet

    explanation = with_kernels(lambda: explain_packet(analysis, trajectory))
    if as_json:
        show(lambda: click.echo(json_text(explanation.as_dict())))
    else:
        show(lambda: explanation.print(sys.stdout))
    return say_why(analysis.run.name, outcome(analysis))
