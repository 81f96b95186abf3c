from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.metrics import classification_figures, mean_figures


def test_figures_equal_numpy():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 7, generator=generator)
    targets = torch.randint(7, (200,), generator=generator)
    figures = classification_figures(logits, targets)
    z, y = logits.double().numpy(), targets.numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    order = np.argsort(-z, axis=1)
    assert figures["top1"] == pytest.approx((order[:, 0] == y).mean())
    assert figures["top5"] == pytest.approx((order[:, :5] == y[:, None]).any(1).mean())
    assert figures["nll"] == pytest.approx(-np.log(p[np.arange(200), y]).mean(), rel=1e-5)
    assert figures["brier"] == pytest.approx(((p - np.eye(7)[y]) ** 2).sum(1).mean(), rel=1e-5)
    confidence, correct = p.max(1), order[:, 0] == y
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    ece = sum(
        (bins == b).mean() * abs(correct[bins == b].mean() - confidence[bins == b].mean()) for b in set(bins.tolist())
    )
    assert figures["ece"] == pytest.approx(ece, rel=1e-4)


def test_fewer_than_five_classes():
    figures = classification_figures(torch.eye(3), torch.tensor([0, 1, 0]))
    assert figures["top1"] == pytest.approx(2 / 3)
    assert figures["top5"] == 1.0


def test_in_parts_as_at_once(monkeypatch):
    logits, targets = torch.randn(50, 7), torch.randint(7, (50,))
    once = classification_figures(logits, targets)
    monkeypatch.setattr("coterie.metrics.classification.CHUNK_ELEMENTS", 30)
    assert classification_figures(logits, targets) == once


def test_mean_over_students():
    assert mean_figures([{"top1": 0.5}, {"top1": 1.0}]) == {"top1": 0.75}
