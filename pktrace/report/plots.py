"""Plots: the distribution of latency per stage (ECDF), and where the time goes (waterfall). The same bytes each time.

Lost packets count as infinite: an ECDF that ends below 1 shows the share that was lost (RFC 7679 5).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pktrace.findings.analysis import Analysis
from pktrace.latency.stages import StageLatency, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito), with a line style each, so that black-and-white prints can be read too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MOST_STEPS = 600
_MOST_PATHS = 8
_SETTINGS = {"svg.hashsalt": "pktrace", "svg.fonttype": "path", "font.size": 9}
_NO_DATE = {"svg": {"Date": None}, "png": {"Software": None}}


def draw_all(analysis: Analysis, folder: Path) -> list[Path]:
    """Write every plot as SVG and PNG.

    Returns:
        The files written: ecdf and waterfall; none where no stage has a latency.
    """
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        written = []
        for name, figure in (("ecdf", ecdf_figure(analysis)), ("waterfall", waterfall_figure(analysis))):
            if figure is not None:
                written.extend(_save(figure, folder / name))
        return written


def _save(figure: Figure, stem: Path) -> list[Path]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = []
    for suffix, canvas in (("svg", FigureCanvasSVG), ("png", FigureCanvasAgg)):
        path = stem.with_name(f"{stem.name}.{suffix}")
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            canvas(figure).print_figure(partial, format=suffix, metadata=_NO_DATE[suffix], dpi=110)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        written.append(path)
    return written


def _with_latency(analysis: Analysis) -> list[int]:
    """Paths with any latency, the first few of them."""
    found = sorted({latency.path for latency in analysis.latencies if len(latency.values)})
    return found[:_MOST_PATHS]


def _grid(paths: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(2, paths)
    rows = math.ceil(paths / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for spare in list(axes.flat)[paths:]:
        spare.remove()
    return figure, list(axes.flat)[:paths]


def ecdf_figure(analysis: Analysis) -> Figure | None:
    """One panel per path with the ECDF of each stage; None where no stage has a latency."""
    paths = _with_latency(analysis)
    if not paths:
        return None
    figure, axes = _grid(len(paths), 5.2, 3.4)
    for number, ax in zip(paths, axes, strict=True):
        draw_ecdf(ax, analysis, number)
    return figure


def draw_ecdf(ax: Axes, analysis: Analysis, path: int) -> Axes:
    """ECDF of the latency of each stage of one path, x logarithmic in µs."""
    drawn = [latency for latency in analysis.latencies if latency.path == path and len(latency.values)]
    floor = min((int(latency.values[latency.values > 0][0]) for latency in drawn if (latency.values > 0).any()), default=1)
    for order, latency in enumerate(drawn):
        x, y = _steps(latency)
        whole = latency.stage is None
        ax.step(
            np.maximum(x, floor / 2) / 1000 if (x <= 0).any() else x / 1000,
            y,
            where="post",
            color="0.35" if whole else _COLOURS[order % len(_COLOURS)],
            linestyle=_STYLES[order % len(_STYLES)] if not whole else (0, (1, 1)),
            linewidth=1.0 if whole else 1.5,
            label=f"{latency.name} (N {len(latency.values):,}{f', lost {latency.lost:,}' if latency.lost else ''})",
        )
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("latency, µs")
    ax.set_ylabel("share of packets, lost = never")
    ax.set_title(_plain(analysis.run.paths[path].name))
    ax.xaxis.set_major_formatter(_microsecond_ticks())
    ax.grid(True, which="major", color="0.9", linewidth=0.6)
    ax.legend(loc="lower right", fontsize=7, framealpha=0.9)
    return ax


def _steps(latency: StageLatency) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most 600 points of the ECDF, each an observed value with its exact share."""
    total = len(latency.values) + latency.lost
    index = np.arange(len(latency.values))
    if len(index) > _MOST_STEPS:
        index = np.unique(np.linspace(0, len(index) - 1, _MOST_STEPS).astype(np.int64))
    values = latency.values[index].astype(np.float64)
    return np.concatenate([values[:1], values]), np.concatenate([[0.0], (index + 1) / total])


def waterfall_figure(analysis: Analysis) -> Figure | None:
    """One panel per path: stage means end to end, so that the bar's end is the mean of the whole way."""
    paths = [number for number in _with_latency(analysis) if _stages_of(analysis, number)]
    if not paths:
        return None
    most = max(len(_stages_of(analysis, number)) for number in paths)
    figure, axes = _grid(len(paths), 5.2, 1.1 + 0.34 * most)
    for number, ax in zip(paths, axes, strict=True):
        draw_waterfall(ax, analysis, number)
    return figure


def _stages_of(analysis: Analysis, path: int) -> list[StageLatency]:
    return [
        latency
        for latency in analysis.latencies
        if latency.path == path and latency.stage is not None and len(latency.values)
    ]


def draw_waterfall(ax: Axes, analysis: Analysis, path: int) -> Axes:
    """Mean of each stage, each bar beginning where the one before ends; the bypass beside the stages it replaces."""
    way = analysis.run.paths[path]
    stages = _stages_of(analysis, path)
    begin: dict[int, float] = {}
    reached = 0.0
    for order, latency in enumerate(stages):
        mean = (latency.mean or 0.0) / 1000
        bypass = latency.stage == way.bypass
        left = begin.get(way.filter_input, 0.0) if bypass else reached
        if not bypass and latency.stage is not None:
            begin[latency.stage] = reached
            reached += mean
        ax.barh(
            order,
            mean,
            left=left,
            height=0.7,
            color=_COLOURS[order % len(_COLOURS)],
            hatch="///" if bypass else None,
            edgecolor="white",
        )
        median = percentile(latency.values, latency.lost, 50, 100)
        ax.annotate(
            f" {mean:,.1f} (median {median / 1000:,.1f})" if median is not None else f" {mean:,.1f}",
            (left + mean, order),
            va="center",
            fontsize=7,
        )
    ax.set_yticks(range(len(stages)), [_plain(latency.name) for latency in stages])
    ax.invert_yaxis()
    ax.margins(x=0.32)
    ax.set_xlim(left=0)
    ax.set_xlabel("mean latency, µs; medians do not add up")
    ax.set_title(_plain(way.name))
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _plain(text: str) -> str:
    """Names are not TeX: matplotlib reads what stands between dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _microsecond_ticks() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
