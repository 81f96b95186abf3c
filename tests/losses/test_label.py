from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from coterie.losses import LabelLoss, balanced_class_weights, soft_labels


def test_hard_and_one_hot_targets_agree():
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 0])
    one_hot = soft_labels(targets, 4)
    for kind in ("cross_entropy", "binary_cross_entropy"):
        loss = LabelLoss(kind)
        torch.testing.assert_close(loss(logits, targets), loss(logits, one_hot))


def test_label_smoothing_moves_the_target_towards_uniform():
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 0])
    smooth = 0.9 * soft_labels(targets, 4) + 0.1 / 4
    torch.testing.assert_close(LabelLoss(label_smoothing=0.1)(logits, targets), LabelLoss()(logits, smooth))


def test_binary_cross_entropy_sums_over_classes():
    logits, targets = torch.randn(3, 4), torch.tensor([0, 1, 2])
    expected = (
        -sum(F.logsigmoid(logits[b, k] if k == targets[b] else -logits[b, k]) for b in range(3) for k in range(4)) / 3
    )
    torch.testing.assert_close(LabelLoss("binary_cross_entropy")(logits, targets), expected)


def test_balanced_weights_make_every_class_count_the_same():
    counts = torch.tensor([10, 30, 0])
    weights = balanced_class_weights(counts)
    assert weights[2] == 0
    assert (weights * counts)[0].item() == pytest.approx((weights * counts)[1].item())
    assert ((weights * counts).sum() / counts.sum()).item() == pytest.approx(1.0)


def test_class_weights_are_applied_and_never_saved():
    loss = LabelLoss(class_weights=torch.tensor([1.0, 3.0]))
    logits, targets = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets, weight=torch.tensor([1.0, 3.0])))
    assert loss.state_dict() == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_stay_finite_in_low_precision(dtype):
    logits = torch.tensor([[3e4, -3e4], [-3e4, 3e4]], dtype=dtype)
    for kind in ("cross_entropy", "binary_cross_entropy"):
        loss = LabelLoss(kind)(logits, torch.tensor([1, 0]))
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
