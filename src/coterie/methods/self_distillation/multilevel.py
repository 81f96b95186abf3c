"""Self-distillation from features of several levels: our reading of an idea, not a published method."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import kl_divergence
from coterie.losses.attention import spatial_attention
from coterie.methods.group_method import Predictions
from coterie.methods.method import Unused
from coterie.methods.options import AtLeastOne, NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.self_distillation.exiting import StagedMethod
from coterie.networks.fusion import channels_of
from coterie.networks.group import GroupOutput, StudentGroup
from coterie.networks.projection import as_grid


class MultilevelSelfKD(StagedMethod):
    r"""Classifies each level's projected features, and all of them fused; the fused prediction teaches the student and the levels.

    With level heads :math:`z_l` on pooled 1x1 projections of the stages and a fused head :math:`z_F` on their concatenation:

    .. math::
        L = CE(z, y) + \sum_l CE(z_l, y) + CE(z_F, y) + \alpha T^2 \big[KL(p_F \| p) + \overline{KL(p_F \| p_l)}\big]
            + \beta \sum_l \overline{(A(f_l) - A(g_l))^2}

    :math:`g_l` is the projected map, detached; A is the unit spatial attention.

    Prompted by "Extracting knowledge from features with multilevel abstraction" (Lin and Li, 2021, arXiv 2112.13642), of which only the abstract could be read:
    features of several levels, no second augmentation, no auxiliary network. Everything here is ours.

    Args:
        group: one student with taps at its stages.
        distillation_weight: α, 1.
        feature_weight: β, 0: the term has little effect if projections are linear.
        temperature: T, 4.
        width: channels of the projections, 64.

    Losses: ``label``, ``exit_label``, ``ensemble_label``, ``distillation``, and ``feature`` if its weight is positive. The method's ensemble is the fused head;
    if it is no better than the student, it cannot teach it.

    Raises:
        CoterieError: a student without taps.
    """

    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature",)}

    def __init__(
        self,
        group: StudentGroup,
        *,
        distillation_weight: NonNegative = 1.0,
        feature_weight: NonNegative = 0.0,
        temperature: Positive = 4.0,
        width: AtLeastOne = 64,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        shapes = group.tap_shapes[0]
        self.distillation_weight = distillation_weight
        self.feature_weight = feature_weight
        self.temperature = temperature
        self.projections = nn.ModuleList(nn.Conv2d(channels_of(shape), width, 1) for shape in shapes)
        self.heads = nn.ModuleList(nn.Linear(width, group.num_classes) for _ in shapes)
        self.fused = nn.Linear(width * len(shapes), group.num_classes)

    def levels(self, output: GroupOutput) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Returns level logits [l, B, K], fused logits [B, K], and pairs of the stages' and the projected maps."""
        own = [as_grid(tap, shape) for tap, shape in zip(output.taps[0], self.group.tap_shapes[0], strict=True)]
        projected = [project(each) for project, each in zip(self.projections, own, strict=True)]
        pooled = [torch.relu(each).mean((2, 3)) for each in projected]
        logits = torch.stack([head(each) for head, each in zip(self.heads, pooled, strict=True)])
        return logits, self.fused(torch.cat(pooled, dim=1)), list(zip(own, projected, strict=True))

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        logits, fused, maps = self.levels(output)
        teacher = fused.detach()
        divergence = (
            kl_divergence(output.logits[0], teacher, self.temperature)
            + kl_divergence(logits, teacher, self.temperature).mean()
        )  # fmt: skip
        losses = {
            **self.supervision(output.logits, inputs, targets),
            "exit_label": self.label_losses(logits, targets),
            "ensemble_label": self.label_loss(fused, targets),
            "distillation": self.distillation_weight * divergence,
        }
        if self.feature_weight > 0:
            terms = [F.mse_loss(spatial_attention(a), spatial_attention(b).detach()) for a, b in maps]
            losses["feature"] = self.feature_weight * torch.stack(terms).sum()
        return losses

    def predict(self, inputs: Inputs) -> Predictions:
        output = self.group(inputs)
        _, fused, _ = self.levels(output)
        return Predictions(output.logits, fused, output.logits[0], {})
