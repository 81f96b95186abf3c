"""Figures of one classifier on one data set: accuracy, likelihood, calibration."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

CALIBRATION_BINS = 15
TOP5_CLASSES = 10  # from here on top-5 tells networks apart; with fewer classes a guess is often among five


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


def shown_figures(names: Iterable[str], classes: int) -> list[str]:
    """Which figures are worth a reader's time: top-5 is left out where there are fewer than 10 classes.

    Args:
        names: of figures, in their order.
        classes: how many classes there are; 0 where that is not known.

    >>> shown_figures(["top1", "top5", "nll"], classes=8)
    ['top1', 'nll']
    """
    return [name for name in names if not (name == "top5" and 0 < classes < TOP5_CLASSES)]
