"""Soft targets: the KL divergence between tempered predictions, and the ramp-up of its weight.

Everything is computed in log space and in float32, also under autocast. Nothing here detaches: the method decides whether a target is a constant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def kl_divergence(logits: Tensor, target_logits: Tensor, temperature: float = 1.0) -> Tensor:
    r"""KL divergence of softened predictions from softened targets, times the squared temperature.

    .. math:: T^2 \frac1B \sum_{b,k} q_{bk} \log \frac{q_{bk}}{p_{bk}},\quad p = softmax(z/T),\; q = softmax(t/T)

    The sum runs over classes and the mean over samples ("batchmean"); the factor T² keeps the gradient's scale when the temperature changes (Hinton, Vinyals
    and Dean, 2015, section 2).

    Args:
        logits: predictions z, [..., B, K].
        target_logits: targets t, broadcastable to ``logits``.
        temperature: T > 0.

    Returns:
        float32 [...]: one value for each leading index, in nats.

    >>> z = torch.tensor([[2.0, 0.0]])
    >>> kl_divergence(z, z).item()
    0.0
    """
    log_predictions = torch.log_softmax(logits.float() / temperature, dim=-1)
    log_targets = torch.log_softmax(target_logits.float() / temperature, dim=-1)
    pointwise = log_targets.exp() * (log_targets - log_predictions)
    return pointwise.sum(-1).mean(-1) * temperature**2


def mean_probability(logits: Tensor) -> Tensor:
    """Log of the mean over the first axis of softmax(logits).

    Args:
        logits: [n, ..., K].

    Returns:
        float32 [..., K], log-probabilities; their softmax is the ensemble's mean probability.
    """
    each = torch.log_softmax(logits.float(), dim=-1)
    if len(each) == 1:  # bit-identical, in an eighth of the time
        return each[0]
    return torch.logsumexp(each, dim=0) - math.log(len(each))


def ramp_up(fraction: Tensor, length: float) -> Tensor:
    r"""Weight that rises from exp(-5) to 1 at the start of training: :math:`e^{-5 (1 - \min(f/r, 1))^2}`.

    Args:
        fraction: completed share of training, 0-d.
        length: share of training after which the weight is 1 (80 of 300 epochs in the methods below); 0: always 1.

    Returns:
        0-d tensor.

    Source: Laine and Aila, 2017, section 2; used by ONE, OKDDip, FFL and PCL (their code).
    """
    if length == 0:
        return torch.ones_like(fraction)
    return torch.exp(-5.0 * (1.0 - (fraction / length).clamp(max=1.0)) ** 2)
