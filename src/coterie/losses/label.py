"""The loss against the labels, which is passed to every method: hard, smoothed or soft targets, class weights."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LabelLossKind = Literal["cross_entropy", "binary_cross_entropy"]


def one_hot(targets: Tensor, num_classes: int) -> Tensor:
    """Class indices [B] as float32 [B, K]. Unlike torch's, it does not synchronise with the host."""
    zeros = torch.zeros(len(targets), num_classes, device=targets.device)
    return zeros.scatter(1, targets[:, None], 1.0)


def soft_labels(targets: Tensor, num_classes: int) -> Tensor:
    """Class indices [B] as one-hot float32 [B, K]; distributions [B, K] unchanged."""
    return one_hot(targets, num_classes) if targets.ndim == 1 else targets.float()


class LabelLoss(nn.Module):
    """Mean loss over samples of logits [B, K] against class indices [B] or class distributions [B, K].

    Args:
        kind: ``cross_entropy``, or ``binary_cross_entropy`` over the classes (summed over classes, mean over samples).
        label_smoothing: share of the target that is spread evenly over the classes (cross-entropy only).
        class_weights: [K], one factor for each class; the mean is then a weighted one.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        kind: LabelLossKind = "cross_entropy",
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    @property
    def is_mean(self) -> bool:
        """Whether all samples have equal weight, so that the mean of a batch follows from the means of its parts."""
        return self.class_weights is None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.float()
        if self.kind == "cross_entropy":
            return F.cross_entropy(logits, targets, weight=self.class_weights, label_smoothing=self.label_smoothing)
        truth = soft_labels(targets, logits.shape[-1])
        return F.binary_cross_entropy_with_logits(logits, truth, weight=self.class_weights, reduction="sum") / len(
            logits
        )


def balanced_class_weights(counts: Tensor) -> Tensor:
    """Weights inversely proportional to the classes' frequencies, with mean 1 over the samples.

    Args:
        counts: [K], samples of each class; a class with none gets weight 0.

    Returns:
        float32 [K].
    """
    counts = counts.float()
    present = counts > 0
    weights = torch.where(present, counts.sum() / counts.clamp(min=1), torch.zeros_like(counts))
    return weights / present.sum()


LABELS = 64  # classes that are tried at most


def chance_loss(label_loss: torch.nn.Module, num_classes: int) -> float:
    """Returns the label loss of equal logits: the maximum over labels, given as indices or as distributions. NaN if the loss accepts neither, or if there is
    only one output and hence no choice among classes.

    >>> from coterie.losses import LabelLoss
    >>> round(chance_loss(LabelLoss(), 8), 3)
    2.079
    """
    if num_classes < 2:
        return math.nan
    weights = getattr(label_loss, "class_weights", None)
    device = weights.device if isinstance(weights, Tensor) else None
    labels = torch.arange(
        0, num_classes, -(-num_classes // LABELS), device=device
    )  # K labels on K classes would grow with K squared
    logits = torch.zeros(len(labels), num_classes, device=device)
    try:
        found = [float(label_loss(logits, targets)) for targets in (labels, one_hot(labels, num_classes))]
    except (RuntimeError, TypeError, ValueError, IndexError):  # a custom loss
        return math.nan
    return max(found)
