"""Cross-encoders as teachers: scores of the training pairs, and reranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from coterie.tasks.retrieval.bm25 import bm25_ranking
from coterie.tasks.retrieval.cross.encoder import (
    JointEncoder,
    LogitScorer,
    Pair,
    Scorer,
    load_cross_encoder,
    load_joint_encoder,
)
from coterie.tasks.retrieval.cross.fitting import Group, fit_joint_encoder, fitted_once
from coterie.tasks.retrieval.cross.pairs import TaughtPairs, scored_documents
from coterie.tasks.retrieval.data.relevance import Queries, texts_digest
from coterie.tasks.retrieval.data.vectors import Vectors, kept_rows
from coterie.tasks.retrieval.encoders import encoder_digest
from coterie.tasks.retrieval.ranking import Numbers
from coterie.tasks.retrieval.settings import RetrievalTeacher

Announce = Callable[[str], None]


@dataclass(frozen=True)
class CrossTeacher:
    """A loaded cross-encoder.

    Attributes:
        scorer: scores pairs; with dual pooling, :meth:`teach` trains it.
        tokenizer: its tokenizer, of transformers.
        digest: digest of its weights and settings.
        settings: the recipe's section ``teacher``.
        note: what the run records about it.
    """

    scorer: Scorer
    tokenizer: Any
    digest: str
    settings: RetrievalTeacher
    note: dict[str, Any]

    def teach(self, queries: Queries, documents: Sequence[str], seed: int, device: torch.device, announce: Announce) -> TaughtPairs:  # fmt: skip
        """Score the training pairs, once; the scores are kept in the cache folder. With dual pooling, the first stage runs before.

        Args:
            queries: queries of the training split, see :func:`coterie.tasks.retrieval.cross.pairs.with_candidates`.
            documents: all texts.
            seed: seed of the first stage.
            device: device to compute on.
            announce: is called with a sentence for each thing that was not cached.

        Raises:
            RunError: the cache folder cannot be written, or the first stage diverges.
        """
        offsets, numbers = scored_documents(queries)
        texts = queries.texts
        rows = np.repeat(np.arange(len(queries)), np.diff(offsets)).tolist()
        pairs = [(texts[row], documents[number]) for row, number in zip(rows, numbers.tolist(), strict=True)]
        key = f"{self.digest}-{texts_digest(text for pair in pairs for text in pair)}"
        if isinstance(self.scorer, JointEncoder):
            key = f"{key}-{seed}"
            self._fit(self.scorer, queries, documents, key, seed, device, announce)

        def score(start: int, stop: int) -> Vectors:
            return self.scorer.scores(pairs[start:stop], self.settings.batch_size, device)

        line = f"the teacher's scores of {len(pairs):,} pairs were computed and are kept in the cache folder"
        scores = kept_rows(f"{key}-scores", (len(pairs),), score, lambda: announce(line), "the teacher's scores")
        vectors = None
        if isinstance(self.scorer, JointEncoder):
            joint, own = self.scorer, [(texts[row], documents[number]) for row, number in queries.pairs]

            def encode(start: int, stop: int) -> Vectors:
                found: Vectors = torch.stack(joint.encode(own[start:stop], self.settings.batch_size, device), 1).numpy()
                return found

            vectors = kept_rows(f"{key}-pairs", (len(own), 2, joint.width), encode, lambda: None)
        return TaughtPairs(offsets, numbers, scores, vectors)

    def _fit(
        self, joint: JointEncoder, queries: Queries, documents: Sequence[str], key: str, seed: int, device: torch.device, announce: Announce
    ) -> None:  # fmt: skip
        settings = self.settings

        def group(query: int, document: int) -> Group:
            each = queries.items[query]
            return [(each.text, documents[number]) for number in (document, *each.negatives)]

        def fit() -> None:
            fit_joint_encoder(
                joint,
                [group(*pair) for pair in queries.pairs],
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                batch_size=settings.batch_size,
                seed=seed,
                device=device,
            )

        if fitted_once(joint, key, fit):
            announce(
                f"the teacher was trained with dual pooling for {settings.epochs} epochs of {len(queries.pairs):,} pairs"
            )

    def rank(self, queries: Queries, documents: Sequence[str], device: torch.device) -> Numbers:
        """Rank documents for each query by BM25 and rerank the first ``teacher.reranked``: int64 [Q, depth], best first."""
        ranked = bm25_ranking(queries.texts, documents)
        first = ranked[:, : self.settings.reranked]
        pairs: list[Pair] = [(query, documents[number]) for query, row in zip(queries.texts, first, strict=True) for number in row]  # fmt: skip
        scores = self.scorer.scores(pairs, self.settings.batch_size, device).reshape(first.shape)
        order = np.argsort(-scores, axis=1, kind="stable")
        result: Numbers = np.concatenate([np.take_along_axis(first, order, 1), ranked[:, first.shape[1] :]], axis=1)
        return result


def read_cross_teacher(name: str, settings: RetrievalTeacher, shown: str) -> CrossTeacher:
    """Load a cross-encoder with its weights.

    Args:
        name: a folder or a name on the Hub.
        settings: the recipe's section ``teacher``.
        shown: display name.

    Raises:
        CoterieError: it cannot be read, or does not score pairs.
    """
    scorer: Scorer
    if settings.pooling == "none":
        encoder = load_cross_encoder(name)
        scorer, width = LogitScorer(encoder, settings.scale), None
        said = [settings.scale]
    else:
        scorer, encoder = load_joint_encoder(name, settings.pooling)
        width = scorer.width
        said = [settings.epochs, settings.learning_rate, settings.batch_size]
    digest = texts_digest([encoder_digest(encoder), settings.pooling, *map(str, said)])
    note = {
        "network": shown,
        "digest": digest,
        "width": width,
        "normalized": True,
        "parameters": sum(each.numel() for each in encoder.parameters()),
        "kind": "cross",
        "pooling": settings.pooling,
    }
    return CrossTeacher(scorer, encoder.tokenizer, digest, settings, note)
