"""Text generation by a run's deployed student."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from coterie.errors import CoterieError
from coterie.run_folder import RunFolder
from coterie.tasks.language.generation import continue_prompts, room_for
from coterie.tasks.language.tokenizer import load_tokenizer
from coterie.tasks.prediction import require_encodable

TOGETHER = 8  # prompts
MOST = 64  # new tokens if their number is not given


@dataclass(frozen=True)
class Continuation:
    """The student's continuation of one prompt.

    Attributes:
        prompt: the prompt as given.
        text: the continuation, without the prompt.
        error: always None; every text can be continued.
    """

    prompt: str
    text: str
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return {"continuation": self.text}

    def row(self) -> dict[str, str]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return {"continuation": self.text}

    def lines(self) -> list[str]:
        """See :class:`coterie.tasks.prediction.Answer`."""
        return self.text.splitlines()


def continuations(
    folder: RunFolder,
    network: nn.Module,
    prompts: Sequence[Any],
    tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int,
) -> Iterator[Continuation]:
    """Continue prompts, see :func:`coterie.tasks.language.generation.continue_prompts`.

    Raises:
        CoterieError: a prompt is not a text, or that function raises. Raised before the first continuation.
    """
    if (tokens is not None and tokens < 1) or not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise CoterieError(
            f"tokens={MOST if tokens is None else tokens}, temperature={temperature:g}, top_p={top_p:g}: expected 1 or more, 0 or more, and above 0 to 1"
        )
    if temperature == 0 and top_p < 1:
        raise CoterieError(f"top_p={top_p:g} needs a temperature above 0: without one, the likeliest tokens are taken")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise CoterieError(f"sample {number}: expected a text, got {type(prompt).__name__}")
        require_encodable(prompt, number)
    tokenizer = load_tokenizer(folder.tokenizer)
    if tokens is None:
        room = room_for(network, tokenizer, prompts)
        tokens = MOST if room is None else max(1, min(MOST, room))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device)
    for start in range(0, len(prompts), TOGETHER):
        batch = list(prompts[start : start + TOGETHER])
        texts = continue_prompts(
            network, tokenizer, batch, max_new_tokens=tokens, temperature=temperature, top_p=top_p, seed=seed + start
        )
        yield from (Continuation(prompt, text) for prompt, text in zip(batch, texts, strict=True))
