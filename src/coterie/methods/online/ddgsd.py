"""DDGSD: Data-Distortion Guided Self-Distillation (Xu and Liu, AAAI 2019)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from coterie.data.nested import Inputs, concatenated
from coterie.losses.mutual import mutual_divergence
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


class DDGSD(GroupMethod):
    r"""Two augmented views of an image go through one student and learn from each other.

    .. math:: L = w_{ce} \tfrac12 (CE(z_1, y) + CE(z_2, y)) + \lambda \big[T^2 KL(p_2^T \| p_1^T) + T^2 KL(p_1^T \| p_2^T)\big] + \mu (\bar f_1 - \bar f_2)^2

    where :math:`\bar f` is the mean of a view's whole feature tensor, a single number, as in the code that was read.

    Args:
        group: one student.
        temperature: T, 4 (Self-KD-Lib's settings).
        label_weight: w_ce, 1: each view counts one half, so that a student whose views agree learns like the baseline. Self-KD-Lib's code uses 0.5: it halves
            the mean over both views' samples once more. At a small size that costs 6.1 ± 0.7 points (digits, five seeds,
            ``benchmarks/results/faithful/table.md``).
        distillation_weight: λ, 1 (its code, with 0.5 for the labels; relative to the labels it is half of that here).
        feature_weight: μ, 5e-4 (as λ).

    With one shared view, the last two terms are zero.

    Losses: ``label``, ``distillation``, ``feature``.
    """

    default_branches: ClassVar[int] = 1
    default_at: ClassVar[str | None] = None
    max_students: ClassVar[int | None] = 1
    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature",)}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 4.0,
        label_weight: Positive = 1.0,
        distillation_weight: NonNegative = 1.0,
        feature_weight: NonNegative = 5e-4,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.temperature = temperature
        self.label_weight = label_weight
        self.distillation_weight = distillation_weight
        self.feature_weight = feature_weight

    @property
    def views(self) -> int:
        return 2

    @property
    def label_factor(self) -> float:
        return self.label_weight

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        pair = inputs[:2] if isinstance(inputs, list) else [inputs, inputs]
        output = self.group(concatenated(pair))  # one pass, so that BatchNorm statistics cover both views
        logits = output.logits[0].unflatten(0, (2, -1))
        losses = {"label": self.label_weight * self.label_losses(logits, targets) / 2}
        if self.guide is not None:
            losses["teacher"] = self.guide(logits, self.guide.teachers.logits(pair)) / 2
        divergence = mutual_divergence(logits, logits.detach(), self.temperature)
        losses["distillation"] = self.distillation_weight * divergence
        first, second = output.feature_maps[0].float().chunk(2)
        losses["feature"] = self.feature_weight * (first.mean() - second.mean()).square()
        return losses
