from __future__ import annotations

import pytest
import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.methods.online.afd import AFD
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


def test_translators_learn_to_fool_and_nothing_else(make_group, batch, reaches):
    losses = (method := AFD(make_group(2, widths=[8, 12])))(*batch)
    for term, value in losses.items():
        assert reaches(method, value, "translators") is (term == "feature"), term
        assert reaches(method, value, "discriminators") is (term == "discriminator"), term
        assert reaches(method, value, "group") is (term != "discriminator"), term


def test_each_discriminator_judges_its_student_and_the_next_one(make_group, batch):
    """1 -> 2 -> 3 -> 1: another map of student 2 changes what discriminators 1 and 2 have to tell apart, and not 3."""
    method = AFD(make_group(3))
    before = [method(*batch)["discriminator"]]
    output = method.group(batch[0])
    maps = list(output.feature_maps)

    def telling(number):
        own, following = (
            method.discriminators[number](maps[number]),
            method.discriminators[number](maps[(number + 1) % 3]),
        )
        return (following - 1).square().mean() + own.square().mean()

    each = [telling(number) for number in range(3)]
    torch.testing.assert_close(sum(each), before[0])
    maps[1] = maps[1] + torch.randn_like(maps[1])
    changed = [not torch.equal(old, telling(number)) for number, old in enumerate(each)]
    assert changed == [True, True, False]
    method.group.forward = lambda _: output._replace(feature_maps=tuple(maps))
    torch.testing.assert_close(method(*batch)["discriminator"], sum(telling(number) for number in range(3)))


def test_equal_students_fool_as_well_as_they_are_told(make_group, batch):
    """No discriminator can do better than 1/2 where the maps are the same: the losses meet at 1/2 and 1/4 each."""
    group = make_group(2)
    group.branches[1].load_state_dict(group.branches[0].state_dict())
    method = AFD(group)
    for discriminator in method.discriminators:
        torch.nn.init.zeros_(discriminator.score.weight)
        torch.nn.init.constant_(discriminator.score.bias, 0.5)
    losses = method(*batch)
    assert losses["discriminator"].item() == pytest.approx(2 * 0.5)
    assert losses["feature"].item() == pytest.approx(2 * 0.25)
    assert losses["distillation"].item() == pytest.approx(0, abs=1e-5)
    parameters = [p for discriminator in method.discriminators for p in discriminator.parameters()]
    gradients = torch.autograd.grad(losses["discriminator"], parameters)
    assert all(gradient.abs().max() < 1e-6 for gradient in gradients)


def test_the_other_peers_logits_are_constants(make_group, batch, logit_gradient):
    z, found = logit_gradient(AFD(make_group(3)), *batch, "distillation")
    p = (z / 3).softmax(-1)
    expected = 3 * (p - (p.sum(0) - p) / 2) / len(batch[1])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
