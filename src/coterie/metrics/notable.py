"""Selects noteworthy samples of a classification. Arrays in, positions out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GALLERY_SAMPLES = 24  # for each kind: the most disputed samples, and the deployed student's most confident errors


def probabilities_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the last axis, [..., K] to [..., K]."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def gallery_samples(logits: NDArray[np.float32], labels: NDArray[np.int64], deployed: int) -> NDArray[np.int64]:
    """Selects the samples for a run's gallery: the most disputed ones and the deployed student's most confident errors.

    Args:
        logits: [n, N, K].
        labels: class indices [N].
        deployed: index of the deployed student.

    Returns:
        Positions in 0..N-1 in ascending order, without repetition.
    """
    return np.union1d(most_disputed(logits, labels), most_confident_errors(logits[deployed], labels))


def most_confident_errors(
    logits: NDArray[np.float32], labels: NDArray[np.int64], count: int = GALLERY_SAMPLES
) -> NDArray[np.int64]:
    """Returns the samples that one classifier gets wrong, most confident first.

    Args:
        logits: [N, K].
        labels: class indices [N].
        count: number of samples; fewer are returned if there are fewer errors.

    Returns:
        Positions in 0..N-1, [at most count].
    """
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    confidence = probabilities_of(logits[wrong]).max(-1)
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def most_disputed(
    logits: NDArray[np.float32], labels: NDArray[np.int64], count: int = GALLERY_SAMPLES
) -> NDArray[np.int64]:
    """Returns the samples on which the students differ most, most disputed first.

    Ranked by the number of different predicted classes, then by the mean Euclidean distance of the probabilities over all
    pairs of students. For a single student: its errors, most confident first.

    Args:
        logits: [n, N, K].
        labels: class indices [N].
        count: number of samples; fewer are returned if there are fewer samples (or, for one student, errors).

    Returns:
        Positions in 0..N-1, [at most count].

    >>> logits = np.array([[[9.0, 0, 0], [9, 0, 0]], [[9, 0, 0], [0, 9, 0]]])
    >>> most_disputed(logits, np.array([0, 0]), count=1)
    array([1])
    """
    if len(logits) == 1:
        return most_confident_errors(logits[0], labels, count)
    probabilities = probabilities_of(logits)
    predicted = logits.argmax(-1)
    ranks = np.sort(predicted, axis=0)
    distinct = 1 + (np.diff(ranks, axis=0) != 0).sum(0)
    distance = np.zeros(logits.shape[1])
    for first in range(len(logits)):
        for second in range(first):
            distance += np.linalg.norm(probabilities[first] - probabilities[second], axis=-1)
    return np.lexsort((-distance, -distinct))[:count]
