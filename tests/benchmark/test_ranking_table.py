"""The arithmetic of benchmarks/language/ranking_table.py."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables():
    return importlib.import_module("benchmarks.language.ranking_table")


def cells(figure, **values):
    return {int(seed.removeprefix("seed")): {figure: value} for seed, value in values.items()}


def test_differences_are_paired_by_seed_and_in_points(tables):
    own = cells("mor_5", seed1=0.72, seed2=0.74, seed3=0.70, seed4=0.1)
    reference = cells("mor_5", seed3=0.71, seed1=0.70, seed2=0.71)  # no seed 4
    found = tables.contrast(own, reference, "mor_5")
    assert found.mean == pytest.approx((2 + 3 - 1) / 3)
    assert found.standard_error == pytest.approx((13 / 9) ** 0.5)  # deviations 2/3, 5/3, -7/3: variance 13/3
    assert (found.agreeing, found.seeds) == (2, 3)
    assert str(found) == "+1.33 ± 1.20 (2/3)"


def test_a_perplexity_is_no_share_and_a_fall_agrees_with_falls(tables):
    found = tables.contrast(
        cells("perplexity", seed1=9.0, seed2=9.5), cells("perplexity", seed1=10.0, seed2=10.0), "perplexity"
    )
    assert found.mean == -0.75
    assert found.agreeing == 2
    assert tables.contrast(cells("top1", seed1=0.5), cells("top1", seed2=0.5), "top1") is None
    assert str(tables.contrast(cells("top1", seed1=0.5), cells("top1", seed1=0.5), "top1")) == "+0.00 (0/1)"


def test_it_works_only_where_every_seed_says_so(tables):
    def arm(*values):
        return {seed: {"mor_5": value, "mor_10": 0.5 + value, "perplexity": 10.0} for seed, value in enumerate(values)}

    (yes,) = tables.verdict({"kl": arm(0.1, 0.2), "kl_rank5": arm(0.11, 0.21)})
    (no,) = tables.verdict({"kl": arm(0.1, 0.2), "kl_rank10": arm(0.31, 0.19)})
    assert "**yes**" in yes
    assert "**no**" in no
    assert tables.verdict({"kl_rank5": arm(0.1)}) == []


def test_the_seed_of_choices_is_in_no_table_of_test_figures(tables, tmp_path):
    figures = dict.fromkeys(tables.SHOWN, 0.25)
    for seed, label in ((1, "kl"), (2, "kl"), (tables.CHOICE_SEED, "kl@0.001"), (tables.CHOICE_SEED, "kl")):
        path = tmp_path / f"seed{seed}" / f"{label}.json"
        path.parent.mkdir(exist_ok=True)
        shown = figures if seed < tables.CHOICE_SEED else dict.fromkeys(tables.SHOWN, 0.75)
        path.write_text(json.dumps({"test": shown, "validation": shown}))
    found = tables.read_cells(tmp_path)
    assert sorted(found["kl"]) == [1, 2, tables.CHOICE_SEED]
    ground = {
        "setup": {"steps": 2, "batch_size": 3, "block_length": 4, "rate": 1e-3, "start_steps": 5, "start_rate": 2e-3, "teacher": None},
        "text": "words", "documents": {"train": 9}, "tokens": {"train": 99}, "arm_rows": 6, "evaluated": {"test": 7}, "vocabulary": 300,
        "parameters": {"teacher": 20, "student": 10}, "teacher": {"test": {"perplexity": 8.0, "top1": 0.5}},
    }  # fmt: skip
    text = "\n".join(tables.setup_tables("small", ground, found, {"ce": 0.1, "kl": 0.15, "teacher": 0.05}))
    assert "| `kl` | 25.00 ± 0.00 |" in text
    assert "| 1.50 | 2 |" in text
    assert "| kl at 0.001 | 75.00 |" in text


def test_a_setup_without_runs_here_keeps_its_published_rows(tables, tmp_path, monkeypatch):
    """The runs of one setup may be long gone when another's are done."""
    published = json.loads((tables.RESULTS / "results.json").read_text())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.json").write_text(json.dumps({"small": published["small"]}))
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    tables.write_tables(tmp_path / "no-runs")
    first = (tmp_path / "results" / "table.md").read_text()
    assert "## Small" in first
    assert json.loads((tmp_path / "results" / "results.json").read_text())["small"] == published["small"]
    folder = tmp_path / "runs" / "real"
    for seed, cell in published["small"]["cells"]["kl"].items():
        path = folder / f"seed{seed}" / "kl.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(cell))
    (folder / "ground.json").write_text(json.dumps(published["small"]["ground"]))
    tables.write_tables(tmp_path / "runs")
    both = (tmp_path / "results" / "table.md").read_text()
    assert "## Small" in both
    assert "## Real" in both
    assert first.partition("## Small")[2].partition("## Published")[0].strip() in both
