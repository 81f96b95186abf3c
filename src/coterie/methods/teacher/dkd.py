"""DKD: Decoupled Knowledge Distillation (Zhao et al., CVPR 2022, arXiv 2203.08679)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from coterie.losses.decoupled import others_divergence, target_divergence
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import LogitTaughtMethod, require_classes
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers


class DKD(LogitTaughtMethod):
    r"""KD split into two separately weighted parts: the target class's probability, and the distribution over the other classes.

    .. math:: L = CE(z_s, y) + \min(f / r, 1)\, (\alpha\, TCKD + \beta\, NCKD), \qquad KL = TCKD + (1 - p_{t,y})\, NCKD

    Args:
        group: one student.
        teachers: one or several.
        target_weight: α, 1 (mdistiller's code).
        others_weight: β, 8 (code; by pair of networks 2, 6 or 8 on CIFAR-100, 0.5 or 2 on ImageNet).
        temperature: T, 4 (code; 1 for ImageNet).
        warmup: r, the share of training over which both rise linearly, 20 of 240 epochs (code).
        combination: how several teachers' logits are combined.

    Losses: ``label``, ``distillation``, and ``teacher_weights`` with learned ones.

    Raises:
        CoterieError: mixed labels.
    """

    unused: ClassVar[Unused] = {"target_weight=0 others_weight=0": ("temperature", "warmup", "combination")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        target_weight: NonNegative = 1.0,
        others_weight: NonNegative = 8.0,
        temperature: Positive = 4.0,
        warmup: Share = 20 / 240,
        combination: Literal["mean_probability", "mean_logit", "learned"] = "mean_probability",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, combination, label_loss)
        self.target_weight = target_weight
        self.others_weight = others_weight
        self.temperature = temperature
        self.warmup = warmup

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        require_classes(targets, "dkd")
        losses: dict[str, Tensor] = {}
        teacher = self.combined(taught, targets, losses)
        losses |= self.supervised(logits, taught, targets)
        term = self.target_weight * target_divergence(logits[0], teacher, targets, self.temperature)
        term = term + self.others_weight * others_divergence(logits[0], teacher, targets, self.temperature)
        if progress is not None and self.warmup > 0:
            # The first epoch counts as completed, as in the code, so that the weight is above 0 from the start.
            term = term * ((progress.epoch + 1) / progress.epochs / self.warmup).clamp(max=1.0)
        losses["distillation"] = term
        return losses
