"""KD: Distilling the Knowledge in a Neural Network (Hinton, Vinyals and Dean, 2015, arXiv 1503.02531)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from coterie.losses.divergences import DivergenceName, find_divergence
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import LogitTaughtMethod
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers


class KD(LogitTaughtMethod):
    r"""The student learns from the labels and from the teacher's softened prediction.

    .. math:: L = w_{ce}\, CE(z_s, y) + w_{kd}\, T^2 KL(p_t^T \| p_s^T)

    Args:
        group: one student.
        teachers: one or several.
        temperature: T, 4 (mdistiller's code for CIFAR-100; 1 for ImageNet).
        label_weight: w_ce, 0.1 (as T; 0.5).
        distillation_weight: w_kd, 0.9 (as T; 0.5).
        divergence: the divergence that replaces T² KL, see :mod:`coterie.losses.divergences`.
        combination: how several teachers' logits are combined, see :class:`~coterie.methods.teacher.taught.LogitTaughtMethod`.

    Losses: ``label``, ``distillation``, and ``teacher_weights`` with learned ones.
    """

    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature", "divergence", "combination")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        temperature: Positive = 4.0,
        label_weight: NonNegative = 0.1,
        distillation_weight: NonNegative = 0.9,
        divergence: DivergenceName = "forward_kl",
        combination: Literal["mean_probability", "mean_logit", "learned"] = "mean_probability",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, combination, label_loss)
        self.temperature = temperature
        self.label_weight = label_weight
        self.distillation_weight = distillation_weight
        self.divergence = find_divergence(divergence)

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        target = self.combined(taught, targets, losses)
        losses |= self.supervised(logits, taught, targets, self.label_weight)
        losses["distillation"] = self.distillation_weight * self.divergence(logits[0], target, self.temperature)
        return losses
