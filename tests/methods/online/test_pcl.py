from __future__ import annotations

import pytest
import torch

from coterie.methods.online.pcl import PCL
from coterie.methods.progress import Progress


def test_losses_against_a_slow_reference(make_group, batch, slow, said):
    method = PCL(make_group(3))
    for parameter in method.mean_group.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    with torch.no_grad():
        output = method.group(batch[0])
        ensemble = method.ensemble(torch.cat(output.embeddings, 1)).double().numpy()
        averages = method.mean_group(batch[0]).logits.double().numpy()
    z, targets = said(method), batch[1].tolist()
    losses = method(*batch)
    peers = sum(slow.divergence(averages[j], z[i], 3.0) for i in range(3) for j in range(3) if i != j) / 2
    assert losses["label"].item() == pytest.approx(slow.labels(z, targets), rel=1e-5)
    assert losses["ensemble_label"].item() == pytest.approx(slow.cross_entropy(ensemble, targets), rel=1e-4)
    assert losses["distillation"].item() == pytest.approx(
        sum(slow.divergence(ensemble, z[i], 3.0) for i in range(3)), rel=1e-3
    )
    assert losses["peer_teacher"].item() == pytest.approx(peers, rel=1e-3)


def test_the_moving_average_by_hand(make_group):
    method = PCL(make_group(2), decay=0.7)
    student, average = method.group.branches[0].fc.weight, method.mean_group.branches[0].fc.weight
    torch.testing.assert_close(student, average)
    expected = average.clone()
    progress = Progress(0, 1, 0, 100)
    for step in range(6):
        with torch.no_grad():
            student.add_(torch.randn_like(student))
        progress.update(0, step)
        method.after_step(progress)
        keep = min(1 - 1 / (step + 1), 0.7)
        expected = keep * expected + (1 - keep) * student.detach()
        torch.testing.assert_close(average, expected)


def test_the_averages_learn_from_no_loss_and_are_deployed(make_group, batch, reaches):
    method = PCL(make_group(3))
    losses = method(*batch)
    assert not reaches(method, sum(losses.values()), "mean_group")
    assert not reaches(method, losses["distillation"], "ensemble")
    assert reaches(method, losses["ensemble_label"], "ensemble")
    with torch.no_grad():
        method.mean_group.branches[0].fc.bias.add_(5.0)
    deployed = method.predict(batch[0]).deployed
    torch.testing.assert_close(deployed, method.mean_group(batch[0]).logits[0])
    torch.testing.assert_close(method.student()(batch[0]), deployed)
    trained = PCL(make_group(3), deploy="student")
    torch.testing.assert_close(trained.predict(batch[0]).deployed, trained.group(batch[0]).logits[0])


def test_after_the_first_step_the_averages_are_the_students(make_group):
    method = PCL(make_group(2))
    with torch.no_grad():
        for parameter in method.group.parameters():
            parameter.add_(torch.randn_like(parameter))
    method.after_step(Progress(0, 1, 0, 100))  # keeps 1 - 1/1 of what was there
    for average, student in zip(method.mean_group.parameters(), method.group.parameters(), strict=True):
        torch.testing.assert_close(average, student, atol=0, rtol=0)


def test_the_ensemble_and_the_averages_are_constants_for_the_peers(make_group, batch, logit_gradient):
    method = PCL(make_group(3))
    for parameter in method.mean_group.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    with torch.no_grad():
        output = method.group(batch[0])
        ensemble = method.ensemble(torch.cat(output.embeddings, 1))
        teachers = (method.mean_group(batch[0]).logits / 3).softmax(-1)
    z, from_ensemble = logit_gradient(method, *batch, "distillation")
    _, from_averages = logit_gradient(method, *batch, "peer_teacher")
    p = (z / 3).softmax(-1)
    expected = 3 * (p - (ensemble / 3).softmax(-1)) / len(batch[1])
    torch.testing.assert_close(from_ensemble, expected, atol=1e-7, rtol=1e-4)
    others = (teachers.sum(0) - teachers) / 2
    expected = 3 * (p - others) / len(batch[1])
    torch.testing.assert_close(from_averages, expected, atol=1e-7, rtol=1e-4)


def test_the_averages_normalise_by_their_own_passes(batch):
    """Statistics come from the mean group's forward passes in training, and a step does not copy the students'."""
    from torch import nn

    from coterie.networks.group import StudentGroup

    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4)

        def forward(self, x):
            maps = self.norm(self.conv(x))
            return self.fc(maps.mean((2, 3))), maps.mean((2, 3)), maps

    method = PCL(StudentGroup(None, [Normalised(), Normalised()], example=torch.zeros(2, 3, 6, 6))).train()
    own, average = method.group.branches[0].norm, method.mean_group.branches[0].norm
    with torch.no_grad():
        method.mean_group.branches[0].conv.bias.add_(1.0)
    method(*batch)
    assert own.num_batches_tracked == average.num_batches_tracked == 1
    # 0.1 is BatchNorm's momentum: the average's maps are higher by 1.
    torch.testing.assert_close(average.running_mean, own.running_mean + 0.1)
    before = average.running_mean.clone()
    method.after_step(Progress(0, 1, 5, 100))
    torch.testing.assert_close(average.running_mean, before, atol=0, rtol=0)


def test_peers_that_equal_their_averages_have_nothing_to_say(make_group, batch):
    group = make_group(3)
    for number in (1, 2):
        group.branches[number].load_state_dict(group.branches[0].state_dict())
    assert PCL(group)(*batch)["peer_teacher"].item() == pytest.approx(0.0, abs=1e-5)
