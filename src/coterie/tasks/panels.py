"""What a task adds to a run's report: pictures and tables that the report lays out without knowing what they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


@dataclass(frozen=True)
class Table:
    """Attributes:
    head: of the columns.
    rows: of cells, as they are shown.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Slider:
    """Two pictures of one size, one over the other, whose border the reader draws.

    Attributes:
        over, under: PNG files.
        label: what is left and what is right, in plain text.
    """

    over: Path
    under: Path
    label: str


@dataclass(frozen=True)
class Panel:
    """One part of a report's page, below a heading.

    Attributes:
        title: the heading.
        text: what is seen here, in a sentence or two of plain text; empty for none.
        pictures: matplotlib figures, one after the other, drawn with its defaults: the report sets these, so that colours suit the page.
        table: shown below them; None for none.
        sliders: shown above them.
    """

    title: str
    text: str = ""
    pictures: tuple[Picture, ...] = ()
    table: Table | None = field(default=None)
    sliders: tuple[Slider, ...] = ()
