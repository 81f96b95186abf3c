"""The student of a finished retrieval run, and search with it. See :class:`coterie.tasks.task.Deployed`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.student import load_weights
from coterie.tasks.prediction import Answer
from coterie.tasks.retrieval.encoders import rebuild_encoder
from coterie.tasks.retrieval.predict import best_documents
from coterie.tasks.retrieval.tokenizers import load_tokenizer


def load_student(folder: RunFolder, description: dict[str, Any], network: nn.Module | None) -> nn.Module:
    """See :class:`coterie.tasks.task.Deployed`. Returns a ``SentenceTransformer``."""
    network = network or rebuild_encoder(description["encoder"], load_tokenizer(folder.tokenizer))
    load_weights(network, folder)
    return network


def describe_network(recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
    """See :class:`coterie.tasks.task.Deployed`."""
    return {"network": description["network"], "encoder": description["encoder"]}


def is_one(samples: Any) -> bool:
    """See :class:`coterie.tasks.task.Deployed`."""
    return isinstance(samples, str)


def predict(
    folder: RunFolder,
    network: nn.Module,
    description: dict[str, Any],
    samples: Sequence[Any],
    *,
    documents: str = "",
    top: int = 5,
) -> Iterator[Answer]:
    """Return the ``top`` documents for each query, among those of a file or the run's own. Document vectors are computed once and kept in the cache folder."""
    return best_documents(folder, network, description, samples, documents, top)
