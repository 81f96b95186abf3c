"""Distortion of clips, in batches on their device: room responses, noise, narrow bands. The distortion of a clip is a function of (seed, clip), not of its batch.

Random numbers are hashed from their index, see :func:`coterie.randomness.uniform`, so no generator is advanced. Sums over the width of a batch depend on that width in
their last bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.randomness import uniform

PINK_TAPS = 512
BAND_TAPS = 129
ROOM = (0.1, 0.6)  # seconds of reverberation time, a decay of 60 dB
DIRECT = (1.0, 3.0)  # amplitude of the direct sound relative to all reflections: the square root of their power ratio
BAND = (1_000.0, 4_000.0)  # Hz
KINDS = ("white", "pink", "recorded")  # generated noise, and recorded noise
# Random streams of a clip; those of noise begin where the others end.
SNR, ROOM_SHARE, ROOM_SECONDS, ROOM_DIRECT, BAND_SHARE, BAND_LIMIT = range(6)
ROOM_NOISE, NOISE = 1 << 40, 1 << 41


class Effects(NamedTuple):
    """The distortion of clips.

    Attributes:
        snr: lowest and highest signal-to-noise ratio, in dB.
        reverberation, band_limit: shares of the clips that get them.
    """

    snr: tuple[float, float] = (0.0, 20.0)
    reverberation: float = 0.0
    band_limit: float = 0.0


def distorted(
    waveforms: Tensor,
    lengths: Tensor,
    indices: Tensor,
    seed: int,
    rate: int,
    effects: Effects,
    kinds: Tensor,
    recorded: Tensor | None = None,
) -> Tensor:
    """Apply a room response, noise and a narrow band to clips, in this order. The power of a clip does not change.

    Args:
        waveforms: float32 [B, S].
        lengths: lengths of the clips, int64 [B]; samples beyond are padding and stay 0.
        indices: indices of the clips, int64 [B]; random values depend on them.
        seed: random values also depend on this seed, for example that of a run and an epoch.
        rate: samples per second.
        effects: the distortion.
        kinds: kind of each clip's noise, int64 [B]: its index in ``KINDS``; -1: none.
        recorded: noise of the third kind, float32 [B, S]; None: no clip has it.

    Returns:
        float32 [B, S].
    """
    inside = _inside(waveforms, lengths)
    found = waveforms
    if effects.reverberation > 0:
        echoed = reverberated(found, indices, seed, rate)
        drawn = uniform(seed, indices, ROOM_SHARE) < effects.reverberation
        found = torch.where(drawn[:, None], _as_loud(echoed * inside, found), found)
    low, high = effects.snr
    ratio = low + (high - low) * uniform(seed, indices, SNR)
    found = with_noise(found, lengths, noise_of(found, indices, seed, kinds, recorded), ratio, kinds >= 0)
    if effects.band_limit > 0:
        drawn = uniform(seed, indices, BAND_SHARE) < effects.band_limit
        limits = BAND[0] * (BAND[1] / BAND[0]) ** uniform(seed, indices, BAND_LIMIT)
        narrow = low_passed(found, limits / rate)
        found = torch.where(drawn[:, None], _as_loud(narrow * inside, found), found)
    return found


def _inside(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Return 1 for samples and 0 for padding, float32 [B, S]."""
    return (torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]).to(waveforms.dtype)


def _as_loud(found: Tensor, like: Tensor) -> Tensor:
    """Scale each clip to the power of the corresponding clip of another batch."""
    power, wanted = (each.square().sum(1, keepdim=True) for each in (found, like))
    return found * (wanted / power.clamp(min=1e-12)).sqrt()


def with_noise(waveforms: Tensor, lengths: Tensor, noise: Tensor, ratio: Tensor, which: Tensor) -> Tensor:
    """Add noise to clips at a signal-to-noise ratio.

    Args:
        waveforms, noise: float32 [B, S].
        lengths: lengths of the clips, int64 [B].
        ratio: signal-to-noise ratio in dB, [B].
        which: clips that get noise, bool [B].

    >>> clip, noise = torch.ones(1, 4), torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    >>> with_noise(clip, torch.tensor([2]), noise, torch.tensor([0.0]), torch.tensor([True]))
    tensor([[2., 0., 1., 1.]])
    """
    noise = noise * _inside(waveforms, lengths)
    power, own = noise.square().sum(1), (waveforms * _inside(waveforms, lengths)).square().sum(1)
    factor = (own / power.clamp(min=1e-12)).sqrt() * 10 ** (-ratio / 20)
    return waveforms + torch.where(which, factor, 0.0)[:, None] * noise


def noise_of(waveforms: Tensor, indices: Tensor, seed: int, kinds: Tensor, recorded: Tensor | None) -> Tensor:
    """Return each clip's noise by its kind, float32 [B, S]; for the kind -1 it is white."""
    made = white(indices, seed, NOISE, waveforms.shape[1] + PINK_TAPS - 1)
    pink = F.conv1d(made[:, None], pink_filter(made.device).flip(0)[None, None])[:, 0]
    plain = made[:, PINK_TAPS - 1 :]
    given = plain if recorded is None else recorded
    return torch.where((kinds == 1)[:, None], pink, torch.where((kinds == 2)[:, None], given, plain))


def white(indices: Tensor, seed: int, stream: int, count: int) -> Tensor:
    """Return white noise of variance 1, float32 [B, count]. A sample depends only on seed, clip, stream and its index."""
    places = torch.arange(stream, stream + count, device=indices.device)[:, None]
    return (uniform(seed, indices, places).T - 0.5) * math.sqrt(12)


def pink_filter(device: torch.device) -> Tensor:
    """Return the impulse response that turns white noise into pink (1/f), float32 [512]: (1 - 1/z)^(-1/2), truncated (Kasdin, Proc. IEEE 83(5), 1995).

    >>> pink_filter(torch.device("cpu"))[:3]
    tensor([1.0000, 0.5000, 0.3750])
    """
    numbers = torch.arange(1, PINK_TAPS, dtype=torch.float64)  # on the CPU: not every device supports float64
    steps = (numbers - 0.5) / numbers
    return torch.cat([torch.ones(1, dtype=torch.float64), steps]).cumprod(0).float().to(device)


def reverberated(waveforms: Tensor, indices: Tensor, seed: int, rate: int) -> Tensor:
    """Convolve clips with synthetic room responses, the direct sound followed by decaying noise, float32 [B, S]. Clips become louder."""
    count = int(ROOM[1] * rate)
    seconds = ROOM[0] + (ROOM[1] - ROOM[0]) * uniform(seed, indices, ROOM_SECONDS)
    places = torch.arange(count, device=waveforms.device)
    fading = 10 ** (-3 * places / (seconds[:, None] * rate))  # a decay of 60 dB in that time
    tail = white(indices, seed, ROOM_NOISE, count) * fading * (places > 0)
    share = DIRECT[0] + (DIRECT[1] - DIRECT[0]) * uniform(seed, indices, ROOM_DIRECT)
    tail = tail / (tail.norm(dim=1) * share).clamp(min=1e-12)[:, None]
    response = tail + (places == 0)
    length = waveforms.shape[1] + count
    spectrum = torch.fft.rfft(waveforms, length) * torch.fft.rfft(response, length)
    return torch.fft.irfft(spectrum, length)[:, : waveforms.shape[1]]


def low_passed(waveforms: Tensor, limits: Tensor) -> Tensor:
    """Low-pass clips with a windowed sinc of 129 taps, float32 [B, S].

    Args:
        waveforms: [B, S].
        limits: cut-off frequency of each clip as a share of the rate, [B].
    """
    places = torch.arange(BAND_TAPS, device=waveforms.device) - BAND_TAPS // 2
    window = torch.hann_window(BAND_TAPS, periodic=False, device=waveforms.device)
    taps = 2 * limits[:, None] * torch.sinc(2 * limits[:, None] * places) * window
    found = F.conv1d(waveforms[None], taps[:, None].to(waveforms.dtype), padding=BAND_TAPS // 2, groups=len(waveforms))
    return found[0]
