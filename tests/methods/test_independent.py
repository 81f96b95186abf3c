from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from coterie.errors import CoterieError
from coterie.methods.independent import Baseline, Independent


def test_each_branch_learns_from_the_labels_alone(make_group, batch):
    method = Independent(make_group(3))
    losses = method(*batch)
    assert list(losses) == ["label"]
    expected = sum(F.cross_entropy(logits, batch[1]) for logits in method.group(batch[0]).logits)
    torch.testing.assert_close(losses["label"], expected)


def test_the_ensemble_is_the_mean_probability(make_group, batch):
    predictions = Independent(make_group(3)).eval().predict(batch[0])
    torch.testing.assert_close(predictions.ensemble.softmax(-1), predictions.logits.softmax(-1).mean(0))


def test_a_baseline_is_one_network(make_group, batch):
    method = Baseline(make_group(1))
    torch.testing.assert_close(method(*batch)["label"], F.cross_entropy(method.group(batch[0]).logits[0], batch[1]))
    with pytest.raises(CoterieError, match="at most 1 student"):
        Baseline(make_group(2))


def test_the_label_loss_reaches_no_other_branch(make_group, batch):
    method = Independent(make_group(2))
    loss = F.cross_entropy(method.group(batch[0]).logits[0], batch[1])
    gradients = torch.autograd.grad(loss, list(method.group.branches[1].parameters()), allow_unused=True)
    assert all(g is None or g.abs().sum() == 0 for g in gradients)
