"""Plots: the distribution of latency per stage (ECDF), and the time of each stage (waterfall). The same bytes each
time.

Lost packets count as infinite: an ECDF that ends below 1 shows the share that was lost (RFC 7679 5).
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pktrace.analysis.analysis import Analysis
from pktrace.latency.stages import StageLatency, percentile
from pktrace.surroundings import elsewhere
from pktrace.visible import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito), with a line style each, so that black-and-white prints can be read too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MOST_STEPS = 600
_MOST_PATHS = 8
_SETTINGS: Any = {"svg.hashsalt": "pktrace", "svg.fonttype": "path", "font.size": 9}
_NO_DATE = {"svg": {"Date": None}, "png": {"Software": None}}


def draw_all(analysis: Analysis, create: Callable[[str], BinaryIO]) -> list[str]:
    """Write every plot as SVG and PNG.

    Args:
        create: makes a file of this name.

    Returns:
        Names of the files written: ecdf and waterfall; none if no stage has a latency.
    """
    mpl = _matplotlib()
    # Settings of the caller, and of a file in the current folder, are ignored: the plots have the same bytes each time.
    settings = {**mpl.rcParamsDefault, **_SETTINGS}
    settings.pop("backend", None)
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks, axes without extent: nothing to be done about
        written = []
        for name, figure in (("ecdf", ecdf_figure(analysis)), ("waterfall", waterfall_figure(analysis))):
            if figure is not None:
                written.extend(_save(figure, name, create))
        return written


def _matplotlib() -> Any:
    """matplotlib, without a `matplotlibrc` of the current folder or of $HOME, which may be somebody else's.

    A `matplotlibrc` may have text set by TeX, which runs programs, and its values are evaluated while it is read.
    """
    if "matplotlib" not in sys.modules:
        os.environ["MATPLOTLIBRC"] = os.devnull
        with elsewhere():
            import matplotlib  # noqa: F401
    import matplotlib as mpl

    return mpl


def _save(figure: Figure, stem: str, create: Callable[[str], BinaryIO]) -> list[str]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = []
    for suffix, canvas in (("svg", FigureCanvasSVG), ("png", FigureCanvasAgg)):
        with create(f"{stem}.{suffix}") as file:
            canvas(figure).print_figure(file, format=suffix, metadata=_NO_DATE[suffix], dpi=110)
        written.append(f"{stem}.{suffix}")
    return written


def _colour(analysis: Analysis, stage: str) -> str:
    """One colour per stage name in all panels."""
    names = list(dict.fromkeys(latency.name for latency in analysis.latencies if latency.stage is not None))
    return _COLOURS[names.index(stage) % len(_COLOURS)]


def _with_latency(analysis: Analysis) -> list[int]:
    """Paths with any latency, the first few of them."""
    found = sorted({latency.path for latency in analysis.latencies if len(latency.values)})
    return found[:_MOST_PATHS]


def _grid(
    title: str, paths: int, width: float, height: float, left: float, right: float = 0.12
) -> tuple[Figure, list[Axes]]:
    """Panels of `width` x `height` inches in two columns, with fixed margins: a layout engine would draw twice."""
    from matplotlib.figure import Figure

    columns = min(2, paths)
    rows = math.ceil(paths / columns)
    below, above, heading = 0.48, 0.28, 0.3
    whole = (width * columns, height * rows + heading)
    figure = Figure(figsize=whole)
    size = min(10.0, 115 * whole[0] / max(1, len(title)))  # a letter is about 0.086 inches wide at 10 points
    title = visible(title)
    figure.text(0.1 / whole[0], 1 - 0.1 / whole[1], title, va="top", fontsize=size, weight="bold", parse_math=False)
    axes = []
    for number in range(paths):
        row, column = divmod(number, columns)
        x, y = column * width + left, whole[1] - heading - (row + 1) * height + below
        axes.append(
            figure.add_axes(
                (
                    x / whole[0],
                    y / whole[1],
                    (width - left - right) / whole[0],
                    (height - below - above) / whole[1],
                )
            )
        )
    return figure, axes


def ecdf_figure(analysis: Analysis) -> Figure | None:
    """One panel per path with the ECDF of each stage; None if no stage has a latency."""
    paths = _with_latency(analysis)
    if not paths:
        return None
    title = f"{analysis.run.name}: latency per stage (ECDF); a curve that ends below 1 lost the rest"
    figure, axes = _grid(title, len(paths), 6.2, 3.2, 0.65, 1.75)
    for number, ax in zip(paths, axes, strict=True):
        draw_ecdf(ax, analysis, number)
    return figure


def draw_ecdf(ax: Axes, analysis: Analysis, path: int) -> Axes:
    """ECDF of the latency of each stage of one path, x logarithmic in µs."""
    drawn = [latency for latency in analysis.latencies if latency.path == path and len(latency.values)]
    if len(drawn) == 2:
        drawn = drawn[:1]  # a single stage is the whole way
    floor = min(
        (int(latency.values[latency.values > 0][0]) for latency in drawn if (latency.values > 0).any()), default=1
    )
    for order, latency in enumerate(drawn):
        x, y = _steps(latency)
        whole = latency.stage is None
        ax.step(
            np.maximum(x, floor / 2) / 1000 if (x <= 0).any() else x / 1000,
            y,
            where="post",
            color="0.35" if whole else _colour(analysis, latency.name),
            linestyle=_STYLES[order % len(_STYLES)] if not whole else (0, (1, 1)),
            linewidth=1.0 if whole else 1.5,
            label=str(order),
        )
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("latency, µs")
    ax.set_ylabel("share of packets")
    ax.set_title(visible(analysis.run.paths[path].name), parse_math=False, fontsize=10)
    _microsecond_ticks(ax)
    ax.set_yticks((0, 0.25, 0.5, 0.75, 1))
    ax.grid(True, which="major", color="0.9", linewidth=0.6)
    # Beside the panel: inside it, some curve would always be hidden.
    legend = ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=7, frameon=False)
    for text, latency in zip(legend.get_texts(), drawn, strict=True):
        # Not as the label of the curve: one that begins with an underscore would be left out.
        lost = f", lost {latency.lost:,}" if latency.lost else ""
        text.set(text=f"{visible(latency.name)}\nN {len(latency.values):,}{lost}", parse_math=False)
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
    """One panel per path: the means of its stages one after the other, so the last bar ends at the mean of the whole
    way.
    """
    paths = [number for number in _with_latency(analysis) if _stages_of(analysis, number)]
    # The share of a single stage is always the whole: such paths are drawn only if there are no others.
    paths = [number for number in paths if len(_stages_of(analysis, number)) > 1] or paths
    if not paths:
        return None
    most = max(len(_stages_of(analysis, number)) for number in paths)
    title = f"{analysis.run.name}: where the time goes (mean per stage; hatched: packets that skip the detour)"
    longest = max(len(latency.name) for number in paths for latency in _stages_of(analysis, number))
    figure, axes = _grid(title, len(paths), 5.6, 0.8 + 0.3 * most, min(2.5, 0.25 + 0.075 * longest))
    for number, ax in zip(paths, axes, strict=True):
        draw_waterfall(ax, analysis, number, most)
    return figure


def _stages_of(analysis: Analysis, path: int) -> list[StageLatency]:
    return [
        latency
        for latency in analysis.latencies
        if latency.path == path and latency.stage is not None and len(latency.values)
    ]


def draw_waterfall(ax: Axes, analysis: Analysis, path: int, most: int | None = None) -> Axes:
    """Mean of each stage, each bar beginning where the one before ends; the bypass beside the stages it replaces.

    `most` bars fit the panel, so that bars of panels side by side are equally thick.
    """
    way = analysis.run.paths[path]
    stages = _stages_of(analysis, path)
    begin: dict[int, float] = {}
    most = max(len(stages), 3) if most is None else most
    ends = []
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
            color=_colour(analysis, latency.name),
            hatch="////" if bypass else None,
            edgecolor="white" if bypass else _colour(analysis, latency.name),
            linewidth=0 if bypass else 1.2,  # so that the shortest stage still shows
        )
        ends.append(left + mean)
        median = percentile(latency.values, latency.lost, 50, 100)
        ax.annotate(
            f" {mean:,.1f} (median {median / 1000:,.1f})" if median is not None else f" {mean:,.1f}",
            (left + mean, order),
            va="center",
            fontsize=7,
        )
    ax.set_yticks(range(len(stages)), [visible(latency.name) for latency in stages], parse_math=False)
    ax.set_ylim(most - 0.4, -0.6)
    ax.set_xlim(0, 1.45 * max(reached, max(ends)))
    ax.locator_params(axis="x", nbins=6)
    ax.set_xlabel("mean latency, µs; medians do not add up")
    ax.set_title(visible(way.name), parse_math=False, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _microsecond_ticks(ax: Axes) -> None:
    """Ticks written out, at 1, 2 and 5 of each decade if there are few decades; powers would be set as TeX."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = ax.get_xlim()
    decades = math.log10(high / low)
    if decades < 0.7:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    else:
        ax.xaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,), numticks=20))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
