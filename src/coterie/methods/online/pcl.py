"""PCL: Peer Collaborative Learning for Online Knowledge Distillation (Wu and Gong, AAAI 2021, arXiv 2006.04147)."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import kl_divergence
from coterie.losses.mutual import mutual_divergence
from coterie.methods.group_method import GroupMethod, Predictions
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


class PCL(GroupMethod):
    r"""Peers with separate views learn from an ensemble classifier and from one another's moving averages.

    The peer ensemble :math:`z_e` is a linear layer on the concatenated pooled features; the peer mean teachers are an exponential
    moving average of all peers, trunk included, with logits :math:`\bar z_j`:

    .. math::
        L = CE(z_e, y) + \sum_i \Big[ CE(z_i, y) + \lambda w\, T^2 KL(p_e^T \| p_i^T)
            + \lambda w \frac{1}{n-1} \sum_{j \ne i} T^2 KL(\bar p_j^T \| p_i^T) \Big]

    Args:
        group: three branches as published.
        temperature: T, 3 (a public re-implementation).
        distillation_weight: λ, 1 (recalled), for both divergences.
        ramp_up: share of training over which w rises, 80 of 300 epochs. That code divides by 1 instead of 80, which makes w a step function; an error.
        decay: 0.999 (code); at a step the average's decay factor is min(1 - 1/(step + 1), decay).
        deploy: ``mean``: the averages are evaluated and deployed (code); ``student``: the trained peers.

    The averages' BatchNorm statistics come from their own forward passes in train mode (code).

    Losses: ``label``, ``ensemble_label`` and, with two or more peers, ``distillation`` (from the ensemble) and ``peer_teacher`` (from the
    averages). The method's ensemble is the ensemble classifier applied to the students that are deployed.
    """

    default_branches: ClassVar[int] = 3
    unused: ClassVar[Unused] = {
        "distillation_weight=0": ("temperature", "ramp_up"),
        "distillation_weight=0 deploy=student": ("decay",),
        "decay=0": ("deploy",),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 3.0,
        distillation_weight: NonNegative = 1.0,
        ramp_up: Share = 80 / 300,
        decay: Share = 0.999,
        deploy: Literal["mean", "student"] = "mean",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.ramp_up = ramp_up
        self.decay = decay
        self.deploy = deploy
        self.ensemble = nn.Linear(sum(group.embedding_dims), group.num_classes)
        self.mean_group = copy.deepcopy(group).requires_grad_(False)

    @property
    def views(self) -> int:
        return self.group.num_students

    @property
    def students(self) -> StudentGroup:
        return self.mean_group if self.deploy == "mean" else self.group

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        logits = output.logits
        ensemble = self.ensemble(torch.cat(output.embeddings, dim=1))
        losses = {
            **self.supervision(logits, inputs, targets),
            "ensemble_label": self.label_loss(ensemble, targets),
        }
        weight = self.distillation_weight * self.ramp(progress, self.ramp_up)
        losses["distillation"] = weight * kl_divergence(logits, ensemble.detach(), self.temperature).sum()
        if len(logits) > 1:
            with torch.no_grad():
                averages = self.mean_group(inputs).logits
            losses["peer_teacher"] = weight * mutual_divergence(logits, averages, self.temperature)
        return losses

    def predict(self, inputs: Inputs) -> Predictions:
        output = self.students(inputs)
        ensemble = self.ensemble(torch.cat(output.embeddings, dim=1))
        return Predictions(output.logits, ensemble, output.logits[self.deployed_student], {})

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        keep = min(1.0 - 1.0 / (progress.step_number + 1), self.decay)
        averages: list[Tensor] = [*self.mean_group.parameters()]
        students: list[Tensor] = [*self.group.parameters()]
        torch._foreach_lerp_(averages, students, 1.0 - keep)
        if (
            len(self.group.branches) == 1
        ):  # a single peer's average never runs in training, so its statistics are copied
            _copy(self.mean_group.buffers(), self.group.buffers())


def _copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
