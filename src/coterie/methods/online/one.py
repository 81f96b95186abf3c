"""ONE: Knowledge Distillation by On-the-Fly Native Ensemble (Zhu, Lan and Gong, NeurIPS 2018, arXiv 1806.04606)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses import kl_divergence
from coterie.methods.group_method import GroupMethod, Predictions
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.networks.gate import TrunkGate
from coterie.networks.group import GroupOutput, StudentGroup


class ONE(GroupMethod):
    r"""Branches learn from the labels and from their gated ensemble; the gate reads the shared trunk's map.

    .. math::
        g = softmax(ReLU(BN(W\,GAP(F_{trunk})))), \qquad z_e = \sum_i g_i z_i

        L = \sum_i CE(z_i, y) + CE(z_e, y) + \lambda w \sum_i T^2 KL(p_e^T \| p_i^T)

    Args:
        group: branches on a shared trunk.
        temperature: T, 3 (the authors' code).
        distillation_weight: λ, 1 (code).
        ramp_up: share of training over which w rises, 80 of 300 epochs (code; its README calls it a tip for stability).
        detach_target: whether the ensemble is detached as the branches' target: the authors' code yes, OKDDip's copy no.

    Three branches as published; OKDDip's and OKDMDE's comparisons use four. The paper deploys the first branch.

    The code adds 1e-7 to every probability of the target; this is not needed here, since the divergence is computed in log space. The difference is about 1e-6
    nats a class.

    Losses: ``label``, ``ensemble_label``, ``distillation``. Statistics: ``attention`` [B, n] (the gate) and
    ``attention_entropy`` [B], as a share of log n.

    Raises:
        CoterieError: students without a shared trunk.
    """

    default_branches: ClassVar[int] = 3
    min_batch: ClassVar[int] = 2  # the gate has BatchNorm
    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature", "ramp_up", "detach_target")}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 3.0,
        distillation_weight: NonNegative = 1.0,
        ramp_up: Share = 80 / 300,
        detach_target: bool = True,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.ramp_up = ramp_up
        self.detach_target = detach_target
        self.gate = TrunkGate(group, group.num_students) if group.num_students > 1 else None

    def ensemble(self, output: GroupOutput) -> tuple[Tensor, Tensor]:
        """Returns the ensemble's logits, float32 [B, K], and the branches' weights [B, n]."""
        logits = output.logits.float()
        if self.gate is None:  # the gate over one branch is 1
            return logits[0], torch.ones_like(logits[0, :, :1])
        weights = self.gate(output.trunk_maps)
        return (weights.T.unsqueeze(-1) * logits).sum(0), weights

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        losses = self.supervision(output.logits, inputs, targets)
        if self.gate is None:
            return losses
        ensemble, _ = self.ensemble(output)
        losses["ensemble_label"] = self.label_loss(ensemble, targets)
        target = ensemble.detach() if self.detach_target else ensemble
        divergence = kl_divergence(output.logits, target, self.temperature).sum()
        losses["distillation"] = self.distillation_weight * self.ramp(progress, self.ramp_up) * divergence
        return losses

    def predict(self, inputs: Inputs) -> Predictions:
        output = self.group(inputs)
        ensemble, weights = self.ensemble(output)
        entropy = torch.special.entr(weights).sum(-1) / math.log(max(weights.shape[1], 2))
        statistics = {"attention": weights, "attention_entropy": entropy}
        return Predictions(output.logits, ensemble, output.logits[self.deployed_student], statistics)
