"""The console of all terminal output: visible text, no markup, tables without frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from pktrace.visible import VisibleStream, visible_lines

_NARROWEST = 80


class _Console(Console):
    """A console that makes every piece of text visible before it adds its own styles."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of printed text, including the cells and columns inside it."""
        for text, style, control in super().render(renderable, options):
            yield Segment(visible_lines(text), style, control)

    def on_broken_pipe(self) -> None:
        """rich would end the process with 1; the caller decides about a reader that has gone."""
        raise BrokenPipeError


def console(stream: IO[str]) -> Console:
    """A console that follows NO_COLOR, COLUMNS and whether it writes to a terminal; nothing is taken as markup."""
    inner = stream.inner if isinstance(stream, VisibleStream) else stream
    # In a notebook rich would display by itself, beside what the caller returns.
    made = _Console(file=inner, force_jupyter=False, markup=False, highlight=False, emoji=False, soft_wrap=False)
    # A narrower terminal breaks the lines itself; a squeezed table would cut its numbers.
    made.width = max(_NARROWEST, made.width)
    return made


def plain_table(title: str, columns: list[tuple[str, str]], gap: int = 2) -> Table:
    """A table without frames; columns are (heading, "left" or "right"), `gap` spaces apart."""
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, gap, 0, 0),
        header_style="dim",
    )
    for heading, justify in columns:
        table.add_column(heading, justify="right" if justify == "right" else "left", no_wrap=justify == "right")
    return table
