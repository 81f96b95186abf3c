from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from coterie.errors import CoterieError
from coterie.methods.online.mcl import MCL


def rows(anchors: np.ndarray, others: np.ndarray) -> np.ndarray:
    return anchors @ others.T / 0.1


def slow_contrast(similarity: np.ndarray, targets: list[int]) -> float:
    values = []
    for i, y in enumerate(targets):
        negatives = sum(math.exp(similarity[i, k]) for k in range(len(targets)) if targets[k] != y)
        positives = [k for k in range(len(targets)) if targets[k] == y and k != i]
        terms = [-math.log(math.exp(similarity[i, k]) / (math.exp(similarity[i, k]) + negatives)) for k in positives]
        if terms:
            values.append(sum(terms) / len(terms))
    return sum(values) / len(values) if values else 0.0


def test_losses_against_a_slow_reference(make_group, batch, slow):
    method = MCL(make_group(2), dimensions=6)
    with torch.no_grad():
        features = [head(h) for head, h in zip(method.heads, method.group(batch[0]).embeddings, strict=True)]
    v = [(each / each.norm(dim=1, keepdim=True)).double().numpy() for each in features]
    targets = batch[1].tolist()
    hard = sum(slow_contrast(rows(v[i], v[j]), targets) for i in range(2) for j in range(2))

    def off_diagonal(matrix):
        return np.array([np.delete(row, i) for i, row in enumerate(matrix)])

    def soft(target, said):
        return slow.divergence(off_diagonal(target), off_diagonal(said), 3.0)

    s = {(i, j): rows(v[i], v[j]) for i in range(2) for j in range(2)}
    expected = soft(s[1, 1], s[0, 0]) + soft(s[0, 0], s[1, 1]) + soft(s[1, 0], s[0, 1]) + soft(s[0, 1], s[1, 0])
    losses = method(*batch)
    assert losses["contrast"].item() == pytest.approx(0.1 * hard, rel=1e-3)
    assert losses["soft_contrast"].item() == pytest.approx(expected, rel=1e-3)


def test_a_batch_without_partners_has_no_contrast(make_group, batch):
    losses = MCL(make_group(2))(batch[0][:4], torch.tensor([0, 1, 2, 3]))
    assert losses["contrast"].item() == 0
    sum(losses.values()).backward()


def test_a_batch_of_one_class_is_finite(make_group, batch):
    losses = MCL(make_group(2))(batch[0], torch.zeros(6, dtype=torch.long))
    assert losses["contrast"].item() == pytest.approx(0, abs=1e-6)  # nothing to be told from


def test_mixed_labels_are_refused(make_group, batch):
    with pytest.raises(CoterieError, match="turn them off"):
        MCL(make_group(2))(batch[0], torch.full((6, 4), 0.25))


def test_logits_from_the_mean_are_an_option(make_group, batch, slow, said):
    assert "distillation" not in MCL(make_group(3))(*batch)
    method = MCL(make_group(3), distillation_weight=0.5)
    z = said(method)
    expected = 0.5 * sum(slow.divergence(z.mean(0), z[i], 3.0) for i in range(3))
    assert method(*batch)["distillation"].item() == pytest.approx(expected, rel=1e-3)


def test_the_form_of_the_code(make_group, batch, slow, said):
    """Heads as wide as what they give, three students whose pairs add up, and a last one that alone learns from the mean of the logits."""
    method = MCL(make_group(3), form="code", dimensions=5, distillation_weight=1.0)
    assert [layer.out_features for layer in (method.heads[0][0], method.heads[0][2])] == [5, 5]
    paper = MCL(make_group(3), dimensions=5)
    assert [layer.out_features for layer in (paper.heads[0][0], paper.heads[0][2])] == [8, 5]
    z = said(method)
    assert method(*batch)["distillation"].item() == pytest.approx(slow.divergence(z.mean(0), z[2], 3.0), rel=1e-3)
    v = [torch.nn.functional.normalize(torch.randn(6, 5), dim=1) for _ in range(3)]

    def supervised(similarity, targets):
        values = []
        for i, y in enumerate(targets):
            others = math.log(sum(math.exp(similarity[i, k]) for k in range(6) if k != i))
            terms = [others - similarity[i, k] for k in range(6) if targets[k] == y and k != i]
            values += [sum(terms) / len(terms)] if terms else []
        return sum(values) / len(values)

    s = {(i, j): rows(v[i].double().numpy(), v[j].double().numpy()) for i in range(3) for j in range(3)}
    hard, soft = method._contrasts(v, batch[1])
    assert hard.item() == pytest.approx(sum(supervised(each, batch[1].tolist()) for each in s.values()), rel=1e-4)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    expected = sum(slow.divergence(s[j, j], s[i, i], 3.0) + slow.divergence(s[j, i], s[i, j], 3.0) for i, j in pairs)
    assert soft.item() == pytest.approx(expected, rel=1e-4)


def test_who_learns_from_what(make_group, batch, reaches):
    method = MCL(make_group(2), distillation_weight=1.0)
    losses = method(*batch)
    for term, value in losses.items():
        assert reaches(method, value, "heads") is (term in {"contrast", "soft_contrast"}), term
        for student in range(2):
            assert reaches(method, value, f"group.branches.{student}.conv"), term


def test_equal_students_share_what_they_find_similar(make_group, batch):
    group = make_group(2)
    group.branches[1].load_state_dict(group.branches[0].state_dict())
    method = MCL(group)
    method.heads[1].load_state_dict(method.heads[0].state_dict())
    assert method(*batch)["soft_contrast"].item() == pytest.approx(0.0, abs=1e-5)


def test_pairs_of_many_students_are_divided_by_the_others(make_group, batch):
    """Three copies: each student's own contrast stays one term, those with the two others are a mean."""

    def contrasts(students):
        method = MCL(make_group(students))
        for number in range(1, students):
            method.group.branches[number].load_state_dict(method.group.branches[0].state_dict())
            method.heads[number].load_state_dict(method.heads[0].state_dict())
        torch.manual_seed(0)
        for head in method.heads:
            for parameter in head.parameters():
                parameter.data = torch.linspace(-1, 1, parameter.numel()).sin().view_as(parameter)
        return method(*batch)["contrast"].item()

    assert contrasts(3) == pytest.approx(1.5 * contrasts(2), rel=1e-4)


def test_a_batch_without_anything_to_contrast_is_finite(make_group, batch):
    """Three samples of three classes: no pair of one class."""
    losses = MCL(make_group(2))(batch[0][:3], torch.arange(3))
    assert losses["contrast"].item() == 0
    sum(losses.values()).backward()
    assert torch.isfinite(sum(losses.values()))


def test_the_mean_of_the_logits_is_a_constant(make_group, batch, logit_gradient):
    z, found = logit_gradient(MCL(make_group(3), distillation_weight=1.0), *batch, "distillation")
    expected = 3 * ((z / 3).softmax(-1) - (z.mean(0) / 3).softmax(-1)) / len(batch[1])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


def test_the_other_students_similarities_are_constants(make_group, batch):
    """The soft terms' gradient, term by term with targets that have none."""
    method = MCL(make_group(2))
    first, second = (torch.nn.functional.normalize(torch.randn(6, 5), dim=1).requires_grad_() for _ in range(2))
    off = ~torch.eye(6, dtype=torch.bool)

    def rows(anchors, others):
        return ((anchors @ others.T) / 0.1)[off].view(6, 5)

    def divergence(target, said):
        q, p = (target.detach() / 3).softmax(-1), (said / 3).softmax(-1)
        return 9 * (q * (q.log() - p.log())).sum() / 6

    terms = [
        divergence(rows(second, second), rows(first, first)),
        divergence(rows(first, first), rows(second, second)),
        divergence(rows(second, first), rows(first, second)),
        divergence(rows(first, second), rows(second, first)),
    ]
    _, soft = method._contrasts([first, second], batch[1])
    found = torch.autograd.grad(soft, [first, second])
    for ours, expected in zip(found, torch.autograd.grad(sum(terms), [first, second]), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
