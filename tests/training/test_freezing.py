"""Frozen backbones stay as they are, bit by bit, for as long as the recipe says; then they train like any other."""

import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

import coterie
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.tasks.images.networks import build_method
from coterie.training.checkpoint import load_checkpoint
from coterie.training.freezing import Freezing
from coterie.training.interruption import Interrupted
from coterie.training.loop import Trainer


def group_state(state):
    """Of a method's state, the students' weights and buffers without their classifiers."""
    found = {name: value.clone() for name, value in state.items() if name.startswith("group.")}
    return {name: value for name, value in found.items() if ".fc." not in name and ".classifier." not in name}


def changed(first, second):
    return [name for name in first if not torch.equal(first[name], second[name])]


def start(settings):
    return build_method(load_recipe(settings), 10, (1, 8, 8)).state_dict()


@pytest.fixture
def states(monkeypatch):
    """The whole state after each epoch of the training that runs."""
    after = []
    original = Trainer._train_epoch

    def watched(self, interruption):
        original(self, interruption)
        after.append({name: value.clone() for name, value in self.method.state_dict().items()})

    monkeypatch.setattr(Trainer, "_train_epoch", watched)
    return after


@pytest.mark.parametrize("method", ["okdmde", "okdph"])
def test_the_backbone_is_held_for_the_first_epochs_and_trained_after_them(small, tmp_path, states, capsys, method):
    settings = small(
        method=method,
        network={"freeze": 2, "branches": 2},
        training={"epochs": 4, "ema": 0.9},
        optimizer={"weight_decay": 0.1},
    )
    coterie.train(settings, output=tmp_path / "run")
    before = start(settings)
    held = group_state(before)
    assert any("running_mean" in name for name in held)
    for state in states[:2]:
        assert changed(held, group_state(state)) == []
        assert len(changed(before, state)) > 0  # the classifiers learn
    trained = changed(group_state(states[1]), group_state(states[2]))
    assert len(trained) > 0.9 * len([name for name in held if "num_batches" not in name])
    said = capsys.readouterr().err
    assert "epoch 3: the whole network is trained from here on" in said
    assert "network.freeze=2 holds weights that are random" in said


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_linear_probing_holds_it_to_the_end(small, tmp_path, states, optimizer):
    settings = small(network={"freeze": "backbone"}, optimizer={"name": optimizer, "learning_rate": 0.01})
    result = coterie.train(settings, output=tmp_path / "run", quiet=True)
    assert changed(group_state(start(settings)), group_state(states[-1])) == []
    assert result.summary["parameters"]["trained"] < 0.2 * result.summary["parameters"]["deployed"]
    averaged = load_checkpoint(result.path / "checkpoint" / "last.pt")["method"]
    assert changed(group_state(start(settings)), group_state(averaged)) == []


@pytest.mark.fast_for("7")
@pytest.mark.parametrize("stop_at", [7, 10])
def test_resume_across_the_switch_is_bit_equal(small, finished, tmp_path, monkeypatch, stop_at):
    settings, whole = small(network={"freeze": 1}), finished(network={"freeze": 1})
    original, steps = Trainer.train_batch, []

    def interrupting(self, *arguments):
        original(self, *arguments)
        steps.append(1)
        if len(steps) == stop_at:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_batch", interrupting)
    with pytest.raises(Interrupted):
        coterie.train(settings, output=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    resumed = coterie.train(output=tmp_path / "run", resume=True, quiet=True)
    first, second = (load_file(each.path / "student.safetensors") for each in (whole, resumed))
    assert changed(first, second) == []


@pytest.mark.slow
def test_a_probe_of_a_trained_network_beats_one_of_a_random_one(small, tmp_path):
    """Trained on all ten digits, probed on what its features say; the classifier starts anew."""
    first = coterie.train(
        small(method="baseline", network={"branches": None}, training={"epochs": 15}), output=tmp_path / "first", quiet=True
    )  # fmt: skip
    weights = load_file(first.path / "student.safetensors")
    other = {name: value[:7].clone() for name, value in weights.items() if name.startswith("fc.")}  # of seven classes
    save_file({**weights, **other}, tmp_path / "w.safetensors")
    probe = small(
        method="baseline",
        network={"branches": None, "freeze": "backbone", "weights": str(tmp_path / "w.safetensors")},
        training={"epochs": 10},
    )
    found = coterie.train(probe, output=tmp_path / "probe", quiet=True)
    after = load_file(found.path / "student.safetensors")
    assert all(torch.equal(after[name], value) for name, value in weights.items() if not name.startswith("fc."))
    assert found.summary["deployed"]["top1"] > 0.5  # chance is 0.1


def test_normalisation_layers_of_timm_keep_their_statistics(tmp_path):
    recipe = load_recipe({"network": {"name": "mobilenetv3_small_050", "branches": 2}, "method": "dml"})
    method = build_method(recipe, 4, (3, 32, 32))
    freezing = Freezing("backbone", method)
    method.train()
    freezing.apply(0)
    before = {name: value.clone() for name, value in method.named_buffers()}
    losses = method(torch.randn(4, 3, 32, 32), torch.arange(4))
    sum(losses.values()).backward()
    assert all(torch.equal(before[name], value) for name, value in method.named_buffers())
    trained = {name for name, parameter in method.named_parameters() if parameter.grad is not None}
    assert trained
    assert all("classifier" in name for name in trained)


def test_held_statistics_stay_while_every_weight_is_trained(small, tmp_path, states):
    settings = small(network={"hold_statistics": True})
    coterie.train(settings, output=tmp_path / "run", quiet=True)
    before = group_state(start(settings))
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert statistics
    assert set(changed(before, group_state(states[-1]))) == before.keys() - statistics


def test_held_statistics_normalise_in_training_too():
    method = build_method(
        load_recipe({"network": {"name": "tiny_cifar", "branches": 2}, "method": "dml"}), 4, (3, 16, 16)
    )
    images = torch.randn(4, 3, 16, 16)
    learnt = method.train().group(images).logits
    Freezing(0, method, statistics=True).apply(0)
    held = method.group(images).logits
    assert torch.equal(held, method.eval().group(images).logits)
    assert not torch.allclose(held, learnt)


def test_what_cannot_be_frozen_is_refused(small, tmp_path):
    method = build_method(load_recipe(small()), 10, (1, 8, 8))
    with pytest.raises(CoterieError, match=r"network\.freeze=3 changes in training what several processes exchange"):
        Freezing(3, method, num_processes=2)
    Freezing("backbone", method, num_processes=2)
    with pytest.raises(CoterieError, match="nothing but their classifiers"):
        coterie.train(
            small(method="baseline", network={"name": None, "branches": None, "freeze": 1}),
            network=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
            output=tmp_path / "run",
            quiet=True,
        )
    with pytest.raises(CoterieError, match=r"network\.freeze"):
        load_recipe(None, ["network.freeze=trunk"])


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"name": "tiny_cifar"}, "statistics of nothing yet; see network.pretrained"),
        ({"name": "vit_tiny_patch16_224", "options": {"depth": 1}}, "nothing: the students have no layer"),
    ],
)
def test_statistics_that_are_not_there_are_not_held_in_silence(small, tmp_path, capsys, network, said):
    settings = small(network={**network, "branches": 1, "hold_statistics": True}, training={"epochs": 1})
    settings |= {"method": "baseline", "data": {"name": "digits", "train_limit": 40, "image_size": 16}}
    coterie.train(settings, output=tmp_path / "run")
    assert f"network.hold_statistics=true holds {said}" in capsys.readouterr().err
