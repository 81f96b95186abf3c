from __future__ import annotations

import pytest
import torch
import torchvision

from coterie.errors import CoterieError
from coterie.networks import dists, lpips


@pytest.mark.slow
def test_it_is_torchmetrics_distance_frozen(monkeypatch):
    torch.manual_seed(0)
    blank = torchvision.models.vgg16(weights=None)
    monkeypatch.setattr(lpips, "vgg16_weights", dict)
    monkeypatch.setattr(torchvision.models, "vgg16", lambda **_: blank)
    network = lpips.LPIPS()
    network.train()
    assert not network.network.training
    images = torch.rand(2, 3, 32, 32).requires_grad_()
    other = torch.rand(2, 3, 32, 32)
    found = network(images, other)
    assert found.shape == (2,)
    assert (found > 0).all()
    assert network(other, other).abs().max() == 0
    found.sum().backward()
    assert images.grad.abs().sum() > 0


def test_weights_that_cannot_be_had_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(dists, "why_no_answer", lambda ask: "no answer")
    for build in (lpips.LPIPS, dists.DISTS):
        with pytest.raises(CoterieError, match=r"VGG-16 weights, which are not in .* gives: no answer"):
            build()
