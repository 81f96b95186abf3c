"""Predicts class names and probabilities of texts or pairs of texts with a run's deployed student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.run_folder import RunFolder
from coterie.tasks.prediction import Prediction, best_classes, require_encodable
from coterie.tasks.texts.inputs import text_columns
from coterie.tasks.texts.sequence_classifier import read_tokenizer

BATCH_SIZE = 64


def predict_texts(
    folder: RunFolder, student: nn.Module, description: dict[str, Any], samples: Sequence[Any], top: int
) -> Iterator[Prediction]:
    columns = text_columns(folder)
    tokenizer = read_tokenizer(folder.tokenizer)
    texts = [_texts(sample, number, columns) for number, sample in enumerate(samples)]
    segments = (getattr(student.config, "type_vocab_size", None) or 0) > 1
    for start in range(0, len(texts), BATCH_SIZE):
        batch = texts[start : start + BATCH_SIZE]
        inputs = tokenizer(
            *[list(column) for column in zip(*batch, strict=True)],
            truncation=True,
            max_length=description["max_length"],
            padding=True,
            return_token_type_ids=segments,
            return_attention_mask=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            logits = student(**inputs).logits
        for text, classes in zip(batch, best_classes(logits, description["class_names"], top), strict=True):
            yield Prediction(None, classes, text=text[0] if columns == 1 else text)


def _texts(sample: Any, number: int, columns: int) -> tuple[str, ...]:
    """Returns a text or a pair as a tuple."""
    texts = (sample,) if isinstance(sample, str) else tuple(sample) if isinstance(sample, (tuple, list)) else ()
    if len(texts) != columns or not all(isinstance(text, str) for text in texts):
        raise CoterieError(f"sample {number}: expected {'a text' if columns == 1 else 'a pair of texts'}")
    for text in texts:
        require_encodable(text, number)
    return texts
