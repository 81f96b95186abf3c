from __future__ import annotations

import itertools
import math

import pytest
import torch

from coterie.tasks.speech.data.distortion import (
    BAND,
    Effects,
    distorted,
    low_passed,
    noise_of,
    pink_filter,
    reverberated,
    white,
)

RATE = 16000


@pytest.fixture
def clips():
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(3, 8000, generator=generator) * 0.1
    lengths = torch.tensor([8000, 6000, 4000])
    return torch.where(torch.arange(8000) < lengths[:, None], found, 0.0), lengths


def power(signal, lengths):
    return torch.stack([row[:count].square().mean() for row, count in zip(signal, lengths, strict=True)])


@pytest.mark.parametrize("ratio", [0.0, 12.0])
def test_noise_has_the_ratio_that_was_asked_for(clips, ratio):
    waveforms, lengths = clips
    kinds = torch.tensor([0, 1, -1])
    found = distorted(waveforms, lengths, torch.tensor([5, 9, 2]), 7, RATE, Effects((ratio, ratio)), kinds)
    noise = power(found - waveforms, lengths)
    measured = 10 * torch.log10(power(waveforms, lengths)[:2] / noise[:2])
    torch.testing.assert_close(measured, torch.full((2,), ratio), atol=1e-3, rtol=0)
    assert torch.equal(found[2], waveforms[2])
    assert (found[1, 6000:] == 0).all()


def test_what_a_clip_gets_does_not_depend_on_its_batch(clips):
    waveforms, lengths = clips
    effects, recorded = Effects((0.0, 20.0), 1.0, 1.0), torch.randn(3, 8000, generator=torch.Generator().manual_seed(1))
    indices, kinds = torch.tensor([5, 9, 2]), torch.tensor([0, 1, 2])
    together = distorted(waveforms, lengths, indices, 7, RATE, effects, kinds, recorded)
    for row, count in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = distorted(
            waveforms[one, :count], lengths[one], indices[one], 7, RATE, effects, kinds[one], recorded[one, :count]
        )
        torch.testing.assert_close(together[one, :count], alone, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(together, distorted(waveforms, lengths, indices, 8, RATE, effects, kinds, recorded))


def test_pink_noise_falls_by_three_decibels_an_octave():
    indices = torch.arange(40)
    found = noise_of(torch.zeros(40, 16384), indices, 3, torch.ones(40, dtype=torch.int64), None)
    spectrum = torch.fft.rfft(found).abs().square().mean(0)
    octaves = [10 * math.log10(spectrum[low : 2 * low].mean()) for low in (256, 512, 1024, 2048)]
    steps = [first - second for first, second in itertools.pairwise(octaves)]
    assert steps == pytest.approx([3.01] * 3, abs=0.4)
    assert pink_filter(torch.device("cpu"))[1] == 0.5


def test_white_noise_is_white():
    found = white(torch.arange(50), 1, 99, 4000)
    assert found.shape == (50, 4000)
    assert found.var().item() == pytest.approx(1, abs=0.02)
    assert abs((found[:, 1:] * found[:, :-1]).mean().item()) < 0.01


def test_a_room_keeps_the_sound_itself_and_dies_away():
    impulse = torch.zeros(1, 16000)
    impulse[0, 100] = 1
    found = reverberated(impulse, torch.tensor([4]), 2, RATE)[0]
    assert found[:99].abs().max() < 1e-5
    assert found[100].item() == pytest.approx(1, abs=1e-4)
    early, late = found[101:1000].square().sum(), found[8000:12000].square().sum()
    assert 1 / 9.5 < found[101:].square().sum() < 1.05
    assert late < 0.02 * early


def test_a_narrow_band_has_no_high_frequencies():
    noise = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    spectrum = torch.fft.rfft(low_passed(noise, torch.tensor([BAND[0], 4000.0]) / RATE)).abs().square()
    assert spectrum[0, 1400:].mean() < 1e-3 * spectrum[0, :800].mean()
    assert spectrum[1, 3500:3800].mean() > 0.5 * spectrum[1, :3000].mean()
