"""FFL: Feature Fusion for Online Mutual Knowledge Distillation (Kim et al., ICPR 2020, arXiv 1904.09058)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import kl_divergence
from coterie.methods.group_method import GroupMethod, Predictions
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.fusion import FusedClassifier, FusionKind
from coterie.networks.group import StudentGroup


class FFL(GroupMethod):
    r"""Students and a classifier on their fused feature maps teach one another.

    With the fused classifier's logits :math:`z_f` and the students' mean :math:`z_m`:

    .. math::
        L = \sum_i CE(z_i, y) + CE(z_f, y) + \lambda w \Big[ \sum_i T^2 KL(p_f^T \| p_i^T) + T^2 KL(p_m^T \| p_f^T) \Big]

    Args:
        group: two branches as published (FFL-S); or peers, also of different architectures.
        temperature: T, 3 (the authors' code).
        distillation_weight: λ, 1 (code).
        ramp_up: share of training over which w rises, 80 of 300 epochs (code).
        fusion: how the maps are fused, see :class:`~coterie.networks.fusion.MapFusion`; None: ``depthwise`` as in the code, and
            ``1x1`` for tokens, which have no neighbouring positions.
        fusion_weight_decay: weight decay of the fusion module, 1e-5 (code; its students have 1e-4).
        detach_features: whether the gradient of the fused classifier's loss stops at the feature maps. False as in the code, where it reaches the students.

    The paper deploys the fused classifier (FFL) or a student (FFL-S); here a student is deployed, and the fused classifier is the
    method's ensemble (``coterie export --which method``).

    The code adds 1e-7 to every probability of the target; this is not needed here, since the divergence is computed in log space. The difference is about 1e-6
    nats a class.

    Losses: ``label``, ``ensemble_label``, ``distillation``.
    """

    default_branches: ClassVar[int] = 2
    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature", "ramp_up")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 3.0,
        distillation_weight: NonNegative = 1.0,
        ramp_up: Share = 80 / 300,
        fusion: FusionKind | None = None,
        fusion_weight_decay: NonNegative = 1e-5,
        detach_features: bool = False,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.ramp_up = ramp_up
        self.fusion_weight_decay = fusion_weight_decay
        self.detach_features = detach_features
        self.fusion = FusedClassifier(group.feature_shapes, group.num_classes, fusion)

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        maps = [each.detach() if self.detach_features else each for each in output.feature_maps]
        fused, _ = self.fusion(maps)
        divergence = (
            kl_divergence(output.logits, fused.detach(), self.temperature).sum()
            + kl_divergence(fused, output.logits.float().mean(0).detach(), self.temperature)
        )  # fmt: skip
        return {
            **self.supervision(output.logits, inputs, targets),
            "ensemble_label": self.label_loss(fused, targets),
            "distillation": self.distillation_weight * self.ramp(progress, self.ramp_up) * divergence,
        }

    def predict(self, inputs: Inputs) -> Predictions:
        output = self.group(inputs)
        fused, _ = self.fusion(output.feature_maps)
        return Predictions(output.logits, fused, output.logits[self.deployed_student], {})

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": [p for p in self.group.parameters() if p.requires_grad]},
            {"params": list(self.fusion.parameters()), "weight_decay": self.fusion_weight_decay},
        ]
