"""The interface for notebooks: the steps of an analysis as functions, tables as polars frames, plots as Axes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pktrace.analysis import tables
from pktrace.analysis.analysis import Analysis, analyze_trajectories
from pktrace.errors import CallerError
from pktrace.observations import observe as observing
from pktrace.observations.table import observations_table
from pktrace.report.explain import Explanation, explain_packet
from pktrace.report.words import plural
from pktrace.run.model import Run
from pktrace.run.runfile import load_run as _load_run
from pktrace.schema import FATES
from pktrace.surroundings import shipped_file
from pktrace.trajectories import model
from pktrace.trajectories.follow import follow_packets

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from matplotlib.axes import Axes


class _Shown:
    """Shows one line and the table in a notebook, and one line in a terminal."""

    frame: Any

    def _line(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        """One line of what it is."""
        return f"<{type(self).__name__}: {self._line()}>"

    def _repr_html_(self) -> str:
        """The same line above the table."""
        return f"<p><b>{type(self).__name__}</b>: {escape(self._line())}</p>{self.frame._repr_html_()}"


def _frame(table: pa.Table) -> pl.DataFrame:
    import polars as pl

    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never becomes a series
    return frame


@dataclass(frozen=True, repr=False)
class Observations(_Shown):
    """Every packet seen at every point. `frame`: the observations table as a polars frame."""

    values: observing.Observations

    @cached_property
    def frame(self) -> pl.DataFrame:
        """A row per packet per point (docs/tables.md)."""
        return _frame(observations_table(self.values))

    def _line(self) -> str:
        run = self.values.run
        points = 0 if run is None else len(run.points)
        return f"{plural(len(self), 'packet sighting')} at {plural(points, 'point')}"

    def __len__(self) -> int:
        return len(self.values.rows)


@dataclass(frozen=True, repr=False)
class Trajectories(_Shown):
    """Every packet followed. `frame`: the trajectories table as a polars frame."""

    values: model.Trajectories

    @cached_property
    def analysis(self) -> Analysis:
        """The judged trajectories."""
        return analyze_trajectories(self.values)

    @cached_property
    def frame(self) -> pl.DataFrame:
        """A row per packet followed (docs/tables.md)."""
        return _frame(tables.trajectories_table(self.analysis))

    def explain(self, trajectory: int) -> Explanation:
        """The life of one packet: every sighting, every changed field, and the reasons of its verdict."""
        return explain_packet(self.analysis, trajectory)

    def _line(self) -> str:
        return f"{plural(len(self), 'packet')} followed on {plural(len(self.values.run.paths), 'path')}"

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, repr=False)
class Verdicts(_Shown):
    """The verdicts on all packets. `frame`: a row per packet per stage; `rules`: a row per rule."""

    analysis: Analysis

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The stages table: a row per packet per stage (docs/tables.md)."""
        return _frame(tables.stages_table(self.analysis))

    @cached_property
    def rules(self) -> pl.DataFrame:
        """The rules table (docs/tables.md)."""
        return _frame(tables.rules_table(self.analysis))

    @cached_property
    def fates(self) -> pl.DataFrame:
        """Packets by path and fate; they add up to all trajectories."""
        frame = _frame(tables.trajectories_table(self.analysis))
        return frame.group_by("path", "fate").len("packets").sort("path", "fate")

    @cached_property
    def ledger(self) -> pl.DataFrame:
        """The ledger: everything that was counted and not used (docs/tables.md)."""
        return _frame(tables.ledger_table(self.analysis))

    def _line(self) -> str:
        fate = self.analysis.verdicts.fate
        counts = ((word, int((fate == code).sum())) for code, word in enumerate(FATES))
        return ", ".join(f"{count:,} {word}" for word, count in counts if count) or "no packets"


@dataclass(frozen=True, repr=False)
class LatencyPlots:
    """Plots of the latency of a run."""

    analysis: Analysis

    def ecdf(self, path: str | None = None, ax: Axes | None = None) -> Axes:
        """ECDF of each stage of a path (the first path by default), on the given axes or new ones."""
        from pktrace.report.plots import draw_ecdf

        return draw_ecdf(ax if ax is not None else _axes(), self.analysis, self._path(path))

    def waterfall(self, path: str | None = None, ax: Axes | None = None) -> Axes:
        """Mean of each stage of a path, one after the other."""
        from pktrace.report.plots import draw_waterfall

        return draw_waterfall(ax if ax is not None else _axes(), self.analysis, self._path(path))

    def __repr__(self) -> str:
        """The plots that there are."""
        return "<LatencyPlots: ecdf(), waterfall()>"

    def _path(self, name: str | None) -> int:
        names = [path.name for path in self.analysis.run.paths]
        if not names:
            raise ValueError("the run has no path")
        if name is None:
            return 0
        if name not in names:
            raise ValueError(f"there is no path {name!r}; paths are {', '.join(names)}")
        return names.index(name)


@dataclass(frozen=True, repr=False)
class Latency(_Shown):
    """Latency per stage. `frame`: the latency table as a polars frame; `plot`: its plots."""

    analysis: Analysis

    @cached_property
    def frame(self) -> pl.DataFrame:
        """A row per stage, and one end to end, per path (docs/tables.md)."""
        return _frame(tables.latency_table(self.analysis))

    @property
    def plot(self) -> LatencyPlots:
        """Plots as matplotlib Axes."""
        return LatencyPlots(self.analysis)

    def _line(self) -> str:
        paths = self.analysis.run.paths
        stages = sum(len(path.stage_numbers()) for path in paths)
        return f"{plural(stages, 'stage')} of {plural(len(paths), 'path')}"


def load_run(location: str | os.PathLike[str] | None = None, trust: bool = False) -> Run:
    """Read and check a run folder; without one, the example that comes with pktrace: a recorded service chain.

    With `trust`, links and names may lead out of the folder, and there are no limits on how much is in it.

    Raises:
        CallerError, RunFileError: with a one-line message.
    """
    return _load_run(_example() if location is None else location, trust)


def _example() -> Path:
    """The folder of the recorded run that comes with pktrace."""
    run_file = shipped_file("_example/run.toml", "fixtures/service-chain/run.toml")
    if run_file is None:
        raise CallerError("the example run is not installed with this pktrace; install it anew")
    return run_file.parent


def observe(run: Run) -> Observations:
    """Read and decode all captures of a run."""
    return Observations(observing.observe_run(run))


def follow(observations: Observations) -> Trajectories:
    """Follow every packet along its path."""
    return Trajectories(follow_packets(observations.values))


def judge(trajectories: Trajectories) -> Verdicts:
    """Judge every packet at every stage."""
    return Verdicts(trajectories.analysis)


def stage_latency(trajectories: Trajectories) -> Latency:
    """Latency of every stage and end to end."""
    return Latency(trajectories.analysis)


def _axes() -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
