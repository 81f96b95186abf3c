from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coterie.data.order import Order
from coterie.errors import RunError
from coterie.methods import METHODS
from coterie.tasks.retrieval.data.loaders import PairLoader, QueryLoader, TrainingTexts
from coterie.tasks.retrieval.data.relevance import Queries, Query
from coterie.tasks.retrieval.data.tokens import TokenTable, joined, prompt_of
from coterie.tasks.retrieval.data.vectors import teacher_vectors
from coterie.tasks.retrieval.tower import Tower

CPU = torch.device("cpu")
TEXTS = ["the parser", "a queue of the socket and a window", "thread", "the matrix returns"]


def test_tokens_are_those_of_the_library_padded_to_the_longest(tiny_encoder):
    encoder = tiny_encoder()
    encoder.prompts = {"query": "how to ", "document": ""}
    table = TokenTable(TEXTS, encoder, "query")
    expected = encoder.preprocess(TEXTS, prompt="how to ")
    found = table.batch(np.arange(4), CPU)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(found[name], expected[name])
    assert table.batch([2], CPU)["input_ids"].shape == (1, int(table.lengths[2]))
    both = joined([table, TokenTable(["window"], encoder, "document")])
    assert torch.equal(both.batch([4], CPU)["input_ids"], encoder.preprocess(["window"])["input_ids"])
    assert prompt_of(encoder, "document") == ""


def texts(tiny_encoder, negatives=((), (), (), ()), unlabelled=0):
    encoder = tiny_encoder()
    items = [Query(text, ((number % 3, 1.0),), tuple(negatives[number])) for number, text in enumerate(TEXTS)]
    queries = Queries.of(items)
    tokens = TokenTable([*TEXTS, *(f"matrix {number}" for number in range(unlabelled))], encoder, "query")
    documents = TokenTable([f"document {number}" for number in range(6)], encoder, "document")
    vectors = np.arange(len(tokens) * 2, dtype=np.float32).reshape(-1, 2)
    return TrainingTexts(queries, tokens, documents, vectors, np.arange(12, dtype=np.float32).reshape(6, 2), 1)


def test_a_batch_holds_pairs_their_negatives_and_what_is_no_wrong_answer(tiny_encoder):
    loader = PairLoader(texts(tiny_encoder, ((4, 5), (), (3,), ())), Order(4, 4, seed=1), CPU)
    (batch,) = loader.epoch(0)
    queries = batch.inputs["teacher_query"][:, 0] / 2
    documents = batch.inputs["teacher_document"][:, 0] / 2
    assert torch.equal(queries, batch.indices.float())
    assert torch.equal(documents[:4], batch.indices.float() % 3)
    assert documents[4:].tolist() in ([4, 3], [5, 3], [3, 4], [3, 5])
    same = documents[None] == documents[:4, None]
    same[range(4), range(4)] = False
    assert torch.equal(batch.inputs["excluded"], same)
    assert same.sum() == 2  # queries 0 and 3 have the same document
    assert batch.targets.tolist() == [0, 1, 2, 3]
    assert len(batch.inputs["document"]["input_ids"]) == 6


def test_batches_are_a_function_of_epoch_and_step_and_unlabelled_queries_all_come(tiny_encoder):
    loader = PairLoader(texts(tiny_encoder, unlabelled=5), Order(4, 2, seed=1), CPU)
    whole = [batch for epoch in range(5) for batch in loader.epoch(epoch)]
    again = PairLoader(texts(tiny_encoder, unlabelled=5), Order(4, 2, seed=1), CPU)
    (resumed,) = again.epoch(3, first_step=1)
    for name, value in resumed.inputs["query"].items():
        assert torch.equal(value, whole[7].inputs["query"][name])
    drawn = [int(number / 2) - 4 for batch in whole for number in batch.inputs["teacher_query"][2:, 0].tolist()]
    assert len(drawn) == 20
    assert all(sorted(drawn[start : start + 5]) == [0, 1, 2, 3, 4] for start in range(0, 20, 5))


def test_two_processes_share_the_unlabelled_queries(tiny_encoder):
    found = []
    for process in range(2):
        loader = PairLoader(texts(tiny_encoder, unlabelled=4), Order(4, 4, 1, process, 2), CPU)
        (batch,) = loader.epoch(0)
        found += [int(number / 2) - 4 for number in batch.inputs["teacher_query"][2:, 0].tolist()]
    assert sorted(found) == [0, 1, 2, 3]


def test_queries_are_measured_once_each(tiny_encoder):
    given = texts(tiny_encoder)
    loader = QueryLoader("test", given.queries, given.query_tokens, 3, CPU)
    batches = list(loader)
    assert sorted(number for batch in batches for number in batch.indices.tolist()) == [0, 1, 2, 3]
    lengths = [int(batch.inputs["attention_mask"].sum(1).max()) for batch in batches]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["embed_distill", "margin_mse"])
def test_shares_of_processes_have_the_losses_and_gradients_of_one(tiny_encoder, symmetric, method, monkeypatch):
    """Mean over processes; documents of others come by a gathering that this process does for all."""
    encoder, negatives = tiny_encoder(), ((4, 5), (), (3, 4), (5,))
    tower = Tower(encoder).eval()
    with torch.no_grad():
        width = tower(TokenTable(TEXTS, encoder, "query").batch([0], CPU)).shape[1]
    generator = np.random.default_rng(0)
    given = replace(
        texts(tiny_encoder, negatives, unlabelled=4),
        query_vectors=generator.normal(size=(8, width)).astype(np.float32),
        document_vectors=generator.normal(size=(6, width)).astype(np.float32),
        max_negatives=2,
    )
    if not symmetric:
        given = replace(given, document_tokens=None)

    def batches(processes):
        orders = [Order(4, 4, 1, process, processes, torch.tensor([3, 1, 2, 4])) for process in range(processes)]
        return [next(iter(PairLoader(given, order, CPU).epoch(0))) for order in orders]

    trained = METHODS[method](tower, **({"temperature": 5.0} if method == "embed_distill" else {}))
    gradients, totals = [], []
    for found in (batches(1), batches(2)):
        if symmetric:
            together = torch.cat([tower(batch.inputs["document"]) for batch in found])
            monkeypatch.setattr("coterie.methods.retrieval.dual_encoder.gather", lambda own, all_=together: all_)
        losses = [trained(batch.inputs, batch.targets) for batch in found]
        totals.append({name: sum(each[name] for each in losses).item() / len(found) for name in losses[0]})
        trained.zero_grad()
        (sum(sum(each.values()) for each in losses) / len(found)).backward()
        gradients.append({name: each.grad.clone() for name, each in tower.named_parameters() if each.grad is not None})
    assert [len(batch.targets) for batch in batches(2)] == [2, 2]
    assert totals[0] == pytest.approx(totals[1], rel=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3)


class Counting:
    """A teacher that counts what it is asked."""

    def __init__(self, encoder):
        self.encoder, self.asked = encoder, 0

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode_query(self, texts, **options):
        self.asked += len(texts)
        return self.encoder.encode_query(texts, **options)


def test_a_teachers_vectors_are_computed_once_and_read_from_disk(tiny_encoder, cache, monkeypatch):
    teacher, said = Counting(tiny_encoder()), []
    options = {"normalize": True, "announce": said.append}
    first = teacher_vectors(teacher, "digest", TEXTS, "query", **options)
    again = teacher_vectors(teacher, "digest", TEXTS, "query", **options)
    assert teacher.asked == len(TEXTS)
    assert isinstance(first, np.memmap)
    assert isinstance(again, np.memmap)
    np.testing.assert_allclose(first, teacher.encoder.encode_query(TEXTS, normalize_embeddings=True), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(again, axis=1), 1, atol=1e-6)
    assert said == ["the teacher's vectors of 4 queries were computed and are kept in the cache folder"]
    teacher_vectors(teacher, "other digest", TEXTS, "query", **options)
    teacher_vectors(teacher, "digest", TEXTS[1:], "query", **options)
    assert teacher.asked == 3 * len(TEXTS) - 1
    assert not [path for path in cache.rglob(".*") if path.is_file()]
    path = next(iter(cache.rglob("digest-query-unit-*.npy")))
    path.write_bytes(b"damaged")
    teacher_vectors(teacher, "digest", TEXTS, "query", **options)


def test_a_cache_that_cannot_be_written_is_an_error_in_a_line(tiny_encoder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="the teacher's vectors cannot be kept in"):
        teacher_vectors(tiny_encoder(), "digest", TEXTS, "query", normalize=True)
