"""A tokenizer of 300 entries and small corpora."""

from __future__ import annotations

import copy

import pytest

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


@pytest.fixture(scope="session")
def trained():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture
def tokenizer(trained):
    """Of the test's own: it may set a template."""
    return copy.deepcopy(trained)


@pytest.fixture
def texts():
    return list(TEXTS)


@pytest.fixture
def templates():
    """Chat templates that say nothing of who speaks where, and that mark the assistant's turns."""
    return PLAIN, MARKED
