"""Cross-encoders that teach: scores and vectors of pairs, the first stage of dual pooling, and runs of both kinds."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import coterie
from coterie.data.order import Order
from coterie.errors import CoterieError, RunError
from coterie.methods.retrieval.embed_distill import EmbedDistill
from coterie.recipe import load_recipe
from coterie.running.reload import evaluate_run
from coterie.tasks.retrieval.cross.encoder import (
    LogitScorer,
    is_cross_encoder,
    load_cross_encoder,
    load_joint_encoder,
)
from coterie.tasks.retrieval.cross.fitting import fit_joint_encoder, fitted_once, group_loss
from coterie.tasks.retrieval.cross.pairs import TaughtPairs, scored_documents, with_candidates
from coterie.tasks.retrieval.data.loaders import PairLoader, TrainingTexts
from coterie.tasks.retrieval.data.relevance import Queries, Query
from coterie.tasks.retrieval.data.tokens import TokenTable
from coterie.tasks.retrieval.sources import read_teacher

CPU = torch.device("cpu")
ASKED = [
    ("how to join a parser with the queue", "The queue takes every parser in turn."),
    ("a window", "It returns the window, the folder and every thread at last and in turn."),
    ("the matrix", "thread"),
]


@pytest.fixture(scope="session")
def save_cross(tmp_path_factory, tokenizer):
    """Saves ``save_cross(name, num_labels=1)`` with initial weights, and returns its folder."""
    import transformers

    from coterie.networks.hugging_face import config_of

    def save(name, num_labels=1):
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
        config = config_of(
            {"model_type": "bert", "vocab_size": len(tokenizer), **sizes, "max_position_embeddings": 64,
             "num_labels": num_labels, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}
        )  # fmt: skip
        torch.manual_seed(5)
        folder = tmp_path_factory.mktemp("cross") / name
        transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def cross(save_cross):
    return save_cross("cross")


def test_folders_say_what_they_are(cross, place, tmp_path):
    load_cross_encoder(str(cross)).save_pretrained(str(tmp_path / "saved"))
    assert is_cross_encoder(str(cross))
    assert is_cross_encoder(str(tmp_path / "saved"))
    assert not is_cross_encoder(str(place.path / "teacher"))
    with pytest.raises(CoterieError, match=r"there is no folder './gone'"):
        is_cross_encoder("./gone")
    (tmp_path / "saved" / "config_sentence_transformers.json").write_text("{")
    with pytest.raises(CoterieError, match="is damaged"):
        is_cross_encoder(str(tmp_path / "saved"))


def test_scores_are_the_networks_logits_times_the_factor(cross, tokenizer):
    import transformers

    network = transformers.AutoModelForSequenceClassification.from_pretrained(cross).eval()
    found = LogitScorer(load_cross_encoder(str(cross)), 0.25).scores(ASKED, 2, CPU)
    assert found.dtype == np.float32
    for pair, score in zip(ASKED, found.tolist(), strict=True):
        with torch.no_grad():
            logit = network(**tokenizer(*pair, return_tensors="pt")).logits.item()
        assert score == pytest.approx(0.25 * logit, abs=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls_sep"])
def test_dual_pooling_is_what_it_says_token_by_token(pooling, cross, tokenizer):
    joint, _ = load_joint_encoder(str(cross), pooling)
    queries, documents = joint.encode(ASKED, 2, CPU)  # pairs of unequal lengths, padded
    for row, pair in enumerate(ASKED):
        tokens = tokenizer(*pair, return_tensors="pt")
        with torch.no_grad():
            states = joint.body(**tokens).last_hidden_state[0]
        sides = tokens.sequence_ids(0)
        if pooling == "mean":
            both = [[states[place] for place, each in enumerate(sides) if each == side] for side in (0, 1)]
        else:
            words = tokenizer.convert_ids_to_tokens(tokens["input_ids"][0])
            assert (words[0], words[-1]) == ("[CLS]", "[SEP]")
            both = [[states[0]], [states[-1]]]
        for vectors, parts in zip((queries, documents), both, strict=True):
            expected = F.normalize(sum(parts) / len(parts), dim=0)
            torch.testing.assert_close(vectors[row], expected, atol=1e-5, rtol=1e-4)
    scores = joint.scores(ASKED, 3, CPU)
    np.testing.assert_allclose(scores, [float(a @ b) for a, b in zip(queries, documents, strict=True)], atol=1e-5)
    other, _ = joint.encode([(ASKED[0][0], ASKED[1][1])], 1, CPU)
    assert (other[0] - queries[0]).norm() > 0.01  # a query has another vector with another document


def test_dual_pooling_pads_on_either_side(cross):
    joint, _ = load_joint_encoder(str(cross), "cls_sep")
    expected = joint.encode(ASKED, 3, CPU)
    joint.tokenizer.padding_side = "left"
    tokens = joint.tokens(ASKED, CPU)
    assert tokens["attention_mask"][2, 0] == 0
    positions = (tokens["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found = joint({**tokens, "position_ids": positions})
    joint.tokenizer.padding_side = "right"
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-4)


def queries():
    items = [
        Query("the parser joins the queue", ((0, 1.0), (3, 1.0)), (4,)),
        Query("the window returns", ((1, 1.0),), (2, 5, 6)),
        Query("a thread of the matrix", ((2, 1.0),)),
    ]
    texts = [
        "the queue takes the parser", "a window that returns", "a matrix and its thread", "the parser waits for the queue",
        "the parser joins nothing", "a folder", "a signal", "the queue of the parser: of no training query",
    ]  # fmt: skip
    return Queries.of(items), texts


def test_candidates_are_hard_negatives_and_then_bm25s_best_of_the_training_documents():
    given, texts = queries()
    found = with_candidates(given, texts, 2)
    first, second, third = found.items
    assert first.negatives[0] == 4
    assert len(first.negatives) == 2
    assert second.negatives == (2, 5)
    for each in found.items:
        assert not set(each.negatives) & dict(each.relevant).keys()
        assert 7 not in each.negatives  # a test query's, perhaps
    assert len(third.negatives) == 2
    assert [replace(each, negatives=()) for each in found.items] == [
        replace(each, negatives=()) for each in given.items
    ]
    few = with_candidates(Queries.of(given.items[1:2]), texts, 9).items[0].negatives
    assert sorted(few) == [2, 5, 6]  # there are no more


def test_scores_are_found_by_query_and_document():
    given, texts = queries()
    offsets, numbers = scored_documents(with_candidates(given, texts, 2))
    scores = np.arange(1, 1 + len(numbers), dtype=np.float32)
    pairs = TaughtPairs(offsets, numbers, scores, None)
    expected = {
        (query, int(numbers[place])): scores[place]
        for query in range(3)
        for place in range(offsets[query], offsets[query + 1])
    }
    asked = np.array([2, 0, 2]), np.array([7, 3, 0, 2, 5, 4, 1, 2])
    found, known = pairs.of(*asked)
    for row, query in enumerate(asked[0]):
        for column, document in enumerate(asked[1]):
            assert known[row, column] == ((query, document) in expected)
            assert found[row, column] == expected.get((query, document), 0)
    assert known.any()
    assert not known.all()


def test_a_batch_holds_scores_and_vectors_of_its_pairs(tiny_encoder):
    given, texts = queries()
    training, encoder = with_candidates(given, texts, 2), tiny_encoder()
    offsets, numbers = scored_documents(training)
    vectors = np.arange(len(training.pairs) * 4, dtype=np.float32).reshape(-1, 2, 2)
    taught = TaughtPairs(offsets, numbers, np.arange(1, 1 + len(numbers), dtype=np.float32), vectors)
    tables = [TokenTable(each, encoder, "query") for each in (training.texts, texts)]
    loader = PairLoader(TrainingTexts(training, *tables, None, None, 2, taught), Order(4, 4, seed=1), CPU)
    (batch,) = loader.epoch(0)
    pairs = [training.pairs[number] for number in batch.indices.tolist()]
    assert len(batch.inputs["document"]["input_ids"]) == batch.inputs["known"].shape[1] > 4
    for row, (query, document) in enumerate(pairs):
        assert batch.inputs["known"][row, row]
        place = offsets[query] + np.searchsorted(numbers[offsets[query] : offsets[query + 1]], document)
        assert batch.inputs["teacher_scores"][row, row] == taught.scores[place]
        assert int(batch.inputs["known"][row].sum()) >= 1 + len(training.items[query].negatives)
    both = torch.stack([batch.inputs["teacher_query"], batch.inputs["teacher_document"]], 1)
    assert torch.equal(both, torch.from_numpy(vectors)[batch.indices])


def test_the_first_stage_learns_which_document_is_a_querys_own(cross, cache):
    groups = [
        [(f"the {word}", f"it takes the {other}") for other in (word, *(each for each in words if each != word))]
        for words in (["parser", "queue", "thread"], ["matrix", "window", "signal"])
        for word in words
    ]
    joint, _ = load_joint_encoder(str(cross), "mean")
    before = group_loss(joint, groups, CPU)
    queries, documents = joint.encode([pair for group in groups for pair in group], 8, CPU)
    scores = ((queries * documents).sum(-1) / 0.05).view(6, 3).tolist()
    expected = sum(math.log(sum(math.exp(each - row[0]) for each in row)) for row in scores) / 6
    assert before.item() == pytest.approx(expected, abs=1e-3)
    options = {"epochs": 8, "learning_rate": 5e-3, "batch_size": 6, "seed": 0, "device": CPU}
    calls = []

    def fit():
        calls.append(1)
        fit_joint_encoder(joint, groups, **options)

    assert fitted_once(joint, "key", fit)
    assert group_loss(joint, groups, CPU) < 0.7 * before
    again, _ = load_joint_encoder(str(cross), "mean")
    assert not fitted_once(again, "key", fit)
    assert calls == [1]
    assert again.scores(groups[0], 8, CPU).tolist() == joint.scores(groups[0], 8, CPU).tolist()
    third, _ = load_joint_encoder(str(cross), "mean")
    fit_joint_encoder(third, groups, **options)
    assert third.scores(groups[0], 8, CPU).tolist() == joint.scores(groups[0], 8, CPU).tolist()
    with pytest.raises(RunError, match=r"has diverged: lower teacher\.learning_rate"):
        fit_joint_encoder(third, groups, **{**options, "learning_rate": float("inf")})


def test_a_method_matches_the_pairs_and_compares_known_scores():
    class Encoder(torch.nn.Module):
        def forward(self, inputs):
            return F.normalize(inputs, dim=-1)

    torch.manual_seed(0)
    vectors = [torch.randn(size, 3) for size in (2, 5)]
    taught = [F.normalize(torch.randn(2, 3), dim=-1) for _ in range(2)]
    known = torch.tensor([[True, False, True, False, False], [False, True, False, True, True]])
    inputs = {
        "query": vectors[0], "document": vectors[1], "teacher_query": taught[0], "teacher_document": taught[1],
        "teacher_scores": torch.randn(2, 5), "known": known, "excluded": torch.zeros(2, 5, dtype=torch.bool),
    }  # fmt: skip
    found = EmbedDistill(Encoder(), temperature=0.5)(inputs, torch.arange(2))
    queries, documents = (F.normalize(each, dim=-1) for each in vectors)
    expected = sum((a - b).norm(dim=-1).mean() for a, b in zip((queries, documents[:2]), taught, strict=True))
    torch.testing.assert_close(found["embedding"], expected)
    distilled = 0.0
    for row in range(2):
        own = torch.log_softmax((queries[row] @ documents.T)[known[row]] / 0.5, 0)
        other = torch.softmax(inputs["teacher_scores"][row][known[row]] / 0.5, 0)
        distilled -= (own * other).sum() / 2
    torch.testing.assert_close(found["distillation"], distilled)
    label = F.cross_entropy(queries @ documents.T / 0.5, torch.arange(2))  # all of the batch, known or not
    torch.testing.assert_close(found["label"], label)


@pytest.fixture(scope="module")
def small(place, cross):
    """``settings(**sections)`` for a student of the cross-encoder."""

    def settings(**sections):
        teacher = {"network": str(cross), "reranked": 5, **sections.pop("teacher", {})}
        base = {"training": {"epochs": 1}, "data": {"train_limit": 32}, **sections}
        return place.settings(teacher=teacher, **base)

    return SimpleNamespace(path=place.path, settings=settings)


def test_scores_alone_teach_and_the_teachers_figures_are_a_rerankings(small, cross):
    recipe = small.settings(method={"name": "margin_mse"})
    result = coterie.train(recipe, output=small.path / "scored", quiet=True)
    (teacher,) = result.summary["teachers"]
    assert (teacher["kind"], teacher["pooling"], teacher["width"]) == ("cross", "none", None)
    assert result.summary["deployed"]["kept"] == pytest.approx(result.summary["deployed"]["mrr_10"] / teacher["mrr_10"])
    for key in ("recall_5", "recall_20", "recall_100"):  # the first 5 are ranked anew, and stay the first 5
        assert teacher[key] == result.summary["bm25"][key]
    assert teacher["mrr_10"] != result.summary["bm25"]["mrr_10"]
    assert any("the teacher's scores of 128 pairs were computed" in note for note in result.summary["data_notes"])
    student = json.loads((result.path / "student.json").read_text())
    assert student["documents"] == "student"
    assert evaluate_run(result.path)[1].figures["deployed"]["mrr_10"] == result.summary["deployed"]["mrr_10"]
    with pytest.raises(
        CoterieError, match=r"a run's student is a dual encoder; name a cross-encoder by teacher\.network"
    ):
        read_teacher(load_recipe(small.settings(teacher={"kind": "cross", "run": str(result.path), "network": None})))


def test_dual_pooling_is_trained_first_and_its_vectors_are_matched(small):
    recipe = small.settings(teacher={"pooling": "mean", "learning_rate": 1e-3}, training={"epochs": 2})
    result = coterie.train(recipe, output=small.path / "pooled", quiet=True)
    lines = [json.loads(line) for line in (result.path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["losses"] for line in lines if line["split"] == "train"]
    assert losses[0].keys() == {"label", "distillation", "embedding"}
    assert losses[-1]["embedding"] < losses[0]["embedding"]
    assert result.summary["teachers"][0]["width"] == 32
    assert result.student().encode_query(["a parser"]).shape == (1, 32)  # projected to the teacher's
    notes = result.summary["data_notes"]
    assert any("the teacher was trained with dual pooling for 1 epochs of 32 pairs" in note for note in notes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, r"method.embedding: the teacher is a cross-encoder, which gives scores and no vectors; set method.embedding=0"),
        ({"network": {"documents": "teacher"}}, "which has no vectors of documents that an index could hold"),
        ({"data": {"pseudo_queries": 1}}, "data.pseudo_queries: .* says nothing of a query without its document"),
        ({"data": {"max_negatives": 2}}, "teacher.candidates says how many documents it scores"),
        ({"method": {"name": "contrastive"}, "network": {"projection": True}}, "it gives scores alone"),
        ({"method": {"name": "contrastive"}, "network": {"name": "auto", "layers": [0], "pretrained": True}}, "read query and document together; set network.name"),
        ({"teacher": {"kind": "dual", "candidates": 2}}, "teacher.candidates=2 is of a cross-encoder, and the teacher is a dual encoder"),
        ({"teacher": {"kind": "odd"}}, "teacher.kind"),
    ],
)  # fmt: skip
def test_what_a_cross_encoder_cannot_teach_is_refused_in_a_line(changes, expected, small, tmp_path):
    with pytest.raises(CoterieError, match=expected) as error:
        coterie.train(small.settings(**changes), output=tmp_path / "run", quiet=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_several_numbers_for_a_pair_are_refused(save_cross):
    with pytest.raises(CoterieError, match="gives 3 numbers for a pair; a cross-encoder that teaches gives one"):
        load_cross_encoder(str(save_cross("three", 3)))
