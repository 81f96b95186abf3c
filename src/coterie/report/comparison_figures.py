"""Charts of a comparison: differences with intervals, scatter plots against ensemble, diversity and cost, learning curves."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from coterie.report.figures import ACCENT, INK, MUTED, STYLE, as_svg, new_figure

# Values of the page's CSS variables in the light colour scheme, for charts in separate files.
LIGHT = {"--ink": "#1d2330", "--muted": "#5d6675", "--line": "#dfe3ea", "--accent": "#2f5fd0"}


KEY_WIDTH = 26  # characters in a line of the key
PLACES = (  # positions of a label relative to its point: offset in points, horizontal and vertical alignment
    ((5, 5), "left", "bottom"),  # diagonal positions first: error bars are horizontal and vertical
    ((-5, 5), "right", "bottom"),
    ((5, -5), "left", "top"),
    ((-5, -5), "right", "top"),
    ((7, 0), "left", "center"),
    ((-7, 0), "right", "center"),
    ((0, 7), "center", "bottom"),
    ((0, -7), "center", "top"),
)


class Point(NamedTuple):
    """An arm in a scatter plot: its number in the table, its name, and half-lengths of its error bars."""

    number: int
    label: str
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


def forest(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]], description: str, label: str, is_share: bool = True
) -> Markup:
    """Draws a forest plot: differences from the reference with their 95 % intervals, one row per arm.

    Args:
        rows: (label, mean difference, interval), from top to bottom.
        description: alternative text.
        label: name of the figure.
        is_share: whether the figure is a share, shown in percentage points.
    """
    labels = [_wrapped(label) for label, _, _ in rows]
    lines = max(label.count("\n") + 1 for label in labels)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(460, 60 + (10 + 15 * lines) * len(rows))
        axes = figure.subplots()
        for place, (_, mean, interval) in enumerate(rows):
            if interval is not None:
                axes.plot(interval, [place, place], color=ACCENT, linewidth=2)
            axes.plot([mean], [place], "o", color=ACCENT, markersize=6)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(rows)), labels, fontsize=10.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        if is_share:
            axes.xaxis.set_major_formatter(FuncFormatter(_points))
        what = f"points of {label}" if is_share else label
        axes.set_xlabel(f"{what}, 95 % interval over seeds", loc="right", fontsize=11)
        return as_svg(figure, description)


def _wrapped(label: str, width: int = 24) -> str:
    """Wraps a label to at most two lines."""
    lines = textwrap.wrap(label, width)
    if len(lines) > 2:
        lines = [lines[0], lines[1][: width - 1] + "…"]
    return "\n".join(lines) or label


def scatter(
    points: Sequence[Point],
    description: str,
    x: str,
    y: str,
    *,
    diagonal: bool = False,
    x_share: bool = True,
    y_share: bool = True,
) -> Markup:
    """Draws a scatter plot of arms, labelled by name or, if names would overlap, by number with a key below.

    Args:
        points: the arms.
        description: alternative text.
        x, y: labels of the axes.
        diagonal: whether to draw the line on which both values are equal.
        x_share, y_share: whether the figure on that axis is a share, shown in percent.
    """
    with matplotlib.rc_context(STYLE):
        shares = (x_share, y_share)
        named, free = _scatter(points, x, y, diagonal, shares, key=False)
        figure = named if free else _scatter(points, x, y, diagonal, shares, key=True)[0]
        return as_svg(figure, description)


def _scatter(
    points: Sequence[Point], x: str, y: str, diagonal: bool, shares: tuple[bool, bool], *, key: bool
) -> tuple[Figure, bool]:
    """Returns the figure, and whether every label found a free position."""
    rows = -(-len(points) // 2) if key else 0
    lines = max((_wrapped(point.label, KEY_WIDTH).count("\n") + 1 for point in points), default=1)
    below = 8 + 15 * lines * rows if key else 0
    figure = new_figure(440, 360 + below)
    axes = figure.subplots(2, 1, height_ratios=[360, below])[0] if key else figure.subplots()
    for point in points:
        colour = INK if point.reference else ACCENT
        axes.errorbar(
            point.x, point.y, point.y_error or None, point.x_error or None,
            fmt="o", color=colour, ecolor=MUTED, markersize=5, elinewidth=0.9,
        )  # fmt: skip
    axes.set_xlim(*axis_limits([(point.x, point.x_error) for point in points]))
    axes.set_ylim(*axis_limits([(point.y, point.y_error) for point in points]))
    if diagonal:
        low = max(axes.get_xlim()[0], axes.get_ylim()[0])
        high = min(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    for axis, is_share in zip((axes.xaxis, axes.yaxis), shares, strict=True):
        if is_share:
            axis.set_major_formatter(FuncFormatter(_percent))
    axes.set_xlabel(x, loc="right", fontsize=11)
    axes.set_ylabel(y, loc="top", fontsize=11)
    if key:
        _write_key(figure.axes[1], points, rows)
    return figure, _label(figure, axes, points, numbers=key)


def axis_limits(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns limits of an axis that shows all values with their error bars, each (value, half-length)."""
    low, high = min(value - error for value, error in values), max(value + error for value, error in values)
    margin = max(0.08 * (high - low), 0.002)
    return low - margin, high + margin


def _write_key(axes: Any, points: Sequence[Point], rows: int) -> None:
    """Writes the key, numbers and names in two columns, to an axes."""
    axes.axis("off")
    for place, point in enumerate(points):
        column, row = divmod(place, rows)
        across, down = 0.5 * column, 1 - row / rows
        colour = INK if point.reference else MUTED
        axes.text(across, down, str(point.number), transform=axes.transAxes, va="top", color=colour, fontsize=10)
        axes.text(
            across + 0.05, down, _wrapped(point.label, KEY_WIDTH), transform=axes.transAxes, va="top", color=colour, fontsize=10
        )  # fmt: skip


def _label(figure: Figure, axes: Any, points: Sequence[Point], *, numbers: bool) -> bool:
    """Write each point's name or number next to it, at the first free position; returns whether all labels found one."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    marks = axes.transData.transform([(point.x, point.y) for point in points])
    taken = [Bbox.from_extents(x - 7, y - 7, x + 7, y + 7) for x, y in marks]
    all_free = True
    for point, mark in zip(points, taken[: len(points)], strict=True):
        text = axes.annotate(
            str(point.number) if numbers else point.label, (point.x, point.y), xytext=(0, 0), textcoords="offset points",
            fontsize=10, color=INK if point.reference else MUTED,
        )  # fmt: skip
        found = None
        for offset, horizontal, vertical in PLACES:
            text.set(ha=horizontal, va=vertical)
            text.xyann = offset
            extent = text.get_window_extent()
            inside = frame.x0 <= extent.x0 and extent.x1 <= frame.x1 and frame.y0 <= extent.y0 and extent.y1 <= frame.y1
            if inside and not any(extent.overlaps(other) for other in taken if other is not mark):
                found = extent
                break
        if found is None:
            all_free = False
            offset, horizontal, vertical = PLACES[0]
            text.set(ha=horizontal, va=vertical)
            text.xyann = offset
            found = text.get_window_extent()
        taken.append(found)
    return all_free


def learning_curve(
    band: Band, reference: Band | None, description: str, limits: tuple[float, float], is_share: bool = True
) -> Markup:
    """Draws an arm's figure over epochs with a band of one standard deviation, and the reference as a dashed line.

    Args:
        band, reference: curves.
        description: alternative text.
        limits: limits of the vertical axis, the same for all arms.
        is_share: whether the figure is a share, shown in percent.
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
        if is_share:
            axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        return as_svg(figure, description)


def standalone(chart: Markup) -> str:
    """Returns a chart as the content of an SVG file, in light colours on white."""
    text = re.sub(r"var\((--[a-z0-9-]+)\)", lambda found: LIGHT[found[1]], str(chart))
    text = text.replace(
        "<svg ",
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" font-family="sans-serif" ',
        1,
    )
    return text.replace(">", '><rect width="100%" height="100%" fill="#ffffff"/>', 1)
