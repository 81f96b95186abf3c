from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.networks.group import StudentGroup


class Head(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.fc = nn.Linear(5, classes)

    def forward(self, x):
        return self.fc(x.mean((2, 3))), x.mean((2, 3)), x


class Trunk(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x)


@pytest.fixture
def example():
    return torch.randn(2, 3, 4, 4)


def test_a_group_by_hand(example):
    group = StudentGroup(Trunk(), [Head(), Head()], example=example).eval()
    assert (group.num_students, group.num_classes) == (2, 4)
    assert (group.embedding_dims, group.feature_shapes) == ((5, 5), ((5, 4, 4), (5, 4, 4)))
    assert group.leader is None
    assert group.classifiers == tuple(each.fc for each in group.branches)
    output = group(example)
    assert output.logits.shape == (2, 2, 4)
    student = group.student(1)
    assert torch.equal(student(example), output.logits[1])
    student.branch.fc.weight.data += 1  # a copy shares nothing with the group
    assert torch.equal(group(example).logits, output.logits)
    assert not group.student(0).training


def test_views_run_a_shared_trunk_once(example):
    trunk = Trunk()
    group = StudentGroup(trunk, [Head(), Head()], example=example).eval()
    views = [example, example.flip(-1)]
    trunk.calls = 0
    logits = group(views).logits
    assert trunk.calls == 1
    for number, view in enumerate(views):
        torch.testing.assert_close(logits[number], group(view).logits[number])
    with pytest.raises(CoterieError, match="3 views for 2 students"):
        group([example] * 3)


def test_measuring_the_dimensions_moves_nothing(example):
    norm = nn.BatchNorm2d(3)
    trunk = nn.Sequential(norm, nn.Conv2d(3, 5, 1)).train()
    norm.eval()  # frozen by the user: stays so
    StudentGroup(trunk, [Head()], example=example)
    assert norm.num_batches_tracked == 0
    assert trunk.training
    assert not norm.training


def test_mistakes(example):
    head = Head()
    with pytest.raises(CoterieError, match=r"branches 0 and 1 share the parameter 'fc\.weight'"):
        StudentGroup(Trunk(), [head, head], example=example)
    with pytest.raises(CoterieError, match="same classes"):
        StudentGroup(Trunk(), [Head(4), Head(5)], example=example)
    with pytest.raises(CoterieError, match="must return"):
        StudentGroup(Trunk(), [nn.Conv2d(5, 2, 1)], example=example)
    with pytest.raises(CoterieError, match="at least one branch"):
        StudentGroup(Trunk(), [], example=example)
    with pytest.raises(CoterieError, match="no student 2"):
        StudentGroup(Trunk(), [Head(), Head()], example=example).student(2)


def test_recomputed_branches_are_the_same_to_the_last_bit():
    """Gradients, running statistics and drop-out, with and without activations kept."""
    from coterie.networks.branching import branch
    from coterie.networks.papers.tiny import tiny_cifar

    torch.manual_seed(0)
    network = tiny_cifar(num_classes=4, drop_rate=0.5)
    group = branch(network, branches=3, example=torch.zeros(2, 3, 16, 16)).train()
    again = copy.deepcopy(group)
    again.checkpoint_branches = True
    images = torch.randn(6, 3, 16, 16)
    for each in (group, again):
        torch.manual_seed(1)
        each(images).logits.square().sum().backward()
    for ours, theirs in zip(again.parameters(), group.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(again.buffers(), group.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    saved = []
    for each in (group, again):
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: (kept.append(t.numel()), t)[1], lambda t: t):
            each(images)
        saved.append(sum(kept))
    assert saved[1] < 0.7 * saved[0]  # what is left is the trunk's
