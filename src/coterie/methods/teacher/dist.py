"""DIST: Knowledge Distillation from a Stronger Teacher (Huang et al., NeurIPS 2022, arXiv 2205.10536)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses.correlation import pearson_distance
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import LogitTaughtMethod
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers


class DIST(LogitTaughtMethod):
    r"""Maximises the correlation with the teacher, over the classes of a sample and over the samples of a class, in place of a divergence.

    With :math:`Y = softmax(z / \tau)` and Pearson's correlation ρ:

    .. math:: L = CE(z_s, y) + \lambda \tau^2 \big[ \beta (1 - \overline{\rho(Y_{s,b}, Y_{t,b})}) + \gamma (1 - \overline{\rho(Y_{s,\cdot k}, Y_{t,\cdot k})}) \big]

    Args:
        group: one student.
        teachers: one or several.
        temperature: τ, 4, with ``distillation_weight`` 2 (the authors' CIFAR configuration; 1 and 2 for ImageNet).
        between_weight: β, over the classes of a sample, 1 (code).
        within_weight: γ, over the samples of a class, 1 (code).
        distillation_weight: λ.
        combination: how several teachers' logits are combined.

    Losses: ``label``, ``distillation``, and ``teacher_weights`` with learned ones.
    """

    min_batch: ClassVar[int] = 2  # correlation of a class over the samples
    unused: ClassVar[Unused] = {
        "distillation_weight=0": ("temperature", "between_weight", "within_weight", "combination"),
        "between_weight=0 within_weight=0": ("temperature", "distillation_weight", "combination"),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        temperature: Positive = 4.0,
        between_weight: NonNegative = 1.0,
        within_weight: NonNegative = 1.0,
        distillation_weight: NonNegative = 2.0,
        combination: Literal["mean_probability", "mean_logit", "learned"] = "mean_probability",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, combination, label_loss)
        self.temperature = temperature
        self.between_weight = between_weight
        self.within_weight = within_weight
        self.distillation_weight = distillation_weight

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        teacher = torch.softmax(self.target(inputs, targets, losses) / self.temperature, -1)
        logits = self.group(inputs).logits
        losses |= self.supervision(logits, inputs, targets)
        student = torch.softmax(logits[0].float() / self.temperature, -1)
        between = self.between_weight * pearson_distance(student, teacher)
        within = self.within_weight * pearson_distance(student.T, teacher.T)
        losses["distillation"] = self.distillation_weight * self.temperature**2 * (between + within)
        return losses
