"""BM25 ranking, a baseline for dual encoders, by the package bm25s with its defaults (Lucene's variant, k1 1.5, b 0.75)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coterie.errors import CoterieError
from coterie.tasks.retrieval.ranking import DEPTH, Numbers


def require_bm25s() -> Any:
    """Return the package.

    Raises:
        CoterieError: it is not installed.
    """
    try:
        import bm25s
    except ImportError:
        raise CoterieError("BM25's figures need the package bm25s: pip install 'coterie[retrieval]'") from None
    return bm25s


def bm25_ranking(queries: Sequence[str], documents: Sequence[str], depth: int = DEPTH) -> Numbers:
    """Rank the documents for each query, best first, int64 [Q, depth], without English stop words.

    Raises:
        CoterieError: bm25s is not installed.
    """
    bm25s = require_bm25s()
    options = {"stopwords": "en", "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(documents), **options), show_progress=False)
    tokens = bm25s.tokenize(list(queries), **options)
    numbers, _ = index.retrieve(tokens, k=min(depth, len(documents)), show_progress=False)
    return np.asarray(numbers, dtype=np.int64)
