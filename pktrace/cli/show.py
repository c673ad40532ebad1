"""pktrace latency, rules and losses: one table of an analysis, without writing results."""

from __future__ import annotations

import sys
from typing import Any

import click

from pktrace.cli.limits import limit_options, watching
from pktrace.cli.narration import analysis_of, say_why, show, trust_option
from pktrace.visible import json_text


def _rows(rows: list[dict[str, Any]]) -> None:
    show(lambda: click.echo(json_text(rows)))


@click.command(epilog="Example: pktrace latency fixtures/service-chain")
@click.argument("run")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@limit_options
@watching
def latency(run: str, trust: bool, as_json: bool, **limits: int | None) -> int:
    """Latency per stage and direction (mode 0): N, mean, median, p99, max, share of the whole."""
    analysis = analysis_of(run, limits, trust=trust)
    from pktrace.analysis.criteria import outcome

    if as_json:
        from pktrace.analysis.tables import latency_table

        _rows(latency_table(analysis).to_pylist())
    else:
        from pktrace.report.terminal import print_latency

        show(lambda: print_latency(analysis, sys.stdout))
    return say_why(analysis.run.name, outcome(analysis))


@click.command(epilog="Example: pktrace rules fixtures/service-chain")
@click.argument("run")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@limit_options
@watching
def rules(run: str, trust: bool, as_json: bool, **limits: int | None) -> int:
    """The filter rules, the actions of the filter, and the data plane's own counters (mode 1)."""
    analysis = analysis_of(run, limits, trust=trust)
    from pktrace.analysis.criteria import outcome

    if as_json:
        from pktrace.analysis.tables import rules_table

        _rows(rules_table(analysis).to_pylist())
    else:
        from pktrace.report.terminal import print_rules

        show(lambda: print_rules(analysis, sys.stdout))
    return say_why(analysis.run.name, outcome(analysis))


@click.command(epilog="Example: pktrace losses fixtures/service-chain")
@click.argument("run")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the losses per stage as JSON.")
@limit_options
@watching
def losses(run: str, trust: bool, as_json: bool, **limits: int | None) -> int:
    """Lost packets by stage, apart from packets that a capture missed and from undetermined packets."""
    analysis = analysis_of(run, limits, trust=trust)
    from pktrace.analysis.criteria import outcome

    ended = outcome(analysis)
    if as_json:
        from pktrace.analysis.summary import summary

        paths = summary(analysis, ended.code)["paths"]
        _rows([{"path": name, **loss} for name, path in paths.items() for loss in path["losses"]])
    else:
        from pktrace.report.terminal import print_losses

        show(lambda: print_losses(analysis, sys.stdout))
    return say_why(analysis.run.name, ended)
