from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.methods.online.cl_ilr import CLILR


def test_losses_against_a_slow_reference(make_group, batch, slow, said):
    method = CLILR(make_group(4), temperature=2.0)
    z = said(method)
    losses = method(*batch)
    expected = sum(slow.divergence(np.mean([z[j] for j in range(4) if j != i], axis=0), z[i], 2.0) for i in range(4))
    assert losses["label"].item() == pytest.approx(0.5 * slow.labels(z, batch[1].tolist()), rel=1e-5)
    assert losses["distillation"].item() == pytest.approx(0.5 * expected, rel=1e-4)


def test_the_trunk_learns_from_the_mean_of_the_heads(make_group, batch):
    def trunk_gradient(**options):
        method = CLILR(make_group(3), **options)
        sum(method(*batch).values()).backward()
        return method.group.trunk[0].weight.grad, method.group.branches[0].conv.weight.grad

    mean, own = trunk_gradient()
    total, same = trunk_gradient(trunk_gradient="sum")
    torch.testing.assert_close(3 * mean, total)
    torch.testing.assert_close(own, same)


def test_whether_the_target_is_a_constant(make_group, batch):
    def gradient(detach):
        method = CLILR(make_group(3), detach_target=detach)
        method(*batch)["distillation"].backward()
        return method.group.branches[0].fc.weight.grad

    assert not torch.allclose(gradient(True), gradient(False), atol=1e-5)


def test_the_gradient_is_that_of_the_soft_cross_entropy(make_group, batch, logit_gradient):
    """The paper's term is the cross-entropy to the others' softened mean: T (p - q) / B, times T as in the family's code."""
    method = CLILR(make_group(3))
    z, found = logit_gradient(method, *batch, "distillation")
    others = torch.stack([(z.sum(0) - each) / 2 for each in z])
    expected = 0.5 * 2 * ((z / 2).softmax(-1) - (others / 2).softmax(-1)) / len(batch[1])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


def test_equal_heads_have_nothing_to_say(make_group, batch):
    group = make_group(3)
    for head in (1, 2):
        group.branches[head].load_state_dict(group.branches[0].state_dict())
    assert CLILR(group)(*batch)["distillation"].item() == pytest.approx(0.0, abs=1e-6)


def test_the_trunk_learns_from_the_mean_with_a_view_for_each_head_too(make_group, batch):
    def trunk_gradient(how):
        method = CLILR(make_group(2), trunk_gradient=how)
        sum(method([batch[0], batch[0].flip(-1)], batch[1]).values()).backward()
        return method.group.trunk[0].weight.grad

    torch.testing.assert_close(2 * trunk_gradient("mean"), trunk_gradient("sum"))
