"""Figures of one classifier on one data set: accuracy, likelihood, calibration."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

CALIBRATION_BINS = 15


def classification_figures(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Top-1, top-5, NLL, Brier score and expected calibration error over a whole data set.

    Args:
        logits: [N, K], float. All samples at once, so that no average of batch averages arises.
        targets: class indices [N].

    Returns:
        ``top1``, ``top5`` (top-K where there are fewer than 5 classes) as shares; ``nll`` in nats; ``brier``, the squared
        distance of the probabilities from the truth, in [0, 2]; ``ece`` with 15 bins of equal width (Guo et al., 2017).
    """
    classes = logits.shape[1]
    log_probabilities = torch.log_softmax(logits.double(), dim=1)
    probabilities = log_probabilities.exp()
    truth = torch.nn.functional.one_hot(targets, classes)

    def accuracy(top_k: int) -> float:
        return float(multiclass_accuracy(probabilities, targets, classes, average="micro", top_k=top_k))

    figures = {
        "top1": accuracy(1),
        "top5": accuracy(min(5, classes)),
        "nll": float(torch.nn.functional.nll_loss(log_probabilities, targets)),
        "brier": float((probabilities - truth).square().sum(1).mean()),
        "ece": float(multiclass_calibration_error(probabilities, targets, classes, n_bins=CALIBRATION_BINS)),
    }
    # Sums over threads may differ in the last bit; a repeated evaluation should not.
    return {name: round(value, 7) for name, value in figures.items()}


def mean_figures(figures: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over several classifiers."""
    return {key: round(sum(each[key] for each in figures) / len(figures), 7) for key in figures[0]}
