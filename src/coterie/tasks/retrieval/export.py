"""Export of a dual encoder as a folder that sentence-transformers loads, and of its query tower as ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from coterie.errors import CoterieError, RunError
from coterie.networks.hugging_face import quiet_transformers
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.tasks.exporting import CHECKED_BATCH_SIZES, Subject, require_onnx, save_graph, traced
from coterie.tasks.retrieval.data.tokens import TokenTable, prompt_of
from coterie.tasks.retrieval.library import quiet_sentence_transformers
from coterie.tasks.retrieval.predict import document_encoder

PROBES = [
    "how are keys of a dictionary compared",
    "a",
    "Return the value of a setting, or a default where there is none.",
]
TOLERANCE = 1e-6  # for vectors of length 1


def write_encoder(subject: Subject, folder: Path, gallery: Path) -> str:
    """See :class:`coterie.tasks.formats.Format`. Writes the student alone, which encodes queries and, unless the teacher does, documents."""
    encoder: Any = subject.network
    _save(encoder, folder)
    difference = _difference(encoder, _load(folder), encoder)
    return f"its vectors differ from the run's by at most {difference:.1e}, on {len(PROBES)} texts."


def write_router(subject: Subject, folder: Path, gallery: Path) -> str:
    """See :class:`coterie.tasks.formats.Format`. Writes the student for queries and the run's teacher for documents as one model.

    Raises:
        CoterieError: the student encodes documents itself.
    """
    if subject.description["documents"] != "teacher":
        raise CoterieError(
            "format 'router' holds a tower for queries and one for documents, and this run's student encodes both; use format sentence-transformers"
        )
    run = RunFolder(gallery.parent)
    query: Any = subject.network
    document, _ = document_encoder(load_recipe(run.recipe, trust_code=True), query, subject.description)
    prompts = {"query": prompt_of(query, "query") or "", "document": prompt_of(document, "document") or ""}
    with quiet_sentence_transformers() as library:
        from sentence_transformers.base.modules import Router

        router = Router.for_query_document(query_modules=list(query), document_modules=list(document))
        whole = library.SentenceTransformer(
            modules=[router], device="cpu", prompts=prompts, similarity_fn_name=query.similarity_fn_name
        )
    _save(whole, folder)
    difference = _difference(query, _load(folder), document)
    return f"vectors of queries differ from the student's, and those of documents from the teacher's, by at most {difference:.1e}, on {len(PROBES)} texts."


def _save(encoder: Any, folder: Path) -> None:
    with quiet_sentence_transformers():
        encoder.save_pretrained(str(folder), create_model_card=False)


def _load(folder: Path) -> Any:
    with quiet_sentence_transformers() as library:
        return library.SentenceTransformer(str(folder), device="cpu", trust_remote_code=False, local_files_only=True)


def _difference(query: Any, loaded: Any, document: Any) -> float:
    """Return the difference of vectors of queries and documents.

    Raises:
        RunError: they differ by more than the tolerance.
    """
    pairs = [
        (query.encode_query(PROBES), loaded.encode_query(PROBES)),
        (document.encode_document(PROBES), loaded.encode_document(PROBES)),
    ]
    difference = max(float(np.abs(own - other).max()) for own, other in pairs)
    largest = max(1.0, *(float(np.abs(own).max()) for own, _ in pairs))
    if not difference <= TOLERANCE * largest:
        raise RunError(f"the folder's encoder computes other vectors than the run's: they differ by {difference:.1e}")
    return difference


class _Graph(nn.Module):
    """Tokens to vectors, with tensors as the only arguments."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        vectors: Tensor = self.encoder({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]
        return vectors


def write_onnx(subject: Subject, folder: Path, gallery: Path) -> str:
    """See :class:`coterie.tasks.formats.Format`. Writes ``model.onnx``, tokens to vectors, and the tokenizer.

    Inputs are ``input_ids`` and ``attention_mask``, int64 [B, L], of any size. The output holds the vectors [B, D] and has torch's name for it, ``logits``.

    Raises:
        RunError: the encoder cannot be traced, or the export computes something else.
    """
    runtime = require_onnx()
    encoder: Any = subject.network
    tokens = TokenTable(PROBES, encoder, "query")
    example = tokens.batch(np.arange(2), torch.device("cpu"))
    batch, length = Dim("batch"), Dim("length", max=encoder.max_seq_length)
    shapes = ({0: batch, 1: length}, {0: batch, 1: length})
    graph = _Graph(encoder).eval()
    path = folder / "model.onnx"
    said = {
        "query_prompt": prompt_of(encoder, "query") or "",
        "max_length": str(encoder.max_seq_length),
        "similarity": encoder.similarity_fn_name,
    }
    with _plain_attention(encoder):
        save_graph(
            lambda: traced(graph, (example["input_ids"], example["attention_mask"]), shapes),
            path,
            ["input_ids", "attention_mask"],
            {"coterie": json.dumps(said)},
        )
    with quiet_transformers():
        encoder.tokenizer.save_pretrained(folder)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    difference = 0.0
    for size in CHECKED_BATCH_SIZES:
        probe = tokens.batch(np.arange(size), torch.device("cpu"))
        (found,) = session.run(None, {name: value.numpy() for name, value in probe.items()})
        with torch.inference_mode():
            expected = graph(**probe)
        difference = max(difference, float((expected - torch.from_numpy(found)).abs().max()))
    if not difference <= 1e-4:
        raise RunError(f"the onnx export computes other vectors than PyTorch: they differ by {difference:.1e}")
    return f"its vectors differ from PyTorch's by at most {difference:.1e}, on batches of {' and '.join(map(str, CHECKED_BATCH_SIZES))} texts."


class _plain_attention:
    """Context for tracing: uses the attention implementation that does not branch on the contents of a mask."""

    def __init__(self, encoder: Any) -> None:
        self.config = encoder[0].model.config
        self.kept = self.config._attn_implementation

    def __enter__(self) -> None:
        self.config._attn_implementation = "eager"

    def __exit__(self, *error: object) -> None:
        self.config._attn_implementation = self.kept
