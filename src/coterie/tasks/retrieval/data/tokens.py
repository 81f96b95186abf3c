"""Tokenised texts of different lengths, stored one after the other, and batches padded to their longest text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coterie.tasks.retrieval.tower import Tokens

TOGETHER = 1_024  # texts to tokenise at once
PROMPTS = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}  # prompt names, in the order in which sentence-transformers looks for them
Side = Literal["query", "document"]


def prompt_of(encoder: Any, side: Side) -> str | None:
    """Return the prompt that ``encode_query`` and ``encode_document`` put before each text."""
    named = next((name for name in PROMPTS[side] if name in encoder.prompts), encoder.default_prompt_name)
    return encoder.prompts.get(named) if named is not None else None


class TokenTable:
    """The tokens of texts.

    Args:
        texts: texts; they are tokenised once and truncated to the encoder's length.
        encoder: encoder of sentence-transformers whose tokenizer and prompts are used.
        side: whether to use the prompt of queries or of documents.

    Attributes:
        lengths: number of tokens of each text, int64 [N].
    """

    def __init__(self, texts: Sequence[str], encoder: Any, side: Side) -> None:
        tokenizer = encoder.tokenizer
        self.padding = int(tokenizer.pad_token_id or 0)
        self.left = tokenizer.padding_side == "left"
        prompt = prompt_of(encoder, side)
        parts: list[NDArray[np.int32]] = []
        lengths: list[NDArray[np.int64]] = []
        for start in range(0, len(texts), TOGETHER):
            found = encoder.preprocess(list(texts[start : start + TOGETHER]), prompt=prompt, task=side)
            mask = found["attention_mask"].bool().numpy()
            parts.append(found["input_ids"].numpy()[mask].astype(np.int32))
            lengths.append(mask.sum(1))
        self.tokens = np.concatenate([np.empty(0, np.int32), *parts])
        self.lengths: NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *lengths]).astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, numbers: Sequence[int] | NDArray[np.int64], device: torch.device) -> Tokens:
        """Return the texts with these indices, padded to the longest of them: ``input_ids`` and ``attention_mask`` int64 [B, L]."""
        rows = [self.tokens[self.offsets[number] : self.offsets[number + 1]] for number in numbers]
        longest = max(map(len, rows))
        ids = np.full((len(rows), longest), self.padding, dtype=np.int64)
        mask = np.zeros((len(rows), longest), dtype=np.int64)
        for place, row in enumerate(rows):
            where = slice(longest - len(row), None) if self.left else slice(0, len(row))
            ids[place, where], mask[place, where] = row, 1
        return {
            "input_ids": to_device(torch.from_numpy(ids), device),
            "attention_mask": to_device(torch.from_numpy(mask), device),
        }


def joined(tables: Sequence[TokenTable]) -> TokenTable:
    """Concatenate several tables of one encoder."""
    result = object.__new__(TokenTable)
    result.padding, result.left = tables[0].padding, tables[0].left
    result.tokens = np.concatenate([each.tokens for each in tables])
    result.lengths = np.concatenate([each.lengths for each in tables])
    result.offsets = np.concatenate([[0], np.cumsum(result.lengths)])
    return result


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, asynchronously for a GPU."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
