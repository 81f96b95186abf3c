from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coterie.running.train import TrainResult

FIGURES = {"top1": 0.5, "top5": 0.9, "nll": 1.5, "brier": 0.6, "ece": 0.1}


def summary_of(students: int = 2, classes: int = 10, leader: int | None = None, data: str = "digits"):
    each = [{**FIGURES, "top1": 0.5 + 0.2 * number} for number in range(students)]
    return {
        "method": "okdmde",
        "data": data,
        "network": "tiny_cifar",
        "epochs": 3,
        "split": "test",
        "class_names": [str(number) for number in range(classes)],
        "students": each,
        "mean_student": {**FIGURES, "top1": 0.6},
        "deployed": {"student": 0, **each[0]},
        "ensemble": {"method": {**FIGURES, "top1": 0.8}},
        "leader": leader,
    }


def write_metrics(path: Path, epochs: int) -> None:
    path.mkdir(exist_ok=True)
    ensembles = dict.fromkeys(("mean_probability", "mean_logit", "method"), FIGURES)
    group = {
        "students": [FIGURES] * 2,
        "deployed": {"student": 0, **FIGURES},
        "ensemble": ensembles,
        "diversity": {},
    }
    rows = [
        {"split": "validation", "epoch": number, "step": 10 * number, **group, "mean_student": {**FIGURES, "top1": 0.2 + 0.1 * number}}
        for number in range(epochs)
    ]  # fmt: skip
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Parts(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []  # every element is closed

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.elements.append((tag, dict(attributes)))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + " "

    def all(self, tag):
        return [attributes for each, attributes in self.elements if each == tag]


def test_a_prompt_shows_three_lines():
    assert repr(TrainResult(Path("runs/a"), summary_of())).splitlines() == [
        "okdmde on digits: tiny_cifar, 3 epochs",
        "test top-1 of the mean student 60.00%, of the deployed student 0 50.00%",
        "run in runs/a, report in runs/a/report.html",
    ]
    assert "the leader, student 1 70.00%" in repr(TrainResult(Path("a"), summary_of(leader=1)))
    assert "test top-1 of the network 50.00%\n" in repr(TrainResult(Path("a"), summary_of(students=1)))


def test_a_cell_shows_figures_curve_and_link(tmp_path):
    write_metrics(tmp_path / "run", 3)
    page = Parts(TrainResult(tmp_path / "run", summary_of())._repr_html_())
    for words in ("deployed student (0)", "the mean student, to compare by", "60.00%", "80.00%", "top-5", "1.5000"):
        assert words in page.text
    assert [each["href"] for each in page.all("a")] == [(tmp_path / "run" / "report.html").as_uri()]
    (line,) = page.all("polyline")
    points = [tuple(map(float, point.split(","))) for point in line["points"].split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)  # it rises: smaller is higher
    assert page.all("svg")[0]["aria-label"] == "validation top-1 of the mean student over epochs"


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_curve_needs_two_evaluations(tmp_path, epochs):
    write_metrics(tmp_path / "run", epochs)
    assert not Parts(TrainResult(tmp_path / "run", summary_of())._repr_html_()).all("svg")


def test_a_lone_network_of_few_classes(tmp_path):
    page = Parts(TrainResult(tmp_path / "run", summary_of(students=1, classes=3))._repr_html_())
    assert "ensemble" not in page.text
    assert "top-5" not in page.text


def test_a_damaged_file_costs_the_curve_only(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"split": 1}\n{}\n')
    page = Parts(TrainResult(tmp_path, summary_of())._repr_html_())
    assert not page.all("svg")
    assert "60.00%" in page.text


def test_names_are_escaped():
    result = TrainResult(Path('runs/a b"<i>'), summary_of(data="<script>alert(1)</script>\x1b[31m"))
    html = result._repr_html_()
    assert "<script" not in html
    assert "<i>" not in html
    assert "\x1b" not in html + repr(result)
    assert Parts(html).all("a") == [{"href": "runs/a%20b%22%3Ci%3E/report.html"}]
