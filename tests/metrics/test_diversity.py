from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from coterie.metrics import diversity_figures


def test_measures_equal_numpy_over_all_pairs():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 50, 5, generator=generator)
    targets = torch.randint(5, (50,), generator=generator)
    figures = diversity_figures(logits, targets)
    z, y = logits.double().numpy(), targets.numpy()
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    predicted = z.argmax(-1)
    rows = []
    for i, j in combinations(range(4), 2):
        rows.append(
            {
                "distance": np.sqrt(((p[i] - p[j]) ** 2).sum(1)).mean(),
                "disagreement": (predicted[i] != predicted[j]).mean(),
                "kl": 0.5 * ((p[i] * np.log(p[i] / p[j])).sum(1) + (p[j] * np.log(p[j] / p[i])).sum(1)).mean(),
                "double_fault": ((predicted[i] != y) & (predicted[j] != y)).mean(),
            }
        )
    for name, value in figures.items():
        assert value == pytest.approx(np.mean([row[name] for row in rows]), rel=1e-4), name


def test_equal_students_do_not_differ():
    logits = torch.randn(1, 20, 5).repeat(3, 1, 1)
    figures = diversity_figures(logits, logits[0].argmax(-1))
    assert figures["disagreement"] == figures["double_fault"] == 0
    assert figures["distance"] == pytest.approx(0, abs=1e-6)


def test_one_student_has_no_diversity():
    assert diversity_figures(torch.randn(1, 4, 3), torch.zeros(4, dtype=torch.int64)) == {}
