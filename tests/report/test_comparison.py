from __future__ import annotations

import csv
import html
import importlib.util
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from coterie.comparison.summary import summarise
from coterie.errors import CoterieError
from coterie.report.comparison import write_comparison_report
from coterie.report.comparison_figures import Point, axis_limits
from coterie.tasks.figures import CLASSIFICATION

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
        **summarise(runs, reference, CLASSIFICATION),
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


@pytest.mark.fast_for("5")
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


LONG = "okdmde method.diversity=coincident_error method.diversity_weight=0.1"


def texts(drawing: str) -> list[str]:
    return [re.sub(r"\s+", " ", html.unescape(text)) for text in re.findall(r"<text[^>]*>([^<]*)</text>", drawing)]


@pytest.mark.slow
def test_points_have_names_where_these_are_free_and_else_a_key(tmp_path, make_runs):
    apart = {"baseline": 0.2, "okdmde": 0.3, "dml": 0.25}
    write(tmp_path / "a", make_runs(apart, 3))
    assert {"okdmde", "dml"} <= set(texts((tmp_path / "a" / "figures" / "ensemble.svg").read_text()))
    crowded = {"baseline": 0.2} | {f"{LONG} number {k}": 0.2501 + 1e-5 * k for k in range(6)}
    write(tmp_path / "b", make_runs(crowded, 3))
    found = texts((tmp_path / "b" / "figures" / "ensemble.svg").read_text())
    for number in range(2, 8):
        assert found.count(str(number)) == 2  # at its point and in the key
    assert sum(text.startswith("okdmde") for text in found) == 6


@pytest.mark.parametrize("spread", [0.0, 0.003, 0.2])
def test_error_bars_stand_within_the_axes(spread):
    """Intervals of few seeds can be longer than the distance between the arms."""
    points = [Point(k, str(k), 0.5 + 0.01 * k, 0.6 + 0.01 * k, spread, spread, k == 0) for k in range(3)]
    for axis in ("x", "y"):
        values = [(getattr(point, axis), getattr(point, f"{axis}_error")) for point in points]
        low, high = axis_limits(values)
        assert all(low < value - error and value + error < high for value, error in values)
        assert high - low < 1.2 * (0.02 + 2 * spread) + 0.005


@pytest.mark.slow
def test_long_names_leave_room_for_the_differences(tmp_path, make_runs):
    write(tmp_path / "c", make_runs({"baseline": 0.2, LONG: 0.25, "x" * 90: 0.22}, 3))
    drawing = (tmp_path / "c" / "figures" / "differences.svg").read_text()
    assert max(map(len, texts(drawing))) <= 60


def test_tables_of_the_page_have_at_most_nine_columns_and_lose_none(tmp_path, make_runs):
    folder = tmp_path / "c"
    page = write(folder, make_runs({"baseline": 0.2, ODD: 0.23, LONG: 0.22}, 5)).read_text()
    heads = [re.findall(r"<th[ >]", head) for head in re.findall(r'<table class="arms">.*?</thead>', page, re.DOTALL)]
    assert all(len(head) <= 9 for head in heads)
    head = next(line for line in (folder / "comparison.md").read_text().splitlines() if line.startswith("| arm"))
    names = [name.strip() for name in head.strip("| ").split(" | ")]
    shown = re.findall(r'data-name="([^"]*)"', page)
    assert len(set(shown)) == len(names) - 1  # without the arm itself
    assert len(shown) == 3 * (len(names) - 1)


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
