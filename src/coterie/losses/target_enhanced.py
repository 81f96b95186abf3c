"""OFA-KD's loss: a soft cross-entropy that gives more weight to the true class the more confident the teacher is."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.losses.label import one_hot


def target_enhanced_weights(
    teacher: Tensor, targets: Tensor, gamma: float, temperature: float = 1.0, nontarget_power: bool = True
) -> Tensor:
    r"""Weights :math:`(p_c + m_c)^\gamma - m_c` with m the one-hot truth, float32 [B, K]; constants.

    Args:
        teacher: logits [B, K].
        targets: class indices [B], or distributions [B, K], whose largest entry counts as the class.
        gamma: 1 gives the teacher's probabilities, that is plain distillation.
        temperature: of the teacher's softmax.
        nontarget_power: whether the other classes' probabilities are raised to gamma too (the authors' code), or unchanged (the paper's printed formula, as far
            as it is recalled).
    """
    probabilities = torch.softmax(teacher.detach().float() / temperature, dim=-1)
    classes = targets.argmax(-1) if targets.ndim > 1 else targets
    truth = one_hot(classes, teacher.shape[-1])
    enhanced = (probabilities + truth).pow(gamma) - truth
    return enhanced if nontarget_power else torch.where(truth > 0, enhanced, probabilities)


def target_enhanced_loss(logits: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over samples of -sum_c w_c log softmax(z/T)_c, without a factor T²; 0-d.

    Args:
        logits: [B, K].
        weights: [B, K] of :func:`target_enhanced_weights`.
        temperature: T.

    Source: OFA-KD's code (Hao et al., NeurIPS 2023), which takes the logarithm of a softmax; here in log space.
    """
    return -(weights * torch.log_softmax(logits.float() / temperature, dim=-1)).sum(-1).mean()
