from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from coterie.errors import CoterieError
from coterie.losses.embedding import (
    embedding_matching,
    in_batch_scores,
    margin_mse,
    one_hot_loss,
    score_distillation,
)


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 5, 3, generator=generator, dtype=torch.float64).unbind(0)  # queries, documents, a teacher's


def test_losses_equal_slow_references(vectors):
    """Sample by sample, in Python's numbers."""
    queries, documents, teacher_queries, teacher_documents = vectors
    scores, taught = in_batch_scores(queries, documents), in_batch_scores(teacher_queries, teacher_documents)
    s, t = scores.tolist(), taught.tolist()
    assert s[1][2] == pytest.approx(sum(a * b for a, b in zip(queries[1].tolist(), documents[2].tolist(), strict=True)))

    def softmax(row, temperature):
        parts = [math.exp(value / temperature) for value in row]
        return [part / sum(parts) for part in parts]

    one_hot = -sum(math.log(softmax(row, 0.5)[i]) for i, row in enumerate(s)) / 5
    assert one_hot_loss(scores, 0.5).item() == pytest.approx(one_hot)
    distilled = -sum(
        q * math.log(p)
        for a, b in zip(s, t, strict=True)
        for p, q in zip(softmax(a, 2.0), softmax(b, 2.0), strict=True)
    )
    assert score_distillation(scores, taught, 2.0).item() == pytest.approx(distilled / 5)
    margins = sum(((s[i][i] - s[i][j]) - (t[i][i] - t[i][j])) ** 2 for i in range(5) for j in range(5) if i != j)
    assert margin_mse(scores, taught).item() == pytest.approx(margins / 20)
    differences = [math.dist(a, b) for a, b in zip(queries.tolist(), teacher_queries.tolist(), strict=True)]
    assert embedding_matching(queries, teacher_queries).item() == pytest.approx(sum(differences) / 5)
    assert embedding_matching(queries, teacher_queries, "squared").item() == pytest.approx(
        sum(each**2 for each in differences) / 5
    )


def test_score_distillation_is_the_kl_divergence_but_for_the_teachers_entropy(vectors):
    scores, taught = in_batch_scores(*vectors[:2]).requires_grad_(), in_batch_scores(*vectors[2:])
    log_targets = torch.log_softmax(taught / 0.5, -1)
    entropy = -(log_targets.exp() * log_targets).sum(-1).mean()
    divergence = F.kl_div(torch.log_softmax(scores / 0.5, -1), log_targets, reduction="batchmean", log_target=True)
    found = score_distillation(scores, taught, 0.5)
    torch.testing.assert_close(found - entropy, divergence)
    ours, theirs = (torch.autograd.grad(each, scores)[0] for each in (found, divergence))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("metric", ["l2", "squared", "cosine"])
def test_gradients_and_equal_vectors(vectors, metric):
    own, target = vectors[0].clone().requires_grad_(), vectors[2]
    assert torch.autograd.gradcheck(lambda x: embedding_matching(x, target, metric), own)
    same = target.clone().requires_grad_()
    loss = embedding_matching(same, target, metric)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(same.grad).all()
    assert same.grad.abs().max() < 1e-12


def test_further_documents_compete(vectors):
    queries, documents, more, _ = vectors
    scores = in_batch_scores(queries, torch.cat([documents, more]))
    assert scores.shape == (5, 10)
    assert one_hot_loss(scores) > one_hot_loss(scores[:, :5])


def test_half_precision_and_autocast_do_not_round_the_scores(vectors):
    queries, documents = (each.float() for each in vectors[:2])
    expected = in_batch_scores(queries, documents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(in_batch_scores(queries, documents), expected)
    assert in_batch_scores(queries.bfloat16(), documents.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: in_batch_scores(a, b[:, :2]), "of one width"),
        (lambda a, b: in_batch_scores(a, b[:3]), "3 documents for 5 queries"),
        (lambda a, b: score_distillation(a, b[:3]), "differ in shape"),
        (lambda a, b: embedding_matching(a, b[:, :2]), "project the student's"),
        (lambda a, b: embedding_matching(a, b, "l1"), "metric='l1': expected l2, squared or cosine"),
        (lambda a, b: margin_mse(a[:, :1], b[:, :1]), "at least 2 documents"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(vectors, call, message):
    with pytest.raises(CoterieError, match=message):
        call(vectors[0], vectors[1])


def test_losses_over_known_scores_are_those_of_each_query_with_its_own_documents(vectors):
    """As a cross-encoder scores them: query by query, in Python's numbers."""
    queries, documents, teacher_queries, teacher_documents = vectors
    scores = in_batch_scores(queries, documents).requires_grad_()
    taught = in_batch_scores(teacher_queries, teacher_documents)
    known = torch.eye(5, dtype=torch.bool)
    known[0, 3] = known[1, 0] = known[1, 4] = known[2, 1] = known[3, 4] = known[4, 0] = True
    unknown = taught.masked_fill(~known, float("nan"))  # what is not known is not read
    s = scores.tolist()
    distilled, errors = 0.0, []
    for i in range(5):
        places = known[i].nonzero().flatten().tolist()
        own, other = ([math.exp(row[j] / 0.5) for j in places] for row in (s[i], taught[i].tolist()))
        distilled -= sum(q / sum(other) * math.log(p / sum(own)) for p, q in zip(own, other, strict=True)) / 5
        own = [((s[i][i] - s[i][j]) - (taught[i, i] - taught[i, j]).item()) ** 2 for j in places if j != i]
        errors.append(sum(own) / len(own))
    first, second = score_distillation(scores, unknown, 0.5, known), margin_mse(scores, unknown, known)
    assert first.item() == pytest.approx(distilled)
    assert second.item() == pytest.approx(sum(errors) / 5)
    for loss in (first, second):
        (gradient,) = torch.autograd.grad(loss, scores)
        assert torch.isfinite(gradient).all()
        assert (gradient[~known] == 0).all()
        assert (gradient[known].abs() > 0).all()
    everything = torch.ones_like(known)
    torch.testing.assert_close(score_distillation(scores, taught, 0.5, everything), score_distillation(scores, taught, 0.5))  # fmt: skip
    torch.testing.assert_close(margin_mse(scores, taught, everything), margin_mse(scores, taught))
