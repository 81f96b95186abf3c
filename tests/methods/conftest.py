from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from coterie.networks.group import StudentGroup


class Head(nn.Module):
    """A branch that returns (logits, embedding, feature map)."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        feature_map = torch.relu(self.conv(x))
        embedding = feature_map.mean((2, 3))
        return self.fc(embedding), embedding, feature_map


@pytest.fixture
def make_group():
    """Builds a small group on a shared trunk: ``make_group(students, classes, widths=None)``."""

    def build(students: int = 3, classes: int = 4, widths: list[int] | None = None) -> StudentGroup:
        torch.manual_seed(0)
        trunk = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
        heads = [Head(5, width, classes) for width in widths or [8] * students]
        return StudentGroup(trunk, heads, example=torch.zeros(2, 3, 6, 6))

    return build


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 6, 6, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])


class Slow:
    """The family's formulas once more, sample by sample in double precision, to check the fast ones against."""

    @staticmethod
    def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        exponentials = [math.exp(float(value) / temperature) for value in logits]
        return np.array([each / sum(exponentials) for each in exponentials])

    @classmethod
    def divergence(cls, target: np.ndarray, logits: np.ndarray, temperature: float) -> float:
        """T² KL(softmax(target/T) ‖ softmax(logits/T)) of [B, K], mean over samples."""
        total = 0.0
        for wanted, said in zip(target, logits, strict=True):
            q, p = cls.softmax(wanted, temperature), cls.softmax(said, temperature)
            total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))
        return temperature**2 * total / len(logits)

    @classmethod
    def cross_entropy(cls, logits: np.ndarray, targets: Sequence[int]) -> float:
        return -sum(math.log(cls.softmax(z)[y]) for z, y in zip(logits, targets, strict=True)) / len(targets)

    @classmethod
    def labels(cls, logits: np.ndarray, targets: Sequence[int]) -> float:
        """Sum over students of [n, B, K]."""
        return sum(cls.cross_entropy(each, targets) for each in logits)


@pytest.fixture
def slow():
    return Slow


@pytest.fixture
def said(batch):
    """``said(method)``: every student's logits on the batch as float64 [n, B, K]."""

    def run(method) -> np.ndarray:
        with torch.no_grad():
            return method.group(batch[0]).logits.double().numpy()

    return run


@pytest.fixture
def reaches():
    """``reaches(method, term, part)``: whether a term's gradient reaches the parameters whose names start with ``part``."""

    def find(method, term, part: str) -> bool:
        named = [p for name, p in method.named_parameters() if name.startswith(part) and p.requires_grad]
        if not named or not term.requires_grad:
            return False
        found = torch.autograd.grad(term, named, retain_graph=True, allow_unused=True)
        return any(bool(each.abs().sum() > 0) for each in found if each is not None)

    return find


@pytest.fixture
def logit_gradient():
    """``logit_gradient(method, inputs, targets, term)``: logits on which the students disagree, and a term's gradient with respect to them.

    Both are [n, B, K]; the logits take the place of the group's, whose untrained students hardly differ.
    """

    def find(method, inputs, targets, term: str) -> tuple[torch.Tensor, torch.Tensor]:
        output = method.group(inputs)
        generator = torch.Generator().manual_seed(2)
        logits = (3 * torch.randn(output.logits.shape, generator=generator)).requires_grad_()
        forward, method.group.forward = method.group.forward, lambda _: output._replace(logits=logits)
        loss = method(inputs, targets)[term]
        method.group.forward = forward
        (gradient,) = torch.autograd.grad(loss, logits)
        return logits.detach(), gradient

    return find
