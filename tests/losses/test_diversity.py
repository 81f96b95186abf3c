from __future__ import annotations

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.losses import classifier_diversity, coincident_error, diversity_loss, logit_agreement
from coterie.losses.diversity import FORMS


def test_frobenius_gradient_is_the_specified_one():
    weights = [torch.randn(5, 4, requires_grad=True) for _ in range(3)]
    classifier_diversity(weights, "frobenius").backward()
    for i, weight in enumerate(weights):
        expected = torch.zeros_like(weight)
        for j, other in enumerate(weights):
            if i != j:
                product = weight.T @ other
                expected += other @ product.T / product.norm()
        torch.testing.assert_close(weight.grad, expected.detach() / 3, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", ["frobenius", "frobenius_classes", "squared", "cosine", "gram"])
def test_weight_forms_are_means_over_pairs_with_finite_gradients_at_zero(form):
    weights = [torch.randn(4, 6) for _ in range(4)]
    pairs = [classifier_diversity([a, b], form) for a, b in combinations(weights, 2)]
    torch.testing.assert_close(classifier_diversity(weights, form), torch.stack(pairs).mean())
    zeros = [torch.zeros(4, 6, requires_grad=True) for _ in range(2)]
    loss = classifier_diversity(zeros, form)
    loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in zeros)


def test_orthogonal_classifiers_are_diverse():
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    # Other rows of an orthogonal matrix: W_i^T W_j = 0 needs the column spaces over classes to be orthogonal.
    first, second = basis[:, :3], basis[:, 3:6]
    assert classifier_diversity([first, second], "frobenius").item() == pytest.approx(0, abs=2e-6)
    assert classifier_diversity([first, second], "squared").item() == pytest.approx(0, abs=1e-6)
    assert classifier_diversity([basis[:3], basis[3:6]], "frobenius_classes").item() == pytest.approx(0, abs=2e-6)


def test_gram_ignores_rotation_and_scale_of_each_branchs_features():
    first, second = torch.randn(6, 9), torch.randn(6, 9)
    rotation = torch.linalg.qr(torch.randn(9, 9)).Q
    moved = 3.0 * second @ rotation
    torch.testing.assert_close(
        classifier_diversity([first, second], "gram"),
        classifier_diversity([first, moved], "gram"),
        atol=1e-5,
        rtol=1e-4,
    )
    assert classifier_diversity([first, first @ rotation], "gram").item() == pytest.approx(1.0, abs=1e-4)


def test_gram_and_frobenius_take_classifiers_of_unequal_width():
    weights = [torch.randn(5, 4), torch.randn(5, 7)]
    for form in ("frobenius", "squared", "gram"):
        assert torch.isfinite(classifier_diversity(weights, form))


def test_gram_is_tame_for_two_classes_and_for_classes_equally_far_apart():
    for classes in (2, 5):
        simplex = (torch.eye(classes) - 1 / classes).requires_grad_()
        other = torch.randn(classes, classes, requires_grad=True)
        classifier_diversity([simplex, other], "gram").backward()
        assert simplex.grad.abs().max() < 200  # 1 / sqrt(floor), with some room for the normalisation
        assert torch.isfinite(other.grad).all()
    assert classifier_diversity([torch.randn(2, 4), torch.randn(2, 4)], "gram") == 0


def slow_coincident_error(logits, targets):
    probabilities = logits.softmax(-1)
    values = []
    for first, second in combinations(range(len(logits)), 2):
        for sample, target in enumerate(targets.tolist()):
            wrong = [k for k in range(logits.shape[-1]) if k != target]
            values.append(sum(probabilities[first, sample, k] * probabilities[second, sample, k] for k in wrong))
    return torch.stack(values).mean()


def test_coincident_error_equals_slow_reference_and_is_bounded():
    logits, targets = torch.randn(4, 6, 5), torch.randint(5, (6,))
    torch.testing.assert_close(coincident_error(logits, targets), slow_coincident_error(logits, targets))
    same_error = torch.full((2, 1, 3), -50.0)
    same_error[..., 1] = 50.0
    assert coincident_error(same_error, torch.tensor([0])).item() == pytest.approx(1.0)
    assert coincident_error(same_error, torch.tensor([1])).item() == pytest.approx(0.0)


def test_coincident_error_takes_distributions():
    logits, targets = torch.randn(3, 6, 5), torch.randint(5, (6,))
    one_hot = torch.nn.functional.one_hot(targets, 5).float()
    torch.testing.assert_close(coincident_error(logits, one_hot), coincident_error(logits, targets))


def test_logit_agreement_ignores_a_constant_added_to_a_branch():
    logits = torch.randn(2, 6, 5)
    moved = logits + torch.tensor([0.0, 100.0]).view(2, 1, 1)
    torch.testing.assert_close(logit_agreement(logits), logit_agreement(moved), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_one_student_has_no_one_to_differ_from(form):
    weight = torch.randn(3, 4, requires_grad=True)
    logits = torch.randn(1, 2, 3, requires_grad=True)
    assert diversity_loss(form, [weight], logits, torch.tensor([0, 1])).item() == 0.0


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(FORMS), st.permutations([0, 1, 2]), st.sampled_from([1e-4, 1.0, 1e4]))
def test_forms_do_not_depend_on_the_students_order_and_stay_finite(form, order, scale):
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(4, 5, generator=generator) for _ in range(3)]
    logits = scale * torch.randn(3, 6, 4, generator=generator)
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    value = diversity_loss(form, weights, logits, targets)
    moved = diversity_loss(form, [weights[i] for i in order], logits[list(order)], targets)
    assert torch.isfinite(value)
    torch.testing.assert_close(value, moved, rtol=1e-4, atol=1e-5)
