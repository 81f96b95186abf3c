"""FFSD: Distilling a Powerful Student Model via Online Knowledge Distillation (Li et al., TNNLS 2022, arXiv 2103.14473)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses import kl_divergence
from coterie.losses.attention import shifted_attention, spatial_attention
from coterie.losses.mutual import mutual_divergence
from coterie.methods.group_method import GroupMethod, Predictions
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.fusion import FusedClassifier
from coterie.networks.group import StudentGroup


class FFSD(GroupMethod):
    r"""Common students teach one another and are kept diverse; their fused features teach a leader, which is deployed.

    With m common students, a leader l, the fused classifier :math:`z_f` on the common students' (detached) last maps with its map
    :math:`F_f`, spatial attention :math:`A(F)` and its shift S:

    .. math::
        L = \sum_i CE(z_i, y) + CE(z_l, y) + L_{mutual} + T^2 KL(p_f^T \| p_l^T)
            + CE(z_f, y) + T^2 KL(\bar p^T \| p_f^T)
            + w \lambda_{div} \sum_{i \ge 1} \|A(F_i) - S(A(F_{i-1}))\|^2 + w \lambda_{fus} \|A(F_l) - A(F_f)\|^2

    Args:
        group: three whole networks as published (two common students and the leader, the last one).
        temperature: T, 2 (the authors' code).
        diversity_weight: λ_div, 1e-5 (code).
        fusion_weight: λ_fus, 10 (code).
        ramp_up: share of training over which the last two terms rise, 5 of 300 epochs (code).
        fusion_weight_decay: weight decay of the fusion module, 1e-5 (code).

    The squared distances are means over positions (the code's MSE). Its self-distillation modules and the transfer of the fused map to the concatenated maps
    are omitted: their inputs are not known to us, and they affect the attention terms only.

    Losses: ``label``, ``ensemble_label``, ``distillation``, ``diversity``, ``feature``. The method's ensemble is the fused classifier.

    Raises:
        CoterieError: fewer than 3 students.
    """

    default_branches: ClassVar[int] = 3
    default_at: ClassVar[str | None] = None
    unused: ClassVar[Unused] = {"diversity_weight=0 fusion_weight=0": ("ramp_up",)}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 2.0,
        diversity_weight: NonNegative = 1e-5,
        fusion_weight: NonNegative = 10.0,
        ramp_up: Share = 5 / 300,
        fusion_weight_decay: NonNegative = 1e-5,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        if group.num_students < 3:
            raise CoterieError(
                f"ffsd needs at least 3 students (2 common ones and the leader), got {group.num_students}; set network.branches=3"
            )
        self.temperature = temperature
        self.diversity_weight = diversity_weight
        self.fusion_weight = fusion_weight
        self.ramp_up = ramp_up
        self.fusion_weight_decay = fusion_weight_decay
        self.common = group.num_students - 1
        group.leader = self.deployed_student = self.common
        self.fusion = FusedClassifier(group.feature_shapes[: self.common], group.num_classes)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        logits, maps = output.logits, output.feature_maps
        common = logits[: self.common]
        fused, fused_map = self.fusion([each.detach() for each in maps[: self.common]])
        divergence = (
            mutual_divergence(common, common.detach(), self.temperature)
            + kl_divergence(fused, common.detach().float().mean(0), self.temperature)
            + kl_divergence(logits[-1], fused.detach(), self.temperature)
        )  # fmt: skip
        ramp = self.ramp(progress, self.ramp_up)
        return {
            **self.supervision(logits, inputs, targets),
            "ensemble_label": self.label_loss(fused, targets),
            "distillation": divergence,
            "diversity": self.diversity_weight * ramp * self._shift(maps[: self.common]),
            "feature": self.fusion_weight * ramp * self._guidance(maps[-1], fused_map.detach()),
        }

    @staticmethod
    def _shift(maps: tuple[Tensor, ...]) -> Tensor:
        """Distance of each common student's attention from the previous student's shifted attention."""
        terms = []
        for before, after in pairwise(maps):
            wanted = shifted_attention(spatial_attention(_resized(before, after).detach()))
            terms.append(F.mse_loss(spatial_attention(after), wanted))
        return torch.stack(terms).sum()

    @staticmethod
    def _guidance(leader: Tensor, fused: Tensor) -> Tensor:
        """Distance of the leader's attention from the fused map's."""
        return F.mse_loss(spatial_attention(leader), spatial_attention(_resized(fused, leader)))

    def predict(self, inputs: Inputs) -> Predictions:
        output = self.group(inputs)
        fused, _ = self.fusion(output.feature_maps[: self.common])
        return Predictions(output.logits, fused, output.logits[self.deployed_student], {})

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": [p for p in self.group.parameters() if p.requires_grad]},
            {"params": list(self.fusion.parameters()), "weight_decay": self.fusion_weight_decay},
        ]


def _resized(feature_map: Tensor, like: Tensor) -> Tensor:
    """Averages or interpolates a map to the positions of another one: [B, C, H, W] (tokens as [B, C, N, 1])."""

    def positions(maps: Tensor) -> Tensor:
        return maps.transpose(1, 2).unsqueeze(-1) if maps.ndim == 3 else maps

    own, other = positions(feature_map), positions(like)
    return own if own.shape[2:] == other.shape[2:] else F.adaptive_avg_pool2d(own, (other.shape[2], other.shape[3]))
