from __future__ import annotations

import re

import numpy as np
import pytest

from coterie.report.figures import MAX_POINTS, Line, line_chart, reliability_chart, student_colour
from coterie.report.predictions import Reliability, reliability


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


def reliability_of(counts: list[int], accuracies: list[float]) -> Reliability:
    """Predictions whose confidence is the middle of a bin, as many as ``counts`` in each, of which that share is right."""
    bins = len(counts)
    logits, labels = [], []
    for place, (count, accuracy) in enumerate(zip(counts, accuracies, strict=True)):
        confidence = (place + 0.5) / bins
        others = [(1 - confidence) / 999] * 999
        for number in range(count):
            logits.append(np.log([confidence, *others]))
            labels.append(0 if number < round(count * accuracy) else 1)
    return reliability(np.array(logits, np.float32), np.array(labels), bins)


def test_bars_of_few_samples_are_hollow() -> None:
    bins = reliability_of([0, 3, 9, 10, 200], [0, 1, 0.5, 0.5, 0.9])
    assert bins.counts.tolist() == [0, 3, 9, 10, 200]
    chart = reliability_chart(bins, "five bins")
    filled = re.findall(r'style="fill: var\(--accent\)', chart)
    hollow = re.findall(r'style="fill: none; opacity[^"]*stroke: var\(--accent\)', chart)
    assert (len(filled), len(hollow)) == (2, 2)


def test_the_interval_of_three_right_answers_is_wide() -> None:
    """Wilson's, by its formula."""
    bins = reliability_of([3, 0, 200], [1, 0, 0.9])
    z = 1.959964
    for place, count, share in ((0, 3, 1.0), (2, 200, 0.9)):
        middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
        half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
        assert bins.interval[:, place] == pytest.approx([middle - half, middle + half], abs=1e-4)
    assert np.isnan(bins.interval[:, 1]).all()
    assert bins.interval[0, 0] < 0.5


def test_dollar_signs_in_a_label_are_no_formula():
    from coterie.report.comparison_figures import forest

    chart = forest([(r"a$\frac{b$", 0.01, (0.0, 0.02))], "differences", "top-1")
    assert r"a$\frac{b$" in chart
