from __future__ import annotations

import pytest
import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.methods.online.okdph import OKDPH
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup


def test_losses_against_a_slow_reference(make_group, batch, slow, said):
    method = OKDPH(make_group(3))
    z, targets = said(method), batch[1].tolist()
    hybrid_group = make_group(1)
    hybrid_group.trunk.load_state_dict(method.group.trunk.state_dict())
    with torch.no_grad():
        for name, parameter in hybrid_group.branches[0].named_parameters():
            each = [dict(branch.named_parameters())[name] for branch in method.group.branches]
            parameter.copy_((each[0] + each[1] + each[2]) / 3)
        hybrid = hybrid_group(batch[0]).logits[0].double().numpy()
    mean = (z.sum(0) + hybrid) / 4
    losses = method(*batch)
    assert losses["label"].item() == pytest.approx(0.8 * slow.labels(z, targets), rel=1e-5)
    assert losses["hybrid_label"].item() == pytest.approx(3 * 0.2 * slow.cross_entropy(hybrid, targets), rel=1e-4)
    expected = 0.8 * sum(slow.divergence(mean, z[i], 4.0) for i in range(3))
    assert losses["distillation"].item() == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(
        method.predict(batch[0]).ensemble.double(), torch.from_numpy(hybrid), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("gradient", [True, False])
def test_whether_the_hybrids_loss_trains_every_student(make_group, batch, reaches, gradient):
    method = OKDPH(make_group(3), hybrid_gradient=gradient)
    term = method(*batch)["hybrid_label"]
    for student in range(3):
        assert reaches(method, term, f"group.branches.{student}") is gradient


def test_students_move_towards_the_hybrid_once_an_epoch(make_group):
    method = OKDPH(make_group(2), fusion=0.25)
    first, second = (branch.fc.weight for branch in method.group.branches)
    progress = Progress(0, 2, 0, 8)  # four steps an epoch
    before = first.detach().clone(), second.detach().clone()
    for step in range(3):
        progress.update(0, step)
        method.after_step(progress)
    torch.testing.assert_close(first, before[0])
    progress.update(0, 3)
    method.after_step(progress)
    mean = (before[0] + before[1]) / 2
    torch.testing.assert_close(first.detach(), 0.25 * mean + 0.75 * before[0])
    torch.testing.assert_close(second.detach(), 0.25 * mean + 0.75 * before[1])


def test_the_hybrid_has_a_view_of_its_own(make_group, batch):
    method = OKDPH(make_group(2))
    assert method.views == 3
    views = [batch[0], batch[0], torch.zeros_like(batch[0])]
    shared = method([batch[0]] * 3, batch[1])
    own = method(views, batch[1])
    torch.testing.assert_close(own["label"], shared["label"])
    assert not torch.allclose(own["hybrid_label"], shared["hybrid_label"])


def test_different_architectures_are_refused(make_group):
    with pytest.raises(CoterieError, match="one architecture"):
        OKDPH(make_group(2, widths=[8, 12]))


@pytest.mark.parametrize(("epochs", "moves"), [(0.5, [1, 3, 5, 7]), (2.0, [7]), (0.01, list(range(8)))])
def test_moves_come_every_so_many_epochs(make_group, epochs, moves):
    """Four steps an epoch, two epochs; never more often than every step."""
    method = OKDPH(make_group(2), fusion_epochs=epochs, fusion=1.0)
    first, second = (branch.fc.weight for branch in method.group.branches)
    progress = Progress(0, 2, 0, 8)
    moved = []
    for step in range(8):
        with torch.no_grad():
            first.normal_()
        progress.update(step // 4, step)
        method.after_step(progress)
        if torch.equal(first, second):  # all the way to the hybrid
            moved.append(step)
    assert moved == moves


def test_the_mean_prediction_is_a_constant(make_group, batch, logit_gradient):
    method = OKDPH(make_group(2))
    z, found = logit_gradient(method, *batch, "distillation")
    with torch.no_grad():
        hybrid = method.predict(batch[0]).ensemble
    q = ((z.sum(0) + hybrid) / 3 / 4).softmax(-1)
    expected = 0.8 * 4 * ((z / 4).softmax(-1) - q) / len(batch[1])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


def test_the_hybrids_gradient_is_shared_by_the_students_alike(make_group, batch):
    """d mean / d theta_i = 1/n: each of two students gets half of what the hybrid's own weights would get."""
    method = OKDPH(make_group(2))
    for branch in method.group.branches:
        branch.load_state_dict(method.group.branches[0].state_dict())
    term = method(*batch)["hybrid_label"]
    found = torch.autograd.grad(term, [branch.fc.weight for branch in method.group.branches], retain_graph=True)
    own = 2 * 0.2 * torch.nn.functional.cross_entropy(method.group(batch[0]).logits[0], batch[1])
    (whole,) = torch.autograd.grad(own, method.group.branches[0].fc.weight)
    for each in found:
        torch.testing.assert_close(each, whole / 2)


def test_equal_students_have_nothing_to_say(make_group, batch):
    group = make_group(2)
    group.branches[1].load_state_dict(group.branches[0].state_dict())
    assert OKDPH(group)(*batch)["distillation"].item() == pytest.approx(0.0, abs=1e-5)


def test_an_equal_start_needs_views_of_their_own(make_group, batch):
    group = make_group(3)
    first = {name: value.clone() for name, value in group.branches[0].state_dict().items()}
    method = OKDPH(group, equal_start=True)
    for branch in method.group.branches:
        for name, value in branch.state_dict().items():
            assert torch.equal(value, first[name])
    assert len({id(p) for p in group.parameters()}) == sum(1 for _ in group.parameters())  # each owns its weights
    with pytest.raises(CoterieError, match=r"data\.views=per_student"):
        method(*batch)
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    views = [batch[0] + 0.1 * number for number in range(4)]
    sum(method(views, batch[1]).values()).backward()
    optimizer.step()
    weights = [branch.fc.weight for branch in group.branches]
    assert not torch.equal(weights[0], weights[1])
    OKDPH(make_group(1), equal_start=True)(*batch)  # nothing to be equal to


class Normed(nn.Module):
    """A branch with running statistics."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.norm, self.fc = nn.BatchNorm2d(5), nn.Linear(5, 4)
        nn.init.constant_(self.norm.running_mean, shift)

    def forward(self, x):
        maps = self.norm(x)
        embedding = maps.mean((2, 3))
        return self.fc(embedding), embedding, maps


@pytest.mark.parametrize("moves", [True, False])
def test_whether_running_statistics_move_with_the_weights(moves):
    group = StudentGroup(nn.Conv2d(3, 5, 3), [Normed(1.0), Normed(3.0)], example=torch.zeros(2, 3, 6, 6))
    method = OKDPH(group, move_statistics=moves, fusion=0.5)
    method.after_step(Progress(0, 1, 0, 1))
    means = [branch.norm.running_mean[0].item() for branch in group.branches]
    assert means == pytest.approx([1.5, 2.5] if moves else [1.0, 3.0])
    assert not any(branch.norm.num_batches_tracked for branch in group.branches)


@pytest.mark.parametrize(("epochs", "moves"), [(1.0, [1, 2, 3]), (2.0, [2])])
def test_a_move_may_wait_for_the_evaluation(make_group, epochs, moves):
    """No step moves then, nor does the first epoch's start; the last epoch is not followed by a move."""
    method = OKDPH(make_group(2), fusion_epochs=epochs, fusion=1.0, evaluate_moved=False)
    first, second = (branch.fc.weight for branch in method.group.branches)
    progress = Progress(0, 4, 0, 8)
    moved = []
    for epoch in range(4):
        with torch.no_grad():
            first.normal_()
        method.before_epoch(epoch)
        if torch.equal(first, second):
            moved.append(epoch)
        for step in range(2):
            before = first.detach().clone()
            progress.update(epoch, 2 * epoch + step)
            method.after_step(progress)
            assert torch.equal(first, before)
    assert moved == moves


def test_a_move_between_epochs_needs_whole_epochs(make_group):
    with pytest.raises(CoterieError, match="whole epochs"):
        OKDPH(make_group(2), fusion_epochs=0.5, evaluate_moved=False)
