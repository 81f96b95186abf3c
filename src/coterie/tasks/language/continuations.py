"""Continuations of rows of a split by students and teachers, beside the true text, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from coterie.methods.group_method import grouped
from coterie.methods.method import Method
from coterie.tasks.language.causal_lm import CausalLM
from coterie.tasks.language.data.rows import IGNORED, Rows
from coterie.tasks.language.generation import continue_prompts

BEGINNING, CONTINUATION = 24, 40  # tokens


def continue_rows(
    method: Method, teachers: Sequence[str], rows: Rows, indices: Tensor, tokenizer: Any
) -> list[dict[str, Any]]:
    """Continue the beginnings of rows greedily, with the deployed student and with each teacher.

    Args:
        method: the trained method.
        teachers: names of its teachers.
        rows: the rows of a split.
        indices: which rows, int64 [m].
        tokenizer: the tokenizer of the data.

    Returns:
        For each row ``prompt``, ``text`` (the true continuation) and ``texts``, keyed by ``student`` and the teachers' names.
    """
    networks = {"student": _network(grouped(method).students.branches[method.deployed_student])}
    held = method.teachers.each() if method.teachers is not None else []
    networks |= {name: _network(teacher.body) for name, teacher in zip(teachers, held, strict=True)}
    prompts, texts = beginnings(rows, indices, tokenizer)
    length = _room(rows)
    written = {
        name: continue_prompts(network, tokenizer, prompts, max_new_tokens=length) for name, network in networks.items()
    }
    return [
        {"prompt": prompt, "text": text, "texts": {name: each[place] for name, each in written.items()}}
        for place, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]


def _network(parts: nn.Module) -> nn.Module:
    assert isinstance(parts, CausalLM)
    return parts.network


def _room(rows: Rows) -> int:
    """Number of tokens to continue a row by."""
    return min(CONTINUATION, max(1, rows.block_length // 2))


def beginnings(rows: Rows, indices: Tensor, tokenizer: Any) -> tuple[list[str], list[str]]:
    """Return the beginnings of rows as prompts, and their true continuations.

    The beginning of a text is its first tokens; that of a prompt or chat is everything before the first learnt token.

    Args:
        rows: the rows of a split.
        indices: which rows, int64 [m].
        tokenizer: the tokenizer of the data.
    """
    prompts, texts = [], []
    length = _room(rows)
    for index in indices.tolist():
        tokens, labels = (table[0] for table in rows.read(np.array([index])))
        size = int(rows.lengths[index])
        learnt = np.flatnonzero(labels != IGNORED)
        first = int(learnt[0]) if learnt[0] > 0 else min(BEGINNING, max(1, size // 2))
        prompts.append(
            tokenizer.decode(tokens[max(0, first + length - rows.block_length) : first], skip_special_tokens=True)
        )
        texts.append(tokenizer.decode(tokens[first : min(size, first + length)], skip_special_tokens=True))
    return prompts, texts
