"""An encoder of sentence-transformers as the module that methods train: tokens in, vectors out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

Tokens = Mapping[str, Tensor]  # input_ids and attention_mask, int64 [B, L]


class Tower(nn.Module):
    """Tokens to vectors.

    Args:
        encoder: of sentence-transformers; it is owned by this module afterwards. The pooler of its network, which transformers adds for classifiers, is not
            trained: no vector of a text reads it, and processes would wait for its gradient.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        for module in encoder.modules():
            if isinstance(pooler := getattr(module, "pooler", None), nn.Module):
                pooler.requires_grad_(False)

    def forward(self, tokens: Tokens) -> Tensor:
        """Vectors [B, D] of texts that were tokenised by :class:`coterie.tasks.retrieval.data.tokens.TokenTable`."""
        vectors: Tensor = self.encoder(dict(tokens))["sentence_embedding"]  # the library adds to what it is given
        return vectors

    def plain(self) -> nn.Module:
        """A copy of the encoder, as sentence-transformers knows it."""
        network: nn.Module = copy.deepcopy(self.encoder)
        return network
