from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.metrics import classification_figures, diversity_figures
from coterie.metrics.classification import CALIBRATION_BINS
from coterie.metrics.notable import probabilities_of
from coterie.report.predictions import (
    RELIABILITY_BINS,
    Confusion,
    colour_depths,
    confusion_matrix,
    most_confused,
    pairwise_disagreement,
    reliability,
    similar_classes_together,
)


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3, 400, 6)).astype(np.float32) * 2


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 6, 400)


def test_probabilities_survive_extreme_logits() -> None:
    assert probabilities_of(np.array([[1e4, 0, -1e4]], np.float32)).tolist() == [[1, 0, 0]]


def test_the_diagram_shows_the_ece_of_the_figures(logits: np.ndarray, labels: np.ndarray) -> None:
    bins = reliability(logits[0], labels)
    error = np.nansum(bins.share * np.abs(bins.accuracy - bins.confidence))
    figures = classification_figures(torch.as_tensor(logits[0]), torch.as_tensor(labels))
    assert RELIABILITY_BINS == CALIBRATION_BINS
    assert error == pytest.approx(figures["ece"], abs=1e-5)
    assert np.nansum(bins.share * bins.accuracy) == pytest.approx(figures["top1"])
    assert bins.share.sum() == pytest.approx(1)
    assert np.isnan(bins.accuracy[0])  # no confidence below 1/6


def test_certainty_falls_into_the_last_bin() -> None:
    bins = reliability(np.array([[500, 0], [0, 500]], np.float32), np.array([0, 0]), bins=10)
    assert bins.share[-1] == 1
    assert bins.accuracy[-1] == 0.5


def test_the_matrix_has_the_disagreement_of_the_figures_as_its_mean(logits: np.ndarray, labels: np.ndarray) -> None:
    matrix = pairwise_disagreement(logits)
    mean = diversity_figures(torch.as_tensor(logits), torch.as_tensor(labels))["disagreement"]
    assert matrix[~np.eye(3, dtype=bool)].mean() == pytest.approx(mean)
    assert (matrix == matrix.T).all()
    assert (np.diag(matrix) == 0).all()


def test_confusions() -> None:
    predicted = np.array([0, 1, 1, 1, 2, 0, 2, 2])
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    counts = confusion_matrix(np.eye(3, dtype=np.float32)[predicted], labels)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 1], [1, 0, 2]]
    assert most_confused(counts) == [Confusion(0, 1, 2, 2 / 3), Confusion(1, 2, 1, 1 / 2), Confusion(2, 0, 1, 1 / 3)]
    assert len(most_confused(counts, limit=1)) == 1
    assert most_confused(np.diag([3, 4])) == []


def test_depth_of_colour_is_relative_to_the_commonest_error() -> None:
    depths = colour_depths(np.array([[8, 2, 0], [1, 16, 3], [0, 0, 0]]))
    assert depths[0].tolist() == [0.8, 1, 0]
    assert depths[1, 0] == pytest.approx((0.05 / 0.2) ** 0.5)
    assert depths[2].tolist() == [0, 0, 0]  # a class without samples
    assert colour_depths(np.diag([3, 4])).tolist() == [[1, 0], [0, 1]]


def test_confused_classes_become_neighbours() -> None:
    counts = 50 * np.eye(6, dtype=np.int64)
    for first, second in [(0, 3), (1, 5), (2, 4)]:
        counts[first, second] = counts[second, first] = 20
    order = similar_classes_together(counts).tolist()
    assert sorted(order) == list(range(6))
    for first, second in [(0, 3), (1, 5), (2, 4)]:
        assert abs(order.index(first) - order.index(second)) == 1
    assert similar_classes_together(np.eye(2, dtype=np.int64)).tolist() == [0, 1]
