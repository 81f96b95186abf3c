from __future__ import annotations

import pytest
import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.methods.afd import AFD
from coterie.networks.group import StudentGroup


def test_losses_against_a_slow_reference(make_group, batch, slow, said):
    method = AFD(make_group(3))
    z = said(method)
    with torch.no_grad():
        maps = method.group(batch[0]).feature_maps
        scores = [[method.discriminators[k](maps[i]).double() for i in range(3)] for k in range(3)]
    losses = method(*batch)
    fooling = sum(float(((scores[k][k] - 1) ** 2).mean()) for k in range(3))
    telling = sum(float(((scores[k][(k + 1) % 3] - 1) ** 2).mean() + (scores[k][k] ** 2).mean()) for k in range(3))
    mutual = sum(slow.divergence(z[j], z[i], 3.0) for i in range(3) for j in range(3) if i != j) / 2
    assert losses["feature"].item() == pytest.approx(fooling, rel=1e-4)
    assert losses["discriminator"].item() == pytest.approx(telling, rel=1e-4)
    assert losses["distillation"].item() == pytest.approx(mutual, rel=1e-3)


def test_who_learns_from_what(make_group, batch, reaches):
    method = AFD(make_group(3))
    losses = method(*batch)
    assert reaches(method, losses["discriminator"], "discriminators")
    assert not reaches(method, losses["discriminator"], "group")
    assert not reaches(method, losses["feature"], "discriminators")
    for student in range(3):
        assert reaches(method, losses["feature"], f"group.branches.{student}")


def test_a_discriminators_own_optimizer_makes_it_better(make_group, batch):
    method = AFD(make_group(2), discriminator_learning_rate=0.01, discriminator_weight_decay=0.0)
    (optimizer,) = method.build_optimizers().values()
    before = None
    for _ in range(30):
        loss = method(*batch)["discriminator"]
        before = before or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * before


def test_maps_of_other_shapes_are_translated(make_group, batch):
    method = AFD(make_group(3, widths=[8, 12, 8]))
    assert sum(isinstance(each, nn.Identity) for each in method.translators) == 1
    sum(method(*batch).values()).backward()
    assert method.translators[0].project.weight.grad is not None


def test_maps_beside_tokens_are_refused(make_group):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(5, 4)

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)
            return self.fc(tokens.mean(1)), tokens.mean(1), tokens

    group = make_group(1)
    mixed = StudentGroup(group.trunk, [group.branches[0], Tokens()], example=torch.zeros(2, 3, 6, 6))
    with pytest.raises(CoterieError, match="maps beside tokens"):
        AFD(mixed)
