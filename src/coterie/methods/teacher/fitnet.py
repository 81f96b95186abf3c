"""FitNet: Hints for Thin Deep Nets (Romero et al., ICLR 2015, arXiv 1412.6550)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.methods.options import NonNegative
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import TaughtMethod
from coterie.networks.group import StudentGroup
from coterie.networks.projection import Projector, stage_pairs
from coterie.networks.teacher import Teachers


class FitNet(TaughtMethod):
    """Trains the student's projected stages to match the teacher's: mean squared error at the end of every stage.

    Stages are matched from the last one on. Maps and tokens can be mixed: tokens are arranged as the square grid they come from, and the finer side is
    averaged. Re-implementations reject such pairs (OFA-KD's asserts that both networks are CNNs).

    Args:
        group: one student with taps at its stages.
        teachers: one.
        feature_weight: weight of each stage's error, 1 (OFA-KD's code, four stages and no KD term; mdistiller has one stage and 100, and another projection,
            see :class:`~coterie.networks.projection.Projector`).

    The paper trains with the hint first and then distils; the re-implementations do both at once, as here.

    Losses: ``label``, ``feature``.
    """

    max_teachers: ClassVar[int | None] = 1
    uses_taps: ClassVar[bool] = True

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        feature_weight: NonNegative = 1.0,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, label_loss)
        self.feature_weight = feature_weight
        own, other = group.tap_shapes[0], self.teachers[0].tap_shapes
        self.pairs = stage_pairs(len(own), len(other))
        self.projectors = nn.ModuleList(Projector(own[i], other[j]) for i, j in self.pairs)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        (teacher,) = self.teacher_outputs(inputs)
        output = self.group(inputs)
        errors = []
        for (own, other), projector in zip(self.pairs, self.projectors, strict=True):
            student, wanted = projector(output.taps[0][own], teacher.taps[other])
            errors.append(F.mse_loss(student.float(), wanted.float()))
        losses = self.supervision(output.logits, inputs, targets)
        losses["feature"] = self.feature_weight * torch.stack(errors).sum()
        return losses
