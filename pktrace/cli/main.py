"""Entry point: the list of commands, and the one line and exit code of every error."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any, TextIO

import click

from pktrace.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, PktraceError
from pktrace.report.words import one_line
from pktrace.version import __version__
from pktrace.visible import VisibleStream, visible_lines

# name -> (module, help line): the module is imported only when its command runs.
_COMMANDS = {
    "check": ("pktrace.cli.check", "Check whether captures can answer questions about latency, losses and rules."),
    "analyze": ("pktrace.cli.analyze", "Analyse recorded runs: follow, judge, measure, write results/."),
    "latency": ("pktrace.cli.show", "Latency per stage and direction (mode 0)."),
    "rules": ("pktrace.cli.show", "The filter rules, and the actions of the filter (mode 1)."),
    "losses": ("pktrace.cli.show", "Lost packets and the stage where each was lost."),
    "explain": ("pktrace.cli.explain", "The life of one packet, point by point."),
    "trace": ("pktrace.cli.trace", "Record some packets at the points of a chain, then show where they went."),
    "init": ("pktrace.cli.init", "Look into captures and propose a run.toml for them."),
    "observe": ("pktrace.cli.observe", "Decode any captures into an observations table."),
}


class _LazyGroup(click.Group):
    """A group that knows its commands' names without importing them, so that --help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(_COMMANDS[cmd_name][0]), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: pktrace analyze fixtures/service-chain",
)
@click.version_option(__version__, prog_name="pktrace")
@click.option("--debug", is_flag=True, help="Show a traceback for errors.")
def pktrace(debug: bool) -> None:
    """Follow every packet through a service chain, from captures at several points.

    Shows where packets were lost, the filter rule that each one hit, mistakes of the filter, and the time that each
    stage took.

    \b
    Exit codes: 0 done; 1 a criterion failed; 2 usage or run.toml error, no
    capture, or a limit was met; 3 damaged input, or a criterion that cannot
    be decided; 4 integrity failure; 70 internal error; 130 interrupted.
    """


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    # A run makes many lasting objects at start-up (numba's registries) and few cycles: collection costs a tenth of the
    # time.
    gc.disable()
    _prepare_streams()
    code = EXIT_INTERRUPTED
    with contextlib.suppress(KeyboardInterrupt):
        try:
            for ending in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(ending) != signal.SIG_IGN:  # `nohup` asks that it be ignored
                    signal.signal(ending, _terminated)
            code = _run(sys.argv[1:] if arguments is None else arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else EXIT_INTERNAL
            _give_up(sys.stdout)  # its reader may have stopped reading, and the rest would wait for it
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # from here on it is over anyway
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader or the terminal has gone, which is no fault here
            _give_up(stream)
    sys.exit(code)


def _give_up(stream: TextIO) -> None:
    """Discard the text that a stream has not written yet."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _prepare_streams() -> None:
    """Closed streams accept all text and discard it; a stream that cannot encode a letter shows a `?`.

    Everything that this process writes to them passes a `VisibleStream`: results, narration, errors of click, warnings
    of libraries, tracebacks.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lasts as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        setattr(sys, name, stream if isinstance(stream, VisibleStream) else VisibleStream(stream))


def _terminated(number: int, frame: object) -> None:
    """SIGTERM and SIGHUP end the process as Ctrl-C does: half-written files and helper processes are removed first, and
    a second signal does not interrupt the removal.
    """
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        result: Any = pktrace.main(args=arguments, prog_name="pktrace", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as problem:
        problem.show()
        return EXIT_USAGE
    except click.ClickException as problem:
        said = one_line(problem.format_message())
        click.UsageError(said, getattr(problem, "ctx", None)).show()
        return problem.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("pktrace: interrupted; files under their final names are whole", err=True)
        return EXIT_INTERRUPTED
    except PktraceError as problem:
        if debug:
            _show_traceback(problem)
        click.echo(f"pktrace: error: {one_line(str(problem))}", err=True)
        return problem.exit_code
    except MemoryError as problem:
        from pktrace.memory import short

        click.echo(f"pktrace: error: {one_line(short(problem))}", err=True)
        return EXIT_USAGE
    except Exception as problem:  # noqa: BLE001 - the last line of defence: users see one line, not a traceback
        if debug:
            _show_traceback(problem)
        text = one_line(f"{type(problem).__name__}: {problem}")[:500]
        click.echo(f"pktrace: internal error: {text} (run `pktrace --debug ...` for the traceback)", err=True)
        return EXIT_INTERNAL
    return result if isinstance(result, int) else 0


def _show_traceback(problem: BaseException) -> None:
    """Write the traceback to stderr; each message is one line, so that it cannot imitate lines of a traceback."""
    for error in _causes_first(problem):
        lines = "".join(traceback.format_tb(error.__traceback__))
        said = one_line(f"{type(error).__name__}: {error}")
        click.echo(f"Traceback (most recent call last):\n{visible_lines(lines)}{said}\n", err=True)


def _causes_first(problem: BaseException) -> Iterator[BaseException]:
    """An error and its causes, the first cause first."""
    chain: list[BaseException] = []
    error: BaseException | None = problem
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    yield from reversed(chain)
