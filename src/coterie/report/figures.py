"""Charts as inline SVG, drawn by matplotlib. Colours are CSS variables of the page, so that charts follow its light or dark scheme.

Legends are part of the page, not of the charts: they wrap on a narrow screen and use the same colours everywhere.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from coterie.report.predictions import FEW_SAMPLES, Reliability

STUDENT_COLOURS = 8  # variables --student-0 .. --student-7 of the page; more students repeat them
# matplotlib does not support CSS variables: these colours, which are not used otherwise, are replaced by them.
INK, MUTED, GRID, ACCENT = "#000101", "#000102", "#000103", "#000104"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", ACCENT: "--accent"} | {
    f"#0002{number:02x}": f"--student-{number}" for number in range(STUDENT_COLOURS)
}
STYLE: Any = {  # Any, because matplotlib's type for this lists every setting
    "svg.fonttype": "none",  # keeps text as text: searchable, readable by screen readers, in the page's font
    "font.size": 12,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": MUTED,
    "text.parse_math": False,  # labels are names: two dollar signs are not a formula
    "xtick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.size": 0,
    "axes.labelcolor": MUTED,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "axes.axisbelow": True,
}
MAX_POINTS = 400


class Line(NamedTuple):
    """One curve: positions ``x`` (epochs), values ``y``, a colour of this module and its line style."""

    x: ArrayLike
    y: ArrayLike
    colour: str = ACCENT
    dashed: bool = False
    width: float = 1.8


def student_colour(number: int) -> str:
    """Returns the colour of a student in every chart."""
    return f"#0002{number % STUDENT_COLOURS:02x}"


def line_chart(
    lines: Sequence[Line],
    description: str,
    *,
    width: int = 340,
    height: int = 215,
    percent: bool = False,
    bottom: float | None = None,
    level: float | None = None,
) -> Markup:
    """Draws curves over epochs.

    Args:
        lines: curves, drawn in this order, the last on top.
        description: alternative text.
        width: width of the chart, in units of about a pixel; the same for ``height``.
        height: see ``width``.
        percent: whether values are shares, shown in percent.
        bottom: lower limit of the vertical axis; None: below the smallest value.
        level: position of a dashed horizontal reference line.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, height)
        axes = figure.subplots()
        for line in lines:
            x, y = _thinned(np.asarray(line.x, float), np.asarray(line.y, float))
            marker = "o" if len(x) == 1 else ""
            style = (0, (4, 2.5)) if line.dashed else "-"
            axes.plot(x, y, color=line.colour, linestyle=style, linewidth=line.width, marker=marker, markersize=4)
        if level is not None:
            axes.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        if bottom is not None:
            axes.set_ylim(bottom=bottom)
        axes.set_xlim(0, max(1.0, *(float(np.max(line.x)) for line in lines)))
        axes.grid(axis="x", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{100 * value:g} %" if percent else f"{value:g}")
        )
        axes.set_xlabel("epoch", loc="right", fontsize=11)
        return as_svg(figure, description)


def reliability_chart(bins: Reliability, description: str) -> Markup:
    """Draws a reliability diagram: accuracy against confidence, above a histogram of the confidence.

    A bar of few samples is hollow, and every bar has its confidence interval: three right answers of three are not
    evidence of 100 %.
    """
    edges = np.linspace(0, 1, len(bins.counts) + 1)
    centres, width = (edges[:-1] + edges[1:]) / 2, 0.86 / len(bins.counts)
    few = (bins.counts > 0) & (bins.counts < FEW_SAMPLES)
    enough = bins.counts >= FEW_SAMPLES
    with matplotlib.rc_context(STYLE):
        figure = new_figure(400, 380)
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4.5, 1]})
        upper.bar(centres[enough], bins.accuracy[enough], width, color=ACCENT, alpha=0.75)
        upper.bar(centres[few], bins.accuracy[few], width, fill=False, edgecolor=ACCENT, linewidth=1, alpha=0.6)
        low, high = bins.interval
        upper.vlines(centres, low, high, color=INK, linewidth=1.1, alpha=0.75)
        upper.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=(0, (4, 2.5)))
        lower.bar(centres, bins.counts, width, color=MUTED, alpha=0.7)
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        lower.set(xlabel="confidence", ylabel="samples", ylim=(0, 1.05 * bins.counts.max()))
        for axes in (upper, lower):
            axes.grid(axis="x", visible=False)
            axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        upper.yaxis.set_major_formatter(FuncFormatter(_percent))
        upper.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        lower.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        figure.align_ylabels([upper, lower])
        return as_svg(figure, description)


def new_figure(width: int, height: int) -> Figure:
    """Creates a figure of this size in SVG units; Matplotlib's SVG has 72 units per inch."""
    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def _percent(value: float, _: object) -> str:
    return f"{100 * value:g} %"


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Averages neighbouring points of a curve that has more than ``MAX_POINTS``."""
    if len(x) <= MAX_POINTS:
        return x, y
    groups = np.array_split(np.arange(len(x)), MAX_POINTS)
    return np.array([x[group].mean() for group in groups]), np.array([y[group].mean() for group in groups])


def as_svg(figure: Figure, description: str) -> Markup:
    """Returns the figure as an SVG element of a page: without prologue, without ids that charts would share, with colours as CSS variables."""
    buffer = io.StringIO()
    # With the salt, ids of clip paths and markers differ between charts, but are equal in two reports of one run.
    with matplotlib.rc_context({"svg.hashsalt": description}):
        # `savefig` would draw twice, first for the layout only, which drawing computes anyway.
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    text = buffer.getvalue()
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"#000[12][0-9a-f]{2}", lambda found: f"var({_VARIABLES[found.group()]})", body)
    body = re.sub(r"\n\s*", "\n", body)
    return Markup(
        f'<svg class="chart" role="img" aria-label={quoteattr(description)} viewBox="0 0 {width} {height}" '
        f'style="max-width: {float(width) * 1.2:.0f}px">{body}'
    )
