"""Pseudo-queries: unlabelled queries made from training texts by simple rules, to match with a teacher's vectors.

The EmbedDistill paper generates queries with BART. These are of another kind: training queries with some words dropped, and spans of training documents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.randomness import derive_seed

DROPPED = 0.3  # probability that a word of a query is dropped
SPAN = (4, 16)  # smallest and largest number of words of a span


def pseudo_queries(queries: Sequence[str], documents: Sequence[str], count: int, seed: int) -> list[str]:
    """Make pseudo-queries, half perturbed queries and half spans of documents, without duplicates of one another or of given queries.

    Args:
        queries, documents: texts of the training pairs.
        count: how many to draw; duplicates are removed, so fewer may be returned.
        seed: the same seed gives the same pseudo-queries.
    """
    known = set(queries)
    found: dict[str, None] = {}
    for number in range(count):
        generator = np.random.default_rng(derive_seed(seed, "pseudo", number))
        texts = queries if number % 2 == 0 else documents
        words = texts[int(generator.integers(len(texts)))].split()
        if number % 2 == 0:
            kept = [word for word, drawn in zip(words, generator.random(len(words)), strict=True) if drawn >= DROPPED]
        else:
            length = int(generator.integers(SPAN[0], SPAN[1] + 1))
            start = int(generator.integers(max(1, len(words) - length + 1)))
            kept = words[start : start + length]
        text = " ".join(kept)
        if text and text not in known:
            found[text] = None
    return list(found)
