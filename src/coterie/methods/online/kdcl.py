"""KDCL: Online Knowledge Distillation via Collaborative Learning (Guo et al., CVPR 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.losses import kl_divergence
from coterie.losses.collaboration import covariance_weights, linear_target, min_logit_target, naive_target
from coterie.losses.precision import einsum
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


class KDCL(GroupMethod):
    r"""Peers that each see their own augmented view of an image and learn from one soft target formed from all their predictions.

    .. math:: L = \sum_i \big[ CE(z_i, y) + \lambda w\, T^2 KL(t^T \| p_i^T) \big]

    Args:
        group: whole networks by default, also of different architectures.
        target: how t is formed, see :mod:`coterie.losses.collaboration`. ``naive``: the student with the smallest loss on the sample;
            ``linear``: the convex combination with the smallest loss; ``min_logit``: the smallest logits relative to the true
            class (default: the only one of the four that a public re-implementation has); ``general``: weights from the
            covariance of the students' errors on the validation split, updated at every evaluation and uniform before the first; the paper's best on CIFAR-100
            (according to a digest of it). Public code bases named KDCL use the mean of logits, which is none of these.
        temperature: T, 2 (a re-implementation's note).
        distillation_weight: λ, 1 (as T).
        ramp_up: share of training over which w rises; 0: no ramp-up (none is mentioned).

    Whether the paper's first two choose per sample or per batch is not known to us; here it is per sample.

    Losses: ``label`` and, with two or more students, ``distillation``. The first three targets need the labels, so the method's ensemble is the mean of the
    logits; for ``general`` it is the weighted mean.

    Raises:
        CoterieError: mixed or smoothed labels with a target that needs the true class.
    """

    default_branches: ClassVar[int] = 2
    default_at: ClassVar[str | None] = None
    weights: Tensor

    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature", "ramp_up")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        target: Literal["naive", "linear", "min_logit", "general"] = "min_logit",
        temperature: Positive = 2.0,
        distillation_weight: NonNegative = 1.0,
        ramp_up: Share = 0.0,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.target = target
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.ramp_up = ramp_up
        students = group.num_students
        self.register_buffer("weights", torch.full((students,), 1.0 / students))

    @property
    def views(self) -> int:
        return self.group.num_students

    @property
    def needs_validation(self) -> bool:
        return self.target == "general"

    def soft_target(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the target's logits, float32 [B, K], from the students' [n, B, K]."""
        if self.target == "general":
            return einsum("n,nbk->bk", self.weights, logits.detach())
        if targets.ndim > 1:
            raise CoterieError(
                f"kdcl's target={self.target!r} needs the true class, and mixup or cutmix mixes classes; use method.target=general"
            )
        make = {"naive": naive_target, "linear": linear_target, "min_logit": min_logit_target}[self.target]
        return make(logits.detach(), targets)

    def compare(
        self, logits: Tensor, taught: Tensor | None, targets: Tensor, progress: Progress | None = None
    ) -> dict[str, Tensor]:
        losses = self.supervised(logits, taught, targets)
        if len(logits) > 1:
            divergence = kl_divergence(logits, self.soft_target(logits, targets), self.temperature).sum()
            losses["distillation"] = self.distillation_weight * self.ramp(progress, self.ramp_up) * divergence
        return losses

    def ensemble_of(self, logits: Tensor) -> Tensor:
        return einsum("n,nbk->bk", self.weights, logits)

    def after_validation(self, logits: Tensor, targets: Tensor) -> None:
        if self.target == "general":
            self.weights.copy_(covariance_weights(logits, targets))
