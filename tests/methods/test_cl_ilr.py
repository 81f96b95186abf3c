from __future__ import annotations

import numpy as np
import pytest
import torch

from coterie.methods.cl_ilr import CLILR


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
