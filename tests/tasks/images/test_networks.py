from __future__ import annotations

import argparse
import warnings

import pytest
import timm
import torch

from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.tasks.images import networks as construction
from coterie.tasks.images.networks import build_method, network_options, pretrained_config


@pytest.fixture
def pretrained(tmp_path, monkeypatch):
    """``pretrained(name)``: weights and settings of a network whose pretrained weights timm finds in a file; nothing is downloaded."""
    create = timm.create_model

    def make(name):
        torch.manual_seed(0)
        weights = create(name).state_dict()
        torch.save(weights, tmp_path / "weights.pth")
        overlay = {"file": str(tmp_path / "weights.pth"), "url": "", "hf_hub_id": ""}
        monkeypatch.setattr(
            timm, "create_model", lambda name, **options: create(name, pretrained_cfg_overlay=overlay, **options)
        )
        monkeypatch.setattr(construction, "require_at_hand", lambda name, setting: None)
        return weights, [f"network={name}", "network.pretrained=true"]

    return make


def test_pretrained_students_are_perturbed_copies_with_classifiers_of_their_own(pretrained):
    weights, settings = pretrained("resnet10t")
    recipe = load_recipe(None, [*settings, "network.branches=2", "network.at=layer4"])
    group = build_method(recipe, 5, (3, 64, 64)).group
    first, second = (group.student(number).state_dict() for number in range(2))
    key = "layer4.0.conv1.weight"
    assert torch.equal(first[key], weights[key])
    assert torch.equal(second["conv1.0.weight"], weights["conv1.0.weight"])  # the trunk is shared
    share = (second[key] - first[key]).std() / first[key].std()
    assert 0.005 < share < 0.02
    assert first["fc.weight"].shape == (5, 512)
    assert not torch.equal(first["fc.weight"], second["fc.weight"])
    config = pretrained_config(recipe)
    assert config is not None
    assert config["mean"] == (0.485, 0.456, 0.406)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["pretrained", "weights"])
def test_a_classifier_that_starts_anew_gives_small_logits(pretrained, tmp_path, source):
    """Timm's EfficientNets would draw it from ±1/sqrt(classes), ten times as wide."""
    weights, settings = pretrained("tf_efficientnet_lite0")
    if source == "weights":
        settings = ["network=tf_efficientnet_lite0", f"network.weights={tmp_path / 'weights.pth'}"]
    recipe = load_recipe(None, [*settings, "network.branches=2", "network.at=blocks.6"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the classifier that starts anew
        group = build_method(recipe, 20, (3, 64, 64)).group
        again = build_method(recipe, 20, (3, 64, 64)).group
    for number in range(2):
        classifier = group.student(number).classifier
        assert 0 < classifier.weight.abs().max() <= 1280**-0.5
        assert torch.equal(classifier.weight, again.student(number).classifier.weight)  # by the seed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = build_method(load_recipe(None, [*settings, "method=baseline"]), 1000, (3, 64, 64)).group.student(0)
    assert torch.equal(kept.classifier.weight, weights["classifier.weight"])  # of the same classes


@pytest.mark.parametrize("kind", ["state dict", "checkpoint of timm"])
def test_students_start_from_a_file_of_weights(tmp_path, kind):
    weights = timm.create_model("tiny_cifar", num_classes=4).state_dict()
    path = tmp_path / "weights.pth"
    held = {f"module.{name}": value for name, value in weights.items()}
    torch.save(weights if kind == "state dict" else {"state_dict": held, "args": argparse.Namespace(lr=1)}, path)
    recipe = load_recipe(
        None, ["network=tiny_cifar", f"network.weights={path}", "network.branches=2", "network.at=layer3"]
    )
    group = build_method(recipe, 4, (3, 16, 16)).group
    first, second = (group.student(number).state_dict() for number in range(2))
    assert all(torch.equal(value, weights[name]) for name, value in first.items())
    key = "layer3.0.conv1.weight"
    share = (second[key] - first[key]).std() / first[key].std()
    assert 0.005 < share < 0.02
    with pytest.warns(UserWarning, match="classifier of 4 classes, the data have 6"):
        other = build_method(recipe, 6, (3, 16, 16)).group.student(0).state_dict()
    assert other["fc.weight"].shape == (6, 32)
    assert torch.equal(other[key], weights[key])


def test_networks_are_built_for_the_images():
    recipe = load_recipe(None, ["network=vit_tiny_patch16_224"])
    assert network_options(recipe, "vit_tiny_patch16_224", (3, 64, 64)) == {"img_size": [64, 64]}
    assert network_options(recipe, "vit_tiny_patch16_224", (1, 224, 224)) == {"in_chans": 1}
    assert network_options(recipe, "resnet18", (3, 64, 64)) == {}


def test_the_methods_defaults_and_the_recipes_choice():
    def group(*settings):
        return build_method(load_recipe(None, ["network=tiny_cifar", *settings]), 4, (3, 16, 16)).group

    assert (group().num_students, group().split_point) == (4, "layer3")
    assert (group("method=baseline").num_students, group("method=baseline").trunk) == (1, None)
    assert group("network.at=peers", "network.branches=2").trunk is None
    assert group("network.at=layer2", "network.branches=2").split_point == "layer2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["network=[tiny_cifar, resnet8_cifar]", "network.branches=3"], "differs from the 2 networks"),
        (["network=[tiny_cifar, resnet8_cifar]", "network.at=layer3"], "share no trunk"),
        (["network=[tiny_cifar, resnet8_cifar]", "network.weights=x.pth"], "for one network.name"),
        (["network=tiny_cifar", "network.weights=x.pth", "network.pretrained=true"], "without network.pretrained"),
        (["network=tiny_cifar", "network.weights=x.pth"], "network.weights='x.pth' is not a file"),
    ],
)
def test_settings_that_contradict_one_another(settings, message):
    with pytest.raises(CoterieError, match=message):
        build_method(load_recipe(None, settings), 4, (3, 16, 16))


def test_a_network_with_other_outputs_than_classes():
    with pytest.raises(CoterieError, match="1000 outputs, the data have 4 classes"):
        build_method(load_recipe(None, ["network.branches=1"]), 4, (3, 64, 64), network=timm.create_model("resnet10t"))
