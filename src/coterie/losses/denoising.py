"""Formulas of diffusion models that predict noise: adding noise, predicting the clean sample in one step, and variational score distillation.

Computed in float32 or float64, also under autocast. Nothing here detaches, except where a formula says so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.losses.precision import at_least_float32


def _over_samples(alpha_bar: Tensor, samples: Tensor) -> Tensor:
    """Reshapes 0-d or [B] so that it broadcasts over samples [B, ...]."""
    return alpha_bar.to(samples).reshape(-1, *[1] * (samples.ndim - 1)) if alpha_bar.ndim else alpha_bar.to(samples)


def noised(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    r"""Noised sample at time t of the diffusion, :math:`z_t = \sqrt{\bar\alpha_t}\, z + \sqrt{1 - \bar\alpha_t}\, \epsilon`.

    Args:
        clean: z, [B, ...].
        noise: ε, the same shape.
        alpha_bar: ᾱ, 0-d or [B], from 1 (no noise) to 0 (noise only).

    Source: DDPM (Ho et al., NeurIPS 2020, arXiv 2006.11239), equation 4.
    """
    clean, noise = at_least_float32(clean), at_least_float32(noise)
    share = _over_samples(alpha_bar, clean)
    return share.sqrt() * clean + (1 - share).sqrt() * noise


def predicted_clean(sample: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    r"""Clean sample that a predicted noise implies: :math:`\hat z = (z_t - \sqrt{1 - \bar\alpha_t}\, \hat\epsilon) / \sqrt{\bar\alpha_t}`.

    Args:
        sample: z_t, [B, ...].
        noise: ε̂, the same shape; the true noise gives back the clean sample.
        alpha_bar: ᾱ, 0-d or [B], above 0.

    Source: DDPM, equation 15; as the one step of D3SR (Li et al., NeurIPS 2025, arXiv 2410.04224), section 3.1.

    >>> clean, noise, share = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0.9, 0.2])
    >>> torch.allclose(predicted_clean(noised(clean, noise, share), noise, share), clean, atol=1e-5)
    True
    """
    sample, noise = at_least_float32(sample), at_least_float32(noise)
    share = _over_samples(alpha_bar, sample)
    return (sample - (1 - share).sqrt() * noise) / share.sqrt()


def score_difference_loss(clean: Tensor, teacher: Tensor, own: Tensor) -> Tensor:
    r"""Variational score distillation: a loss whose gradient with respect to the samples is the difference of two models' scores.

    .. math:: g = \frac{\hat z_{own} - \hat z_{teacher}}{\overline{|z - \hat z_{teacher}|}}, \qquad
        L = \tfrac12 \overline{(z - \text{stop}(z - g))^2}

    Args:
        clean: z, samples of the generator being trained, [B, ...]; only these receive a gradient.
        teacher: the frozen diffusion model's prediction of the clean sample from the noised z.
        own: the same prediction of a diffusion model that is trained on the generator's samples.

    Returns:
        0-d, the mean over all numbers.

    Source: OSEDiff (Wu et al., NeurIPS 2024, arXiv 2406.08177), equations 5 and 6. The division by each sample's distance from the teacher's prediction is
    DMD's (Yin et al., CVPR 2024, arXiv 2311.18828, equation 8); OSEDiff's code has it too, as far as it is recalled.
    """
    clean, teacher, own = (at_least_float32(each) for each in (clean, teacher, own))
    with torch.no_grad():
        distance = (clean - teacher).abs().flatten(1).mean(1).clamp(min=1e-6)
        target = clean - (own - teacher) / distance.reshape(-1, *[1] * (clean.ndim - 1))
    return 0.5 * (clean - target).square().mean()
