from __future__ import annotations

import torch

from coterie.losses.attention import shifted_attention, spatial_attention


def test_attention_of_maps_and_tokens():
    maps = torch.randn(2, 3, 2, 2)
    expected = maps.square().mean(1).flatten(1)
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(spatial_attention(maps), expected)
    torch.testing.assert_close(spatial_attention(maps.flatten(2).transpose(1, 2)), expected)


def test_the_shift_by_hand():
    attention = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    attention = attention / attention.norm()
    moved = shifted_attention(attention)
    torch.testing.assert_close(moved[:, :2], attention[:, :2])  # the lowest third stays
    torch.testing.assert_close(moved[:, 2:], 1 - attention[:, 2:])


def test_a_map_of_zeros_has_finite_gradients():
    maps = torch.zeros(1, 2, 2, 2, requires_grad=True)
    spatial_attention(maps).sum().backward()
    assert torch.isfinite(maps.grad).all()
