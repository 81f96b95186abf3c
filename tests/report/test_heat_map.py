from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from coterie.report.heat_map import heat_map, natural_width
from coterie.report.predictions import colour_depths


def drawing(classes: int, names: list[str] | None = None) -> tuple[str, np.ndarray]:
    counts = np.random.default_rng(classes).integers(0, 4, (classes, classes)) + 20 * np.eye(classes, dtype=int)
    return heat_map(counts, colour_depths(counts), names or [f"class {k}" for k in range(classes)], "a matrix"), counts


@pytest.mark.parametrize("classes", [2, 8, 20, 21, 41, 100])
def test_every_cell_is_drawn_once(classes: int) -> None:
    chart, counts = drawing(classes)
    cells = re.findall(r"M(\d+) (\d+)h", chart)
    assert sorted((int(row), int(column)) for column, row in cells) == [tuple(cell) for cell in np.argwhere(counts)]


@pytest.mark.parametrize(("classes", "counted"), [(2, True), (8, True), (40, True), (41, False), (100, False)])
def test_counts_stand_in_their_cells_where_there_is_room(classes: int, counted: bool) -> None:
    chart, counts = drawing(classes)
    numbers = [int(text) for text in re.findall(r'class="count"[^>]*>(\d+)<', chart)]
    assert numbers == ([count for count in counts.flatten() if count] if counted else [])


@pytest.mark.parametrize("classes", [2, 8, 20, 40, 100])
@pytest.mark.parametrize("length", [1, 10, 80])
def test_it_fits_a_page_or_says_how_wide_it_is(classes: int, length: int) -> None:
    names = [f"{number}".ljust(length, "m") for number in range(classes)]
    chart, _ = drawing(classes, names)
    box = [float(side) for side in re.search(r'viewBox="([^"]*)"', chart)[1].split()]
    assert box[:3] == [0, 0, pytest.approx(natural_width(names), abs=1)]
    assert not re.search(r"<svg[^>]* width=", chart)  # the page decides
    assert classes > 20 or box[2] < 1050
    field = re.search(r'class="field" x="(\d+)"', chart)
    assert int(field[1]) <= 200  # long names take no more


def test_names_are_whole_in_tooltips_and_markup_is_text() -> None:
    names = ["<b>", "日本語" * 30, "a" * 60, 'q"uote']
    chart, _ = drawing(4, names)
    titles = [each.text for each in ElementTree.fromstring(chart).iter("title")]
    assert sorted(titles) == sorted(names * 2)
    assert chart.count("…") == 4


def test_short_names_are_not_turned() -> None:
    assert "rotate" not in drawing(10, list("0123456789"))[0]
    assert drawing(10, [f"class {k}" for k in range(10)])[0].count("rotate") == 10
