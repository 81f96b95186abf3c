"""After STKD: Similarity Transfer for Knowledge Distillation (Zhao et al., 2021, arXiv 2103.10047)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses import kl_divergence
from coterie.losses.decoupled import others_divergence
from coterie.methods.method import Unused
from coterie.methods.options import NonNegative, Positive, Share
from coterie.methods.progress import Progress
from coterie.methods.teacher.guide import Combination, combined_logits
from coterie.methods.teacher.taught import TaughtMethod, require_classes, single_view
from coterie.networks.group import StudentGroup
from coterie.networks.teacher import Teachers


class STKD(TaughtMethod):
    r"""The student learns the teacher's class similarities on mixtures of two images.

    With :math:`\lambda \sim Beta(a, a)`, :math:`\tilde x = \lambda x_i + (1 - \lambda) x_j`:

    .. math:: L = (1 - \alpha) \big[\lambda CE(z_s(\tilde x), y_i) + (1 - \lambda) CE(z_s(\tilde x), y_j)\big] + \alpha\, T^2 KL(q \| p_s^T(\tilde x))

    A reconstruction: only the paper's abstract could be read (mixup of images and labels, matched distributions on the virtual sample,
    "incorrect classes similarities by the mixed labels"). Every choice is an argument; the constants are ours.

    Args:
        group: one student.
        teachers: one or several.
        mixing: a of the Beta distribution, 1; 0: λ = 1, which is Hinton's KD exactly.
        reading: ``virtual``: q is the teacher's prediction of the mixture; ``mixed``: q is the mixture of its predictions of the two images; ``clean``: q is
            its prediction of x_i alone, a control whose target does not depend on the mixture.
        wrong_classes: whether only the classes other than y_i and y_j are compared ("incorrect classes").
        temperature: T, 4.
        distillation_weight: α, 0.9.
        combination: how several teachers' logits are combined: ``mean_probability`` or ``mean_logit``.

    One λ for each batch. A sample's partner is the previous one in the batch, and batches are shuffled.

    Losses: ``label``, ``distillation``.

    Raises:
        CoterieError: labels that are mixed already.
    """

    mixes_inputs: ClassVar[bool] = True
    reads_teacher_features: ClassVar[bool] = False
    unused: ClassVar[Unused] = {
        "mixing=0": ("reading",),
        "distillation_weight=0": ("reading", "wrong_classes", "temperature", "combination"),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        teachers: Teachers | None = None,
        mixing: NonNegative = 1.0,
        reading: Literal["virtual", "mixed", "clean"] = "virtual",
        wrong_classes: bool = False,
        temperature: Positive = 4.0,
        distillation_weight: Share = 0.9,
        combination: Combination = "mean_probability",
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, teachers, label_loss)
        if wrong_classes and group.num_classes < 4:
            raise CoterieError(
                f"wrong_classes=True leaves out two classes, and there are {group.num_classes}; it needs 4 or more"
            )
        self.mixing = mixing
        self.reading = reading
        self.wrong_classes = wrong_classes
        self.temperature = temperature
        self.distillation_weight = distillation_weight
        self.combination: Combination = combination

    def _share(self, inputs: Tensor) -> Tensor:
        """λ, 0-d: :func:`symmetric_beta` of the mixing parameter."""
        if self.mixing == 0:
            return torch.ones((), device=inputs.device)
        return symmetric_beta(torch.rand(3, device=inputs.device), self.mixing)

    @property
    def label_factor(self) -> float:
        return 1 - self.distillation_weight

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        require_classes(targets, "stkd")
        images = single_view(inputs)
        share, partners = self._share(images), targets.roll(1)
        mixture = images if self.mixing == 0 else share * images + (1 - share) * images.roll(1, 0)
        target = self._target(images, mixture, share)
        logits = self.group(mixture).logits
        label = share * self.label_losses(logits, targets) + (1 - share) * self.label_losses(logits, partners)
        if self.wrong_classes:
            divergence = others_divergence(logits[0], target, targets, self.temperature, second=partners)
        else:
            divergence = kl_divergence(logits[0], target, self.temperature)
        return {
            "label": (1 - self.distillation_weight) * label,
            "distillation": self.distillation_weight * divergence,
        }

    def _target(self, images: Tensor, mixture: Tensor, share: Tensor) -> Tensor:
        """Returns the logits of q at temperature T, float32 [B, K]."""
        seen = mixture if self.reading == "virtual" else images
        logits = combined_logits(torch.stack([output.logits for output in self.teachers(seen)]), self.combination)
        if self.reading != "mixed":
            return logits
        softened = torch.softmax(logits / self.temperature, -1)
        mixed = share * softened + (1 - share) * softened.roll(1, 0)
        return mixed.clamp(min=1e-12).log() * self.temperature


def symmetric_beta(uniform: Tensor, parameter: float) -> Tensor:
    """Draws from Beta(a, a) with three uniform numbers and no rejection, so that a captured step can draw again.

    Args:
        uniform: [3, ...] in [0, 1).
        parameter: a > 0.

    Source: Devroye, "Random variate generation in one line of code" (1996), symmetric beta distribution.
    """
    radius, angle, side = uniform if uniform.device.type == "mps" else uniform.double()  # Apple's GPUs have no float64
    spread = (1 - radius).pow(-1 / parameter) - 1
    distance = 1 / torch.sqrt(1 + 1 / (spread * torch.cos(2 * math.pi * angle).square()))
    return (0.5 + torch.where(side < 0.5, -0.5, 0.5) * distance).to(uniform.dtype)
