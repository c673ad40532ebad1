"""What commands say on stderr while they work, and how they load a run."""

from __future__ import annotations

import click

from pktrace.findings.analysis import Analysis


def tell(line: str) -> None:
    """One line of narration on stderr."""
    click.echo(line, err=True)


def analysis_of(location: str) -> Analysis:
    """Load and analyse one run; says so when the kernels have to be compiled first."""
    from pktrace.run.runfile import load_run

    run = load_run(location)  # before anything slow: most mistakes are in run.toml
    from pktrace.compiled import compiled_all, must_compile
    from pktrace.findings.analysis import analyze_run

    if must_compile():
        tell("Compiling the packet kernels for this machine; this happens once and takes a few seconds ...")
    analysis = analyze_run(run)
    compiled_all()
    return analysis
