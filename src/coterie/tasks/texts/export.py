"""Exports text classifiers as folders of transformers, and as ONNX: token tables of any batch size and length to logits, with the tokenizer's files next to the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import RunError
from coterie.tasks.exporting import (
    CHECKED_BATCH_SIZES,
    Subject,
    relative_difference,
    require_close,
    require_onnx,
    save_graph,
    traced,
)
from coterie.tasks.texts.sequence_classifier import example_inputs, read_tokenizer, save_folder

TRACED_LENGTH = 8  # tokens of the example from which a graph is traced; the graph accepts any length


def write_transformers(subject: Subject, folder: Path, gallery: Path) -> str:
    assert subject.tokenizer is not None
    loaded = save_folder(subject.network, subject.tokenizer, folder)
    (example,) = example_inputs(1, subject.description["length"])
    texts = {name: example[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        expected, actual = (each(**texts).logits for each in (subject.network, loaded))
    if not torch.equal(expected, actual):
        raise RunError("transformers builds the network from the export with other logits")
    return "transformers loads it with bit-equal logits."


class _Logits(nn.Module):
    """Wraps a network of transformers: takes tensors by name, and returns the logits only."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.network(input_ids=input_ids, attention_mask=attention_mask, **segments).logits


def write_onnx(subject: Subject, folder: Path, gallery: Path) -> str:
    """Write ``model.onnx``, with classes and length in its metadata, and the tokenizer; returns a sentence about what was compared."""
    onnxruntime = require_onnx()
    assert subject.tokenizer is not None
    tokenizer = read_tokenizer(subject.tokenizer)
    tokenizer.save_pretrained(folder)
    network = _Logits(subject.network).eval()
    names = ["input_ids", "attention_mask"]
    if (getattr(subject.network.config, "type_vocab_size", None) or 0) > 1:
        names.append("token_type_ids")
    example = torch.ones(2, max(2, min(TRACED_LENGTH, subject.description["length"])), dtype=torch.int64)
    # The maximum length, that of the network's position embeddings, is inferred from the graph.
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    examples = tuple(torch.zeros_like(example) if name == "token_type_ids" else example.clone() for name in names)
    path = folder / "model.onnx"
    save_graph(
        lambda: traced(network, examples, (axes,) * len(names)), path, names, _metadata(subject, tokenizer, names)
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    texts, origin = _texts(gallery, subject.description)
    difference = 0.0
    for size in CHECKED_BATCH_SIZES:
        columns = [list(column) for column in zip(*(texts[number % len(texts)] for number in range(size)), strict=True)]
        table = tokenizer(
            *columns,
            truncation=True,
            max_length=subject.description["max_length"],
            padding=True,
            return_token_type_ids=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            expected = network(*(table[name] for name in names))
        (actual,) = session.run(None, {name: table[name].numpy() for name in names})
        if actual.shape != tuple(expected.shape):
            raise RunError(f"the export gives {actual.shape} for a batch of {size}, not {tuple(expected.shape)}")
        difference = max(difference, relative_difference(expected, torch.from_numpy(actual)))
    require_close(difference, "onnx")
    return f"ONNX Runtime's logits differ from PyTorch's by {difference:.1g} at batch sizes 1 and 3, on {origin}."


def _metadata(subject: Subject, tokenizer: Any, names: list[str]) -> dict[str, str]:
    """Returns the metadata of the file, with every value as JSON."""
    values = {
        "task": "text_classification",
        "class_names": subject.description["class_names"],
        "inputs": names,
        "max_length": subject.description["max_length"],
        "pad_token": tokenizer.pad_token,
        "pad_token_id": tokenizer.pad_token_id,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "output": "logits",
        "which": subject.which,
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def _texts(gallery: Path, description: dict[str, Any]) -> tuple[list[list[str]], str]:
    """Returns texts or pairs to compare logits on, and their origin in words."""
    kept = gallery / "texts.json"
    if kept.is_file() and (examples := json.loads(kept.read_text(encoding="utf-8"))["examples"]):
        return [each["texts"] for each in examples[: max(CHECKED_BATCH_SIZES)]], f"texts of {description['data']}"
    return [
        [str(name)] for name in description["class_names"]
    ], "the names of the classes, since the run keeps no texts"
