"""Text generation from prompts, used by ``predict`` of a language model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.networks.hugging_face import quiet_transformers
from coterie.networks.tracing import quiet_eval
from coterie.randomness import derive_seed, seeded


def continue_prompts(
    network: nn.Module,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 8,
) -> list[str]:
    """Generate a continuation of each prompt, up to the end-of-text token; the prompt is not included.

    Decoding is greedy by default, regardless of the network's own generation settings; with a temperature, tokens are sampled. Equal calls on one machine give equal
    texts. Prompts of a batch are padded on the left; apart from rounding if two tokens are equally likely, padding does not change the texts.

    Args:
        network: a causal language model of transformers, on the device to use.
        tokenizer: its tokenizer; it is not changed and needs no padding token.
        prompts: any number of texts. An empty one starts from the beginning-of-text token, or from the end-of-text token if there is none.
        max_new_tokens: largest number of new tokens.
        temperature: 0: greedy decoding; above 0: sampling from softmax(logits / temperature).
        top_p: with a temperature, sample from the smallest set of likeliest tokens with this total probability.
        seed: seed of the sampling, for each batch.
        batch_size: prompts per batch; sampled texts depend on it.

    Raises:
        CoterieError: settings are out of bounds, a prompt leaves no room in the network's positions, or an empty prompt has no token to start from.
    """
    if max_new_tokens < 1 or batch_size < 1 or not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise CoterieError(
            f"max_new_tokens={max_new_tokens}, batch_size={batch_size}, temperature={temperature}, top_p={top_p}: "
            "expected 1 or more, 1 or more, 0 or more, and above 0 to 1"
        )
    encoded = [_encode(tokenizer, prompt) for prompt in prompts]
    _require_room(network, encoded, max_new_tokens)
    settings = _settings(network, tokenizer, max_new_tokens, temperature, top_p)
    texts: list[str] = []
    with quiet_eval(network):
        for start in range(0, len(encoded), batch_size):
            batch = encoded[start : start + batch_size]
            with seeded(derive_seed(seed, "generation", start)), quiet_transformers():
                new = _generate(network, batch, settings)
            texts += [tokenizer.decode(each, skip_special_tokens=True) for each in new]
    return texts


def _encode(tokenizer: Any, prompt: str) -> list[int]:
    tokens: list[int] = tokenizer(prompt)["input_ids"]
    if tokenizer.eos_token_id is not None and len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id:
        tokens = tokens[:-1]  # some tokenizers append the end-of-text token, after which nothing would follow
    if tokens:
        return tokens
    for start in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if start is not None:
            return [start]
    raise CoterieError("the prompt is empty, and the tokenizer has no token that begins a text")


def room_for(network: Any, tokenizer: Any, prompts: Sequence[str]) -> int | None:
    """Return how many tokens the network's positions leave after the longest prompt; None: the number of positions is unknown."""
    room = getattr(network.config, "max_position_embeddings", None)
    return None if room is None else room - max((len(_encode(tokenizer, each)) for each in prompts), default=0)


def _require_room(network: Any, encoded: Sequence[list[int]], new: int) -> None:
    room = getattr(network.config, "max_position_embeddings", None)
    longest = max(map(len, encoded), default=0)
    if room is not None and longest + new > room:
        raise CoterieError(
            f"a prompt of {longest} tokens and {new} new ones exceed the network's {room} positions; shorten it or ask for fewer"
        )


def end_tokens(network: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a text: those of the network if they include the tokenizer's; else the tokenizer's alone, since the network's belong to another tokenizer."""
    end = tokenizer.eos_token_id
    own: Any = network.generation_config.eos_token_id if network.generation_config is not None else None
    if isinstance(own, list) and end in own:
        return own
    return [] if end is None else [int(end)]


def padding_token(tokenizer: Any, ends: Sequence[int]) -> int:
    """Return the token to pad a batch with. Any token works, since the attention mask excludes it."""
    return next(int(each) for each in (tokenizer.pad_token_id, *ends, 0) if each is not None)


def _settings(network: Any, tokenizer: Any, new: int, temperature: float, top_p: float) -> dict[str, Any]:
    ends = end_tokens(network, tokenizer)
    settings: dict[str, Any] = {"max_new_tokens": new, "do_sample": temperature > 0, "use_cache": True}
    settings |= {"pad_token_id": padding_token(tokenizer, ends), "eos_token_id": ends or None}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
    return settings


def _generate(network: Any, batch: Sequence[list[int]], settings: dict[str, Any]) -> list[list[int]]:
    """Generate the new tokens of each prompt, without the end-of-text token and everything after it."""
    from transformers import GenerationConfig

    width, device = max(map(len, batch)), next(network.parameters()).device
    tokens = torch.full((len(batch), width), settings["pad_token_id"], dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for row, each in enumerate(batch):
        tokens[row, width - len(each) :] = torch.tensor(each)
        mask[row, width - len(each) :] = 1
    # Replace the network's own settings, which may sample or forbid repetitions.
    own, network.generation_config = network.generation_config, GenerationConfig(**settings)
    checkpointing = [each for each in network.modules() if getattr(each, "gradient_checkpointing", False)]
    for each in checkpointing:  # gradient checkpointing does not allow a key-value cache
        each.gradient_checkpointing = False
    try:
        output: Tensor = network.generate(input_ids=tokens.to(device), attention_mask=mask.to(device))
    finally:
        network.generation_config = own
        for each in checkpointing:
            each.gradient_checkpointing = True
    ends = set(settings["eos_token_id"] or [])
    return [_until(row, ends) for row in output[:, width:].tolist()]


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in ends), len(tokens))]
