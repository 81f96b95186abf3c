"""Exact search, and figures of the resulting rankings.

Figures follow trec_eval's definitions, with linear gains. The data hold no queries without a relevant document, so none is part of a mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.tasks.retrieval.data.relevance import Query
from coterie.tasks.retrieval.declared import RECALLS

DEPTH = 100  # documents to rank per query
Numbers = NDArray[np.int64]


@torch.no_grad()
def search(queries: Tensor, chunks: Iterable[tuple[int, Tensor]], depth: int = DEPTH) -> tuple[Tensor, Tensor]:
    """Find the documents with the largest inner products exactly, in chunks of documents, without a table of all queries by all documents.

    Args:
        queries: [Q, D].
        chunks: index of the first document and vectors [N, D] of each chunk.
        depth: number of documents per query, or all if there are fewer.

    Returns:
        Scores and indices of documents, [Q, depth], best first; ties are ordered by index.
    """
    scores = queries.new_empty(len(queries), 0)
    numbers = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for first, documents in chunks:
        found = queries @ documents.T
        places = torch.arange(first, first + len(documents), device=queries.device).expand(len(queries), -1)
        scores, numbers = torch.cat([scores, found], dim=1), torch.cat([numbers, places], dim=1)
        if scores.shape[1] > depth:
            scores, chosen = scores.topk(depth, dim=1, sorted=False)
            numbers = numbers.gather(1, chosen)
    by_number = numbers.argsort(dim=1)
    scores, numbers = scores.gather(1, by_number), numbers.gather(1, by_number)
    order = scores.argsort(dim=1, descending=True, stable=True)
    return scores.gather(1, order), numbers.gather(1, order)


def rank_figures(numbers: Numbers, queries: Sequence[Query]) -> dict[str, NDArray[np.float64]]:
    """Return the figures of each query, float64 [Q].

    Args:
        numbers: ranked documents, best first, int64 [Q, depth].
        queries: queries with their relevant documents and grades.

    Returns:
        ``mrr_10``; ``ndcg_10``, with the grade as the gain; ``recall_k`` for k in :data:`~coterie.tasks.retrieval.declared.RECALLS`; ``map_100``, whose
        best possible value is 1 even if more than 100 documents are relevant (sentence-transformers' ``MAP@100``).

    >>> found = rank_figures(np.array([[3, 1, 0]]), [Query("", ((1, 1.0), (7, 1.0)))])
    >>> float(found["mrr_10"][0]), float(found["recall_5"][0]), float(found["map_100"][0])
    (0.5, 0.5, 0.25)
    """
    gains = np.zeros((len(queries), max(DEPTH, numbers.shape[1])))
    ideal = np.zeros((len(queries), 10))
    totals = np.array([len(each.relevant) for each in queries], dtype=np.float64)
    for row, query in enumerate(queries):
        grades = dict(query.relevant)
        gains[row, : numbers.shape[1]] = [grades.get(number, 0.0) for number in numbers[row].tolist()]
        best = sorted(grades.values(), reverse=True)[:10]
        ideal[row, : len(best)] = best
    hits = gains > 0
    first = np.where(hits.any(1), hits.argmax(1), gains.shape[1])
    discounts = 1 / np.log2(np.arange(2, 12))
    precisions = np.cumsum(hits, axis=1) / np.arange(1, gains.shape[1] + 1)
    return {
        "mrr_10": np.where(first < 10, 1 / (first + 1), 0.0),
        "ndcg_10": (gains[:, :10] @ discounts) / (ideal @ discounts),
        **{f"recall_{k}": hits[:, :k].sum(1) / totals for k in RECALLS},
        "map_100": (precisions * hits)[:, :DEPTH].sum(1) / np.minimum(totals, DEPTH),
    }


def first_ranks(numbers: Numbers, queries: Sequence[Query]) -> Numbers:
    """Return the rank of each query's first relevant document, from 1; depth + 1 if none was found. int64 [Q]."""
    depth = numbers.shape[1]
    ranks = []
    for row, query in zip(numbers.tolist(), queries, strict=True):
        relevant = {number for number, _ in query.relevant}
        ranks.append(next((place for place, number in enumerate(row, 1) if number in relevant), depth + 1))
    return np.array(ranks, dtype=np.int64)
