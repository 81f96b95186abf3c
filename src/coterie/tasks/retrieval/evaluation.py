"""Evaluation of an encoder on a split's queries and all documents, in chunks, also with several processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from coterie.errors import RunError
from coterie.tasks.evaluation import Evaluation
from coterie.tasks.retrieval.data.loaders import QueryLoader
from coterie.tasks.retrieval.data.tokens import TokenTable
from coterie.tasks.retrieval.data.vectors import Vectors, read_rows
from coterie.tasks.retrieval.ranking import Numbers, rank_figures, search

CHUNK = 4_096  # documents to score at once
TOGETHER = 64  # texts to encode at once


@dataclass(frozen=True)
class RetrievalEvaluation(Evaluation):
    """Evaluation of an encoder.

    Attributes:
        ranked: documents of each query, best first, int64 [Q, depth].
        cosines: cosine of each query's vector with the teacher's, [Q]; empty without a teacher, or if widths differ.
    """

    ranked: Numbers
    cosines: NDArray[np.float64]


@dataclass(frozen=True)
class DocumentSource:
    """All documents, as tokens for the evaluated encoder or as precomputed vectors."""

    tokens: TokenTable | None
    vectors: Vectors | None

    def chunks(self, encoder: nn.Module, accelerator: Accelerator) -> Iterator[tuple[int, Tensor]]:
        """Yield vectors of documents, the same on every process; each process encodes its share."""
        device = accelerator.device
        if self.tokens is None:
            assert self.vectors is not None
            for first in range(0, len(self.vectors), CHUNK):
                yield first, read_rows(self.vectors, np.arange(first, min(first + CHUNK, len(self.vectors))), device)
            return
        for first in range(0, len(self.tokens), CHUNK):
            numbers = np.arange(first, min(first + CHUNK, len(self.tokens)))
            yield first, encoded(encoder, self.tokens, numbers, accelerator)


@torch.no_grad()
def encoded(encoder: nn.Module, tokens: TokenTable, numbers: Numbers, accelerator: Accelerator) -> Tensor:
    """Return vectors of the texts with these indices, float32 [N, D], the same on every process. The longest texts are encoded together."""
    index, processes = accelerator.process_index, accelerator.num_processes
    order = np.argsort(-tokens.lengths[numbers], kind="stable")
    filled = np.concatenate([order, np.repeat(order[:1], -len(order) % processes)])
    own = filled[index::processes]
    parts = []
    for start in range(0, len(own), TOGETHER):
        batch = tokens.batch(numbers[own[start : start + TOGETHER]], accelerator.device)
        with accelerator.autocast():
            parts.append(encoder(batch).float())
    vectors = torch.cat(parts)
    if processes > 1:
        gathered: Tensor = accelerator.gather(vectors)
        vectors = gathered.view(processes, len(own), -1).transpose(0, 1).flatten(0, 1)[: len(order)]
    result = torch.empty_like(vectors)
    result[torch.from_numpy(order).to(vectors.device)] = vectors
    return result


@torch.no_grad()
def rank(
    encoder: nn.Module,
    loader: QueryLoader,
    documents: DocumentSource,
    accelerator: Accelerator,
) -> tuple[Numbers, Tensor]:
    """Return the documents of each query, best first, int64 [Q, depth], and the queries' vectors [Q, D]. Sets the encoder to eval mode.

    Raises:
        RunError: vectors are not finite.
    """
    encoder.eval()
    vectors = encoded(encoder, loader.tokens, np.arange(loader.num_samples), accelerator)
    if not bool(torch.isfinite(vectors).all()):
        raise RunError(
            "the student's vectors are not finite: training has diverged. "
            "Try a lower optimizer.learning_rate, training.clip_gradient, or a longer schedule.warmup_epochs."
        )
    _, numbers = search(vectors, documents.chunks(encoder, accelerator))
    return numbers.cpu().numpy(), vectors


def mean_figures(numbers: Numbers, loader: QueryLoader) -> dict[str, float]:
    """Return the figures of a ranking, as means over queries."""
    return {key: float(values.mean()) for key, values in rank_figures(numbers, loader.queries.items).items()}


def cosines(vectors: Tensor, others: Vectors) -> NDArray[np.float64]:
    """Return the cosines of corresponding vectors, float64 [N]; empty if the widths differ."""
    if vectors.shape[1] != others.shape[1]:
        return np.empty(0)
    other = torch.from_numpy(np.array(others)).to(vectors.device)
    found: NDArray[np.float64] = torch.cosine_similarity(vectors, other).double().cpu().numpy()
    return found
