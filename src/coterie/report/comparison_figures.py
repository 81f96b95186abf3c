"""Charts of a comparison: differences with their intervals, accuracy against ensemble, diversity and cost, learning curves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from coterie.report.figures import ACCENT, INK, MUTED, STYLE, as_svg, new_figure

# What the page's variables are in its light colours, for a chart that stands in a file of its own.
LIGHT = {"--ink": "#1d2330", "--muted": "#5d6675", "--line": "#dfe3ea", "--accent": "#2f5fd0"}


class Point(NamedTuple):
    """An arm in a plane, by its number in the table, with half-lengths of its error bars."""

    number: int
    x: float
    y: float
    x_error: float
    y_error: float
    reference: bool


class Band(NamedTuple):
    """A curve over epochs with the standard deviation over seeds, [E] each."""

    epochs: Sequence[float]
    mean: Sequence[float]
    deviation: Sequence[float]


def _percent(value: float, _: object) -> str:
    return f"{100 * value:g} %"


def _points(value: float, _: object) -> str:
    return f"{100 * value:+.1f}" if value else "0"


def forest(rows: Sequence[tuple[str, float, tuple[float, float] | None]], description: str) -> Markup:
    """Differences from the reference, one row an arm, with their 95 % intervals.

    Args:
        rows: (label, mean difference, interval), as shares, from top to bottom.
        description: what a reader who does not see the chart is told.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(640, 60 + 24 * len(rows))
        axes = figure.subplots()
        for place, (_, mean, interval) in enumerate(rows):
            if interval is not None:
                axes.plot(interval, [place, place], color=ACCENT, linewidth=2)
            axes.plot([mean], [place], "o", color=ACCENT, markersize=6)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(FuncFormatter(_points))
        axes.set_xlabel("points of top-1, 95 % interval over seeds", loc="right", fontsize=11)
        return as_svg(figure, description)


def scatter(
    points: Sequence[Point], description: str, x: str, y: str, *, diagonal: bool = False, x_share: bool = True
) -> Markup:
    """Arms in a plane by their numbers; bars are standard errors over seeds.

    Args:
        points: the arms.
        description: what a reader who does not see the chart is told.
        x, y: what the axes show.
        diagonal: draw where both are equal.
        x_share: the horizontal figure is a share, shown in percent.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(440, 360)
        axes = figure.subplots()
        for point in points:
            colour = INK if point.reference else ACCENT
            axes.errorbar(
                point.x, point.y, point.y_error or None, point.x_error or None,
                fmt="o", color=colour, ecolor=MUTED, markersize=5, elinewidth=0.7,
            )  # fmt: skip
        # By the points: intervals of few seeds are long, and would press everything together.
        axes.set_xlim(*_limits([point.x for point in points]))
        axes.set_ylim(*_limits([point.y for point in points]))
        _number(figure, axes, points)
        if diagonal:
            low = max(axes.get_xlim()[0], axes.get_ylim()[0])
            high = min(axes.get_xlim()[1], axes.get_ylim()[1])
            axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        if x_share:
            axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.set_xlabel(x, loc="right", fontsize=11)
        axes.set_ylabel(y, loc="top", fontsize=11)
        return as_svg(figure, description)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.01
    return low - margin, high + margin


def _number(figure: Figure, axes: Any, points: Sequence[Point]) -> None:
    """Write each point's number beside it, at the first of eight places that is free."""
    figure.draw_without_rendering()
    marks = axes.transData.transform([(point.x, point.y) for point in points]) if points else np.empty((0, 2))
    taken = [*marks]
    for point, mark in zip(points, marks, strict=True):
        places = [(8, 5), (-8, 5), (8, -9), (-8, -9), (0, 10), (0, -14), (14, -2), (-14, -2)]
        free = [place for place in places if all(np.hypot(*(mark + place - other)) > 9 for other in taken)]
        place = (free or places)[0]
        taken.append(mark + np.array(place))
        axes.annotate(
            str(point.number), (point.x, point.y), xytext=place, textcoords="offset points", fontsize=10,
            ha="center", va="center", color=INK if point.reference else MUTED,
        )  # fmt: skip


def learning_curve(band: Band, reference: Band | None, description: str, limits: tuple[float, float]) -> Markup:
    """An arm's accuracy over epochs with a band of one standard deviation; the reference dashed behind it.

    Args:
        band, reference: curves.
        description: what a reader who does not see the chart is told.
        limits: of the vertical axis, the same for all arms.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(250, 170)
        axes = figure.subplots()
        if reference is not None:
            axes.plot(reference.epochs, reference.mean, color=MUTED, linewidth=1.2, linestyle=(0, (4, 2.5)))
        mean, deviation = np.asarray(band.mean), np.asarray(band.deviation)
        axes.fill_between(band.epochs, mean - deviation, mean + deviation, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(band.epochs, mean, color=ACCENT, marker="o" if len(mean) < 4 else "", markersize=3)
        axes.set_ylim(*limits)
        axes.set_xlim(0, max(band.epochs))
        axes.grid(axis="x", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        return as_svg(figure, description)


def standalone(chart: Markup) -> str:
    """A chart as a file of its own, in light colours on white."""
    text = re.sub(r"var\((--[a-z0-9-]+)\)", lambda found: LIGHT[found[1]], str(chart))
    text = text.replace(
        "<svg ",
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" ',
        1,
    )
    return text.replace(">", '><rect width="100%" height="100%" fill="#ffffff"/>', 1)
