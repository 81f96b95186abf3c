"""Figures of ranks against a slow reference, sentence-transformers' evaluator and pytrec_eval (a wheel of the package pytrec-eval-terrier)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.tasks.retrieval.bm25 import bm25_ranking
from coterie.tasks.retrieval.data.relevance import Query
from coterie.tasks.retrieval.declared import FIGURES
from coterie.tasks.retrieval.ranking import first_ranks, rank_figures, search


def slow(ranking, relevant):
    """The figures of one query, as they are defined."""
    grades = dict(relevant)
    hits = [place for place, number in enumerate(ranking, 1) if number in grades]
    gain = sum(grades.get(number, 0) / math.log2(place + 1) for place, number in enumerate(ranking[:10], 1))
    ideal = sum(
        grade / math.log2(place + 1) for place, grade in enumerate(sorted(grades.values(), reverse=True)[:10], 1)
    )
    precisions = [sum(other <= place for other in hits) / place for place in hits if place <= 100]
    return {
        "mrr_10": next((1 / place for place in hits if place <= 10), 0.0),
        "ndcg_10": gain / ideal,
        **{f"recall_{k}": sum(place <= k for place in hits) / len(grades) for k in (1, 5, 20, 100)},
        "map_100": sum(precisions) / min(len(grades), 100),
    }


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_figures_are_what_they_are_defined_as(data):
    count = data.draw(st.integers(1, 130))
    depth = min(count, 100)
    ranking = data.draw(st.permutations(range(count)))[:depth]
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=min(count, 12), unique=True))
    relevant = tuple((number, float(data.draw(st.integers(1, 3)))) for number in chosen)
    found = rank_figures(np.array([ranking]), [Query("", relevant)])
    expected = slow(ranking, relevant)
    assert found.keys() == expected.keys() == {each.key for each in FIGURES if not each.optional}
    for key, value in expected.items():
        assert found[key][0] == pytest.approx(value), key
    hits = [place for place, number in enumerate(ranking, 1) if number in chosen]
    assert first_ranks(np.array([ranking]), [Query("", relevant)])[0] == (hits[0] if hits else depth + 1)


@pytest.mark.parametrize("chunk", [1, 7, 50, 300])
def test_search_in_chunks_is_exact(chunk):
    queries, documents = torch.randn(9, 8), torch.randn(300, 8)
    documents[40] = documents[7]  # equal scores come by number
    chunks = ((first, documents[first : first + chunk]) for first in range(0, 300, chunk))
    scores, numbers = search(queries, chunks, depth=20)
    whole = queries @ documents.T
    expected = np.lexsort((np.broadcast_to(np.arange(300), whole.shape), -whole.numpy().round(5)), axis=1)[:, :20]
    assert numbers.tolist() == expected.tolist()
    torch.testing.assert_close(scores, whole.gather(1, numbers))


def test_fewer_documents_than_the_depth_are_all_ranked():
    _, numbers = search(torch.eye(2), [(0, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))])
    assert numbers.tolist() == [[1, 0], [0, 1]]


def random_task(queries=30, documents=200):
    rng = np.random.default_rng(0)
    relevant = [
        tuple((int(number), 1.0) for number in rng.choice(documents, rng.integers(1, 6), replace=False))
        for _ in range(queries)
    ]
    return (
        rng.normal(size=(queries, 8)).astype(np.float32),
        rng.normal(size=(documents, 8)).astype(np.float32),
        relevant,
    )


def test_figures_are_those_of_sentence_transformers_evaluator():
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    queries, documents, relevant = random_task()
    names = {f"q{number}": str(number) for number in range(len(queries))}
    evaluator = InformationRetrievalEvaluator(
        {**names, "without": "a query without a relevant document, which is left out of every mean"},
        {f"d{number}": str(number) for number in range(len(documents))},
        {f"q{number}": {f"d{each}" for each, _ in found} for number, found in enumerate(relevant)},
        mrr_at_k=[10],
        ndcg_at_k=[10],
        accuracy_at_k=[1],
        precision_recall_at_k=[1, 5, 20, 100],
        map_at_k=[100],
        show_progress_bar=False,
        write_csv=False,
    )
    from sentence_transformers.util import dot_score

    numbers = [int(each) for each in evaluator.queries]

    class Encoder:
        similarity_fn_name = "dot"
        similarity = staticmethod(dot_score)

        def encode_query(self, texts, **options):
            return torch.from_numpy(queries[numbers])

        def encode_document(self, texts, **options):
            return torch.from_numpy(documents[[int(text) for text in texts]])

    evaluator.score_functions = {"dot": dot_score}
    evaluator.score_function_names = ["dot"]
    found = evaluator.compute_metrices(Encoder())["dot"]
    _, ranked = search(torch.from_numpy(queries), [(0, torch.from_numpy(documents))])
    ours = {
        key: values.mean()
        for key, values in rank_figures(ranked.numpy(), [Query("", each) for each in relevant]).items()
    }
    assert ours["mrr_10"] == pytest.approx(found["mrr@k"][10])
    assert ours["ndcg_10"] == pytest.approx(found["ndcg@k"][10])
    assert ours["map_100"] == pytest.approx(found["map@k"][100])
    for k in (1, 5, 20, 100):
        assert ours[f"recall_{k}"] == pytest.approx(found["recall@k"][k])


def test_figures_are_those_of_pytrec_eval():
    """Query by query: many equal scores, several relevant documents with grades, more than are ranked, and queries without any."""
    pytrec_eval = pytest.importorskip("pytrec_eval")
    rng = np.random.default_rng(1)
    vectors = [torch.from_numpy(rng.integers(-1, 2, size=(count, 3)).astype(np.float32)) for count in (40, 240)]
    sizes = [0, 0, 1, 1, 2, 3, 5, 9, 15, 90] * 4
    graded = [
        tuple((int(number), float(rng.integers(1, 4))) for number in rng.choice(240, size, replace=False))
        for size in sizes
    ]
    scores, numbers = search(vectors[0], [(0, vectors[1][:100]), (100, vectors[1][100:])])
    assert all(len(set(row)) < 20 for row in scores.tolist())  # of 100 each
    # trec_eval takes equal scores by name, the last first: names that fall as numbers rise give our order, by number.
    name = [f"d{999 - number}" for number in range(240)]
    run = {
        f"q{row}": {name[number]: score for number, score in zip(own, values, strict=True)}
        for row, (own, values) in enumerate(zip(numbers.tolist(), scores.tolist(), strict=True))
    }
    judged = {
        f"q{row}": {name[number]: int(grade) for number, grade in each} for row, each in enumerate(graded) if each
    }
    measures = {"recip_rank", "ndcg_cut.10", "recall.1,5,20,100", "map_cut.100"}
    theirs = pytrec_eval.RelevanceEvaluator(judged, measures).evaluate(run)
    kept = [row for row, each in enumerate(graded) if each]
    assert theirs.keys() == {f"q{row}" for row in kept}  # those without a judgement are no part of its means either
    ours = rank_figures(numbers.numpy()[kept], [Query("", graded[row]) for row in kept])
    for place, row in enumerate(kept):
        found = theirs[f"q{row}"]
        first = found["recip_rank"]  # of any rank
        assert ours["mrr_10"][place] == pytest.approx(first if first >= 0.1 else 0.0)
        assert ours["ndcg_10"][place] == pytest.approx(found["ndcg_cut_10"])
        assert ours["map_100"][place] == pytest.approx(found["map_cut_100"])
        for k in (1, 5, 20, 100):
            assert ours[f"recall_{k}"][place] == pytest.approx(found[f"recall_{k}"])
    means = {key: np.mean([each[key] for each in theirs.values()]) for key in ("ndcg_cut_10", "map_cut_100")}
    assert ours["ndcg_10"].mean() == pytest.approx(means["ndcg_cut_10"])
    assert ours["map_100"].mean() == pytest.approx(means["map_cut_100"])


def test_bm25_finds_documents_by_their_words():
    documents = ["the cat sleeps on a mat", "parsers read files", "sockets send bytes", "threads wait for locks"]
    ranked = bm25_ranking(["which parsers read", "a thread and its locks", "bytes"], documents, depth=2)
    assert ranked[:, 0].tolist() == [1, 3, 2]
    assert ranked.shape == (3, 2)
