from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.errors import CoterieError
from coterie.methods.online.kdcl import KDCL


@pytest.mark.parametrize("target", ["naive", "min_logit", "general"])
def test_losses_against_a_slow_reference(make_group, batch, slow, said, target):
    method = KDCL(make_group(3), target=target)
    method.weights.copy_(torch.tensor([0.5, 0.3, 0.2]))
    z, targets = said(method), batch[1].tolist()
    wanted = np.zeros_like(z[0])
    for s, y in enumerate(targets):
        if target == "naive":
            wanted[s] = z[int(np.argmax([slow.softmax(z[i, s])[y] for i in range(3)])), s]
        elif target == "min_logit":
            wanted[s] = np.min([z[i, s] - z[i, s, y] for i in range(3)], axis=0)
        else:
            wanted[s] = 0.5 * z[0, s] + 0.3 * z[1, s] + 0.2 * z[2, s]
    expected = sum(slow.divergence(wanted, z[i], 2.0) for i in range(3))
    losses = method(*batch)
    assert losses["label"].item() == pytest.approx(slow.labels(z, targets), rel=1e-5)
    assert losses["distillation"].item() == pytest.approx(expected, rel=1e-3)


def test_every_student_asks_for_a_view_of_its_own(make_group):
    assert KDCL(make_group(3)).views == 3


def test_general_learns_its_weights_from_validation(make_group):
    method = KDCL(make_group(2), target="general")
    assert method.needs_validation
    targets = torch.arange(4).repeat(50)
    good = 6.0 * torch.nn.functional.one_hot(targets, 4)
    torch.manual_seed(0)
    method.after_validation(torch.stack([good, torch.randn(200, 4)]), targets)
    assert method.weights.sum().item() == pytest.approx(1.0)
    assert method.weights[0] > 0.95
    untouched = KDCL(make_group(2))
    untouched.after_validation(torch.stack([good, good]), targets)
    torch.testing.assert_close(untouched.weights, torch.full((2,), 0.5))


def test_mixed_labels_have_no_true_class(make_group, batch):
    soft = torch.full((6, 4), 0.25)
    with pytest.raises(CoterieError, match=r"use method\.target=general"):
        KDCL(make_group(2))(batch[0], soft)
    assert torch.isfinite(KDCL(make_group(2), target="general")(batch[0], soft)["distillation"])


def test_general_mixes_in_float32_under_autocast(make_group, batch):
    method = KDCL(make_group(3), target="general")
    logits = 10 * torch.randn(3, 6, 4)
    expected = method.soft_target(logits, batch[1])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(method.soft_target(logits, batch[1]), expected, atol=0, rtol=0)


@pytest.mark.parametrize("target", ["naive", "linear", "min_logit", "general"])
def test_the_target_is_a_constant_for_every_student(make_group, batch, logit_gradient, target):
    method = KDCL(make_group(3), target=target)
    method.weights.copy_(torch.tensor([0.7, 0.2, 0.1]))  # a plain mean would have no gradient in any case
    z, found = logit_gradient(method, *batch, "distillation")
    q = (method.soft_target(z, batch[1]) / 2).softmax(-1)
    expected = 2 * ((z / 2).softmax(-1) - q) / len(batch[1])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("target", ["naive", "linear", "min_logit", "general"])
def test_equal_students_have_nothing_to_say(make_group, batch, target):
    group = make_group(3)
    for number in (1, 2):
        group.branches[number].load_state_dict(group.branches[0].state_dict())
    assert KDCL(group, target=target)(*batch)["distillation"].item() == pytest.approx(0.0, abs=1e-6)


def test_general_predicts_with_its_weights(make_group, batch):
    method = KDCL(make_group(2), target="general").eval()
    method.weights.copy_(torch.tensor([0.9, 0.1]))
    predictions = method.predict(batch[0])
    torch.testing.assert_close(predictions.ensemble, 0.9 * predictions.logits[0] + 0.1 * predictions.logits[1])
