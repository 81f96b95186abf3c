"""What a task adds to a run's report is drawn in the page's own looks, and is its own business."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from coterie.errors import CoterieError
from coterie.report import write_report
from coterie.run_folder import RunFolder
from coterie.tasks import TASKS
from coterie.tasks.panels import Panel, Table

MakeRun = Callable[..., Path]


def picture(curves: int) -> Figure:
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    for number in range(curves):
        axes.plot([0, 1], [number, number + 1], label=f"curve {number}")
    axes.legend()
    return figure


@pytest.fixture
def with_panels(monkeypatch):
    """``with_panels(function)``: the task of these runs shows what the function gives of a run's folder."""

    def install(function: Callable[[RunFolder], list[Panel]]) -> None:
        module = types.ModuleType("own_panels")
        module.own = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "own_panels", module)
        monkeypatch.setitem(
            TASKS, "image_classification", TASKS["image_classification"]._replace(panels="own_panels:own")
        )

    return install


def test_pictures_and_tables_stand_in_sections_of_their_own(make_run: MakeRun, with_panels) -> None:
    table = Table(("beginning", "goes on"), (("once <upon>", "a & time"), ("x" * 200, "2")))
    with_panels(
        lambda folder: [
            Panel("Loss by place", f"Of {folder.path.name}.", (picture(2), picture(1))),
            Panel("Words <b>", table=table),
        ]
    )
    plain = make_run("plain", epochs=1, samples=40)
    page = write_report(plain).read_text()
    first, second = re.findall(r'<section id="own-\d">.*?</section>', page, re.DOTALL)
    assert '<a href="#own-1">Loss by place</a>' in page
    assert '<p class="note">Of plain.</p>' in first
    assert first.count("<svg") == 2
    assert 'aria-label="Loss by place. Of plain."' in first
    assert "var(--student-0)" in first
    assert "var(--student-1)" in first
    assert "var(--muted)" in first  # texts and axes too
    assert not re.findall(r"#(?!own)[0-9a-f]{6}\b", re.sub(r'(xlink:)?href="#[^"]*"|url\(#[^)]*\)', "", first))
    assert "<svg" not in second
    assert "<h2>Words &lt;b&gt;</h2>" in second
    assert "<td>once &lt;upon&gt;</td><td>a &amp; time</td>" in second
    assert write_report(plain).read_text() == page


@pytest.mark.slow
def test_a_task_without_panels_has_no_such_section(make_run: MakeRun) -> None:
    assert "own-1" not in write_report(make_run(epochs=1, samples=40)).read_text()


@pytest.mark.fast_for("error0")
@pytest.mark.parametrize("error", [KeyError("curves"), TypeError("no list"), ValueError("no number")])
def test_what_a_task_cannot_read_is_damaged(make_run: MakeRun, with_panels, error: Exception) -> None:
    def damaged(folder: RunFolder) -> list[Panel]:
        raise error

    with_panels(damaged)
    with pytest.raises(CoterieError, match=r"gallery' is damaged: \w+Error"):
        write_report(make_run(epochs=1, samples=40))


def test_a_language_models_panels(make_run: MakeRun, with_panels) -> None:
    from coterie.tasks.language.panels import panels

    with_panels(panels)
    run = make_run(epochs=1, samples=40)
    curves = {"name": "student", "nll_by_position": [3.0, None, 2.0], "agreement_by_rank": [0.5, 0.25]}
    texts = {"student": "there was", "teacher": "upon a time"}
    kept = {
        "split": "test",
        "length": 12,
        "students": [curves],
        "teachers": [{**curves, "name": "teacher"}],
        "continuations": [{"prompt": "once", "text": "upon", "texts": texts}],
    }
    (run / "gallery" / "language.json").write_text(json.dumps(kept))
    page = write_report(run).read_text()
    for title in ("Agreement with the teacher by rank", "Loss by position in the row", "Continuations"):
        assert f"<h2>{title}</h2>" in page
    assert "<td>once</td><td>upon</td><td>there was</td><td>upon a time</td>" in page
    (run / "gallery" / "language.json").write_text(json.dumps({"split": "test"}))
    with pytest.raises(CoterieError, match="is damaged"):
        write_report(run)
