"""The narration of commands on stderr, and the loading of a run."""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar

import click

from pktrace.errors import OutputError
from pktrace.report.words import plural
from pktrace.surroundings import python_command
from pktrace.visible import visible

if TYPE_CHECKING:
    from pktrace.analysis.analysis import Analysis
    from pktrace.analysis.criteria import Outcome
    from pktrace.memory import Need
    from pktrace.observations.observe import Observations

_LONGEST_COMPILATION_S = 120
_MUCH_MEMORY = 2 << 30
_Result = TypeVar("_Result")


def tell(line: str) -> None:
    """One line of narration on stderr."""
    click.echo(visible(line), err=True)


def say_why(name: str, outcome: Outcome) -> int:
    """Write the reasons of an exit code other than 0 to stderr, in one line; returns the code."""
    if outcome.reasons:
        tell(f"{name}: {outcome.sentence()}")
    return outcome.code


def show(write: Callable[[], None]) -> None:
    """Write to stdout; a reader that has gone (`| head`) is no fault.

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
    """Do work that uses the kernels; repeat it without their cache if the cache is damaged or cannot be written."""
    from pktrace.compiled import without_cache

    _say_where_there_is_no_cache()
    try:
        return work()
    except (EOFError, pickle.UnpicklingError, ValueError, AttributeError, ImportError, OSError) as problem:
        if not _is_of_the_cache(problem):
            raise
        tell("The cache of compiled kernels is damaged or cannot be written; compiling without it ...")
        without_cache()
        return work()


@functools.cache
def _say_where_there_is_no_cache() -> None:
    """Say in one line, once, that compiled kernels cannot be kept."""
    from pktrace.compiled import why_no_cache

    why = why_no_cache()
    if why is not None:
        tell(f"Compiling the packet kernels without a cache, at every start: {why}")


def _is_of_the_cache(problem: BaseException) -> bool:
    """True if an exception comes from numba's cache."""
    place = problem.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename.endswith(os.path.join("numba", "core", "caching.py")):
            return True
        place = place.tb_next
    return False


trust_option = click.option(
    "--trust", is_flag=True, help="Follow links out of the run folder, and lift the limits on how much is in it."
)


def analysis_of(
    location: str, options: dict[str, int | None] | None = None, need: Need | None = None, trust: bool = False
) -> Analysis:
    """Load and analyse one run. A line on stderr announces that kernels have to be compiled first.

    Args:
        options: the options of `limit_options`; need: the memory that an observation takes in total;
        trust: as `load_run`.
    """

    def analyze(observations: Observations) -> Analysis:
        from pktrace.analysis.analysis import analyze_observations

        return analyze_observations(observations)

    return from_observations(location, analyze, options, need, trust)


def from_observations(
    location: str,
    work: Callable[[Observations], _Result],
    options: dict[str, int | None] | None,
    need: Need | None = None,
    trust: bool = False,
) -> _Result:
    """The result of `work` for the observations of one run. A line on stderr announces a compilation of kernels."""
    from pktrace import memory
    from pktrace.run.runfile import load_run

    run = load_run(location, trust)  # before anything slow: most mistakes are in run.toml
    if run.criteria:
        tell(f"{plural(run.criteria, 'criterion')} of run.toml not evaluated: [[criterion]] is reserved; use --fail-on")
    from pktrace.cli.limits import limits_of
    from pktrace.compiled import compiled_all, is_cached, must_compile
    from pktrace.observations.observe import observe_run

    def observed() -> Observations:
        return observe_run(run, limits_of(options or {}), need or memory.FOLLOWING)

    memory.step("reading the captures")
    if not must_compile() or not is_cached():
        return with_kernels(lambda: work(observed()))
    tell("Compiling the packet kernels for this machine; this happens once and takes a few seconds ...")
    # A second process needs as much memory as this one without packets.
    with _compiling_the_rest() if memory.available_bytes() > _MUCH_MEMORY else nullcontext():
        observations = with_kernels(observed)
        from pktrace.verdicts.precompile import compile_kernels

        with_kernels(compile_kernels)
    result = with_kernels(lambda: work(observations))
    compiled_all()
    return result


@contextmanager
def _compiling_the_rest() -> Iterator[None]:
    """Compile the kernels for following packets in a second process, meanwhile; they come back through the cache."""
    command = python_command("pktrace.trajectories.precompile", "compile_kernels")
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
