from __future__ import annotations

import math

import pytest

from coterie.errors import CoterieError
from coterie.tasks import TASKS, find_part, sample_of
from coterie.tasks.figures import CLASSIFICATION, Figure, figures_of


@pytest.mark.parametrize("task", TASKS)
def test_what_every_task_declares_serves_loop_and_tables(task):
    figures = figures_of(task)
    assert figures[0].better is not None
    assert not figures[0].optional
    assert len({figure.key for figure in figures}) == len(figures)
    assert all(figure.show(0.5) and figure.difference(0.5) for figure in figures)
    assert sample_of(task)
    assert find_part(task, "figures") == figures


@pytest.mark.parametrize(
    ("better", "expected"), [("higher", (True, False)), ("lower", (False, True)), (None, (False, False))]
)
def test_the_better_of_two(better, expected):
    figure = Figure("own", "own", better)
    assert (figure.is_better(2.0, 1.0), figure.is_better(1.0, 2.0)) == expected
    assert not figure.is_better(1.0, 1.0)
    assert not figure.is_better(math.nan, 1.0)


def test_a_difference_of_shares_is_in_points():
    assert CLASSIFICATION[0].difference(-0.0123) == "-1.23"
    assert CLASSIFICATION[0].difference(-0.0123, signed=False) == "1.23"
    assert Figure("nll", "NLL", "lower").difference(0.0123) == "+0.0123"


def test_a_runs_word_imports_no_code():
    for task in ("somebodys:Task", "unheard_of", "", "json:JSONDecoder"):
        with pytest.raises(CoterieError, match="unknown task"):
            figures_of(task)
