"""BYOT: Be Your Own Teacher (Zhang et al., ICCV 2019, arXiv 1905.08094)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import kl_divergence
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.self_distillation.exiting import ExitingMethod
from coterie.networks.group import StudentGroup


class BYOT(ExitingMethod):
    r"""Exits after the shallow stages learn from the labels, from the deepest prediction, and from its features.

    .. math:: L = \sum_i CE(z_i, y) + \lambda \sum_{i\,shallow} T^2 KL(p_{deep}^T \| p_i^T) + \mu \sum_{i\,shallow} \overline{(f_i - f_{deep})^2}

    Args:
        group: one student with taps at its stages.
        temperature: T, 4 (Self-KD-Lib's settings).
        distillation_weight: λ, 1 (its code); 0, together with ``feature_weight`` 0, gives deep supervision, the control.
        feature_weight: μ, 0.05 (its code).

    Exits are OFA-KD's; the paper has its own bottlenecks.

    Losses: ``label``, ``exit_label``, ``distillation``, ``feature``.
    """

    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature",)}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 4.0,
        distillation_weight: NonNegative = 1.0,
        feature_weight: NonNegative = 0.05,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.feature_weight = feature_weight

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        logits, features = self.exit_outputs(output)
        losses = self.supervision(output.logits, inputs, targets)
        losses["exit_label"] = self.label_losses(logits, targets)
        if self.distillation_weight > 0:
            divergence = kl_divergence(logits, output.logits[0].detach(), self.temperature).sum()
            losses["distillation"] = self.distillation_weight * divergence
        if self.feature_weight > 0:
            errors = (features.float() - output.embeddings[0].detach().float()).square()
            losses["feature"] = self.feature_weight * errors.mean((1, 2)).sum()
        return losses
