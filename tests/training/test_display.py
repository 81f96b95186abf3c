from __future__ import annotations

import io
import re
import sys
import types

import pytest
from rich.console import Console

from coterie.tasks.figures import CLASSIFICATION, Figure
from coterie.training import display as module
from coterie.training.display import Display, describe_figures, stderr_console

FIGURES = {
    "students": [{"top1": 0.5}, {"top1": 0.7}],
    "mean_student": {"top1": 0.6},
    "ensemble": {"method": {"top1": 0.75}},
}

SAID = describe_figures(FIGURES, None, CLASSIFICATION[0])


def shown(display: Display, width: int = 80, terminal: bool = False) -> io.StringIO:
    file = io.StringIO()
    display.console = Console(file=file, width=width, force_terminal=terminal, color_system=None, _environ={})
    return file


@pytest.mark.parametrize(
    ("losses", "factor", "expected"),
    [
        ({"label": 7.68, "distillation": 10.12}, 4.0, "label loss 1.920 (sum of all terms 17.8)"),
        ({"label": 1.92}, 1.0, "label loss 1.920"),
        ({"label": 7.68}, 4.0, "label loss 1.920 (sum of all terms 7.68)"),
        ({"label": 0.0, "distillation": 2.5}, 0.0, "sum of all loss terms 2.5"),
        ({"own": 1.5, "other": 1.0}, 4.0, "sum of all loss terms 2.5"),
    ],
)
def test_the_label_loss_is_a_students(losses, factor, expected):
    display = Display(10, 2)
    file = shown(display)
    display.losses(losses, factor)
    display.epoch(0)
    assert file.getvalue() == f"epoch 1/2  {expected}\n"


@pytest.mark.parametrize(("leader", "whose"), [(None, "the mean student 60.00%"), (1, "the leader, student 1 70.00%")])
def test_the_validation_figure_is_the_one_to_compare_by(leader, whose):
    display = Display(10, 2)
    file = shown(display)
    display.epoch(0, describe_figures(FIGURES, leader, CLASSIFICATION[0]))
    assert file.getvalue() == f"epoch 1/2  validation top-1 of {whose}, of the ensemble 75.00%\n"


def test_a_lone_network_has_no_ensemble():
    display = Display(10, 2)
    file = shown(display)
    display.epoch(1, describe_figures({**FIGURES, "students": [{"top1": 0.5}]}, None, CLASSIFICATION[0]))
    assert file.getvalue() == "epoch 2/2  validation top-1 of the network 50.00%\n"


def test_a_figure_that_is_no_share_is_shown_as_its_task_says():
    own = {"loss": 2.345678}
    figures = {"students": [own, own], "mean_student": own}
    assert (
        describe_figures(figures, None, Figure("loss", "loss", "lower", ".3f"))
        == "validation loss of the mean student 2.346"
    )


def test_a_narrow_terminal_has_two_lines_and_a_file_one():
    for terminal, lines in ((True, 2), (False, 1)):
        display = Display(10, 2)
        file = shown(display, terminal=terminal)
        display.losses({"label": 7.68, "distillation": 10.12}, 4.0)
        display.epoch(0, SAID)
        assert len(file.getvalue().splitlines()) == lines
    assert "17.8)  validation top-1" in file.getvalue()


def test_a_terminal_shows_epoch_rate_time_left_and_loss(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    display = Display(20, 2, samples=1000)
    file = shown(display, terminal=True)
    display.losses({"label": 1.5}, 1.0)
    with display:
        for step in range(1, 13):
            display.step(step)
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", file.getvalue())
    last = [line for line in re.split(r"[\r\n]", plain) if line.strip()][-1]
    assert re.fullmatch(r"epoch 2/2 [━╸╺ ]+ \d+ images/s +\d+ s left +label loss 1\.500 *", last), last
    assert len(last) <= 80


def test_quiet_says_nothing(capsys):
    with Display(10, 2, quiet=True) as display:
        display.step(1)
        display.note("a note")
        display.epoch(0, SAID)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def notebook(monkeypatch):
    """Rich's signs of a notebook: IPython's shell in builtins, its display, and where asked for a widget."""
    displayed: list[object] = []

    class ZMQInteractiveShell:
        pass

    class Output:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def clear_output(self, wait):
            displayed.append("cleared")

        def close(self):
            displayed.append("closed")

    def start(widgets: bool) -> list[object]:
        monkeypatch.setattr("rich.console.get_ipython", ZMQInteractiveShell, raising=False)
        ipython, shown = types.ModuleType("IPython"), types.ModuleType("IPython.display")
        shown.display = lambda *objects, **_: displayed.extend(objects)
        ipython.display = shown
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", shown)
        if widgets:
            module_of_widgets = types.ModuleType("ipywidgets")
            module_of_widgets.Output = Output
            monkeypatch.setitem(sys.modules, "ipywidgets", module_of_widgets)
        monkeypatch.setattr("coterie.training.display.importlib.util.find_spec", lambda name: True if widgets else None)
        return displayed

    return start


def test_a_notebook_with_widgets_has_a_line_that_moves(notebook):
    displayed = notebook(widgets=True)
    display = Display(10, 2, samples=100)
    assert display.console.is_jupyter
    with display:
        assert display.bar is not None
        for step in range(1, 6):
            display.step(step)
        display.epoch(0, SAID)
    assert "cleared" in displayed  # drawn again in its place
    assert "closed" in displayed
    assert len(displayed) > 3


def test_a_notebook_without_widgets_has_plain_lines(notebook, capsys, recwarn):
    notebook(widgets=False)
    display = Display(10, 2, samples=100)
    with display:
        assert display.bar is None
        display.step(1)
        display.epoch(0, SAID)
    assert "validation top-1 of the mean student 60.00%" in capsys.readouterr().out
    assert not recwarn.list
    assert not stderr_console().is_jupyter
