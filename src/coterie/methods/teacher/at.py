"""AT: Paying More Attention to Attention (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses.attention import spatial_attention
from coterie.methods.options import NonNegative
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import TaughtMethod
from coterie.networks.group import StudentGroup
from coterie.networks.projection import as_grid, stage_pairs
from coterie.networks.teacher import Teachers


class AttentionTransfer(TaughtMethod):
    """Trains the student's spatial attention (mean of squared channels) at the end of every stage to match the teacher's.

    Args:
        group: one student with taps at its stages.
        teachers: one; if resolutions differ, the finer map is averaged. No projection is needed, so widths may differ.
        feature_weight: weight of the mean squared error of the unit attention vectors, 1000 (recalled from the authors' code).

    Losses: ``label``, ``feature``.
    """

    max_teachers: ClassVar[int | None] = 1
    uses_taps: ClassVar[bool] = True

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        feature_weight: NonNegative = 1000.0,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, label_loss)
        self.feature_weight = feature_weight
        self.pairs = stage_pairs(len(group.tap_shapes[0]), len(self.teachers[0].tap_shapes))

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        (teacher,) = self.teacher_outputs(inputs)
        output = self.group(inputs)
        shapes, other_shapes = self.group.tap_shapes[0], self.teachers[0].tap_shapes
        errors = []
        for own, other in self.pairs:
            student = as_grid(output.taps[0][own], shapes[own])
            wanted = as_grid(teacher.taps[other], other_shapes[other])
            size = (min(student.shape[2], wanted.shape[2]), min(student.shape[3], wanted.shape[3]))
            maps = [F.adaptive_avg_pool2d(each, size) for each in (student, wanted)]
            errors.append(F.mse_loss(spatial_attention(maps[0]), spatial_attention(maps[1])))
        losses = self.supervision(output.logits, inputs, targets)
        losses["feature"] = self.feature_weight * torch.stack(errors).sum()
        return losses
