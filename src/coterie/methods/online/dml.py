"""DML: Deep Mutual Learning (Zhang et al., CVPR 2018, arXiv 1706.00384)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from coterie.losses import kl_divergence
from coterie.losses.mutual import log_mean_probability_of_others, mean_of_others, mutual_divergence
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


class DML(GroupMethod):
    r"""Peers that learn from the labels and from one another's predictions.

    .. math:: L = \sum_i \Big[ CE(z_i, y) + \lambda \frac{1}{n-1} \sum_{j \ne i} T^2 KL(p_j^T \| p_i^T) \Big]

    Args:
        group: whole networks by default; a shared trunk learns from all students.
        temperature: T, 1: the paper's method has none. The re-implementations in the OKDDip and MCL-OKD code use 3 and 2.
        target: ``pairwise``: each of the others teaches (paper, its better variant); ``mean``: the mean of the others' probabilities teaches (paper's "DML_e");
            ``mean_logit``: the mean of their logits (OKDDip's code).
        distillation_weight: λ, 1.
        ramp_up: share of training over which the term rises; 0: no ramp-up, as published and in OKDDip's code.
        detach_target: whether the others are detached: paper yes; OKDDip's code no.

    The paper updates one network after the other, each with the others' new predictions. Here all are updated at once after a single forward pass, as in the
    public re-implementations.

    Losses: ``label`` and, with two or more students, ``distillation``.
    """

    default_branches: ClassVar[int] = 2
    default_at: ClassVar[str | None] = None
    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature", "target", "ramp_up", "detach_target")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 1.0,
        target: Literal["pairwise", "mean", "mean_logit"] = "pairwise",
        distillation_weight: NonNegative = 1.0,
        ramp_up: Share = 0.0,
        detach_target: bool = True,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.temperature = temperature
        self.target = target
        self.distillation_weight = distillation_weight
        self.ramp_up = ramp_up
        self.detach_target = detach_target

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        losses = self.supervised(logits, taught, targets)
        if len(logits) > 1:
            weight = self.distillation_weight * self.ramp(progress, self.ramp_up)
            losses["distillation"] = weight * self._divergence(
                logits, logits.detach() if self.detach_target else logits
            )
        return losses

    def _divergence(self, logits: Tensor, others: Tensor) -> Tensor:
        if self.target == "pairwise":
            return mutual_divergence(logits, others, self.temperature)
        if self.target == "mean_logit":
            return kl_divergence(logits, mean_of_others(others), self.temperature).sum()
        # The mean of tempered probabilities, as log-probabilities; divided by T again in the divergence.
        softened = log_mean_probability_of_others(others / self.temperature) * self.temperature
        return kl_divergence(logits, softened, self.temperature).sum()
