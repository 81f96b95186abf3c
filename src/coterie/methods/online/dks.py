"""DKS: Deeply-supervised Knowledge Synergy (Sun et al., CVPR 2019, arXiv 1906.00675)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.losses.mutual import mutual_divergence
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.self_distillation.exiting import ExitingMethod
from coterie.networks.group import StudentGroup


class DKS(ExitingMethod):
    r"""All exits and the last classifier learn from the labels and from each other, pairwise in both directions.

    .. math:: L = \sum_i CE(z_i, y) + \lambda \sum_i \sum_{j \ne i} T^2 KL(p_j^T \| p_i^T)

    Args:
        group: one student with taps at its stages.
        temperature: T, 1 (the authors' code, sundw2014/DKS).
        distillation_weight: λ, 1 (code).

    Exits are OFA-KD's. The teaching side is detached (code). The code adds 1e-8 to every probability and divides by their sum; in log space that is not needed.

    Losses: ``label``, ``exit_label``, ``distillation``.
    """

    unused: ClassVar[Unused] = {"distillation_weight=0": ("temperature",)}

    def __init__(
        self,
        group: StudentGroup,
        *,
        temperature: Positive = 1.0,
        distillation_weight: NonNegative = 1.0,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.temperature = temperature
        self.distillation_weight = distillation_weight

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        output = self.group(inputs)
        exits, _ = self.exit_outputs(output)
        losses = self.supervision(output.logits, inputs, targets)
        losses["exit_label"] = self.label_losses(exits, targets)
        every = torch.cat([exits, output.logits])
        pairs = len(every) - 1  # the divergence is a mean over the others, the paper's a sum
        divergence = pairs * mutual_divergence(every, every.detach(), self.temperature)
        losses["distillation"] = self.distillation_weight * divergence
        return losses
