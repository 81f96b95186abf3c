"""Statistics of saved predictions: reliability, disagreement, confusion. Functions of arrays; nothing is drawn here."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import binomtest

from coterie.metrics.notable import probabilities_of

RELIABILITY_BINS = 15  # those of the ECE in coterie.metrics
FEW_SAMPLES = 10  # the accuracy of a bin with fewer samples is unreliable


class Reliability(NamedTuple):
    """Per bin of confidence: number of samples, their share, mean confidence, accuracy, all [bins], and the accuracy's interval.

    ``interval`` is Wilson's 95 % interval, [2, bins]. All but counts and shares are NaN in empty bins.
    """

    counts: NDArray[np.int64]
    share: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    interval: NDArray[np.float64]


class Confusion(NamedTuple):
    """``samples`` samples of class ``truth``, a fraction ``share`` of that class, were predicted as class ``predicted``."""

    truth: int
    predicted: int
    samples: int
    share: float


def reliability(logits: NDArray[np.float32], labels: NDArray[np.int64], bins: int = RELIABILITY_BINS) -> Reliability:
    """Computes accuracy by confidence, in bins of equal width (Guo et al., 2017).

    Args:
        logits: [N, K].
        labels: class indices [N].
        bins: number of bins between 0 and 1.
    """
    probabilities = probabilities_of(logits)
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # a bin includes its upper edge
    counts = np.bincount(place, minlength=bins)
    hits = np.bincount(place, right, bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            counts=counts,
            share=counts / len(labels),
            confidence=np.bincount(place, confidence, bins) / counts,
            accuracy=hits / counts,
            interval=np.array([_wilson(int(hit), int(count)) for hit, count in zip(hits, counts, strict=True)]).T,
        )


def _wilson(hits: int, samples: int) -> tuple[float, float]:
    if not samples:
        return math.nan, math.nan
    interval = binomtest(hits, samples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def pairwise_disagreement(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Computes the share of samples on which two students predict different classes, [n, N, K] to [n, n]."""
    predicted = logits.argmax(-1)
    return (predicted[:, None] != predicted[None, :]).mean(-1)


def confusion_matrix(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts pairs of (true class, predicted class), [N, K] and [N] to [K, K]."""
    classes = logits.shape[-1]
    return np.bincount(labels * classes + logits.argmax(-1), minlength=classes**2).reshape(classes, classes)


def most_confused(counts: NDArray[np.int64], limit: int = 10) -> list[Confusion]:
    """Returns the most frequent confusions, by count, then by share of the class.

    Args:
        counts: a confusion matrix [K, K].
        limit: maximum number of confusions; pairs that never occur are left out.
    """
    totals = counts.sum(1)
    pairs = [
        Confusion(int(truth), int(predicted), int(counts[truth, predicted]), counts[truth, predicted] / totals[truth])
        for truth, predicted in np.argwhere(counts)
        if truth != predicted
    ]
    return sorted(pairs, key=lambda pair: (-pair.samples, -pair.share, pair.truth, pair.predicted))[:limit]


def colour_depths(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Computes the colour intensities of a confusion matrix, [K, K] to [K, K] in 0..1.

    The intensity of a right answer is its share of the true class. That of an error is the square root of its share relative to the
    largest share of an error: errors are rare compared with right answers, and rare errors should be visible next to frequent ones.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    right = np.eye(len(counts), dtype=bool)
    largest = np.max(shares, where=~right, initial=0)
    return np.where(right, shares, np.sqrt(shares / (largest or 1)))


def similar_classes_together(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns an order of the classes in which those that are often confused are adjacent, [K, K] to [K].

    Uses average linkage with optimal leaf order. The distance is one minus the share of confusions, averaged over both directions.
    """
    if len(counts) < 3:
        return np.arange(len(counts))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    together = (shares + shares.T) / 2
    distance = 1 - together
    np.fill_diagonal(distance, 0)
    return leaves_list(linkage(squareform(distance, checks=False), "average", optimal_ordering=True)).astype(np.int64)
