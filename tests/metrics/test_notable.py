from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from coterie.metrics.notable import (
    GALLERY_SAMPLES,
    gallery_samples,
    most_confident_errors,
    most_disputed,
    probabilities_of,
)


def test_ranked_by_different_predictions_then_by_distance() -> None:
    logits = np.zeros((3, 4, 5), np.float32)
    for student, sample, predicted, strength in [
        *[(student, 0, 1, 9) for student in range(3)],  # all agree
        *[(student, 1, student, 1) for student in range(3)],  # three answers, unsure
        *[(student, 2, student, 9) for student in range(3)],  # three answers, sure
        *[(student, 3, min(student, 1), 9) for student in range(3)],  # two answers, sure
    ]:
        logits[student, sample, predicted] = strength
    assert most_disputed(logits, np.zeros(4, np.int64)).tolist() == [2, 1, 3, 0]
    assert most_disputed(logits, np.zeros(4, np.int64), count=2).tolist() == [2, 1]


def test_order_follows_a_slow_reference() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(4, 60, 3)).astype(np.float32)
    probabilities = probabilities_of(logits)

    def key(sample: int) -> tuple[float, float]:
        distances = [np.linalg.norm(a[sample] - b[sample]) for a, b in combinations(probabilities, 2)]
        return -len(set(logits[:, sample].argmax(-1).tolist())), -float(np.mean(distances))

    assert most_disputed(logits, np.zeros(60, np.int64), 60).tolist() == sorted(range(60), key=key)


def test_a_single_student_gives_its_most_confident_errors() -> None:
    logits = np.array([[[5, 0, 0], [1, 0, 0], [9, 0, 0], [3, 0, 0]]], np.float32)
    assert most_disputed(logits, np.array([1, 1, 0, 2]), 24).tolist() == [0, 3, 1]


def test_errors_follow_a_slow_reference() -> None:
    generator = np.random.default_rng(3)
    logits = generator.normal(size=(200, 6)).astype(np.float32)
    labels = generator.integers(0, 6, 200)
    probabilities = probabilities_of(logits)
    wrong = [sample for sample in range(200) if probabilities[sample].argmax() != labels[sample]]
    expected = sorted(wrong, key=lambda sample: -probabilities[sample].max())
    assert most_confident_errors(logits, labels, 1000).tolist() == expected
    assert most_confident_errors(logits, labels).tolist() == expected[:GALLERY_SAMPLES]
    assert most_confident_errors(logits, logits.argmax(-1)).tolist() == []


@pytest.mark.parametrize("students", [1, 3])
def test_what_both_galleries_show_is_kept_once_and_capped(students: int) -> None:
    generator = np.random.default_rng(4)
    logits = generator.normal(size=(students, 500, 5)).astype(np.float32)
    labels = generator.integers(0, 5, 500)
    kept = gallery_samples(logits, labels, students - 1).tolist()
    assert kept == sorted(set(kept))
    assert len(kept) <= 2 * GALLERY_SAMPLES
    assert set(kept) == {*most_disputed(logits, labels), *most_confident_errors(logits[-1], labels)}
