from __future__ import annotations

import html
import importlib.util
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from coterie.errors import CoterieError
from coterie.metrics import classification_figures
from coterie.metrics.notable import most_disputed
from coterie.report import write_report

spec = importlib.util.spec_from_file_location("report_conftest", Path(__file__).with_name("conftest.py"))
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)
fabricate_logits = conftest.fabricate_logits

MakeRun = Callable[..., Path]
SECTIONS = [
    "trained",
    "figures",
    "training",
    "calibration",
    "diversity",
    "attention",
    "classes",
    "confusion",
    "gallery",
    "recipe",
]
VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


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
    assert (
        f"Student {deployed['student']} is deployed as of the last epoch (4): no other student is better." in page.text
    )
    for term in ["label", "ensemble_label", "distillation", "diversity", "learning rate"]:
        assert term in page.text
    saved = load_file(run / "predictions.safetensors")
    for logits in [saved["logits"][deployed["student"]], saved["ensemble"]]:
        drawn = classification_figures(torch.as_tensor(logits).float(), torch.as_tensor(saved["labels"]))
        assert f"accuracy {100 * drawn['top1']:.2f} %, ECE {100 * drawn['ece']:.2f} %" in page.text
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
    assert len(charts) == 2 + 5 + 2 + 2 + 1
    assert all(chart["role"] == "img" and len(chart["aria-label"] or "") > 20 for chart in charts)
    assert all((image["alt"] or "").startswith("Image ") for image in page.all("img"))
    assert len(page.all("img")) == 2 * 24
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
    assert "Student 0 is deployed as of the last epoch (4): there is no validation split to choose on." in page.text
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


@pytest.mark.slow
def test_a_hundred_classes_stay_small_and_labelled(make_run: MakeRun) -> None:
    path = write_report(make_run(classes=100, samples=1000, epochs=2))
    page = Page(path)
    assert path.stat().st_size < 600_000
    assert page.text.count("class_57") >= 2  # its row and its column
    assert "classes that are often confused are neighbours" in page.text


@pytest.mark.slow
def test_a_thousand_classes_show_those_with_the_most_errors(make_run: MakeRun) -> None:
    path = write_report(make_run(classes=1000, samples=1000, students=2, epochs=1))
    assert "the 100 of 1000 with the most errors" in Page(path).text
    assert path.stat().st_size < 1_500_000


@pytest.mark.fast_for("9-False", "10-True")
@pytest.mark.parametrize(("classes", "shown"), [(2, False), (9, False), (10, True)])
def test_top5_is_shown_from_ten_classes_on(make_run: MakeRun, classes: int, shown: bool) -> None:
    page = Page(write_report(make_run(classes=classes, samples=60, epochs=1)))
    assert ("Top-5" in page.text) == shown


def test_every_class_has_its_figures_and_can_be_sorted(make_run: MakeRun) -> None:
    run = make_run(classes=12, samples=120, epochs=1)
    page = Page(write_report(run))
    summary = json.loads((run / "summary.json").read_text())
    assert f"{100 * summary['deployed']['balanced_accuracy']:.2f} %" in page.text
    for each in summary["per_class"]:
        row = page.html[page.html.index(f'<th scope="row">{each["name"]}</th>') :].partition("</tr>")[0]
        values = re.findall(r">([\d.–]+)</td>", row)
        shares = ["–" if each[key] is None else f"{100 * each[key]:.1f}" for key in ("recall", "precision", "f1")]
        assert values == [*shares, str(each["support"])]
    offered = [each["value"] for each in page.all("input") if each.get("name") == "sort"]
    for key in offered:
        places = [int(place) for place in re.findall(rf"--{key}: (\d+);", page.html)]
        assert sorted(places) == list(range(12))
        assert key == "f1" or f'[value="{key}"]:checked' in page.html
    f1 = [each["f1"] for each in summary["per_class"]]
    shown = re.findall(r'<th scope="row">(class_\d+)</th>', page.html)
    order = sorted(range(12), key=lambda number: 2.0 if f1[number] is None else f1[number])
    assert shown == [f"class_{number}" for number in order]


@pytest.mark.slow
def test_runs_that_did_not_note_their_classes_are_counted_from_the_predictions(make_run: MakeRun) -> None:
    """As they were before figures of every class and the gallery of errors were kept."""
    run = make_run(epochs=1)
    expected = Page(write_report(run)).html
    summary = json.loads((run / "summary.json").read_text())
    del summary["per_class"], summary["deployed"]["balanced_accuracy"]
    (run / "summary.json").write_text(json.dumps(summary))
    page = Page(write_report(run))
    tables = [re.search(r'<table class="classes">.*?</table>', html, re.DOTALL) for html in (expected, page.html)]
    assert tables[0] is not None
    assert tables[0][0] == tables[1][0]
    logits, labels = fabricate_logits(3, 300, 10, 4.0, 100)
    disputed = set(most_disputed(logits.astype("float16").astype("float32"), labels).tolist())
    for image in (run / "gallery").glob("*.png"):
        if int(image.stem) not in disputed:
            image.unlink()
    page = Page(write_report(run))
    assert "Most confident errors" not in page.text
    assert len(page.all("img")) == 24


def test_the_most_confident_errors_say_what_was_taken_for_what(make_run: MakeRun) -> None:
    run = make_run(students=2, epochs=1)
    page = Page(write_report(run))
    summary, saved = json.loads((run / "summary.json").read_text()), load_file(run / "predictions.safetensors")
    student = summary["deployed"]["student"]
    probabilities = torch.as_tensor(saved["logits"][student]).float().softmax(-1).numpy()
    wrong = np.flatnonzero(probabilities.argmax(1) != saved["labels"])
    worst = wrong[np.argmax(probabilities[wrong].max(1))]
    said, true = int(probabilities[worst].argmax()), int(saved["labels"][worst])
    card = page.html[page.html.index('<dl class="error">') :].partition("</dl>")[0]
    assert re.findall(r"<dd[^>]*>([^<]*)</dd>", card) == [
        f"class_{true}", f"{100 * probabilities[worst, true]:.0f} %", f"class_{said}", f"{100 * probabilities[worst, said]:.0f} %",
    ]  # fmt: skip


@pytest.mark.parametrize(("weights", "said"), [([0.002, 0.996, 0.002], True), ([0.1, 0.6, 0.3], False)])
def test_attention_on_one_branch_is_remarked_on(make_run: MakeRun, weights: list[float], said: bool) -> None:
    run = make_run(epochs=1)
    summary = json.loads((run / "summary.json").read_text())
    summary["statistics"] = {"attention": weights, "attention_entropy": 0.02}
    (run / "summary.json").write_text(json.dumps(summary))
    text = Page(write_report(run)).text
    assert ("The attention has collapsed: branch 1 has 99.60 % of the weight" in text) == said
    assert ("collapsed" in text) == said


NAMES = ["plain_class", "grey_wolf_of_the_northern_forests_in_winter", "<b>bold", "$x_1$ cost", "Wölfe_日本語", "🦈", "a b", "o'clock%d & \"x\""]  # fmt: skip


@pytest.mark.slow
def test_class_names_are_shown_as_they_are(make_run: MakeRun) -> None:
    page = Page(write_report(make_run(classes=8, class_names=NAMES, epochs=1)))
    assert "plain_class" in page.text
    assert "plain class" not in page.text
    copied = html.unescape(re.sub("<[^>]*>", "", page.html[page.html.index('<table class="classes">') :]))
    assert all(name in copied for name in NAMES)


def test_names_are_text_not_markup(make_run: MakeRun) -> None:
    names = ["<script>alert(1)</script>", 'a"b', "c&d", *map(str, range(22))]
    page = Page(write_report(make_run(classes=25, class_names=names)))
    assert not page.all("script")
    assert "c&d" in page.text


@pytest.mark.slow
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
