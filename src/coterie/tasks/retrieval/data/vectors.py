"""A teacher's vectors of texts, computed once and kept in a memory-mapped file of the cache folder.

The file's name holds a digest of the teacher and one of the texts. A million documents of 384 numbers take 1.5 GB on disk; only the rows that a batch reads are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.data.cache import cache_folder
from coterie.data.tables import computed_table, read_table
from coterie.tasks.retrieval.data.relevance import texts_digest
from coterie.tasks.retrieval.data.tokens import Side, to_device

CHUNK = 8_192  # texts per part
FOLDER = "retrieval_vectors"
Vectors = NDArray[np.float32]


def teacher_vectors(
    encoder: Any,
    digest: str,
    texts: Sequence[str],
    side: Side,
    *,
    normalize: bool,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    announce: Callable[[str], None] = lambda line: None,
) -> Vectors:
    """Return a teacher's vectors of texts, float32 [N, D], memory-mapped.

    Args:
        encoder: the teacher, of sentence-transformers.
        digest: its digest, see :func:`coterie.tasks.retrieval.encoders.encoder_digest`.
        texts: texts to encode.
        side: whether they are queries or documents.
        normalize: whether to normalise vectors to length 1.
        batch_size: texts per batch.
        device: device to compute on.
        announce: is called with a sentence if the vectors were not cached.

    Raises:
        RunError: the cache folder cannot be written, or has not enough room.
    """
    what = "queries" if side == "query" else "documents"
    line = f"the teacher's vectors of {len(texts):,} {what} were computed and are kept in the cache folder"
    encode = encoder.encode_query if side == "query" else encoder.encode_document

    def compute(start: int, stop: int) -> Vectors:
        encoder.to(device)
        found: Vectors = encode(
            list(texts[start:stop]), batch_size=batch_size, normalize_embeddings=normalize, show_progress_bar=False
        )
        return found

    name = f"{digest}-{side}-{'unit' if normalize else 'plain'}-{texts_digest(texts)}"
    shape = (len(texts), int(encoder.get_embedding_dimension()))
    try:
        return kept_rows(name, shape, compute, lambda: announce(line))
    finally:
        encoder.to("cpu")


def kept_rows(
    name: str,
    shape: tuple[int, ...],
    compute: Callable[[int, int], Vectors],
    announce: Callable[[], None],
    what: str = "the teacher's vectors",
) -> Vectors:
    """Return outputs of a teacher, float32, memory-mapped from a file of the cache folder. A missing file is written part by part.

    Args:
        name: name of the file without its ending; it identifies the teacher and the texts.
        shape: shape of all rows.
        compute: computes the rows from a start to an end.
        announce: is called if the rows have to be computed.
        what: display name, for messages.

    Raises:
        RunError: the cache folder cannot be written, or has not enough room.
    """
    path = cache_folder() / FOLDER / f"{name}.npy"
    found = read_table(path, np.float32, shape)
    if found is not None:
        return found
    announce()

    def fill(table: Vectors, part: int) -> None:
        stop = min((part + 1) * CHUNK, shape[0])
        table[part * CHUNK : stop] = compute(part * CHUNK, stop)

    return computed_table(path, np.float32, shape, -(-shape[0] // CHUNK), fill, what)


def read_rows(vectors: Vectors, numbers: Sequence[int] | NDArray[np.int64], device: torch.device) -> Tensor:
    """Return some of the vectors on the device, [B, D]."""
    return to_device(torch.from_numpy(np.ascontiguousarray(vectors[np.asarray(numbers)])), device)
