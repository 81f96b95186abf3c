"""A student cut from a teacher: some of its blocks, with its embeddings, last norm and output embedding; see :mod:`coterie.networks.blocks`."""

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
    """A new network of the same kind with some of the blocks of this one, and a copy of all the rest.

    Settings that a configuration lists layer by layer (kinds of attention) go with their blocks. What an architecture computes from a block's number
    itself, it computes from the new one.

    Args:
        network: a causal language model of transformers.
        layers: numbers of the blocks that stay, see :func:`kept_layers`.

    Returns:
        A network that shares nothing with the given one. With all layers it computes the same, bit by bit.

    Raises:
        CoterieError: an architecture whose blocks are not found, or with other weights for other numbers of layers.
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
