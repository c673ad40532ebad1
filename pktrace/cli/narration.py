"""What commands say on stderr while they work, and how they load a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pktrace.errors import OutputError

if TYPE_CHECKING:
    from pktrace.findings.analysis import Analysis

_LONGEST_COMPILATION_S = 120


def tell(line: str) -> None:
    """One line of narration on stderr."""
    click.echo(line, err=True)


def show(write: Callable[[], None]) -> None:
    """Write to stdout; whoever reads it may have gone (`| head`), which is no fault.

    Raises:
        OutputError: stdout takes no more, for instance because a disk is full.
    """
    try:
        write()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(f"standard output: cannot be written: {problem.strerror}") from None


def analysis_of(location: str) -> Analysis:
    """Load and analyse one run; says so when the kernels have to be compiled first."""
    from pktrace.run.runfile import load_run

    run = load_run(location)  # before anything slow: most mistakes are in run.toml
    from pktrace.compiled import compiled_all, must_compile
    from pktrace.findings.analysis import analyze_observations
    from pktrace.observations.observe import observe_run

    if not must_compile():
        return analyze_observations(observe_run(run))
    tell("Compiling the packet kernels for this machine; this happens once and takes a few seconds ...")
    with _compiling_the_rest():
        observations = observe_run(run)
    analysis = analyze_observations(observations)
    compiled_all()
    return analysis


@contextmanager
def _compiling_the_rest() -> Iterator[None]:
    """Compile the kernels for following packets in a second process, meanwhile; they come back through the cache."""
    command = [sys.executable, "-m", "pktrace.trajectories.precompile"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            yield
            process.wait(_LONGEST_COMPILATION_S)
        except subprocess.TimeoutExpired:
            pass  # this process compiles them itself
        finally:
            process.kill()
