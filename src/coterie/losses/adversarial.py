"""Adversarial losses of a generator and a discriminator, and the R1 gradient penalty.

Source: the non-saturating GAN loss (Goodfellow et al., NeurIPS 2014, arXiv 1406.2661, section 3), in logits. Computed in float32 or float64. Nothing here
detaches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from coterie.losses.precision import at_least_float32


def generator_loss(fake: Tensor) -> Tensor:
    r"""Generator loss, :math:`-\overline{\log \sigma(s)}`.

    Args:
        fake: the discriminator's logits of generated samples (high: real), any shape; all entries have equal weight.

    Returns:
        0-d; ln 2 when the discriminator's logits are 0.

    >>> round(generator_loss(torch.zeros(2, 1, 4, 4)).item(), 4)
    0.6931
    """
    return F.softplus(-at_least_float32(fake)).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    r"""Discriminator loss, :math:`-\overline{\log \sigma(s_{real})} - \overline{\log(1 - \sigma(s_{fake}))}`.

    Args:
        real, fake: the discriminator's logits of real and of generated samples, any shapes.

    Returns:
        0-d; 2 ln 2 when all logits are 0.

    >>> round(discriminator_loss(torch.zeros(3), torch.zeros(5)).item(), 4)
    1.3863
    """
    return F.softplus(-at_least_float32(real)).mean() + F.softplus(at_least_float32(fake)).mean()


def gradient_penalty(real_scores: Tensor, real: Tensor) -> Tensor:
    r"""R1 penalty, :math:`\overline{\|\nabla_x \sum s(x)\|^2}`: squared norm of the score's gradient at real samples.

    Args:
        real_scores: scores of the real samples [B, ...], computed from ``real``.
        real: the samples [B, ...]; must require gradients.

    Returns:
        0-d, the mean over samples; differentiable.

    Source: Mescheder et al., ICML 2018, arXiv 1801.04406, section 4.1, without its factor 1/2.
    """
    (slopes,) = torch.autograd.grad(at_least_float32(real_scores).sum(), real, create_graph=True)
    return at_least_float32(slopes).flatten(1).square().sum(1).mean()
