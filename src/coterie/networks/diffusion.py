"""DiffKD's modules: a small diffusion model over teacher features that denoises the student's. Never exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEPS = 1000
EMBEDDINGS = 1280
MOST_STEPS = STEPS // 2  # the later half of the time steps, with stride 1


class Bottleneck(nn.Module):
    """Residual bottleneck of 1x1, 3x3 and 1x1 convolutions with BatchNorm.

    Args:
        channels: C.
        reduction: the bottleneck has C/reduction channels, at least 1.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        middle = max(1, channels // reduction)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, feature_map: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        result: Tensor = feature_map + self.layers(feature_map)
        return result


def _wide(channels: int, factor: int, last_norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(channels, factor * channels, 1, bias=False),
        nn.BatchNorm2d(factor * channels),
        nn.ReLU(),
        nn.Conv2d(factor * channels, channels, 1, bias=not last_norm),
    ]
    return layers + ([nn.BatchNorm2d(channels)] if last_norm else [])


class NoisePredictor(nn.Module):
    """Phi(x, t): predicts the noise in a noisy feature.

    Args:
        channels: channels of the features.
        spatial: features are maps; otherwise logits, [B, K, 1, 1].
    """

    def __init__(self, channels: int, spatial: bool) -> None:
        super().__init__()
        self.time = nn.Embedding(EMBEDDINGS, channels)
        if spatial:
            self.layers = nn.Sequential(
                Bottleneck(channels, 4),
                Bottleneck(channels, 4),
                nn.Conv2d(channels, channels, 1),
                nn.BatchNorm2d(channels),
            )
        else:
            self.layers = nn.Sequential(*_wide(channels, 4, True), *_wide(channels, 4, False))

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Predicts the noise [B, C, H, W] of features [B, C, H, W] at time steps [B]."""
        result: Tensor = self.layers(noisy + self.time(time)[:, :, None, None])
        return result


class NoiseAdapter(nn.Module):
    """Predicts gamma in (0, 1) for each sample: the share of the student's feature, relative to noise, at the start of denoising.

    Args:
        channels, spatial: as in :class:`NoisePredictor`.
    """

    def __init__(self, channels: int, spatial: bool) -> None:
        super().__init__()
        self.layers = Bottleneck(channels, 8) if spatial else nn.Sequential(*_wide(channels, 2, True))
        self.score = nn.Linear(channels, 2)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Returns gamma [B, 1, 1, 1] of features [B, C, H, W]."""
        scores = self.score(self.layers(feature_map).mean((2, 3)))
        return torch.softmax(scores.float(), dim=1)[:, :1, None, None]


class Denoiser(nn.Module):
    """Diffusion model of teacher features that denoises the student's features.

    Args:
        channels, spatial: as in :class:`NoisePredictor`.
        steps: number of evaluations of Phi, at the later half of twice as many equally spaced time steps; 5: at 400, 300, 200, 100, 0 (the authors' code; the
            paper says that it starts at 500).
        adapt: whether :class:`NoiseAdapter` matches the noise level; otherwise the student's feature is used unchanged.

    Source: DiffKD (Huang et al., NeurIPS 2023), equations 3 to 8, and its code.
    """

    kept: Tensor

    def __init__(self, channels: int, spatial: bool, steps: int = 5, adapt: bool = True) -> None:
        super().__init__()
        self.predictor = NoisePredictor(channels, spatial)
        self.adapter = NoiseAdapter(channels, spatial) if adapt else None
        self.stride = STEPS // (2 * steps)
        self.times = [self.stride * number for number in reversed(range(steps))]
        beta = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
        self.register_buffer("kept", torch.cumprod(1 - beta, 0).float(), persistent=False)

    def diffusion_loss(self, clean: Tensor) -> Tensor:
        """Mean squared error of the predicted noise at random time steps; ``clean`` [B, C, H, W] must be detached."""
        times = torch.randint(0, STEPS, (len(clean),), device=clean.device)
        noise = torch.randn_like(clean)
        kept = self.kept[times][:, None, None, None]
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        return (self.predictor(noisy, times).float() - noise.float()).square().mean()

    def mixed_with_noise(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the start of denoising, gamma x + (1 - gamma) noise (linear, gamma on the feature), and gamma [B, 1, 1, 1]."""
        if self.adapter is None:
            return features, None
        gamma = self.adapter(features).to(features.dtype)
        return gamma * features + (1 - gamma) * torch.randn_like(features), gamma

    def project(self, start: Tensor) -> Tensor:
        """Uses the same network, at the same time steps, as a residual projector only: no noise, no schedule."""
        values = start
        for time in self.times:
            values = values - self.predictor(values, torch.full((len(values),), time, device=values.device))
        return values

    def denoise(self, start: Tensor) -> Tensor:
        """DDIM without added noise; gradients flow through every step."""
        values = start
        one = self.kept.new_ones(())
        for time in self.times:
            moment = torch.full((len(values),), time, device=values.device)
            noise = self.predictor(values, moment)
            kept = self.kept[time]
            before = self.kept[time - self.stride] if time >= self.stride else one
            clean = (values - (1 - kept).sqrt() * noise) / kept.sqrt()
            values = before.sqrt() * clean + (1 - before).sqrt() * noise
        return values
