"""DiffKD's modules by the paper's and its code's description, and its diffusion by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coterie.networks.diffusion import Bottleneck, Denoiser, NoiseAdapter, NoisePredictor


def layers_of(module):
    """Kind and sizes of the layers in order; a convolution as (in, out, side of the kernel)."""
    found = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.stride == (1, 1)
            assert layer.groups == 1
            found.append((layer.in_channels, layer.out_channels, layer.kernel_size[0]))
        elif isinstance(layer, nn.BatchNorm2d):
            found.append(("norm", layer.num_features))
        elif isinstance(layer, nn.ReLU):
            found.append("relu")
        elif not list(layer.children()):
            found.append(type(layer).__name__)
    return found


def bottleneck(channels, middle):
    return [
        (channels, middle, 1),
        ("norm", middle),
        "relu",
        (middle, middle, 3),
        ("norm", middle),
        "relu",
        (middle, channels, 1),
        ("norm", channels),
    ]


def test_a_bottleneck_adds_its_input_and_ends_without_relu():
    block = Bottleneck(8, 4)
    assert layers_of(block) == bottleneck(8, 2)
    values = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(block(values), values + block.layers(values))
    nn.init.zeros_(block.layers[-1].weight)
    assert torch.equal(block(values), values)  # negative ones too
    assert layers_of(Bottleneck(3, 8)) == bottleneck(3, 1)  # at least one channel in the middle


def test_the_noise_predictor_of_maps():
    predictor = NoisePredictor(16, spatial=True)
    assert layers_of(predictor.layers) == [*bottleneck(16, 4), *bottleneck(16, 4), (16, 16, 1), ("norm", 16)]
    assert predictor(torch.randn(2, 16, 3, 5), torch.tensor([0, 999])).shape == (2, 16, 3, 5)


def test_the_noise_predictor_of_logits():
    predictor = NoisePredictor(5, spatial=False)
    half = [(5, 20, 1), ("norm", 20), "relu", (20, 5, 1)]
    assert layers_of(predictor.layers) == [*half, ("norm", 5), *half]
    assert predictor(torch.randn(2, 5, 1, 1), torch.tensor([0, 999])).shape == (2, 5, 1, 1)


@pytest.mark.parametrize("spatial", [True, False])
def test_a_samples_time_is_embedded_and_added_to_each_channel(spatial):
    predictor = NoisePredictor(6, spatial).eval()
    assert predictor.time.weight.shape == (1280, 6)
    noisy, times = torch.randn(3, 6, 1, 1), torch.tensor([7, 0, 999])
    with_time = noisy.clone()
    for sample, time in enumerate(times.tolist()):
        for channel in range(6):
            with_time[sample, channel] += predictor.time.weight[time, channel].item()
    torch.testing.assert_close(predictor(noisy, times), predictor.layers(with_time))


@pytest.mark.parametrize(
    ("spatial", "layers"),
    [(True, bottleneck(16, 2)), (False, [(16, 32, 1), ("norm", 32), "relu", (32, 16, 1), ("norm", 16)])],
)
def test_the_noise_adapter(spatial, layers):
    adapter = NoiseAdapter(16, spatial).eval()
    assert layers_of(adapter.layers) == layers
    assert adapter.score.weight.shape == (2, 16)
    values = torch.randn(3, 16, 4, 2) if spatial else torch.randn(3, 16, 1, 1)
    gamma = adapter(values)
    assert gamma.shape == (3, 1, 1, 1)
    for sample in range(3):
        one = adapter.layers(values[sample : sample + 1]).flatten(2).mean(-1)[0]
        first, second = (adapter.score.weight @ one + adapter.score.bias).tolist()
        expected = math.exp(first) / (math.exp(first) + math.exp(second))
        assert gamma[sample].item() == pytest.approx(expected, rel=1e-4)


def kept(time):
    """The product of 1 - beta up to and with this time, beta from 0.0001 to 0.02 in 1000 equal steps."""
    product = 1.0
    for step in range(time + 1):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
    return product


def test_the_noise_schedule():
    found = Denoiser(4, spatial=True).kept
    assert len(found) == 1000
    for time, published in {100: 0.895, 200: 0.656, 300: 0.394, 400: 0.194, 500: 0.078}.items():
        assert found[time].item() == pytest.approx(published, abs=5e-4)
    for time in (0, 1, 100, 400, 999):
        assert found[time].item() == pytest.approx(kept(time), rel=1e-5)
    for time, ratio in {400: 2.04, 500: 3.44}.items():  # noise to signal
        assert ((1 - found[time]).sqrt() / found[time].sqrt()).item() == pytest.approx(ratio, abs=0.006)


@pytest.mark.parametrize(
    ("steps", "times"),
    [
        (1, [0]),
        (3, [332, 166, 0]),
        (5, [400, 300, 200, 100, 0]),
        (10, [450, 400, 350, 300, 250, 200, 150, 100, 50, 0]),
        (20, list(range(475, -1, -25))),
    ],
)
def test_times_are_the_last_half_of_twice_as_many_equal_steps(steps, times):
    assert Denoiser(4, spatial=True, steps=steps).times == times


class Stub(nn.Module):
    """In place of the noise predictor: what it was asked, and a fixed rule for what it says."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.asked = []

    def forward(self, noisy, time):
        self.asked.append(time.tolist())
        return self.rule(noisy, time)


@pytest.mark.parametrize(("steps", "stride"), [(1, 500), (2, 250), (5, 100), (10, 50)])
def test_denoising_by_hand(steps, stride):
    """DDIM without noise, sample by sample in Python floats, for a predictor that depends on feature and time."""

    def rule(x, t):
        return math.tanh(0.5 * x) + t / 1000

    denoiser = Denoiser(1, spatial=True, steps=steps)
    denoiser.predictor = Stub(lambda x, t: torch.tanh(0.5 * x) + t.view(-1, 1, 1, 1) / 1000)
    start = [-1.5, 0.2, 3.0]
    found = denoiser.denoise(torch.tensor(start).view(3, 1, 1, 1)).flatten()
    times = [stride * number for number in range(steps)][::-1]
    assert denoiser.predictor.asked == [[time] * 3 for time in times]
    for value, ours in zip(start, found.tolist(), strict=True):
        x = value
        for time in times:
            noise, now = rule(x, time), kept(time)
            before = kept(time - stride) if time > 0 else 1.0
            clean = (x - math.sqrt(1 - now) * noise) / math.sqrt(now)
            x = math.sqrt(before) * clean + math.sqrt(1 - before) * noise
        assert ours == pytest.approx(x, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_denoising_with_the_true_noise_gives_the_clean_feature(steps):
    """DDIM along the exact noise is exact, whatever the number of steps."""
    denoiser = Denoiser(3, spatial=True, steps=steps)
    clean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    denoiser.predictor = Stub(lambda noisy, time: noise)
    first = kept(denoiser.times[0])
    start = math.sqrt(first) * clean + math.sqrt(1 - first) * noise
    torch.testing.assert_close(denoiser.denoise(start), clean, atol=1e-4, rtol=1e-3)


def test_gradients_run_through_every_step():
    """Where the noise is seen as a tenth of the feature, a step multiplies by a known factor: the gradient is the five factors' product."""
    denoiser = Denoiser(2, spatial=True)
    share = torch.full((5,), 0.1, requires_grad=True)
    denoiser.predictor = Stub(lambda noisy, time: noisy * share[int(time[0]) // 100])
    start = torch.randn(1, 2, 1, 1, requires_grad=True)
    gradient, shares = torch.autograd.grad(denoiser.denoise(start).sum(), [start, share])
    expected = 1.0
    for time in (400, 300, 200, 100, 0):
        now, before = kept(time), kept(time - 100) if time > 0 else 1.0
        clean = (1 - 0.1 * math.sqrt(1 - now)) / math.sqrt(now)
        expected *= math.sqrt(before) * clean + 0.1 * math.sqrt(1 - before)
    torch.testing.assert_close(gradient, torch.full_like(gradient, expected), atol=1e-4, rtol=1e-4)
    assert shares.ne(0).all()  # and the predictor learns from all of them


def test_the_projector_control_knows_no_schedule():
    denoiser = Denoiser(2, spatial=True)
    denoiser.predictor = Stub(lambda noisy, time: 0.5 * noisy)
    values = torch.randn(3, 2, 2, 2)
    torch.testing.assert_close(denoiser.project(values), values / 2**5)
    assert denoiser.predictor.asked == [[time] * 3 for time in (400, 300, 200, 100, 0)]


class Adapts(nn.Module):
    """In place of the adapter: these gammas."""

    def __init__(self, gammas):
        super().__init__()
        self.gammas = gammas

    def forward(self, features):
        return self.gammas


def test_gamma_multiplies_the_feature_and_the_rest_is_noise():
    """Linear, not variance preserving, one gamma for a sample."""
    denoiser = Denoiser(4, spatial=True)
    gammas = torch.tensor([1.0, 0.0, 0.3]).view(3, 1, 1, 1)
    denoiser.adapter = Adapts(gammas)
    features = torch.randn(3, 4, 32, 32)
    start, gamma = denoiser.mixed_with_noise(features)
    assert torch.equal(gamma, gammas)
    torch.testing.assert_close(start[0], features[0])
    noise = (start[1:] - gammas[1:] * features[1:]) / (1 - gammas[1:])
    assert noise.mean().item() == pytest.approx(0, abs=0.05)
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert abs((noise * features[1:]).mean()) < 0.05
    assert abs((noise[0] * noise[1]).mean()) < 0.05  # each sample has noise of its own


def test_without_noise_matching_denoising_starts_from_the_feature():
    denoiser = Denoiser(4, spatial=True, adapt=False)
    features = torch.randn(3, 4, 2, 2)
    start, gamma = denoiser.mixed_with_noise(features)
    assert torch.equal(start, features)
    assert gamma is None
    assert not any(name.startswith("adapter") for name, _ in denoiser.named_parameters())


def test_the_diffusion_loss_is_the_mean_squared_error_of_the_noise():
    denoiser = Denoiser(4, spatial=True)
    clean, seen = torch.randn(600, 4, 2, 2), []

    def guess(noisy, time):
        seen.append((noisy, time))
        return torch.full_like(noisy, 0.5)

    denoiser.predictor = Stub(guess)
    loss = denoiser.diffusion_loss(clean)
    ((noisy, times),) = seen
    products = torch.tensor([kept(time) for time in range(1000)], dtype=torch.float64)[times].view(-1, 1, 1, 1)
    noise = (noisy.double() - products.sqrt() * clean) / (1 - products).sqrt()
    assert loss.item() == pytest.approx((noise - 0.5).square().mean().item(), rel=1e-3)
    assert noise.mean().item() == pytest.approx(0, abs=0.03)
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert times.min() < 20 <= 980 < times.max() <= 999  # every sample draws from all the thousand
    assert F.one_hot(times, 1000).sum(0).max() < 10


@pytest.mark.parametrize("spatial", [True, False])
def test_all_of_it_is_trained(spatial):
    denoiser = Denoiser(16, spatial)
    start, _ = denoiser.mixed_with_noise(torch.randn(8, 16, 1, 1))
    (denoiser.denoise(start).square().mean() + denoiser.diffusion_loss(torch.randn(8, 16, 1, 1))).backward()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.ndim == 1 or parameter.grad.any(), name
