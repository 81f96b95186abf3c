from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from coterie.losses.contrast import contrast, similarities, soft_contrast

TARGETS = torch.tensor([0, 0, 0, 1, 1, 2, 3, 2, 0])


def slow_cosines(anchors, others, temperature):
    def unit(vector):
        norm = math.sqrt(sum(value * value for value in vector))
        return [value / norm for value in vector]

    return [
        [sum(x * y for x, y in zip(unit(u), unit(v), strict=True)) / temperature for v in others.tolist()]
        for u in anchors.tolist()
    ]


def slow_contrast(similarity, targets):
    """-log e^p / (e^p + sum over negatives) for each anchor and each positive but itself."""
    anchors = []
    for i, row in enumerate(similarity):
        negatives = sum(math.exp(s) for j, s in enumerate(row) if targets[j] != targets[i])
        positives = [s for j, s in enumerate(row) if j != i and targets[j] == targets[i]]
        if positives:
            anchors.append(sum(-math.log(math.exp(p) / (math.exp(p) + negatives)) for p in positives) / len(positives))
    return sum(anchors) / len(anchors)


def slow_soft(similarity, target, temperature):
    total = 0.0
    for i, (row, wanted) in enumerate(zip(similarity, target, strict=True)):
        p = [math.exp(s / temperature) for j, s in enumerate(row) if j != i]
        q = [math.exp(s / temperature) for j, s in enumerate(wanted) if j != i]
        p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
        total += sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(similarity)


@pytest.fixture
def embeddings():
    return F.normalize(torch.randn(2, 9, 5), dim=-1)


def test_similarities_are_cosines(embeddings):
    torch.testing.assert_close(similarities(*embeddings, 0.1), torch.tensor(slow_cosines(*embeddings, 0.1)))


def test_a_sample_is_no_partner_of_its_own(embeddings):
    """What is on the diagonal changes nothing."""
    similarity = similarities(embeddings[0], embeddings[0], 0.1)
    changed = similarity + 40 * torch.eye(9)
    for against in ("classes", "samples"):
        torch.testing.assert_close(contrast(changed, TARGETS, against), contrast(similarity, TARGETS, against))
    other = similarities(embeddings[1], embeddings[1], 0.1)
    torch.testing.assert_close(soft_contrast(changed, other, 3.0), soft_contrast(similarity, other, 3.0))
    assert soft_contrast(changed, other, 3.0, with_own=True) > 1.5 * soft_contrast(similarity, other, 3.0)


@pytest.mark.parametrize("pair", [(0, 0), (0, 1)], ids=["within", "across"])
def test_contrast_equals_brute_force(embeddings, pair):
    anchors, others = embeddings[list(pair)]
    expected = slow_contrast(slow_cosines(anchors, others, 0.1), TARGETS.tolist())
    assert contrast(similarities(anchors, others, 0.1), TARGETS).item() == pytest.approx(expected, rel=1e-4)


def unit(*degrees):
    angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_both_forms_on_unit_vectors_at_given_angles():
    """The four terms of MCL's code (winycg/MCL, cifar_sup_mcl_loss.py with tau 0.1, T 3), and those of one positive among other classes."""
    v = unit(0, 10, 20, 90, 100, 110), unit(5, 12, 25, 80, 100, 130)
    targets = torch.tensor([0, 0, 0, 1, 1, 1])
    s = {(i, j): similarities(v[i], v[j], 0.1) for i in range(2) for j in range(2)}
    for against, own, vanilla, interactive, soft, soft_interactive in (
        ("samples", True, 1.658, 1.568, 0.731, 0.283),
        ("classes", False, 0.0468, 0.0109, 0.861, 0.302),
    ):
        assert sum(contrast(s[i, i], targets, against).item() for i in range(2)) == pytest.approx(vanilla, rel=1e-3)
        assert sum(contrast(s[i, 1 - i], targets, against).item() for i in range(2)) == pytest.approx(
            interactive, rel=5e-3
        )
        within = sum(soft_contrast(s[i, i], s[1 - i, 1 - i], 3.0, own).item() for i in range(2))
        across = sum(soft_contrast(s[i, 1 - i], s[1 - i, i], 3.0, own).item() for i in range(2))
        assert (within, across) == pytest.approx((soft, soft_interactive), rel=2e-3)


def test_soft_contrast_equals_brute_force(embeddings):
    first, second = embeddings
    there, back = slow_cosines(first, second, 0.1), slow_cosines(second, first, 0.1)
    found = soft_contrast(similarities(first, second, 0.1), similarities(second, first, 0.1), 3.0)
    assert found.item() == pytest.approx(slow_soft(there, back, 3.0), rel=1e-4)


def test_samples_of_classes_that_stand_alone_are_negatives_only(embeddings):
    """The one sample of class 3 is nobody's positive and no anchor, but it is pushed away."""
    first = embeddings[0].clone().requires_grad_()
    contrast(similarities(first, first, 0.1), TARGETS).backward()
    assert first.grad[6].abs().sum() > 0
    without = [0, 1, 2, 3, 4, 5, 7, 8]
    expected = slow_contrast(slow_cosines(first[without], first[without], 0.1), TARGETS[without].tolist())
    found = contrast(similarities(first[without], first[without], 0.1), TARGETS[without])
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert expected < contrast(similarities(first, first, 0.1), TARGETS).item()


@pytest.mark.parametrize("targets", [torch.arange(9), torch.zeros(9, dtype=torch.long)], ids=["all", "one"])
def test_without_positives_or_without_negatives_it_is_zero_with_finite_gradients(embeddings, targets):
    first = embeddings[0].clone().requires_grad_()
    loss = contrast(similarities(first, first, 0.1), targets)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(first.grad).all()


def test_equal_similarities_have_nothing_to_share(embeddings):
    similarity = similarities(embeddings[0], embeddings[0], 0.1)
    assert soft_contrast(similarity, similarity, 3.0).item() == pytest.approx(0, abs=1e-6)
