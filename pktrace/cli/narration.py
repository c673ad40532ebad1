"""What commands say on stderr while they work, and how they load a run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from pktrace.errors import OutputError
from pktrace.report.words import plural

if TYPE_CHECKING:
    from pktrace.findings.analysis import Analysis
    from pktrace.observations.observe import Observations

_LONGEST_COMPILATION_S = 120
_Result = TypeVar("_Result")


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


def with_kernels(work: Callable[[], _Result]) -> _Result:
    """Do work that uses the kernels; once more without their cache where that is damaged or cannot be written."""
    from pktrace.compiled import without_cache

    try:
        return work()
    except (EOFError, pickle.UnpicklingError, ValueError, AttributeError, ImportError, OSError) as problem:
        if not _is_of_the_cache(problem):
            raise
        tell("The cache of compiled kernels is damaged or cannot be written; compiling without it ...")
        without_cache()
        return work()


def _is_of_the_cache(problem: BaseException) -> bool:
    """Whether an exception comes out of numba's cache."""
    place = problem.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename.endswith(os.path.join("numba", "core", "caching.py")):
            return True
        place = place.tb_next
    return False


trust_option = click.option(
    "--trust", is_flag=True, help="Follow links out of the run folder, and lift the limits on how much is in it."
)


def analysis_of(location: str, trust: bool = False) -> Analysis:
    """Load and analyse one run; says so when the kernels have to be compiled first."""

    def analyze(observations: Observations) -> Analysis:
        from pktrace.findings.analysis import analyze_observations

        return analyze_observations(observations)

    return from_observations(location, analyze, trust)


def from_observations(location: str, work: Callable[[Observations], _Result], trust: bool = False) -> _Result:
    """What `work` makes of the observations of one run; says so when the kernels have to be compiled first."""
    from pktrace.run.runfile import load_run

    run = load_run(location, trust)  # before anything slow: most mistakes are in run.toml
    if run.criteria:
        tell(f"{plural(run.criteria, 'criterion')} of run.toml not evaluated: [[criterion]] is reserved; use --fail-on")
    from pktrace.compiled import compiled_all, must_compile
    from pktrace.observations.observe import observe_run

    if not must_compile():
        return with_kernels(lambda: work(observe_run(run)))
    tell("Compiling the packet kernels for this machine; this happens once and takes a few seconds ...")
    with _compiling_the_rest():
        observations = with_kernels(lambda: observe_run(run))
        from pktrace.verdicts.precompile import compile_kernels

        with_kernels(compile_kernels)
    result = with_kernels(lambda: work(observations))
    compiled_all()
    return result


@contextmanager
def _compiling_the_rest() -> Iterator[None]:
    """Compile the kernels for following packets in a second process, meanwhile; they come back through the cache."""
    command = [sys.executable, "-m", "pktrace.trajectories.precompile"]
    quiet = subprocess.DEVNULL
    try:
        other = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    except OSError:
        yield  # this process compiles them itself
        return
    with other as process:
        try:
            yield
            process.wait(_LONGEST_COMPILATION_S)
        except subprocess.TimeoutExpired:
            pass  # this process compiles them itself
        finally:
            process.kill()
