"""OFA-KD: One-for-All, Bridge the Gap Between Heterogeneous Architectures (Hao et al., NeurIPS 2023, arXiv 2310.19444)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses.target_enhanced import target_enhanced_loss, target_enhanced_weights
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.teacher.taught import LogitTaughtMethod
from coterie.networks.exits import build_exit
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers


class OFA(LogitTaughtMethod):
    r"""Exit branches project the student's stages to logits, and each learns from the teacher's final prediction.

    The features of CNNs, transformers and MLPs are not comparable, their logits are: the teacher's features are never used.

    .. math::
        OFA(z; \gamma) = -\tfrac1B \sum_b \sum_c \big[(p_{t,c} + m_c)^\gamma - m_c\big] \log softmax(z / T)_c

        L = w_{gt} CE(z_s, y) + w_{kd} OFA(z_s; \gamma_{last}) + w_{ofa} \sum_i OFA(head_i(f_i); \gamma_i)

    Args:
        group: one student with taps at its stages (four in the paper; here as many as the student has, three for the CIFAR networks).
        teachers: one or several, of any architecture.
        gamma: one exponent for all, or one for each exit and the last for the student's own logits; 1 (parser default; 1.5 in the README for
            ImageNet, 1.1 to 1.4 in a digest of the paper's ablation). It also changes the weight of the term.
        label_weight, distillation_weight, exit_weight: w_gt, w_kd, w_ofa, all 1 (code).
        temperature: T, 1, and no factor T² (code).
        nontarget_power: whether the other classes' probabilities are raised to γ too: yes in the code, no in the paper's printed formula.
        combination: how several teachers' logits are combined.

    Exit branches are the code's: separable convolutions to the width max(d_s, d_t) for maps, merging and transformer blocks of width d_s for
    tokens. Swin's maps, which are tokens in the code, are maps here.

    Losses: ``label``, ``distillation``, ``exit_distillation``, and ``teacher_weights`` with learned ones.

    Raises:
        CoterieError: a wrong number of exponents.
    """

    uses_taps: ClassVar[bool] = True
    unused: ClassVar[Unused] = {
        "gamma=1": ("nontarget_power",),
        "distillation_weight=0 exit_weight=0": ("gamma", "temperature", "nontarget_power", "combination"),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        gamma: Positive | list[Positive] = 1.0,
        label_weight: NonNegative = 1.0,
        distillation_weight: NonNegative = 1.0,
        exit_weight: NonNegative = 1.0,
        temperature: Positive = 1.0,
        nontarget_power: bool = True,
        combination: Literal["mean_probability", "mean_logit", "learned"] = "mean_probability",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, combination, label_loss)
        shapes = group.tap_shapes[0]
        gammas = list(gamma) if isinstance(gamma, (list, tuple)) else [gamma] * (len(shapes) + 1)
        if len(gammas) != len(shapes) + 1:
            raise CoterieError(
                f"gamma has {len(gammas)} values; expected one, or {len(shapes) + 1}: one for each of the {len(shapes)} exits and the last for the student"
            )
        self.gammas = gammas
        self.label_weight = label_weight
        self.distillation_weight = distillation_weight
        self.exit_weight = exit_weight
        self.temperature = temperature
        self.nontarget_power = nontarget_power
        width = max(group.embedding_dims[0], *(teacher.embedding_dim for teacher in self.teachers.each()))
        self.exits = nn.ModuleList(
            build_exit(shape, len(shapes) - 1 - number, group.num_classes, width, group.embedding_dims[0])
            for number, shape in enumerate(shapes)
        )

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        teacher = self.target(inputs, targets, losses)
        output = self.group(inputs)
        weights = {
            gamma: target_enhanced_weights(teacher, targets, gamma, self.temperature, self.nontarget_power)
            for gamma in dict.fromkeys(self.gammas)
        }
        losses |= self.supervision(output.logits, inputs, targets, self.label_weight)
        own = target_enhanced_loss(output.logits[0], weights[self.gammas[-1]], self.temperature)
        losses["distillation"] = self.distillation_weight * own
        terms = [
            target_enhanced_loss(branch(tap)[0], weights[gamma], self.temperature)
            for branch, tap, gamma in zip(self.exits, output.taps[0], self.gammas[:-1], strict=True)
        ]
        losses["exit_distillation"] = self.exit_weight * torch.stack(terms).sum()
        return losses
