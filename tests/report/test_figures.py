from __future__ import annotations

import re

import numpy as np
import pytest

from coterie.report.figures import MAX_POINTS, Line, heat_map, line_chart, student_colour


def test_long_curves_are_thinned_by_means() -> None:
    x = np.arange(50_000) / 100
    chart = line_chart([Line(x, np.where(np.arange(50_000) % 2, 1.0, 3.0))], "noise")
    labels = set(re.findall(r">([\d.]+)</text>", chart))
    assert len(chart) < 100 * MAX_POINTS
    assert "2" in labels
    assert not labels & {"1", "1.5", "2.5", "3"}  # the axis would reach from 1 to 3 for single values


@pytest.mark.parametrize("number", [0, 7, 8, 63])
def test_students_keep_their_colour(number: int) -> None:
    chart = line_chart([Line([0, 1], [0, 1], student_colour(number))], "one student")
    assert f"var(--student-{number % 8})" in chart


def test_a_single_point_is_seen() -> None:
    ticks, marked = (line_chart([Line([1] * points, [3] * points)], "few").count("<use") for points in (2, 1))
    assert marked == ticks + 1


def test_the_heat_map_draws_every_cell_once() -> None:
    depths = np.array([[1, 0.3, 0], [0, 0.5, 1], [0.01, 0, 1]])
    chart = heat_map(depths, ["a", "b", "<c>"], "three classes")
    cells = re.findall(r"M(\d) (\d)h1v1h-1z", chart)
    assert sorted((int(row), int(column)) for column, row in cells) == [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0), (2, 2)]
    assert chart.count("&lt;c&gt;") == 2
