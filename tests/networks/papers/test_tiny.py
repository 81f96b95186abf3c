from __future__ import annotations

import timm
import torch
from sklearn.datasets import load_digits
from torch import nn

from coterie.networks import register

register()


def test_small_and_in_three_stages() -> None:
    network = timm.create_model("tiny_cifar", num_classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 19_954
    assert [network.get_submodule(f"layer{stage}")[0].conv1.out_channels for stage in (1, 2, 3)] == [8, 16, 32]


def test_learns_the_digits() -> None:
    """Three epochs on 1,000 grey 8x8 images take it from chance to most of the other 797."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    network = timm.create_model("tiny_cifar", num_classes=10, in_chans=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for _ in range(3):
        for batch in torch.randperm(1000).split(50):
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        accuracy = (network.eval()(images[1000:]).argmax(1) == labels[1000:]).float().mean()
    assert accuracy > 0.8
