"""pktrace check: can the captures answer questions about latency, loss and rules?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pktrace.cli.limits import limit_options, watching
from pktrace.cli.narration import from_observations, say_why, show, trust_option

if TYPE_CHECKING:
    from pktrace.check.facts import Suitability
    from pktrace.observations.observe import Observations


@click.command(epilog="Example: pktrace check fixtures/service-chain")
@click.argument("run")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print all facts, findings and answers as JSON.")
@limit_options
@watching
def check(run: str, trust: bool, as_json: bool, **limits: int | None) -> int:
    """Check whether the captures of a run can answer questions about latency, losses and rules.

    Shows coverage, drops and misses of each point, the packets that neighbouring points share, and the consequences.

    \b
    Exit codes: 0 every question can be answered, or partly;
    3 input is damaged, or there are packets and nothing can be answered;
    2 usage or run.toml error, or no capture.
    """
    facts = from_observations(run, _facts, limits, trust=trust)
    from pktrace.check.answers import answers_of, check_outcome, findings_of

    findings = findings_of(facts)
    answers = answers_of(facts, findings)
    ended = check_outcome(facts, answers)
    if as_json:
        from pktrace.check.document import suitability_json

        show(lambda: click.echo(suitability_json(facts, findings, answers, ended.code), nl=False))
    else:
        from pktrace.check.text import print_suitability

        show(lambda: print_suitability(facts, findings, answers, sys.stdout))
    return say_why(facts.run.name, ended)


def _facts(observations: Observations) -> Suitability:
    from pktrace.check.facts import suitability_of

    return suitability_of(observations)
