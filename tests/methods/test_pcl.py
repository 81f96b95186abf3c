from __future__ import annotations

import pytest
import torch

from coterie.methods.pcl import PCL
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
