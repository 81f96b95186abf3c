"""MCL: Mutual Contrastive Learning for Visual Representation Learning (Yang et al., AAAI 2022, arXiv 2104.12565)."""

from __future__ import annotations

from itertools import permutations
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses import kl_divergence
from coterie.losses.contrast import contrast, similarities, soft_contrast
from coterie.methods.group_method import GroupMethod
from coterie.methods.method import Unused
from coterie.methods.options import AtLeastOne, NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


class MCL(GroupMethod):
    r"""Peers with a supervised contrastive loss on their embeddings, within each peer and across peers, that also exchange their similarity distributions.

    With unit embeddings :math:`v_i` of student i (a head of two layers on the pooled features):

    .. math::
        L = \sum_i CE(z_i, y) + \alpha \sum_i VCL(v_i) + \beta \sum_i \frac{1}{n-1}\sum_{j \ne i} KL(s_{jj} \| s_{ii})
            + \alpha \sum_{i \ne j} ICL(v_i, v_j) + \beta \sum_{i \ne j} KL(s_{ji} \| s_{ij})

    where VCL contrasts a student's own embeddings, ICL student i's anchors with student j's embeddings, and s are an anchor's softened
    similarities to the samples.

    Args:
        group: two whole networks as published.
        contrast_weight: α, 0.1 (the authors' code).
        soft_weight: β, 1 (code).
        form: ``paper`` or ``code``, which differ in more than rounding. A measurement at a small size shows no clear difference (digits, five seeds: the code
            with its τ is at -0.68 ± 0.52 points, ``benchmarks/results/faithful/table.md``); ``paper`` is this method's earlier form and the default.

            - *contrast*: the paper's denominator holds one positive and the samples of other classes, as far as it is recalled; the code's holds all other
              samples.
            - *soft terms*: over the other samples; the code's over all samples, including the anchor itself.
            - *heads*: d-d-128 (ours); the code's d-128-128.
            - *sums over pairs*: divided by n - 1 (ours); not in the code, so its sums grow with n. No difference for two students.
            - *distillation*: every student learns from the mean (ours); in the code only the last one if there are more than two.
        contrast_temperature: τ, 0.1 (the specification this was built from); the code's parser and its logs have 0.07.
        soft_temperature: T of the soft terms, 3 (code).
        dimensions: width of the embeddings, 128 (code).
        distillation_weight: weight of a divergence from the mean of all logits, an option of the code; 0: off.
        distillation_temperature: temperature of that divergence, 3.

    The code samples batches in pairs of one class. Here batches are ordinary, and an anchor without a positive has no contrastive loss (in the code it would be
    NaN).

    Losses: ``label``, ``contrast``, ``soft_contrast`` and, if its weight is positive, ``distillation``.

    Raises:
        CoterieError: mixed labels, since the contrast needs classes.
    """

    default_branches: ClassVar[int] = 2
    default_at: ClassVar[str | None] = None
    min_batch: ClassVar[int] = 3  # an anchor, a positive and a negative
    unused: ClassVar[Unused] = {
        "distillation_weight=0": ("distillation_temperature",),
        "soft_weight=0": ("soft_temperature",),
        "contrast_weight=0 soft_weight=0": ("contrast_temperature", "dimensions"),
        "contrast_weight=0 soft_weight=0 distillation_weight=0": ("form",),
    }

    def __init__(
        self,
        group: StudentGroup,
        *,
        form: Literal["paper", "code"] = "paper",
        contrast_weight: NonNegative = 0.1,
        soft_weight: NonNegative = 1.0,
        contrast_temperature: Positive = 0.1,
        soft_temperature: Positive = 3.0,
        dimensions: AtLeastOne = 128,
        distillation_weight: NonNegative = 0.0,
        distillation_temperature: Positive = 3.0,
        label_loss: nn.Module | None = None,
    ) -> None:
        super().__init__(group, label_loss)
        self.as_code = form == "code"
        self.contrast_weight = contrast_weight
        self.soft_weight = soft_weight
        self.contrast_temperature = contrast_temperature
        self.soft_temperature = soft_temperature
        self.distillation_weight = distillation_weight
        self.distillation_temperature = distillation_temperature
        self.heads = nn.ModuleList(
            _head(width, dimensions if self.as_code else width, dimensions) for width in group.embedding_dims
        )

    def forward(self, inputs: Inputs, targets: Tensor, progress: Progress | None = None) -> dict[str, Tensor]:
        if targets.ndim > 1:
            raise CoterieError("mcl contrasts samples by their class, and mixup or cutmix mixes classes; turn them off")
        output = self.group(inputs)
        logits = output.logits
        heads = zip(self.heads, output.embeddings, strict=True)
        embeddings = [F.normalize(head(embedding).float(), dim=1) for head, embedding in heads]
        hard, soft = self._contrasts(embeddings, targets)
        losses = {**self.supervision(logits, inputs, targets), "contrast": self.contrast_weight * hard}
        if soft is not None:
            losses["soft_contrast"] = self.soft_weight * soft
        if self.distillation_weight > 0:
            mean = logits.float().mean(0).detach()
            learners = logits[-1:] if self.as_code and len(logits) > 2 else logits
            divergence = kl_divergence(learners, mean, self.distillation_temperature).sum()
            losses["distillation"] = self.distillation_weight * divergence
        return losses

    def _contrasts(self, embeddings: list[Tensor], targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the hard terms and, for two or more students, the soft ones; each a sum over students."""
        count, temperature = len(embeddings), self.contrast_temperature
        against: Literal["classes", "samples"] = "samples" if self.as_code else "classes"
        within = [similarities(each, each, temperature) for each in embeddings]
        hard = torch.stack([contrast(similarity, targets, against) for similarity in within]).sum()
        if count == 1:
            return hard, None
        pairs = list(permutations(range(count), 2))
        divisor = 1 if self.as_code else count - 1
        across = {(i, j): similarities(embeddings[i], embeddings[j], temperature) for i, j in pairs}
        hard = hard + torch.stack([contrast(across[pair], targets, against) for pair in pairs]).sum() / divisor
        matrices = [(within[i], within[j]) for i, j in pairs] + [(across[i, j], across[j, i]) for i, j in pairs]
        soft = [soft_contrast(own, other.detach(), self.soft_temperature, self.as_code) for own, other in matrices]
        return hard, torch.stack(soft).sum() / divisor


def _head(width: int, hidden: int, dimensions: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, dimensions))
