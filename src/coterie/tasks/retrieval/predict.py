"""Search by a run's deployed student: the best documents for queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks.prediction import require_top
from coterie.tasks.retrieval.data.readers import read_texts
from coterie.tasks.retrieval.data.sets import load_sets
from coterie.tasks.retrieval.data.vectors import read_rows, teacher_vectors
from coterie.tasks.retrieval.encoders import encoder_digest, is_normalized
from coterie.tasks.retrieval.evaluation import CHUNK
from coterie.tasks.retrieval.ranking import search
from coterie.tasks.retrieval.settings import data_of
from coterie.tasks.retrieval.sources import TeacherFound, read_teacher

TOGETHER = 32  # queries


@dataclass(frozen=True)
class Found:
    """The documents of one query.

    Attributes:
        query: the query as given.
        documents: indices among all documents, from 0, scores and texts, best first.
        error: always None; every text has a vector.
    """

    query: str
    documents: tuple[tuple[int, float, str], ...]
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return {
            "documents": [
                {"number": number, "score": score, "document": text} for number, score, text in self.documents
            ]
        }

    def row(self) -> dict[str, str]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        cells: dict[str, str] = {}
        for place, (_, score, text) in enumerate(self.documents, 1):
            cells |= {f"document_{place}": text, f"score_{place}": f"{score:.6g}"}
        return cells

    def lines(self) -> list[str]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return [f"{score:7.4f}  {text}" for _, score, text in self.documents]


def best_documents(
    folder: RunFolder,
    network: Any,
    description: dict[str, Any],
    queries: Sequence[Any],
    documents: str,
    top: int,
) -> Iterator[Found]:
    """Find the best documents for each query.

    Args:
        folder: the run folder.
        network: its student, of sentence-transformers.
        description: contents of its ``student.json``.
        queries: texts.
        documents: a file of documents, one per line or rows with the recipe's column ``data.document``; empty: the run's own.
        top: how many documents to return.

    Raises:
        CoterieError: a query is not a text, the file cannot be read, or the teacher no longer exists. Raised before the first answer.
    """
    require_top(top)
    for number, query in enumerate(queries):
        if not isinstance(query, str):
            raise CoterieError(f"sample {number}: expected a text, got {type(query).__name__}")
    recipe = load_recipe(folder.recipe, trust_code=True)  # read, not run
    if documents:
        path = Path(documents).expanduser()
        if not path.is_file():
            raise CoterieError(f"documents={documents!r}: there is no such file")
        texts = read_texts(path, data_of(recipe).document, "data.document")
    else:
        texts = load_sets(data_of(recipe), recipe.seed).documents.texts
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, digest = document_encoder(recipe, network, description)
    vectors = teacher_vectors(encoder, digest, texts, "document", normalize=is_normalized(encoder), device=device)
    network.to(device)
    place = torch.device(device)
    for start in range(0, len(queries), TOGETHER):
        part = list(queries[start : start + TOGETHER])
        found = network.encode_query(part, convert_to_tensor=True, show_progress_bar=False).clone()
        chunks = (
            (first, read_rows(vectors, range(first, min(first + CHUNK, len(vectors))), place))
            for first in range(0, len(vectors), CHUNK)
        )
        scores, numbers = search(found, chunks, min(top, len(texts)))
        for query, values, which in zip(part, scores.tolist(), numbers.tolist(), strict=True):
            best = tuple((number, value, texts[number]) for number, value in zip(which, values, strict=True))
            yield Found(query, best)


def document_encoder(recipe: Any, network: nn.Module, description: dict[str, Any]) -> tuple[Any, str]:
    """Return the encoder of a run's documents, the student or its teacher, and its digest.

    Raises:
        CoterieError: the teacher no longer exists, or has changed.
    """
    if description["documents"] == "student":
        return network, encoder_digest(network)
    noted = description["teachers"][0]
    teacher = read_teacher(recipe)
    if not isinstance(teacher, TeacherFound) or teacher.digest != noted["digest"]:
        raise CoterieError(f"the teacher {noted['network']!r} is not what it was when the run was trained")
    return teacher.encoder, teacher.digest
