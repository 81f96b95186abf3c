"""FRSKD: Refine Myself by Teaching Myself (Ji et al., CVPR 2021, arXiv 2103.08273)."""

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
from coterie.networks.group import StudentGroup
from coterie.networks.projection import as_grid
from coterie.networks.pyramid import FeaturePyramid


class FRSKD(StagedMethod):
    r"""A feature pyramid over the student's own stages teaches the student, by its prediction and by the attention of its refined maps.

    .. math:: L = CE(z, y) + CE(z_{aux}, y) + \alpha T^2 KL(p_{aux}^T \| p^T) + \beta \sum_l \overline{(A(f_l) - A(F_l))^2}

    with :math:`f_l` the student's maps, :math:`F_l` the refined ones, A the unit spatial attention; the teacher's side is detached.

    Args:
        group: one student with taps at its stages.
        distillation_weight: α, 2 (the authors' code, CIFAR-100).
        feature_weight: β, 100 (code).
        temperature: T, 4 (code).
        channels: width of the pyramid, 256, as in the code's ``BiFPN``. The code's default for CIFAR is ``BiFPNc``, in which every stage has its own width,
            twice its channels. Here all stages have the same width.

    Losses: ``label``, ``ensemble_label`` (the pyramid's), ``distillation``, ``feature``. The method's ensemble is the pyramid's prediction.

    Raises:
        CoterieError: a student without taps.
    """

    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature",)}

    def __init__(
        self,
        group: StudentGroup,
        *,
        distillation_weight: NonNegative = 2.0,
        feature_weight: NonNegative = 100.0,
        temperature: Positive = 4.0,
        channels: AtLeastOne = 256,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.distillation_weight = distillation_weight
        self.feature_weight = feature_weight
        self.temperature = temperature
        self.pyramid = FeaturePyramid(group.tap_shapes[0], group.num_classes, channels)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        own = [as_grid(tap, shape) for tap, shape in zip(output.taps[0], self.group.tap_shapes[0], strict=True)]
        logits, refined = self.pyramid(output.taps[0])
        terms = [
            F.mse_loss(spatial_attention(tap), spatial_attention(better).detach())
            for tap, better in zip(own, refined, strict=True)
        ]
        divergence = kl_divergence(output.logits[0], logits.detach(), self.temperature)
        return {
            **self.supervision(output.logits, inputs, targets),
            "ensemble_label": self.label_loss(logits, targets),
            "distillation": self.distillation_weight * divergence,
            "feature": self.feature_weight * torch.stack(terms).sum(),
        }

    def predict(self, inputs: Inputs) -> Predictions:
        output = self.group(inputs)
        logits, _ = self.pyramid(output.taps[0])
        return Predictions(output.logits, logits, output.logits[0], {})
