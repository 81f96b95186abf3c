"""What the methods of dual encoders learn from: each term against sentence-transformers' loss, and what has no gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coterie.errors import CoterieError
from coterie.losses.embedding import margin_mse
from coterie.methods import METHODS, create_method
from coterie.methods.retrieval import contrastive, embed_distill
from coterie.methods.retrieval import margin_mse as margins
from coterie.networks.group import StudentGroup

B, E, M, D = 5, 3, 7, 6


class Encoder(nn.Module):
    """Tokens [N, 4] to vectors of length 1."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(4, D)
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        return F.normalize(self.linear(inputs), dim=-1)

    def plain(self):
        return nn.Sequential(self.linear)


def batch(symmetric=True, unlabelled=0, teacher=True):
    torch.manual_seed(0)
    inputs = {"query": torch.randn(B + unlabelled, 4), "excluded": torch.zeros(B, M, dtype=torch.bool)}
    if symmetric:
        inputs["document"] = torch.randn(M, 4)
    if teacher:
        inputs["teacher_query"] = F.normalize(torch.randn(B + unlabelled, D), dim=-1)
        inputs["teacher_document"] = F.normalize(torch.randn(M, D), dim=-1)
    return inputs, torch.arange(B)


class Given(nn.Module):
    """A model of sentence-transformers that returns the vectors it is given."""

    def forward(self, features):
        return features


@pytest.mark.parametrize("name", ["contrastive", "embed_distill"])
def test_the_label_term_is_multiple_negatives_ranking(name):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    options = {"score": 0, "embedding": 0} if name == "embed_distill" else {}
    method = METHODS[name](Encoder(), **options)
    (inputs, targets) = batch(teacher=False)
    found = method(inputs, targets)
    assert found.keys() == {"label"}
    found["label"].backward()
    gradient = method.encoder.linear.weight.grad.clone()
    method.zero_grad()
    queries, documents = method.encoder(inputs["query"]), method.encoder(inputs["document"])
    loss = MultipleNegativesRankingLoss(Given(), scale=20)
    columns = [{"sentence_embedding": queries}, {"sentence_embedding": documents[:B]}]
    expected = loss(columns, torch.empty(0))
    own = method({**inputs, "document": inputs["document"][:B], "excluded": inputs["excluded"][:, :B]}, targets)[
        "label"
    ]
    torch.testing.assert_close(own, expected)
    expected.backward()
    other = method.encoder.linear.weight.grad.clone()
    method.zero_grad()
    own.backward()
    torch.testing.assert_close(method.encoder.linear.weight.grad, other)
    assert not torch.equal(gradient, other)  # further documents matter


@pytest.mark.parametrize(("metric", "theirs"), [("l2", "l2"), ("cosine", "cosine")])
def test_the_embedding_term_is_sentence_transformers_embed_distill_loss(metric, theirs):
    from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss

    method = embed_distill.EmbedDistill(Encoder(), onehot=0, score=0, metric=metric)
    inputs, targets = batch()
    inputs = {
        **inputs,
        "document": inputs["document"][:B],
        "teacher_document": inputs["teacher_document"][:B],
        "excluded": inputs["excluded"][:, :B],
    }
    found = method(inputs, targets)["embedding"]
    found.backward()
    gradient = method.encoder.linear.weight.grad.clone()
    method.zero_grad()
    columns = [{"sentence_embedding": method.encoder(inputs[side])} for side in ("query", "document")]
    labels = torch.stack([inputs["teacher_query"], inputs["teacher_document"]], dim=1)
    expected = 2 * EmbedDistillLoss(Given(), distance_metric=theirs)(columns, labels)  # theirs is a mean over columns
    torch.testing.assert_close(found, expected)
    expected.backward()
    torch.testing.assert_close(method.encoder.linear.weight.grad, gradient)


def test_the_score_term_is_the_in_batch_kl_but_for_the_teachers_entropy():
    method = embed_distill.EmbedDistill(Encoder(), onehot=0, embedding=0, temperature=0.1)
    inputs, targets = batch()
    found = method(inputs, targets)["distillation"]
    scores = method.encoder(inputs["query"]) @ method.encoder(inputs["document"]).T / 0.1
    taught = torch.softmax(inputs["teacher_query"] @ inputs["teacher_document"].T / 0.1, -1)
    expected = F.kl_div(torch.log_softmax(scores, -1), taught, reduction="batchmean")
    entropy = -(taught * taught.log()).sum(-1).mean()
    torch.testing.assert_close(found, expected + entropy)
    margin = margins.MarginMSE(Encoder(), weight=2.0)(inputs, targets)["distillation"]
    torch.testing.assert_close(
        margin, 2 * margin_mse(0.1 * scores, inputs["teacher_query"] @ inputs["teacher_document"].T)
    )


def test_documents_of_the_teacher_are_constants_and_encoded_by_nobody():
    method = embed_distill.EmbedDistill(Encoder())
    inputs, targets = batch(symmetric=False, unlabelled=E)
    for name in ("teacher_query", "teacher_document"):
        inputs[name] = inputs[name].requires_grad_(False)
    losses = method(inputs, targets)
    assert method.encoder.calls == 1
    assert losses.keys() == {"label", "distillation", "embedding"}
    expected = torch.linalg.vector_norm(method.encoder(inputs["query"]) - inputs["teacher_query"], dim=-1).mean()
    torch.testing.assert_close(losses["embedding"], expected)  # unlabelled queries too, and no documents
    scores = method.encoder(inputs["query"])[:B] @ inputs["teacher_document"].T / 0.05
    torch.testing.assert_close(losses["label"], F.cross_entropy(scores, targets))


def test_a_student_that_is_the_teacher_starts_at_no_distance():
    encoder = Encoder()
    inputs, targets = batch()
    with torch.no_grad():
        inputs["teacher_query"], inputs["teacher_document"] = encoder(inputs["query"]), encoder(inputs["document"])
    method = embed_distill.EmbedDistill(encoder, onehot=0, score=0)
    loss = method(inputs, targets)["embedding"]
    assert loss == 0
    loss.backward()
    assert torch.isfinite(encoder.linear.weight.grad).all()


def test_further_documents_of_a_query_are_no_wrong_answers():
    method = contrastive.Contrastive(Encoder())
    inputs, targets = batch(teacher=False)
    excluded = inputs["excluded"].clone()
    excluded[:, B:] = True
    found = method({**inputs, "excluded": excluded}, targets)["label"]
    fewer = {**inputs, "document": inputs["document"][:B], "excluded": excluded[:, :B]}
    torch.testing.assert_close(found, method(fewer, targets)["label"])


def test_what_cannot_be_is_refused_in_a_line():
    with pytest.raises(CoterieError, match="are all 0: nothing would be learnt"):
        embed_distill.EmbedDistill(Encoder(), onehot=0, score=0, embedding=0)
    with pytest.raises(CoterieError, match="needs at least 2, got 1"):
        contrastive.Contrastive(Encoder())(
            {
                "query": torch.randn(1, 4),
                "document": torch.randn(1, 4),
                "excluded": torch.zeros(1, 1, dtype=torch.bool),
            },
            torch.arange(1),
        )
    group = StudentGroup.of([nn.Sequential(nn.Linear(4, 3))], torch.randn(2, 4))
    with pytest.raises(CoterieError, match="embed_distill trains no group of students that give logits"):
        create_method("embed_distill", group)
    assert embed_distill.EmbedDistill(Encoder(), score=0, embedding=0).reads_teacher is False
    assert contrastive.Contrastive(Encoder()).student() is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["contrastive", "embed_distill", "margin_mse"])
def test_training_shows_what_has_no_effect(name, misdeclared):
    """See ``misdeclared`` in ``tests/methods/conftest.py``."""
    kind = METHODS[name]
    assert "\n".join(misdeclared(kind, lambda options: (kind(Encoder(), **options), *batch()))) == ""
