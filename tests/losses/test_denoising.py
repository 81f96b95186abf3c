from __future__ import annotations

import pytest
import torch

from coterie.losses.denoising import noised, predicted_clean, score_difference_loss


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


@pytest.mark.parametrize("share", [torch.tensor(0.47), torch.tensor([0.999, 0.5, 0.01])])
def test_with_the_true_noise_the_prediction_is_the_clean_sample(share):
    clean, noise = draw(3, 4, 2, 2), draw(3, 4, 2, 2).flip(0)
    torch.testing.assert_close(predicted_clean(noised(clean, noise, share), noise, share), clean)


def test_noising_keeps_variance_and_ends_are_clean_and_noise():
    clean, noise = draw(2, 3), draw(2, 3) * 2
    torch.testing.assert_close(noised(clean, noise, torch.tensor(1.0)), clean)
    torch.testing.assert_close(noised(clean, noise, torch.tensor(0.0)), noise)
    row = noised(clean, noise, torch.tensor([1.0, 0.36]))
    torch.testing.assert_close(row[0], clean[0])
    torch.testing.assert_close(row[1], 0.6 * clean[1] + 0.8 * noise[1])


def test_the_gradient_is_the_difference_of_the_scores_and_reaches_only_the_samples():
    clean, teacher, own = (draw(2, 3, 2, 2) * factor for factor in (1.0, 0.5, 2.0))
    for each in (clean, teacher, own):
        each.requires_grad_()
    score_difference_loss(clean, teacher, own).backward()
    distance = (clean - teacher).abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(clean.grad, ((own - teacher) / distance / clean.numel()).detach())
    assert teacher.grad is None
    assert own.grad is None


def test_equal_scores_ask_for_nothing():
    clean = draw(2, 3).requires_grad_()
    loss = score_difference_loss(clean, draw(2, 3) * 2, draw(2, 3) * 2)
    loss.backward()
    assert loss.item() == 0
    assert not clean.grad.any()
