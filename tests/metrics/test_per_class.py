from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score

from coterie.metrics import balanced_accuracy, per_class_figures


@given(
    st.integers(2, 8).flatmap(
        lambda classes: st.tuples(
            st.just(classes),
            st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=40),
        )
    )
)
def test_counts_say_the_same(case):
    """Precision, recall and F1 counted sample by sample; what has no denominator is None."""
    classes, pairs = case
    predicted, targets = torch.tensor(pairs).unbind(1)
    figures = per_class_figures(predicted, targets, [f"class {k}" for k in range(classes)])
    assert [each["name"] for each in figures] == [f"class {k}" for k in range(classes)]
    for k, each in enumerate(figures):
        right = sum(p == t == k for p, t in pairs)
        said, there = sum(p == k for p, _ in pairs), sum(t == k for _, t in pairs)
        assert each["support"] == there
        for key, above, below in (
            ("precision", right, said),
            ("recall", right, there),
            ("f1", 2 * right, said + there),
        ):
            assert each[key] == (pytest.approx(above / below, abs=1e-6) if below else None)
    if all(each["support"] for each in figures):
        expected = balanced_accuracy_score(targets.numpy(), predicted.numpy())
        assert balanced_accuracy(each["recall"] for each in figures) == pytest.approx(expected, abs=1e-6)


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_occur():
    """90 of 100 samples are of one class, which is always predicted: 90 % right, and half of what matters."""
    targets = torch.tensor([0] * 90 + [1] * 10)
    figures = per_class_figures(torch.zeros(100, dtype=torch.long), targets, ["common", "rare", "absent"])
    assert balanced_accuracy(each["recall"] for each in figures) == 0.5
    assert [each["recall"] for each in figures] == [1.0, 0.0, None]
    assert [each["precision"] for each in figures] == [0.9, None, None]
    assert [each["f1"] for each in figures] == [pytest.approx(2 * 0.9 / 1.9, abs=1e-6), 0.0, None]


def test_no_samples_have_no_balanced_accuracy():
    with pytest.raises(ValueError, match="no class has samples"):
        balanced_accuracy([None, None])


def test_many_classes_keep_their_order():
    targets = torch.as_tensor(np.random.default_rng(0).permutation(1000))
    figures = per_class_figures(targets, targets, list(map(str, range(1000))))
    assert [each["name"] for each in figures] == list(map(str, range(1000)))
    assert {each["f1"] for each in figures} == {1.0}
