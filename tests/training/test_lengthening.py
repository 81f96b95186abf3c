"""A finished run is trained for longer: the schedule starts anew, and the recipe that is kept repeats the whole."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

import coterie
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.recipe.sections import OptimizerRecipe, ScheduleRecipe
from coterie.tasks.images.networks import build_method
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer
from coterie.training.optimization import RestartedSchedule, build_optimizer, build_schedule


def optimizer_recipe(**changes):
    """A section without anything that is chosen by the data: the papers' SGD."""
    settled = {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "exclude_norm_and_bias": False}
    return OptimizerRecipe(**settled | changes)


def schedule_recipe(**changes):
    return ScheduleRecipe(**{"warmup_epochs": 0.0} | changes)


def rows(path, split):
    return [row for row in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()) if row["split"] == split]


def assert_same_weights(first, second):
    one, other = (load_file(each.path / "student.safetensors") for each in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one)


def longer(path, epochs, **arguments):
    return coterie.train(output=path, resume=True, overrides=[f"training.epochs={epochs}"], **arguments)


@pytest.fixture
def settings(small):
    """With a moving average and a term that ramps up, both of which go on."""
    return small(method="okdmde", training={"epochs": 2, "ema": 0.9, "log_every": 1}, schedule={"warmup_epochs": 0.5})


@pytest.mark.slow
def test_a_lengthened_run_is_the_run_of_its_recipe_however_it_was_interrupted(settings, tmp_path, monkeypatch, capsys):
    first = coterie.train(settings, output=tmp_path / "run", quiet=True)
    rates = [row["learning_rate"] for row in rows(first.path, "train")]
    original, steps = Trainer.train_batch, []

    def interrupting(self, *arguments):
        original(self, *arguments)
        steps.append(1)
        if len(steps) == 9:  # in the second of the three epochs that are added
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_batch", interrupting)
    with pytest.raises(Interrupted):
        longer(first.path, 5)
    monkeypatch.undo()
    assert "epoch 3: the learning-rate schedule starts anew, over the 3 epochs to epoch 5" in capsys.readouterr().err
    stored = load_recipe(first.path / "recipe.yaml")
    assert (stored.training.epochs, stored.schedule.restarts) == (5, [2])
    resumed = longer(first.path, 5, quiet=True)  # the same command once more
    assert (resumed.summary["epochs"], resumed.summary["epochs_trained"], resumed.summary["selected_epoch"]) == (
        5,
        5,
        4,
    )
    train = rows(first.path, "train")
    assert [row["step"] for row in train] == list(range(1, 31))
    assert [row["epoch"] for row in rows(first.path, "validation")] == list(range(5))
    found = [row["learning_rate"] for row in train]
    assert found[: len(rates) - 1] == rates[:-1]
    peaks = [step for step in range(1, 29) if found[step] > max(found[step - 1], found[step + 1])]
    assert len(peaks) == 2  # the warm-up, once in each stretch
    whole = coterie.train(stored, output=tmp_path / "whole", quiet=True)
    assert_same_weights(whole, resumed)
    assert rows(whole.path, "validation") == rows(resumed.path, "validation")
    assert [row["losses"] for row in rows(whole.path, "train")] == [row["losses"] for row in train]
    with pytest.raises(CoterieError, match=r"training\.epochs=4: the run .* has trained 5; expected more"):
        longer(first.path, 4)
    with pytest.raises(CoterieError, match=r"another recipe: optimizer\.momentum, training\.epochs differ$"):
        coterie.train(
            output=first.path, resume=True, quiet=True, overrides=["training.epochs=9", "optimizer.momentum=0.5"]
        )
    with pytest.raises(CoterieError, match=r"another recipe: schedule\.warmup_epochs, training\.epochs differ$"):
        coterie.train(
            output=first.path, resume=True, quiet=True, overrides=["training.epochs=6", "schedule.warmup_epochs=1"]
        )


def test_a_run_that_is_not_at_its_end_is_finished_first(small, tmp_path, monkeypatch):
    def stopping(self, *arguments):
        original(self, *arguments)
        signal.raise_signal(signal.SIGTERM)

    original = Trainer.evaluate
    monkeypatch.setattr(Trainer, "evaluate", stopping)
    with pytest.raises(Interrupted):
        coterie.train(small(), output=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    with pytest.raises(
        CoterieError, match="has trained 1 of its 2 epochs; epochs are added once it has come to its end"
    ):
        longer(tmp_path / "run", 4)


@pytest.mark.slow
def test_patience_starts_anew_too(small, tmp_path):
    settings = small(
        training={"epochs": 20, "patience": 1}, optimizer={"learning_rate": 0.1}, schedule={"name": "constant"}
    )
    first = coterie.train(settings, output=tmp_path / "run", quiet=True)
    done = first.summary["epochs_trained"]
    assert done < 20
    again = longer(first.path, 20 + done, quiet=True)
    assert load_recipe(first.path / "recipe.yaml").schedule.restarts == [done]
    assert again.summary["epochs_trained"] > done


@pytest.mark.parametrize("name", ["cosine", "multistep", "constant", "step", "poly"])
def test_each_stretch_has_the_rates_of_a_training_of_its_own(name):
    recipe = schedule_recipe(name=name, warmup_epochs=1, restarts=[4], decay_epochs=2)
    method = build_method(load_recipe(None, ["network=tiny_cifar"]), 10, (1, 8, 8))

    def rates(schedule, optimizer, steps):
        found = []
        for step in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            schedule.step_update(step + 1)
        return found

    optimizer = build_optimizer(optimizer_recipe(), method)
    together = rates(RestartedSchedule(recipe, optimizer, epochs=10, steps_per_epoch=5), optimizer, 50)
    apart = []
    for epochs in (4, 6):
        optimizer = build_optimizer(optimizer_recipe(), method)
        apart += rates(build_schedule(recipe, optimizer, epochs, 5), optimizer, epochs * 5)
    assert together == pytest.approx(apart)


@pytest.mark.parametrize("restarts", [[5, 3], [10], [12], [3, 3]])
def test_restarts_must_rise_and_lie_within_the_training(restarts):
    with pytest.raises(CoterieError, match=r"schedule\.restarts=.*expected rising numbers below training\.epochs=10"):
        load_recipe({"training": {"epochs": 10}, "schedule": {"restarts": restarts}})


def test_a_warm_up_must_fit_between_restarts():
    with pytest.raises(CoterieError, match="must be below the 2 epochs between restarts"):
        load_recipe({"training": {"epochs": 10}, "schedule": {"restarts": [8], "warmup_epochs": 3}})
