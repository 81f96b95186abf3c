"""A training that does not get better ends early, and says so; the epoch that is deployed is the one that the recipe names."""

import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.errors import CoterieError
from coterie.tasks.figures import CLASSIFICATION, Figure
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer
from coterie.training.stopping import BestEpoch

IMPATIENT = {
    "training": {"epochs": 12, "patience": 1},
    "optimizer": {"learning_rate": 0.1},
    "schedule": {"name": "constant"},
}


def validations(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [row["deployed"]["top1"] for row in rows if row["split"] == "validation"]


@pytest.mark.parametrize(
    ("scores", "patience", "ends"),
    [([0.1, 0.2, 0.2, 0.2], 2, 3), ([0.1, 0.0, 0.2, 0.1, 0.3], 2, None), ([0.5, 0.4], 1, 1), ([0.5] * 9, None, None)],
)
@pytest.mark.parametrize("better", ["higher", "lower"])
def test_when_patience_ends(scores, patience, ends, better):
    figure = Figure("own", "own figure", better)
    sign = 1 if better == "higher" else -1
    best = BestEpoch(figure, patience)
    over = []
    for epoch, score in enumerate(scores):
        best.add({"deployed": {"own": sign * score}}, epoch)
        over.append(best.is_over(epoch + 1))
    assert (over.index(True) if any(over) else None) == ends
    assert (best.score, best.epoch) == (sign * max(scores), scores.index(max(scores)))


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_what_is_not_a_number_is_never_the_best(better):
    best = BestEpoch(Figure("own", "own figure", better))
    for epoch, score in enumerate([math.nan, math.inf, -math.inf]):
        assert not best.add({"deployed": {"own": score}}, epoch)
    assert best.epoch == -1
    assert best.add({"deployed": {"own": 3.0}}, 3)


def test_a_figure_without_a_direction_chooses_nothing():
    with pytest.raises(CoterieError, match="'own', tells no epoch from a better one"):
        BestEpoch(Figure("own", "own figure", None))


def test_the_end_is_explained_by_the_figures_own_words():
    best = BestEpoch(CLASSIFICATION[2], 1)
    for epoch, score in enumerate([0.5, 0.75]):
        best.add({"deployed": {"nll": score}}, epoch)
    assert best.explain(2, 9).startswith("validation NLL has not been better than epoch 1's 0.5000 for 1 evaluations")


@pytest.mark.slow
def test_a_run_ends_where_validation_has_stopped_rising_and_deploys_its_best(small, tmp_path, capsys, real_report):
    result = coterie.train(small(**IMPATIENT), output=tmp_path / "run")
    scores = validations(result.path)
    best = scores.index(max(scores))
    assert len(scores) == best + 1 + 1 < 12
    summary = result.summary
    assert (summary["epochs"], summary["epochs_trained"], summary["selected_epoch"]) == (12, len(scores), best)
    assert coterie.load_recipe(result.path / "recipe.yaml").training.select == "best"
    said = capsys.readouterr().err
    assert f"training ends after epoch {len(scores)} of 12 (training.patience)" in said
    report = (result.path / "report.html").read_text()
    assert f"epoch {best + 1} of {len(scores)}, the best on validation" in report
    assert f"{len(scores)} epochs of 12 planned" in report
    # what was trained is what the whole training begins with: schedule and ramp-ups are planned for all epochs
    whole = coterie.train(small(**{**IMPATIENT, "training": {"epochs": 12}}), output=tmp_path / "whole", quiet=True)
    assert validations(whole.path)[: len(scores)] == scores
    assert coterie.load_recipe(whole.path / "recipe.yaml").training.select == "last"


@pytest.mark.fast_for("3")
@pytest.mark.parametrize("stop_at", [3, 14, "evaluation"])
def test_a_resumed_run_ends_at_the_same_epoch_with_the_same_weights(small, finished, tmp_path, monkeypatch, stop_at):
    settings, whole = small(**IMPATIENT), finished(**IMPATIENT)
    steps = []

    def interrupting(self, *arguments):
        original(self, *arguments)
        steps.append(1)
        if len(steps) == stop_at or (stop_at == "evaluation" and self.best.is_over(self.epoch)):
            signal.raise_signal(signal.SIGTERM)

    name = "evaluate" if stop_at == "evaluation" else "train_batch"
    original = getattr(Trainer, name)
    monkeypatch.setattr(Trainer, name, interrupting)
    with pytest.raises(Interrupted):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    resumed = coterie.train(output=tmp_path / "run", resume=True, quiet=True)
    assert resumed.summary["epochs_trained"] == whole.summary["epochs_trained"]
    assert resumed.summary["selected_epoch"] == whole.summary["selected_epoch"]
    first, second = (load_file(each.path / "student.safetensors") for each in (whole, resumed))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_patience_needs_something_to_wait_for(small, tmp_path):
    with pytest.raises(
        CoterieError, match=r"training\.patience needs a validation split, and there is none; set data\.validation"
    ):
        coterie.train(small(data={"validation": 0}, training={"patience": 3}), output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
