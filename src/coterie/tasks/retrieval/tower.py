"""Wraps an encoder of sentence-transformers as the module that methods train: tokens to vectors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

Tokens = Mapping[str, Tensor]  # input_ids and attention_mask, int64 [B, L]


class Tower(nn.Module):
    """Tokens to vectors.

    Args:
        encoder: an encoder of sentence-transformers; this module owns it afterwards. The pooler that transformers adds for classifiers is not
            trained: vectors do not depend on it, and processes would wait for its gradient.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        for module in encoder.modules():
            if isinstance(pooler := getattr(module, "pooler", None), nn.Module):
                pooler.requires_grad_(False)

    def forward(self, tokens: Tokens) -> Tensor:
        """Return vectors [B, D] of texts tokenised by :class:`coterie.tasks.retrieval.data.tokens.TokenTable`."""
        vectors: Tensor = self.encoder(dict(tokens))["sentence_embedding"]  # a copy: the library modifies its argument
        return vectors

    def plain(self) -> nn.Module:
        """Return a copy of the encoder as a plain sentence-transformers model."""
        network: nn.Module = copy.deepcopy(self.encoder)
        return network
