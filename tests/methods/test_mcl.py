from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coterie.errors import CoterieError
from coterie.methods.mcl import MCL


def rows(anchors: np.ndarray, others: np.ndarray) -> np.ndarray:
    return anchors @ others.T / 0.1


def slow_contrast(similarity: np.ndarray, targets: list[int]) -> float:
    values = []
    for i, y in enumerate(targets):
        negatives = sum(math.exp(similarity[i, k]) for k in range(len(targets)) if targets[k] != y)
        positives = [k for k in range(len(targets)) if targets[k] == y and k != i]
        terms = [-math.log(math.exp(similarity[i, k]) / (math.exp(similarity[i, k]) + negatives)) for k in positives]
        if terms:
            values.append(sum(terms) / len(terms))
    return sum(values) / len(values) if values else 0.0


def test_losses_against_a_slow_reference(make_group, batch, slow):
    method = MCL(make_group(2), dimensions=6)
    with torch.no_grad():
        features = [head(h) for head, h in zip(method.heads, method.group(batch[0]).embeddings, strict=True)]
    v = [(each / each.norm(dim=1, keepdim=True)).double().numpy() for each in features]
    targets = batch[1].tolist()
    hard = sum(slow_contrast(rows(v[i], v[j]), targets) for i in range(2) for j in range(2))

    def off_diagonal(matrix):
        return np.array([np.delete(row, i) for i, row in enumerate(matrix)])

    def soft(target, said):
        return slow.divergence(off_diagonal(target), off_diagonal(said), 3.0)

    s = {(i, j): rows(v[i], v[j]) for i in range(2) for j in range(2)}
    expected = soft(s[1, 1], s[0, 0]) + soft(s[0, 0], s[1, 1]) + soft(s[1, 0], s[0, 1]) + soft(s[0, 1], s[1, 0])
    losses = method(*batch)
    assert losses["contrast"].item() == pytest.approx(0.1 * hard, rel=1e-3)
    assert losses["soft_contrast"].item() == pytest.approx(expected, rel=1e-3)


def test_a_batch_without_partners_has_no_contrast(make_group, batch):
    losses = MCL(make_group(2))(batch[0][:4], torch.tensor([0, 1, 2, 3]))
    assert losses["contrast"].item() == 0
    sum(losses.values()).backward()


def test_a_batch_of_one_class_is_finite(make_group, batch):
    losses = MCL(make_group(2))(batch[0], torch.zeros(6, dtype=torch.long))
    assert losses["contrast"].item() == pytest.approx(0, abs=1e-6)  # nothing to be told from


def test_mixed_labels_are_refused(make_group, batch):
    with pytest.raises(CoterieError, match="turn them off"):
        MCL(make_group(2))(batch[0], torch.full((6, 4), 0.25))
