from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coterie.errors import CoterieError
from coterie.report import write_report

MakeRun = Callable[..., Path]
SECTIONS = ["trained", "figures", "training", "calibration", "diversity", "attention", "confusion", "gallery", "recipe"]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and gathers what a test asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.ids: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def sections(self) -> list[str]:
        return [attributes["id"] or "" for tag, attributes in self.elements if tag == "section"]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for each, attributes in self.elements if each == tag]


def test_a_group_has_every_section_and_its_figures(make_run: MakeRun) -> None:
    run = make_run(students=3)
    path = write_report(run)
    assert path == run / "report.html"
    page, summary = Page(path), json.loads((run / "summary.json").read_text())
    assert page.sections == SECTIONS
    assert {attributes["href"] for attributes in page.all("a")} == {f"#{name}" for name in SECTIONS}
    for figures in [*summary["students"], summary["mean_student"], *summary["ensemble"].values()]:
        assert f"{100 * figures['top1']:.2f}" in page.text
        assert f"{figures['nll']:.4f}" in page.text
    deployed = summary["deployed"]
    assert f"The deployed student reaches {100 * deployed['top1']:.2f} % top-1 on 300 test images" in page.text
    assert f"Student {deployed['student']} is deployed as of the last epoch (4): it is the best of 3" in page.text
    for term in ["label", "ensemble_label", "distillation", "diversity", "learning rate"]:
        assert term in page.text
    for classifier in [deployed, summary["ensemble"]["method"]]:
        assert f"accuracy {100 * classifier['top1']:.2f} %, ECE {100 * classifier['ece']:.2f} %" in page.text
    assert "coterie train data=digits method=okdmde 'network.at=layer 3'" in page.text
    assert "temperature: 3.0" in page.text
    assert "0123456789abcdef" in page.text


def test_the_file_needs_nothing_else(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(students=2)))
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page.html)
    assert not page.all("script")
    assert not page.all("link")
    assert "@import" not in page.html
    assert not re.search(r"url\((?!#)", page.html)
    assert len(page.ids) == len(set(page.ids))
    assert all(re.fullmatch(r"M?[\w-]+", name) for name in page.ids)


def test_charts_and_images_are_described_and_coloured_by_the_page(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(students=3)))
    charts = page.all("svg")
    assert len(charts) == 2 + 5 + 2 + 2
    assert all(chart["role"] == "img" and len(chart["aria-label"] or "") > 20 for chart in charts)
    assert all((image["alt"] or "").startswith("Image ") for image in page.all("img"))
    assert len(page.all("img")) == 24
    body = page.html[page.html.index("</style>") :]
    assert not re.search(r"(?:fill|stroke): ?#", body)  # a colour of its own would be lost in the dark
    declared = set(re.findall(r"(--[\w-]+):", page.html))
    assert set(re.findall(r"var\((--[\w-]+)\)", page.html)) <= declared


def test_a_single_network_leaves_out_what_makes_no_sense(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(method="baseline", students=1)))
    assert page.sections == [name for name in SECTIONS if name not in {"diversity", "attention"}]
    assert "The network reaches" in page.text
    assert "Most confident errors" in page.text
    body = page.html[page.html.index("</style>") :]
    for word in ["Mean student", "nsemble", "isagree", "Student", "deployed student"]:
        assert word not in body


def test_without_a_validation_split(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(validation=False, method="independent")))
    assert "attention" not in page.sections
    assert (
        "There is no validation split, so nothing was chosen: student 0 is deployed as of the last epoch (4)."
        in page.text
    )
    assert "The same on the validation split" not in page.text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("interrupted", "Interrupted in epoch 4 of 8; coterie train --resume"),
        ("failed", "Failed in epoch 4 of 8: the loss term 'label' was not finite at step 80."),
        ("running", "Not finished: epoch 4 of 8"),
    ],
)
def test_a_run_that_did_not_finish(make_run: MakeRun, status: str, words: str) -> None:
    page = Page(write_report(make_run(status=status)))
    assert words in page.text
    assert "on 143 validation images" in page.text
    assert page.sections == ["trained", "figures", "training", "diversity", "attention", "recipe"]


def test_a_run_that_only_began(make_run: MakeRun) -> None:
    run = make_run(status="running")
    (run / "metrics.jsonl").unlink()
    assert Page(write_report(run)).sections == ["trained", "recipe"]


def test_a_hundred_classes_stay_small_and_labelled(make_run: MakeRun) -> None:
    path = write_report(make_run(classes=100, samples=1000, epochs=2))
    page = Page(path)
    assert path.stat().st_size < 600_000
    assert page.text.count("class 57") >= 2  # its row and its column
    assert "classes that are often confused are neighbours" in page.text


def test_a_thousand_classes_show_those_with_the_most_errors(make_run: MakeRun) -> None:
    path = write_report(make_run(classes=1000, samples=1000, students=2, epochs=1))
    assert "the 100 of 1000 with the most errors" in Page(path).text
    assert path.stat().st_size < 1_500_000


def test_two_classes_have_no_top5(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(classes=2, samples=60)))
    assert "Top-5" not in page.text


def test_names_are_text_not_markup(make_run: MakeRun) -> None:
    names = ["<script>alert(1)</script>", 'a"b', "c&d", *map(str, range(22))]
    page = Page(write_report(make_run(classes=25, class_names=names)))
    assert not page.all("script")
    assert "c&d" in page.text


def test_two_reports_of_one_run_are_equal_and_can_go_elsewhere(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    elsewhere = write_report(run, tmp_path / "page.html")
    assert elsewhere == tmp_path / "page.html"
    assert not (run / "report.html").exists()
    assert write_report(run).read_bytes() == elsewhere.read_bytes()
    assert not list(run.glob(".*"))


def test_a_damaged_image_is_named(make_run: MakeRun) -> None:
    run = make_run()
    image = next((run / "gallery").glob("*.png"))
    image.write_bytes(b"no image")
    with pytest.raises(CoterieError, match=image.name):
        write_report(run)
    assert not (run / "report.html").exists()
