"""The documents that a cross-encoder scores with each training query, and the scores, computed once and kept in the cache folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from coterie.tasks.retrieval.bm25 import bm25_ranking
from coterie.tasks.retrieval.data.relevance import Queries
from coterie.tasks.retrieval.data.vectors import Vectors

Integers = NDArray[np.int64]


def with_candidates(queries: Queries, documents: Sequence[str], count: int) -> Queries:
    """Set the hard negatives of queries to the documents that a cross-encoder scores besides their own.

    These are the data's hard negatives, followed by BM25's best among the training queries' documents that are not relevant.

    Args:
        queries: queries of the training split.
        documents: all texts.
        count: number per query; fewer if there are no more.
    """
    pool = sorted({number for each in queries.items for number in (*dict(each.relevant), *each.negatives)})
    wanting = [each for each in queries.items if len(each.negatives) < count]
    filled = {}
    if wanting:
        depth = count + max(len(each.relevant) + len(each.negatives) for each in wanting)
        ranked = bm25_ranking([each.text for each in wanting], [documents[number] for number in pool], depth)
        for each, row in zip(wanting, ranked, strict=True):
            relevant = dict(each.relevant)
            mined = (pool[place] for place in row.tolist())
            filled[each] = tuple(dict.fromkeys((*each.negatives, *(one for one in mined if one not in relevant))))
    return Queries.of(replace(each, negatives=filled.get(each, each.negatives)[:count]) for each in queries.items)


@dataclass(frozen=True)
class TaughtPairs:
    """A cross-encoder's scores of training queries with some documents each, and its vectors of relevant pairs.

    Attributes:
        offsets: start of each query's scores, int64 [Q + 1].
        documents: indices of the scored documents, ascending within a query, int64 [N].
        scores: float32 [N].
        vectors: vectors of the query and the document of each relevant pair, float32 [P, 2, D]; None if there are only scores.
    """

    offsets: Integers
    documents: Integers
    scores: Vectors
    vectors: Vectors | None

    def of(self, queries: Integers, documents: Integers) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the scores of every query with every document, float32 [B, M], and which of them are known; unknown ones are 0."""
        scores = np.zeros((len(queries), len(documents)), dtype=np.float32)
        known = np.zeros(scores.shape, dtype=bool)
        for row, query in enumerate(queries):
            part = slice(self.offsets[query], self.offsets[query + 1])
            own = self.documents[part]
            places = np.searchsorted(own, documents).clip(max=len(own) - 1)
            known[row] = own[places] == documents
            scores[row, known[row]] = self.scores[part][places[known[row]]]
        return scores, known


def scored_documents(queries: Queries) -> tuple[Integers, Integers]:
    """Return offsets [Q + 1] and indices [N] of the documents to score with each query, its own and its negatives, ascending."""
    parts = [sorted({*dict(each.relevant), *each.negatives}) for each in queries.items]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return offsets.astype(np.int64), np.array([number for part in parts for number in part], dtype=np.int64)
