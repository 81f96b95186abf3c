"""Draws a confusion matrix as a scalable SVG: one labelled row and column per class, with counts if there is room."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

LEVELS = 8  # of colour; the cells of one level form one path, which keeps 100 classes below 100 kB
LONGEST_NAME = 22  # in letters of medium width; longer names are truncated in the drawing, complete in its tooltips


class _Size(NamedTuple):
    """Side of a cell and height of a letter, in pixels at full size, and whether counts are shown."""

    cell: float
    letter: float
    counts: bool


def _size(classes: int) -> _Size:
    for most, size in (
        (6, _Size(56, 14, True)),
        (10, _Size(44, 13, True)),
        (20, _Size(34, 12, True)),
        (40, _Size(26, 12, True)),
    ):
        if classes <= most:
            return size
    return _Size(15, 12, False)


def heat_map(counts: NDArray[np.int64], depths: NDArray[np.float64], names: Sequence[str], description: str) -> Markup:
    """Draw the matrix: the diagonal in grey, errors in the accent colour, with the intensities in ``depths``.

    Args:
        counts: number of samples by true (rows) and predicted class (columns), [K, K].
        depths: colour intensities, [K, K] in 0..1.
        names: names of the classes, in the order of the rows.
        description: alternative text.
    """
    size = _size(len(names))
    pitch = size.cell
    margin = _margin(names, size)
    upright = margin <= pitch  # short names are not rotated
    top = size.letter + 12 if upright else margin
    side = pitch * len(names)
    parts = [
        f'<g transform="translate({margin} {top}) scale({pitch:g})">{_cells(depths, size.counts)}</g>',
        f'<text x="{margin - 8}" y="{top - 8}" text-anchor="end" class="axis">true ↓ · predicted →</text>'
        if margin > 150
        else "",
    ]
    for place, name in enumerate(names):
        middle = pitch * (place + 0.5)
        across, down = f"{margin + middle:.1f}", f"{top + middle:.1f}"
        text, title = escape(_cut(name)), f"<title>{escape(name)}</title>"
        turned = (
            f'x="{across}" y="{top - 8}" text-anchor="middle"'
            if upright
            else f'transform="translate({across} {top - 6}) rotate(-90)" dy="0.35em"'
        )
        parts.append(
            f'<text x="{margin - 6}" y="{down}" dy="0.35em" text-anchor="end">{text}{title}</text>'
            f"<text {turned}>{text}{title}</text>"
        )
    if size.counts:
        parts += [
            f'<text class="count" x="{margin + pitch * (column + 0.5):.1f}" y="{top + pitch * (row + 0.5):.1f}" '
            f'dy="0.35em" text-anchor="middle">{counts[row, column]}</text>'
            for row, column in np.argwhere(counts)
        ]
    return Markup(
        f'<svg class="heat-map" role="img" aria-label={quoteattr(description)} '
        f'viewBox="0 0 {margin + side:g} {top + side:g}" font-size="{size.letter}">'
        f'<rect class="field" x="{margin}" y="{top}" width="{side:g}" height="{side:g}"/>{"".join(parts)}</svg>'
    )


def natural_width(names: Sequence[str]) -> int:
    """Returns the full width of the drawing, in pixels."""
    size = _size(len(names))
    return round(_margin(names, size) + size.cell * len(names))


def _cells(depths: NDArray[np.float64], counts: bool) -> str:
    """Returns the cells as squares of side 1, one path per level and kind; with counts they are paler and slightly smaller, so that the counts are readable."""
    strongest = {"right": 0.4 if counts else 0.5, "wrong": 0.55 if counts else 1}
    side = 0.94 if counts else 1
    level_of = np.ceil(depths * LEVELS).astype(int)
    diagonal = np.eye(len(depths), dtype=bool)
    parts = []
    for level in range(1, LEVELS + 1):
        for kind, where in (("right", diagonal), ("wrong", ~diagonal)):
            cells = np.argwhere((level_of == level) & where)
            if len(cells):
                path = "".join(f"M{column} {row}h{side:g}v{side:g}h-{side:g}z" for row, column in cells)
                parts.append(f'<path class="{kind}" d="{path}" opacity="{strongest[kind] * level / LEVELS:.3g}"/>')
    return "".join(parts)


def _margin(names: Sequence[str], size: _Size) -> int:
    """Returns the space for the names: the width of a medium letter is a little more than half its height."""
    return 10 + round(max(_width(_cut(name)) for name in names) * size.letter * 0.58)


def _width(text: str) -> float:
    """Returns the width of a text in letters of medium width; overestimated, because the page's font is not known."""
    return sum(_letter_width(letter) for letter in text)


def _letter_width(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return 1.8
    if letter in "mwMW@%":
        return 1.75
    return 1.3 if letter.isupper() else 1.0


def _cut(name: str) -> str:
    if _width(name) <= LONGEST_NAME:
        return name
    while _width(name) > LONGEST_NAME - 1:
        name = name[:-1]
    return name.rstrip() + "…"
