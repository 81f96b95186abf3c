from __future__ import annotations

import pytest
import torch
from torch import nn

from coterie.networks.discriminator import MapDiscriminator, MapTranslator, frozen_score

MAP, TOKENS = (6, 5, 5), (10, 6)


@pytest.mark.parametrize("shape", [MAP, TOKENS], ids=["maps", "tokens"])
def test_one_score_for_each_map_whatever_else_is_in_the_batch(shape):
    """Batch statistics would give one student's maps away by the company they keep."""
    discriminator = MapDiscriminator(shape).train()
    maps = torch.randn(4, *shape)
    scores = discriminator(maps)
    assert scores.shape == (4,)
    assert scores.dtype == torch.float32
    for number in range(4):
        torch.testing.assert_close(discriminator(maps[number : number + 1])[0], scores[number], atol=1e-5, rtol=1e-4)


def test_tokens_have_no_order_but_positions_of_a_map_have_neighbours():
    tokens = torch.randn(3, *TOKENS)
    discriminator = MapDiscriminator(TOKENS)
    torch.testing.assert_close(discriminator(tokens), discriminator(tokens.flip(1)), atol=1e-5, rtol=1e-4)
    maps = torch.randn(3, *MAP)
    discriminator = MapDiscriminator(MAP)
    shuffled = maps.flatten(2)[:, :, torch.randperm(25)].view_as(maps)
    assert not torch.allclose(discriminator(maps), discriminator(shuffled), atol=1e-4)


def test_the_hidden_width_is_the_maps_up_to_256():
    assert MapDiscriminator(MAP).score.in_features == 6
    assert MapDiscriminator((300, 2, 2)).score.in_features == 256
    assert MapDiscriminator(MAP, width=11).score.in_features == 11


def test_a_discriminator_can_tell_two_kinds_apart():
    discriminator = MapDiscriminator(MAP)
    first, second = torch.randn(32, *MAP), torch.randn(32, *MAP).relu()
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=0.01)
    for _ in range(60):
        loss = (discriminator(first) - 1).square().mean() + discriminator(second).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    unseen = discriminator(torch.randn(32, *MAP)).mean() - discriminator(torch.randn(32, *MAP).relu()).mean()
    assert unseen > 0.6


@pytest.mark.parametrize(
    ("shape", "target"),
    [((6, 5, 5), (4, 5, 5)), ((6, 6, 6), (8, 3, 3)), ((6, 3, 3), (6, 6, 6)), ((10, 6), (10, 4)), ((4, 6), (12, 8))],
)
def test_a_translated_map_has_the_others_shape(shape, target):
    assert MapTranslator(shape, target)(torch.randn(2, *shape)).shape == (2, *target)


def test_a_translator_averages_positions():
    translate = MapTranslator((3, 4, 4), (3, 2, 2))
    with torch.no_grad():
        translate.project.weight.copy_(torch.eye(3)[:, :, None, None])
        translate.project.bias.zero_()
    maps = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(translate(maps), maps.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1)))
    tokens = MapTranslator((4, 3), (2, 3))
    with torch.no_grad():
        tokens.project.weight.copy_(torch.eye(3)[:, :, None, None])
        tokens.project.bias.zero_()
    values = torch.randn(2, 4, 3)
    torch.testing.assert_close(tokens(values), torch.stack([values[:, :2].mean(1), values[:, 2:].mean(1)], 1))


def test_a_frozen_score_is_the_score_with_a_gradient_for_the_map_alone():
    discriminator = MapDiscriminator(MAP)
    maps = torch.randn(2, *MAP, requires_grad=True)
    score = frozen_score(discriminator, maps)
    torch.testing.assert_close(score, discriminator(maps))
    score.sum().backward()
    assert maps.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in discriminator.parameters())
    own = maps.detach().requires_grad_()
    discriminator(own).sum().backward()
    torch.testing.assert_close(maps.grad, own.grad)


def test_a_frozen_score_leaves_a_copy_of_the_module_alone():
    """The module is called with constants in place of its parameters, and has them back afterwards."""
    discriminator = MapDiscriminator(MAP)
    before = dict(discriminator.named_parameters())
    frozen_score(discriminator, torch.randn(1, *MAP))
    assert all(value is before[name] for name, value in discriminator.named_parameters())
    assert isinstance(discriminator.score.weight, nn.Parameter)
