"""Arms of a grid: every combination once, and no look at the test split."""

from __future__ import annotations

import json
import sys

import pytest

import coterie
from coterie import cli
from coterie.comparison.arms import build_arms, sweep_arms
from coterie.errors import CoterieError
from coterie.tasks.images.task import ImageClassification

SMALL = [
    "data=digits",
    "data.train_limit=60",
    "training.epochs=1",
    "training.batch_size=32",
    "training.device=cpu",
    "network=tiny_cifar",
]


def test_every_combination_is_an_arm_and_what_has_not_the_setting_stays_one():
    arms = build_arms([], ["baseline", "okdmde"], SMALL)
    found = sweep_arms(arms, {"method.diversity_weight": ["0.1", "1"], "optimizer.learning_rate": ["0.1", "0.2"]})
    assert list(found) == [
        "baseline learning_rate=0.1",
        "baseline learning_rate=0.2",
        "okdmde diversity_weight=0.1 learning_rate=0.1",
        "okdmde diversity_weight=0.1 learning_rate=0.2",
        "okdmde diversity_weight=1 learning_rate=0.1",
        "okdmde diversity_weight=1 learning_rate=0.2",
    ]
    assert found["okdmde diversity_weight=0.1 learning_rate=0.2"].optimizer.learning_rate == 0.2
    assert found["okdmde diversity_weight=0.1 learning_rate=0.2"].method.options["diversity_weight"] == 0.1
    assert not any(recipe.training.evaluate_test for recipe in found.values())


def test_a_setting_without_effect_is_left_out_of_an_arm_and_refused_where_it_is_swept():
    arms = build_arms([], ["dml"], [*SMALL, "method.temperature=2"])
    found = sweep_arms(arms, {"method.distillation_weight": ["0", "2"]})
    assert [recipe.method.options for recipe in found.values()] == [
        {"distillation_weight": 0},
        {"temperature": 2, "distillation_weight": 2},
    ]
    with pytest.raises(CoterieError, match=r"method.temperature=2 has no effect with method.distillation_weight=0$"):
        sweep_arms(arms, {"method.distillation_weight": ["0", "2"], "method.temperature": ["1", "2"]})


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("method.diversty_weight=1,2", "did you mean 'diversity_weight'"),
        ("optimizer.learning_rate=0.1,x", "learning_rate"),
        ("method.diversity_weight=1,much", "method.diversity_weight='much'"),
        ("optimizer.learning_rate=0.1", "expected a setting and several values"),
        ("optimizer.learning_rate=0.1,,0.2", "expected a setting and several values"),
        ("optimizer.learning_rate=0.1,0.1", "a value is there twice"),
    ],
)
def test_what_cannot_be_swept_is_named_before_anything_is_written(sweep, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["coterie", "compare", *SMALL, "--methods", "okdmde", "--sweep", sweep, "-o", str(tmp_path / "c")]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_the_test_split_is_not_touched_and_the_report_says_so(tmp_path, monkeypatch, capsys):
    measured: list[int] = []
    evaluate = ImageClassification.evaluate

    def noted(self, method, loader):
        measured.append(loader is self.data.test)
        return evaluate(self, method, loader)

    monkeypatch.setattr(ImageClassification, "evaluate", noted)
    options = [
        "--methods",
        "baseline",
        "--sweep",
        "optimizer.learning_rate=0.001,0.05",
        "--seeds",
        "1",
        "-o",
        str(tmp_path / "c"),
    ]
    monkeypatch.setattr(sys, "argv", ["coterie", "compare", *SMALL, *options])
    cli.main()
    assert measured
    assert not any(measured)
    stored = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert {run["about"]["split"] for run in stored["runs"]} == {"validation"}
    (said,) = [each for each in stored["reading"] if "was not touched" in each]
    best = max(stored["runs"], key=lambda run: run["figures"]["primary.top1"])
    assert f"{best['label']} is chosen" in said
    assert said.split("`")[0].strip() in " ".join((tmp_path / "c" / "report.html").read_text().split())
    assert "was not touched" in capsys.readouterr().out.replace("\n", " ")


def test_without_a_validation_split_nothing_could_be_chosen(tmp_path):
    with pytest.raises(CoterieError, match=r"training\.evaluate_test=false leaves nothing to measure"):
        coterie.train(
            overrides=[*SMALL, "data.validation=0", "training.evaluate_test=false"], output=tmp_path / "r", quiet=True
        )
