"""What every network of the catalogue promises; what one network is stands in its own test file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import resolve_data_config
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks import NETWORKS, register
from coterie.networks.papers.image_classifier import ImageClassifier

register()

# One of each kind, small enough to run; the others differ in numbers only and are built on the meta device.
KINDS = [
    "tiny_cifar",
    "resnet20_cifar",
    "resnet110_okddip_cifar",
    "wrn16_2_cifar",
    "vgg16_cifar",
    "vgg16_okddip_cifar",
    "densenet40_12_cifar",
]


def images(batch: int = 2, channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def build(name: str, **options: object) -> ImageClassifier:
    torch.manual_seed(0)
    return timm.create_model(name, **options)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * ("110" in name)) for name in NETWORKS])
def test_every_network_has_timms_interface(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=7, in_chans=1, drop_rate=0.1)
        inputs = torch.empty(2, 1, 32, 32)
        features = network.forward_features(inputs)
        pool_size = network.pretrained_cfg["pool_size"]
        assert features.shape == (2, network.num_features, *pool_size)
        assert network.forward_head(features, pre_logits=True).shape == (2, network.head_hidden_size)
        assert network(inputs).shape == (2, 7)
        assert network.num_classes == 7
        classifier = network.get_classifier()
        assert classifier is network.get_submodule(network.pretrained_cfg["classifier"])
        assert classifier.in_features == network.head_hidden_size
        first_convolution = network.get_submodule(network.pretrained_cfg["first_conv"])
        assert isinstance(first_convolution, nn.Conv2d)
        assert first_convolution.in_channels == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_configuration_keeps_the_whole_image(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    config = resolve_data_config({}, model=network)
    assert config["input_size"] == (3, 32, 32)
    assert config["crop_pct"] == 1.0
    assert config["mean"] == (0.5071, 0.4865, 0.4409)
    assert config["std"] == (0.2673, 0.2564, 0.2762)
    assert network.num_classes == 100


@pytest.mark.parametrize("name", NETWORKS)
def test_split_is_the_last_stage(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    children = [child for child, _ in network.named_children()]
    stages = [child for child in children if child.startswith("layer")]
    assert network.suggested_split == stages[-1]
    # What comes behind the split is the stage, a last normalisation where there is one, and the head.
    behind = children[children.index(network.suggested_split) + 1 :]
    assert behind in (
        ["hidden", "global_pool", "head_drop", "fc"],
        ["norm", "act", "hidden", "global_pool", "head_drop", "fc"],
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_trace_meets_the_split_once(name: str) -> None:
    """`torch.fx` sees one tensor cross the split: the trunk's output."""

    class StagesAreLeaves(torch.fx.Tracer):
        def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
            return "." not in qualified_name

    with torch.device("meta"):
        network = timm.create_model(name)
    nodes = list(StagesAreLeaves().trace(network).nodes)
    split = next(i for i, node in enumerate(nodes) if node.target == network.suggested_split)
    crossing = {
        argument for node in nodes[split:] for argument in node.all_input_nodes if argument in set(nodes[:split])
    }
    assert crossing == set(nodes[split].all_input_nodes)
    assert len(crossing) == 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_full_trace_computes_the_same(name: str, training: bool) -> None:
    network = build(name).train(training)
    traced = torch.fx.symbolic_trace(network)
    assert torch.equal(traced(images()), network(images()))
    # The graph knows nothing of the batch or the image size.
    assert traced(images(3, size=24)).shape == (3, 100)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 20), (3, 32), (4, 40)])
@pytest.mark.parametrize("name", KINDS)
def test_other_sizes_and_channels(name: str, channels: int, size: int) -> None:
    network = build(name, num_classes=5, in_chans=channels)
    logits = network(images(2, channels, size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", KINDS)
def test_gradients_reach_every_parameter(name: str) -> None:
    network = build(name)
    nn.functional.cross_entropy(network(images(4)), torch.arange(4)).backward()
    gradients = {key: parameter.grad for key, parameter in network.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    # The bias of a convolution before BatchNorm has a gradient of zero up to rounding.
    assert all(gradient.any() for key, gradient in gradients.items() if not key.endswith("conv.bias"))


@pytest.mark.parametrize("name", KINDS)
def test_strict_reload(name: str) -> None:
    network = build(name, num_classes=5)
    network(images(4))  # moves the BatchNorm statistics
    again = timm.create_model(name, num_classes=5)
    again.load_state_dict(network.state_dict(), strict=True)
    assert torch.equal(again.eval()(images()), network.eval()(images()))


@pytest.mark.parametrize("name", KINDS)
def test_same_seed_same_weights(name: str) -> None:
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.fast_for("resnet20_cifar", "vgg16_cifar", "wrn16_2_cifar")
@pytest.mark.parametrize("name", KINDS)
def test_dropout_is_off_unless_asked_for(name: str) -> None:
    assert all(module.p == 0 for module in build(name).modules() if isinstance(module, nn.Dropout))
    network = build(name, drop_rate=0.5)
    features = network.train().forward_features(images(4))
    embedding = network.forward_head(features, pre_logits=True)
    assert not torch.equal(embedding, network.forward_head(features, pre_logits=True))
    network.eval()
    assert torch.equal(network.forward_head(features), network.forward_head(features))


@pytest.mark.fast_for("resnet20_cifar", "vgg16_cifar", "wrn16_2_cifar")
@pytest.mark.parametrize("name", KINDS)
def test_reset_classifier(name: str) -> None:
    network = build(name, num_classes=5).double().eval()
    body = {key: value.clone() for key, value in network.state_dict().items() if not key.startswith("fc.")}
    network.reset_classifier(3)
    assert network.num_classes == 3
    assert network(images().double()).shape == (2, 3)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in body.items())
    network.reset_classifier(0)
    assert isinstance(network.get_classifier(), nn.Identity)
    assert network(images().double()).shape == (2, network.head_hidden_size)


def test_reset_classifier_keeps_or_changes_the_pooling() -> None:
    network = build("tiny_cifar", num_classes=5, global_pool="max")
    network.reset_classifier(4)
    assert network.global_pool.pool_type == "max"
    network.reset_classifier(4, "catavgmax")
    assert network.head_hidden_size == 2 * network.num_features
    assert network(images()).shape == (2, 4)
    network.reset_classifier(0, "")
    assert torch.equal(network.eval()(images()), network.forward_features(images()))


def test_reset_classifier_in_eval_mode_stays_there() -> None:
    network = build("tiny_cifar", drop_rate=0.5).eval()
    network.reset_classifier(3)
    assert not any(module.training for module in network.modules())


def test_wrong_pooling_is_named() -> None:
    with pytest.raises(CoterieError, match=r"unknown global_pool 'average'.*'avg'"):
        build("tiny_cifar", global_pool="average")
    with pytest.raises(CoterieError, match="num_classes=0"):
        build("tiny_cifar", global_pool="")
    with pytest.raises(CoterieError, match="catavgmax"):
        build("vgg16_okddip_cifar", global_pool="catavgmax")


def test_pretrained_says_that_there_are_no_weights() -> None:
    with pytest.raises(RuntimeError, match="pretrained=False"):
        timm.create_model("tiny_cifar", pretrained=True)


def test_initial_values() -> None:
    network = build("resnet20_cifar")
    weight = network.get_submodule("layer3.1.conv1").weight
    # 64 * 64 * 9 values: the standard error of the deviation is 0.4 percent.
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert network.fc.weight.abs().max() <= 64**-0.5  # PyTorch's own uniform bound
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


@pytest.mark.parametrize("name", ["tiny_cifar", "vgg16_okddip_cifar"])
def test_loads_from_a_local_folder(name: str, tmp_path: Path) -> None:
    """The exported form: a folder of timm, here with other classes and grey images."""
    network = build(name, num_classes=5, in_chans=1).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {
        "architecture": name,
        "num_classes": 5,
        "model_args": {"in_chans": 1},
        "pretrained_cfg": {**network.pretrained_cfg, "num_classes": 5, "input_size": [1, 8, 8]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(images(2, 1, 8)), network(images(2, 1, 8)))
