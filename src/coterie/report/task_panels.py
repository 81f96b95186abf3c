"""Sections that a run's task adds to its report, in the style of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from cycler import cycler
from markupsafe import Markup

from coterie.errors import CoterieError
from coterie.report.figures import STUDENT_COLOURS, STYLE, as_svg, student_colour
from coterie.report.gallery import whole_image
from coterie.report.run import RunData
from coterie.tasks import find_part, find_row
from coterie.tasks.panels import Table

# Matplotlib's defaults while a task draws its panels. Curves use the students' colours, in order.
PANEL_STYLE = {
    **STYLE,
    "axes.prop_cycle": cycler(color=[student_colour(number) for number in range(STUDENT_COLOURS)]),
    "legend.frameon": False,
    "legend.fontsize": 10.5,
}


class SliderSection(NamedTuple):
    """Two images as data URLs, with a label."""

    over: str
    under: str
    label: str


class TaskSection(NamedTuple):
    """A section of the page.

    Attributes:
        title, text: heading and introduction.
        charts: the charts, in order.
        table: table below the charts, or None.
        sliders: image sliders above the charts.
    """

    title: str
    text: str
    charts: Sequence[Markup]
    table: Table | None
    sliders: Sequence[SliderSection] = ()


def task_sections(run: RunData) -> list[TaskSection]:
    """Draws the task's panels; empty if the task has none.

    Raises:
        CoterieError: a file that they are made from is damaged.
    """
    if not find_row(run.recipe.task).panels:
        return []
    with matplotlib.rc_context(PANEL_STYLE):
        try:
            panels = find_part(run.recipe.task, "panels")(run.folder)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError) as error:
            raise CoterieError(f"{str(run.folder.gallery)!r} is damaged: {error!r}"[:300]) from None
        return [
            TaskSection(
                panel.title,
                panel.text,
                [as_svg(picture, f"{panel.title}. {panel.text}".strip()) for picture in panel.pictures],
                panel.table,
                [SliderSection(whole_image(each.over), whole_image(each.under), each.label) for each in panel.sliders],
            )
            for panel in panels
        ]
