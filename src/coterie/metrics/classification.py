"""Metrics of classifiers on a data set, accumulated over batches: accuracy, likelihood, calibration."""

from __future__ import annotations

import torch
from torch import Tensor

from coterie.metrics.sums import STEP, exact_sum, value_of, widest

CALIBRATION_BINS = 15
CHUNK_ELEMENTS = 2**21  # logits at once: 16 MiB in float64


class ClassificationSums:
    """Accumulates metrics of several classifiers on the same samples. Memory does not grow with the samples, and results do not depend on batches, order or
    processes.

    Args:
        classifiers: number of classifiers, C.
        device: device of the logits.

    Attributes:
        state: the sums by name, int64; sums of disjoint sets of samples can be added.
    """

    def __init__(self, classifiers: int, device: torch.device | str = "cpu") -> None:
        # A confidence of 1 has its own bin, as in torchmetrics.
        shapes = {"samples": (1,), "top1": (), "top5": (), "nll": (3,), "brier": (3,)}
        bins = dict.fromkeys(("bin_samples", "bin_right", "bin_confidence"), (CALIBRATION_BINS + 1,))
        self.state = {
            name: torch.zeros(classifiers, *shape, dtype=torch.int64, device=device)
            for name, shape in {**shapes, **bins}.items()
        }
        self.edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, device=device)

    def add(self, logits: Tensor, log_probabilities: Tensor, targets: Tensor, counted: Tensor) -> None:
        """Adds a batch, without a host synchronisation.

        Args:
            logits: [C, B, K].
            log_probabilities: their log-softmax, float64 if the device supports it.
            targets: class indices [B].
            counted: bool [B], false for padding samples.
        """
        classes, state = logits.shape[-1], self.state
        probabilities = log_probabilities.exp()
        own = targets.expand(logits.shape[:-1]).unsqueeze(-1)
        best = logits.topk(min(5, classes), dim=-1).indices == own
        right = (logits.argmax(-1) == targets) & counted
        state["samples"] += counted.sum()
        state["top1"] += right.sum(-1)
        state["top5"] += (best.any(-1) & counted).sum(-1)
        state["nll"] += exact_sum(torch.where(counted, -log_probabilities.gather(-1, own).squeeze(-1), 0.0))
        truth = torch.zeros_like(probabilities).scatter_(-1, own, 1.0)
        state["brier"] += exact_sum(torch.where(counted, (probabilities - truth).square().sum(-1), 0.0))
        confidence = probabilities.amax(-1).float().nan_to_num(0.0)  # the NLL already shows such a sample
        place = (torch.bucketize(confidence, self.edges, right=True) - 1).clamp(0, CALIBRATION_BINS)
        steps = (confidence / STEP).round().long()
        for name, values in (("bin_samples", counted), ("bin_right", right), ("bin_confidence", steps * counted)):
            state[name].scatter_add_(1, place, values.long().expand_as(place))

    def compute(self) -> list[dict[str, float]]:
        """Returns the metrics of each classifier, see :func:`classification_figures`."""
        state = {name: value.cpu() for name, value in self.state.items()}
        samples = state["samples"].double()[:, 0]
        gaps = (state["bin_right"] - state["bin_confidence"].double() * STEP).abs().sum(-1)
        means = {
            "top1": state["top1"] / samples,
            "top5": state["top5"] / samples,
            "nll": value_of(state["nll"]) / samples,
            "brier": value_of(state["brier"]) / samples,
            "ece": gaps / samples,
        }
        columns = {name: values.tolist() for name, values in means.items()}
        return [{name: round(column[number], 7) for name, column in columns.items()} for number in range(len(samples))]


def classification_figures(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Top-1, top-5, NLL, Brier score and expected calibration error over a whole data set.

    Args:
        logits: [N, K], float.
        targets: class indices [N].

    Returns:
        ``top1``, ``top5`` (top-K if there are fewer than 5 classes) as shares; ``nll`` in nats; ``brier``, the squared
        distance of the probabilities from the truth, in [0, 2]; ``ece`` with 15 bins of equal width (Guo et al., 2017).
    """
    sums = ClassificationSums(1, logits.device)
    size = max(1, CHUNK_ELEMENTS // logits.shape[1])
    for part, its_targets in zip(logits.split(size), targets.split(size), strict=True):
        counted = torch.ones_like(its_targets, dtype=torch.bool)
        sums.add(part[None], torch.log_softmax(widest(part[None]), dim=-1), its_targets, counted)
    return sums.compute()[0]


def mean_figures(figures: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of each metric over several classifiers."""
    return {key: round(sum(each[key] for each in figures) / len(figures), 7) for key in figures[0]}
