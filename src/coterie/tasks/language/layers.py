"""Students cut from a teacher: some of its blocks, with its embeddings, last norm and output embedding. See :mod:`coterie.networks.blocks`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.networks.blocks import config_with, cut_state, kept_layers
from coterie.tasks.language.networks import build_causal_lm


@torch.no_grad()
def cut_layers(network: nn.Module, layers: Sequence[int]) -> nn.Module:
    """Build a network of the same architecture with some of the blocks, and a copy of everything else.

    Settings that a configuration lists per layer (kinds of attention) stay with their blocks. Anything that an architecture computes from the index of a
    block is computed from the new index.

    Args:
        network: a causal language model of transformers.
        layers: indices of the blocks to keep, see :func:`kept_layers`.

    Returns:
        A network that shares no tensors with the given one. With all layers, its outputs are bit-equal.

    Raises:
        CoterieError: the blocks of the architecture are not found, or the shapes of its weights depend on the number of layers.
    """
    config: Any = network.config
    kept = kept_layers(int(config.num_hidden_layers), layers=layers)
    state = cut_state(network, kept)
    student = build_causal_lm(config_with(config, kept), dtype=next(network.parameters()).dtype)
    student.generation_config = copy.deepcopy(network.generation_config)
    try:
        student.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise CoterieError(f"{type(network).__name__} cannot be cut to {len(kept)} layers: {reason}") from None
    return student.to(next(network.parameters()).device).train(network.training)
