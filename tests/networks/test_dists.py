from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torchvision.models import vgg

from coterie.errors import CoterieError
from coterie.networks import dists as place
from coterie.networks.dists import DISTS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def images():
    rough = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(rough, (32, 32), mode="bicubic").clamp(0, 1)


def convolutions():
    """Torchvision's VGG-16 without its classifier, untrained."""
    torch.manual_seed(0)
    return vgg.make_layers(vgg.cfgs["D"], batch_norm=False)


def state_of(layers):
    return {f"features.{name}": value for name, value in layers.state_dict().items()}


def blurred(images, times):
    kernel = torch.full((3, 1, 3, 3), 1 / 9)
    for _ in range(times):
        images = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    return images


def test_a_random_network_gives_a_distance_that_grows_with_blur_and_is_named_so(images):
    network = DISTS("random")
    assert network.name == "dists_random"
    assert network.edge_aware(images, images).abs().max() < 1e-5
    found = [network.edge_aware(blurred(images, times), images).mean().item() for times in (1, 3, 9)]
    assert found == sorted(found)
    assert found[0] > 0.01
    torch.testing.assert_close(DISTS("random")(images, images.flip(0)), network(images, images.flip(0)))


def test_it_is_frozen_and_gradients_reach_the_images(images):
    network = DISTS("random")
    network.train()
    assert not network.training
    own = blurred(images, 1).requires_grad_()
    network.edge_aware(own, images).sum().backward()
    assert own.grad.abs().sum() > 0
    assert not any(each.requires_grad for each in network.parameters())


def test_autocast_does_not_round_it(images):
    network = DISTS("random")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network.edge_aware(images, images.flip(0))
    torch.testing.assert_close(found, network.edge_aware(images, images.flip(0)))


def test_distances_are_piqs(monkeypatch, tmp_path):
    """Of the same weights and images, see benchmarks/restoration/dists_by_piq.py."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "restoration" / "dists_by_piq.py"))
    state, channels = script["weights"]()
    monkeypatch.setattr(place, "vgg16_weights", lambda: {f"features.{name}": value for name, value in state.items()})
    save_file(channels, tmp_path / "weights.safetensors")
    network = DISTS(str(tmp_path / "weights.safetensors"))
    noted = json.loads(Path(__file__).with_name("dists_by_piq.json").read_text())
    for pair, expected in zip(script["pairs"](), noted["distances"], strict=True):
        with torch.inference_mode():
            found = network(*pair)
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_stages_are_those_of_torchvisions_network_with_smooth_pooling(images, monkeypatch, tmp_path):
    """Torchvision's own modules with other poolings, weights drawn here, and the formula written as the published code has it."""
    layers = convolutions()
    monkeypatch.setattr(place, "vgg16_weights", lambda: state_of(layers))
    generator = torch.Generator().manual_seed(3)
    alpha, beta = torch.rand(2, 1, 1475, 1, 1, generator=generator)
    save_file({"alpha": alpha.contiguous(), "beta": beta.contiguous()}, tmp_path / "weights.safetensors")
    torch.save({"alpha": alpha, "beta": beta}, tmp_path / "weights.pt")
    network = DISTS(str(tmp_path / "weights.safetensors"))
    assert network.name == "dists"
    window = torch.tensor([0.5, 1.0, 0.5])
    window = (window[:, None] * window / 4).expand(512, 1, 3, 3)
    bounds = [(0, 4), (5, 9), (10, 16), (17, 23), (24, 30)]

    def features(values):
        found = [values]
        values = (values - torch.tensor(place.MEAN).view(3, 1, 1)) / torch.tensor(place.STD).view(3, 1, 1)
        for first, last in bounds:
            if first:
                kernel = window[: values.shape[1]]
                values = (F.conv2d(values**2, kernel, stride=2, padding=1, groups=len(kernel)) + 1e-12).sqrt()
            values = layers[first:last](values)
            found.append(values)
        return found

    x, y = images[:, :, :16, :16], images.flip(0)[:, :, :16, :16]
    total = alpha.sum() + beta.sum()
    widths = [3, 64, 128, 256, 512, 512]
    expected = 0
    for a, b, one, two in zip(features(x), features(y), alpha.split(widths, 1), beta.split(widths, 1), strict=True):
        mean_a, mean_b = a.mean((2, 3), keepdim=True), b.mean((2, 3), keepdim=True)
        texture = (2 * mean_a * mean_b + 1e-6) / (mean_a**2 + mean_b**2 + 1e-6)
        var_a = ((a - mean_a) ** 2).mean((2, 3), keepdim=True)
        var_b = ((b - mean_b) ** 2).mean((2, 3), keepdim=True)
        both = (a * b).mean((2, 3), keepdim=True) - mean_a * mean_b
        structure = (2 * both + 1e-6) / (var_a + var_b + 1e-6)
        expected = expected + (one / total * texture).sum(1) + (two / total * structure).sum(1)
    with torch.no_grad():
        torch.testing.assert_close(network(x, y), 1 - expected.flatten(), atol=1e-5, rtol=1e-4)
        again = DISTS(str(tmp_path / "weights.pt"))
        torch.testing.assert_close(again(x, y), network(x, y))
    assert DISTS("vgg16").name == "dists_equal"
    save_file({"alpha": torch.ones(7), "beta": torch.ones(7)}, tmp_path / "short.safetensors")
    with pytest.raises(CoterieError, match="expected 1475 numbers each"):
        DISTS(str(tmp_path / "short.safetensors"))


def test_what_is_not_there_or_too_small(images, monkeypatch, tmp_path):
    monkeypatch.setattr(place, "vgg16_weights", lambda: state_of(convolutions()))
    with pytest.raises(CoterieError, match="expected vgg16, random, or a file"):
        DISTS("vgg19")
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(CoterieError, match="holds no weights alpha and beta"):
        DISTS(str(tmp_path / "weights.pt"))
    with pytest.raises(CoterieError, match="at least 16x16 pixels"):
        DISTS("random")(images[:, :, :8], images[:, :, :8])
