"""pktrace init: looks into captures and proposes a run.toml for them."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pktrace.cli.limits import limit_options, limits_of, watching
from pktrace.cli.narration import say_why, show, tell, with_kernels
from pktrace.errors import EXIT_DAMAGED_OR_UNDECIDED, EXIT_DONE, CallerError
from pktrace.report.words import one_line, plural


@click.command(epilog="Example: pktrace init captures/*.pcapng -o .")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", metavar="DIR", help="Write DIR/run.toml (or this file, if it ends in .toml).")
@click.option("--force", is_flag=True, help="Replace an existing run.toml.")
@click.option("--json", "as_json", is_flag=True, help="Print the proposal as JSON.")
@limit_options
@watching
def init(files: tuple[str, ...], output: str | None, force: bool, as_json: bool, **limits: int | None) -> int:
    """Propose a run.toml for captures: points, their order, clocks and paths, from the packets that they share.

    Without -o the proposal goes to stdout, with the captures named relative to the current folder. No capture is
    copied, moved or changed. Facts that the captures cannot show are left out, with a comment.
    """
    target = _target(output, files, force)
    from pktrace.analysis.criteria import Outcome
    from pktrace.init.proposal import propose
    from pktrace.init.run_toml import proposal_json, proposal_toml, relative_names, write_proposal
    from pktrace.init.samples import read_samples, usable

    chosen, problems = with_kernels(lambda: usable(_each_once(files)))
    folder = target.parent if target is not None else Path.cwd()
    names = relative_names(chosen, folder)
    samples, every = with_kernels(lambda: read_samples(chosen, limits=limits_of(limits)))
    proposal = with_kernels(lambda: propose(samples, every))
    title = _title(folder, chosen)
    text = proposal_toml(proposal, title, names)
    if target is not None:
        write_proposal(text, target)
    if as_json:
        show(lambda: click.echo(proposal_json(proposal, title, names, None if target is None else str(target))))
    elif target is None:
        show(lambda: click.echo(text, nl=False))
    tell(
        f"{plural(proposal.packets, 'packet')} of {plural(len(chosen), 'file')}:"
        f" {plural(len(proposal.points), 'point')}, {plural(len(proposal.paths), 'path')}"
    )
    for note in proposal.notes:
        tell(one_line(note))
    outside = any(name.startswith(("..", "/")) for name in names.values())
    if outside:
        tell("Some captures lie outside the folder of run.toml: it needs --trust, and cannot be moved without them.")
    if target is not None:
        run = target.parent if target.name == "run.toml" else target
        trust = "--trust " if outside else ""
        tell(f"Wrote {one_line(str(target))}; next: pktrace analyze {trust}{one_line(str(run))}")
    else:
        tell("To keep it: add -o FOLDER, then run pktrace analyze FOLDER")
    reasons = [f"left out: {problem}" for problem in problems]
    reasons += [f"input is damaged: {sample.name} ends too early" for sample in samples if sample.damaged]
    return say_why("init", Outcome(EXIT_DAMAGED_OR_UNDECIDED if reasons else EXIT_DONE, tuple(reasons)))


def _target(output: str | None, files: tuple[str, ...], force: bool) -> Path | None:
    """The run.toml to write; None for stdout."""
    if output is None:
        return None
    target = Path(output) if output.endswith(".toml") else Path(output, "run.toml")
    if any(os.path.realpath(target) == os.path.realpath(file) for file in files):
        raise click.BadParameter("must be a file of its own, not one of the captures", param_hint="--output")
    if os.path.lexists(target) and not force:
        raise CallerError(f"{target}: exists already; use --force to replace it, or -o with another folder")
    return target


def _each_once(files: tuple[str, ...]) -> list[str]:
    """The files, each once, in order of their names, so that the order of arguments does not change the proposal."""
    found: dict[str, str] = {}
    for file in sorted(files):
        if os.path.realpath(file) in found:
            tell(f"{one_line(file)}: given twice, used once")
        found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def _title(folder: Path, files: list[str]) -> str:
    """A name for the run: the name of its folder, or of the folder of the captures."""
    common = Path(os.path.commonpath([os.path.realpath(os.path.dirname(file) or ".") for file in files]))
    here = Path(os.path.realpath(folder))
    place = here if here != Path.cwd() or common == here else common
    name = place.parent.name if place.name == "captures" else place.name
    return one_line(name)[:200] or "run"
