"""A training that has got away is named and does not finish; a healthy one, however rough or overfitted, does."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import coterie
from coterie.errors import RunError
from coterie.losses import LabelLoss
from coterie.losses.label import chance_loss
from coterie.training.divergence import FAR, RECORDS, STEPS, DivergenceCheck

CLASSES = 4


def pictures(count, seed, noise=0.5):
    """Pictures of four coloured patterns under noise, uint8 [count, 16, 16, 3], and their labels."""
    labels = np.arange(count) % CLASSES
    random = np.random.default_rng(0)
    patterns = random.integers(0, 128, (CLASSES, 16, 16, 3)) + random.integers(0, 128, (CLASSES, 1, 1, 3))
    other = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3))
    return (patterns[labels] * (1 - noise) + other * noise).astype(np.uint8), labels


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES))


def normalised(momentum=0.01):
    """Convolutions whose outputs vary far more than the running statistics that BatchNorm starts from."""
    layers: list[nn.Module] = []
    for channels in (3, 16, 16, 16):
        convolution = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        with torch.no_grad():
            convolution.weight.mul_(20)
        layers += [convolution, nn.BatchNorm2d(16, momentum=momentum), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


def trained(path, network, rate, epochs, batch_size=16, optimizer="sgd", data=None, **training):
    return coterie.train(
        {
            "method": "baseline",
            "data": {"flip": False, "crop_padding": 0},
            "optimizer": {"name": optimizer, "learning_rate": rate},
            "training": {"epochs": epochs, "batch_size": batch_size, "device": "cpu", "log_every": 4, **training},
        },
        network=network,
        data=data or DATA,
        output=path,
        quiet=True,
    )


def status(path):
    return json.loads((path / "summary.json").read_text())


DATA = (pictures(128, 1), pictures(40, 2), pictures(40, 3))
UNSTABLE = {"lr": 1.0, "weight_decay": 2.3, "momentum": 0.0}  # each step turns the weights over and makes them larger


@pytest.fixture
def unstable_after(monkeypatch):
    """``unstable_after(n)``: the optimizer is as it should be for n steps."""

    def install(sound):
        original, steps = torch.optim.SGD.step, []

        def step(self, closure=None):
            steps.append(1)
            if len(steps) > sound:
                for group in self.param_groups:
                    group.update(UNSTABLE)
            return original(self, closure)

        monkeypatch.setattr(torch.optim.SGD, "step", step)

    return install


@pytest.mark.parametrize("kind", ["cross_entropy", "binary_cross_entropy"])
def test_label_losses_that_grow_without_bound_end_the_run(tmp_path, unstable_after, kind):
    unstable_after(0)
    with pytest.raises(RunError, match=r"has diverged: since step \d+ the label loss.*optimizer\.learning_rate"):
        trained(tmp_path / "run", linear, rate=0.01, epochs=20, label_loss=kind)
    assert status(tmp_path / "run")["status"] == "failed"
    with pytest.raises(RunError, match="has diverged"):  # nor does it finish when it is gone on with
        coterie.train(output=tmp_path / "run", resume=True, network=linear, data=DATA, quiet=True)


def test_the_last_sound_checkpoint_is_kept(tmp_path, unstable_after, monkeypatch):
    unstable_after(16)
    with pytest.raises(RunError, match="checkpoint before it is kept"):
        trained(tmp_path / "run", linear, rate=0.01, epochs=12)
    kept = torch.load(tmp_path / "run" / "checkpoint" / "last.pt", weights_only=True)
    assert kept["position"]["epoch"] == 2
    monkeypatch.undo()
    again = coterie.train(output=tmp_path / "run", resume=True, network=linear, data=DATA, quiet=True)
    assert again.summary["deployed"]["top1"] > 0.9


def test_running_statistics_that_are_not_settled_are_another_thing(tmp_path):
    """Its losses are in order; it is the statistics of its layers, a few steps old, that make nothing of it."""
    with pytest.raises(RunError, match=r"^4 steps are too few for the network's running statistics \(BatchNorm\)"):
        trained(tmp_path / "run", normalised, rate=0.1, epochs=2, batch_size=64)
    assert status(tmp_path / "run")["status"] == "failed"
    assert not (tmp_path / "run" / "student.safetensors").exists()
    settled = trained(tmp_path / "other", lambda: normalised(momentum=0.5), rate=0.1, epochs=2, batch_size=16)
    assert settled.summary["status"] == "finished"


def test_a_doubtful_evaluation_is_noted_once_and_may_come_right(tmp_path, capsys):
    result = coterie.train(
        {
            "method": "baseline",
            "optimizer": {"learning_rate": 0.1},
            "training": {"epochs": 12, "batch_size": 16, "device": "cpu"},
        },
        network=normalised,
        data=(pictures(128, 1), pictures(40, 2), None),
        output=tmp_path / "run",
    )
    assert result.summary["status"] == "finished"
    assert capsys.readouterr().err.count("running statistics that are not settled yet") == 1


@pytest.mark.parametrize(
    ("network", "rate", "optimizer", "training"),
    [
        (plain, 0.02, "sgd", {}),
        (plain, 0.02, "sgd", {"label_loss": "binary_cross_entropy", "class_weights": [0.1, 5.0, 1.0, 1.0]}),
        (plain, 0.02, "sgd", {"label_smoothing": 0.3}),
        (plain, 0.1, "adamw", {"ema": 0.99}),
        (lambda: normalised(momentum=0.1), 0.1, "sgd", {}),
    ],
)
def test_healthy_trainings_finish(tmp_path, network, rate, optimizer, training):
    result = trained(tmp_path / "run", network, rate, epochs=10, optimizer=optimizer, **training)
    assert result.summary["status"] == "finished"
    assert result.summary["deployed"]["top1"] > 1.5 / CLASSES


@pytest.mark.slow
def test_an_overfitted_network_that_is_confident_on_what_it_cannot_know_finishes(tmp_path):
    """Labels at random: test NLL far above that of a guess, and the training images known by heart."""
    images, labels = pictures(128, 1, noise=1.0)
    random = np.random.default_rng(0).permutation(labels)
    data = ((images, random), None, pictures(40, 3, noise=1.0))
    result = trained(tmp_path / "run", plain, rate=0.05, epochs=30, data=data)
    assert result.summary["train_top1"] > 0.95
    assert result.summary["deployed"]["nll"] > 1.2 * math.log(CLASSES)


def test_the_chance_level_is_that_of_equal_logits():
    assert chance_loss(LabelLoss(), 8) == pytest.approx(math.log(8))
    assert chance_loss(LabelLoss(label_smoothing=0.1), 8) == pytest.approx(math.log(8))
    assert chance_loss(LabelLoss("binary_cross_entropy"), 8) == pytest.approx(8 * math.log(2))
    assert chance_loss(LabelLoss(class_weights=torch.tensor([1.0, 1.0, 4.0])), 3) == pytest.approx(2 * math.log(3))
    assert math.isnan(chance_loss(nn.Conv2d(1, 1, 1), 3))


def test_chance_among_a_hundred_thousand_classes_needs_no_table_of_all_against_all():
    assert chance_loss(LabelLoss(), 100_000) == pytest.approx(math.log(100_000), rel=1e-5)  # that table has 40 GB
    weights = torch.linspace(0.5, 1.5, 100_000)
    assert chance_loss(LabelLoss(class_weights=weights), 100_000) == pytest.approx(math.log(100_000), rel=0.02)


class Stub:
    """What the check reads of a method."""

    guess_loss = 4 * 0.5 * math.log(10)


@pytest.mark.parametrize(
    ("levels", "certain"),
    [
        ([1, 30, 1, 30, 1, 30, 1], False),  # spikes
        ([900, 700, 500, 300, 200, 150, 100, 80], False),  # high, and falling
        ([1, 30, 30], False),  # two records
        ([1, 12, 30, 29, 35], True),
        ([200, 100, 50, 50, 50, 50], True),  # has stopped falling
        ([FAR * 0.9] * 20, False),
    ],
)
def test_what_counts_as_divergence(levels, certain):
    check = DivergenceCheck(Stub())
    for number, level in enumerate(levels):
        check.add({"label": level * math.log(10) * 4 * 0.5, "distillation": 1e9}, 50 * number)
    assert check.is_certain is certain


def test_records_of_a_step_each_take_longer_to_be_sure():
    check = DivergenceCheck(Stub())
    for step in range(STEPS + RECORDS):
        check.add({"label": 1e6}, step)
        assert check.is_certain is (step >= STEPS)


@pytest.mark.parametrize(("rate", "said"), [(1e-9, 1), (0.02, 0)])
def test_a_student_at_chance_on_its_own_images_is_named(tmp_path, capsys, rate, said):
    recipe = {"method": "baseline", "training": {"epochs": 8, "batch_size": 16, "device": "cpu"}}
    recipe["optimizer"] = {"name": "sgd", "learning_rate": rate}
    recipe["schedule"] = {"warmup_epochs": 0}
    result = coterie.train(recipe, network=plain, data=DATA, output=tmp_path / "run")
    assert (result.summary["train_top1"] > 0.5) == (said == 0)
    printed = capsys.readouterr().err
    assert printed.count("the deployed student has learnt nothing yet: it gets ") == said
    assert printed.count("naming the most frequent class gets 25.00%") == said
