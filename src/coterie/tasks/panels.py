"""Parts that a task adds to a run's report: figures, tables and image sliders. The report lays them out without knowing their content."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


@dataclass(frozen=True)
class Table:
    """Attributes:
    head: headers of the columns.
    rows: rows of cells, as shown.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Slider:
    """Two images of the same size, one over the other, with a border that the reader can drag.

    Attributes:
        over, under: PNG files.
        label: what is on the left and on the right, in plain text.
    """

    over: Path
    under: Path
    label: str


@dataclass(frozen=True)
class Panel:
    """One section of a report.

    Attributes:
        title: the heading.
        text: what the panel shows, in a sentence or two of plain text; may be empty.
        pictures: matplotlib figures, in order, drawn with matplotlib's defaults, which the report sets to match the page.
        table: table below the figures; None for none.
        sliders: image sliders above the figures.
    """

    title: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    table: Table | None = field(default=None)
    sliders: tuple[Slider, ...] = ()
