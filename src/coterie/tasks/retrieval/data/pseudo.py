"""Pseudo-queries: made from training texts by simple rules, to be matched with a teacher's vectors without a label.

The paper of EmbedDistill generates queries by BART; these are none of its kind: training queries without some of their words, and spans of training documents.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coterie.randomness import derive_seed

DROPPED = 0.3  # probability that a word of a query is left out
SPAN = (4, 16)  # words of a span, at least and at most


def pseudo_queries(queries: Sequence[str], documents: Sequence[str], count: int, seed: int) -> list[str]:
    """Half perturbed queries, half spans of documents; each once, none of them a query that is there.

    Args:
        queries, documents: of the training pairs.
        count: how many are drawn; fewer come back where several are equal.
        seed: the same seed gives the same ones.
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
