from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.methods.online.dml import DML
from coterie.methods.progress import Progress


def test_pairwise_against_a_slow_reference(make_group, batch, slow, said):
    method = DML(make_group(3), temperature=2.0, distillation_weight=0.7)
    z = said(method)
    losses = method(*batch)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    expected = sum(slow.divergence(z[j], z[i], 2.0) for i, j in pairs) / 2
    assert losses["label"].item() == pytest.approx(slow.labels(z, batch[1].tolist()), rel=1e-5)
    assert losses["distillation"].item() == pytest.approx(0.7 * expected, rel=1e-4)


def test_mean_of_probabilities_and_of_logits(make_group, batch, slow, said):
    method = DML(make_group(3), target="mean", temperature=3.0)
    z = said(method)
    expected = 0.0
    for i in range(3):
        others = [j for j in range(3) if j != i]
        mean = np.array([np.mean([slow.softmax(z[j][b], 3.0) for j in others], axis=0) for b in range(len(batch[1]))])
        expected += slow.divergence(3.0 * np.log(mean), z[i], 3.0)
    assert method(*batch)["distillation"].item() == pytest.approx(expected, rel=1e-4)
    method = DML(make_group(3), target="mean_logit", temperature=3.0)
    expected = sum(slow.divergence(np.mean([z[j] for j in range(3) if j != i], axis=0), z[i], 3.0) for i in range(3))
    assert method(*batch)["distillation"].item() == pytest.approx(expected, rel=1e-4)


def test_the_one_that_teaches_is_a_constant(make_group, batch):
    """With constant targets, the gradient of student i's logits is p_i - mean of the others' p (T = 1), over the batch."""
    method = DML(make_group(3))
    logits = method.group(batch[0]).logits.detach().requires_grad_()
    method._divergence(logits, logits.detach()).backward()
    p = logits.detach().softmax(-1)
    others = (p.sum(0) - p) / 2
    np.testing.assert_allclose(logits.grad, (p - others) / len(batch[1]), atol=1e-6)
    free = logits.detach().requires_grad_()
    method._divergence(free, free).backward()
    assert not np.allclose(free.grad, logits.grad, atol=1e-4)


def test_equal_students_have_nothing_to_say(make_group, batch):
    group = make_group(2)
    group.branches[1].load_state_dict(group.branches[0].state_dict())
    for target in ("pairwise", "mean", "mean_logit"):
        assert DML(group, target=target)(*batch)["distillation"].item() == pytest.approx(0.0, abs=1e-6)


def test_ramp_up(make_group, batch):
    method = DML(make_group(2), ramp_up=0.5)
    full = method(*batch)["distillation"]
    start = method(*batch, Progress(epoch=0, epochs=10))["distillation"]
    assert (start / full).item() == pytest.approx(np.exp(-5), rel=1e-4)


@pytest.mark.parametrize("target", ["pairwise", "mean", "mean_logit"])
def test_the_others_get_no_gradient_as_targets_unless_asked(make_group, batch, logit_gradient, target):
    """With constant targets q_i the gradient of student i's logits is T (p_i - q_i) / B and nothing else."""
    method = DML(make_group(3), target=target, temperature=2.0)
    z, found = logit_gradient(method, *batch, "distillation")
    p = (z / 2).softmax(-1)
    others = [[other for other in range(3) if other != student] for student in range(3)]
    q = torch.stack(
        [(z[each].mean(0) / 2).softmax(-1) if target == "mean_logit" else p[each].mean(0) for each in others]
    )
    expected = 2 * (p - q) / len(batch[1])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
    free = DML(make_group(3), target=target, temperature=2.0, detach_target=False)
    difference = logit_gradient(free, *batch, "distillation")[1] - expected
    assert (difference.abs().amax((1, 2)) > 1e-3 * expected.abs().max()).all()


def test_the_published_settings(make_group, batch, slow, said):
    """Two peers, no temperature, weight 1, no ramp-up, constant targets."""
    method = DML(make_group(2))
    z = said(method)
    expected = slow.divergence(z[0], z[1], 1.0) + slow.divergence(z[1], z[0], 1.0)
    found = method(*batch, Progress(epoch=0, epochs=300))["distillation"]
    assert found.item() == pytest.approx(expected, rel=1e-3)
    assert (DML.default_branches, DML.default_at) == (2, None)
