"""A tokenizer of 300 entries, small corpora and tiny causal language models; nothing is downloaded."""

from __future__ import annotations

import copy

import pytest
import torch

from coterie.tasks.language.tokenizer import train_tokenizer

WORDS = ["the cat sat on the mat", "a dog ran in the park", "it rains in the mountains", "we read books in the evening"]
TEXTS = [f"{WORDS[number % 4]}, number {number}.\n" * (1 + number % 5) for number in range(40)]

PLAIN = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}</s>{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKED = (
    "{% for message in messages %}<{{ message.role }}>{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}</s>{% endgeneration %}{% else %}{{ message.content }}</s>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

SIZES = {
    "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
}


@pytest.fixture(scope="session")
def trained():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture
def tokenizer(trained):
    """Of the test's own: it may set a template."""
    return copy.deepcopy(trained)


@pytest.fixture(scope="session")
def texts():
    return tuple(TEXTS)


@pytest.fixture
def templates():
    """Chat templates that say nothing of who speaks where, and that mark the assistant's turns."""
    return PLAIN, MARKED


@pytest.fixture(scope="session")
def tiny_lm():
    """Builds ``tiny_lm(kind, seed, **sizes)`` in eval mode, with weights large enough for unlike continuations."""
    from coterie.tasks.language.networks import load_causal_lm

    def build(kind="llama", seed=0, scale=3.0, dtype=torch.float32, **sizes):
        network = load_causal_lm(
            {"model_type": kind, "vocab_size": 300, **SIZES[kind], **sizes}, seed=seed, dtype=dtype
        ).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(scale)
        return network

    return build
