from __future__ import annotations

import csv
import importlib.util
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coterie.comparison.summary import summarise
from coterie.errors import CoterieError
from coterie.report.comparison import write_comparison_report

spec = importlib.util.spec_from_file_location(
    "comparison_conftest", Path(__file__).parents[1] / "comparison" / "conftest.py"
)
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)
make_runs = conftest.make_runs
ODD = 'a<b & "c"|d'


def write(folder: Path, runs: list[dict], reference: str = "baseline") -> Path:
    labels = list(dict.fromkeys(run["label"] for run in runs))
    comparison = {
        "title": "digits, tiny",
        "reference": reference,
        "seeds": sorted({run["seed"] for run in runs}),
        "shared_settings": {"training.epochs": 3},
        "arm_settings": {label: {"method.name": label} for label in labels},
        "runs": runs,
        **summarise(runs, reference),
    }
    folder.mkdir(exist_ok=True)
    (folder / "comparison.json").write_text(json.dumps(comparison))
    return write_comparison_report(folder)


class Outside(HTMLParser):
    """Notes what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in {"src", "href"} and not value.startswith("#")]
        if tag not in {"meta", "path", "rect", "use", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_the_page_is_whole_and_loads_nothing(tmp_path, make_runs, seeds):
    page = write(tmp_path / "c", make_runs({"baseline": 0.2, ODD: 0.23, "third": 0.22}, seeds)).read_text()
    parser = Outside()
    parser.feed(page)
    assert parser.loaded == []
    assert parser.open == []
    assert "a&lt;b &amp; " in page
    assert "a<b" not in page
    assert page.count('class="chart"') == 4 + 3
    assert ("no claim can be made" in page) == (seeds < 3)


def test_tables_hold_the_numbers_of_the_json(tmp_path, make_runs):
    folder = tmp_path / "c"
    write(folder, make_runs({"baseline": 0.2, ODD: 0.23}, 5))
    stored = json.loads((folder / "comparison.json").read_text())
    found = stored["methods"][ODD]["figures"]["primary.top1"]
    difference = stored["differences"]["primary.top1"][ODD]
    text = (folder / "comparison.md").read_text()
    assert f"{100 * found['mean']:.2f} ± {100 * found['standard_deviation']:.2f}" in text
    assert f"{100 * difference['mean']:+.2f} ± {100 * difference['standard_error']:.2f}" in text
    line = next(line for line in text.splitlines() if line.startswith("| a<b"))
    head = next(line for line in text.splitlines() if line.startswith("| arm"))
    assert line.replace("\\|", "").count("|") == head.count("|")
    rows = list(csv.DictReader((folder / "comparison.csv").open()))
    row = next(row for row in rows if row["arm"] == ODD and row["figure"] == "primary.top1")
    assert float(row["mean"]) == found["mean"]
    assert float(row["difference"]) == difference["mean"]
    assert float(row["p_holm"]) == difference["p_holm"]
    for chart in ("differences", "ensemble", "diversity", "cost"):
        drawing = (folder / "figures" / f"{chart}.svg").read_text()
        assert "var(" not in drawing


def test_fewer_than_three_seeds_show_no_p_value(tmp_path, make_runs):
    folder = tmp_path / "c"
    write(folder, make_runs({"baseline": 0.2, "other": 0.23}, 2))
    line = next(line for line in (folder / "comparison.md").read_text().splitlines() if line.startswith("| other"))
    assert line.split("|")[6:8] == ["  ", "  "]


def test_an_unfinished_comparison_has_a_page(tmp_path, make_runs):
    runs = make_runs({"baseline": 0.2, "other": 0.23}, 1)
    for run in runs:
        run.update(status="missing", figures={}, curves={})
    runs[1].update(status="failed", error="diverged <here>")
    page = write(tmp_path / "c", runs).read_text()
    assert "0 of 2 runs" in page
    assert "diverged &lt;here&gt;" in page


def test_a_damaged_file(tmp_path):
    (tmp_path / "comparison.json").write_text('{"methods": {}}')
    with pytest.raises(CoterieError, match="damaged"):
        write_comparison_report(tmp_path)
    with pytest.raises(CoterieError, match="cannot read"):
        write_comparison_report(tmp_path / "none")
