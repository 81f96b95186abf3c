"""CL-ILR: Collaborative Learning for Deep Neural Networks (Song and Chai, NeurIPS 2018, arXiv 1805.11761)."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from coterie.losses import kl_divergence
from coterie.losses.mutual import mean_of_others
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


class CLILR(GroupMethod):
    r"""Heads on shared representations; each learns from the labels and from the mean of the other heads' logits.

    .. math:: L = \sum_i \Big[ \beta\, CE(z_i, y) + \lambda w\, T^2 KL(softmax(\tfrac{1}{n-1}\sum_{j \ne i} z_j / T) \| p_i^T) \Big]

    At the split the gradients of the heads are averaged ("backpropagation rescaling"), so that the shared layers do not get n times the gradient of a single
    network.

    Args:
        group: branches on a shared trunk; with peers the rescaling has no effect.
        temperature: T, 2 (recalled from the paper; MCL-OKD's code has it too). OKDDip's code: 3.
        label_weight: β, 0.5 (as T). OKDDip's code: 1.
        distillation_weight: λ, 0.5, which is 1 - β (as T). OKDDip's code: 1.
        ramp_up: share of training over which w rises; 0: no ramp-up (paper). OKDDip's code: 80/300.
        detach_target: whether the mean of the others is detached: MCL-OKD's code yes (default), OKDDip's no.
        trunk_gradient: ``mean``: rescaled (paper); ``sum``: not. Replaces ``network.trunk_gradient``.

    The paper's soft cross-entropy differs from the divergence here by the entropy of a constant target, so the gradients agree. The factor T² follows the code
    of related methods; the paper's own scale is not known to us.

    Losses: ``label`` and, with two or more students, ``distillation``.
    """

    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature", "ramp_up", "detach_target")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 2.0,
        label_weight: Positive = 0.5,
        distillation_weight: NonNegative = 0.5,
        ramp_up: Share = 0.0,
        detach_target: bool = True,
        trunk_gradient: Literal["mean", "sum"] = "mean",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.temperature = temperature
        self.label_weight = label_weight
        self.distillation_weight = distillation_weight
        self.ramp_up = ramp_up
        self.detach_target = detach_target
        group.trunk_gradient = trunk_gradient

    @property
    def label_factor(self) -> float:
        return super().label_factor * (self.label_weight if self.group.num_students > 1 else 1.0)

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        if len(logits) == 1:  # a single head is a plain network
            return self.supervised(logits, taught, targets)
        others = mean_of_others(logits.float())
        if self.detach_target:
            others = others.detach()
        weight = self.distillation_weight * self.ramp(progress, self.ramp_up)
        return {
            **self.supervised(logits, taught, targets, self.label_weight),
            "distillation": weight * kl_divergence(logits, others, self.temperature).sum(),
        }
