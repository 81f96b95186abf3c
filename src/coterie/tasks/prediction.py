"""Answers of a task for new samples, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from coterie.errors import CoterieError


class Answer(Protocol):
    """The deployed student's answer for one sample."""

    @property
    def error(self) -> str | None:
        """Why the sample could not be read, in one line."""
        ...

    def record(self) -> dict[str, Any]:
        """Returns the answer for JSON, by name."""
        ...

    def row(self) -> dict[str, str]:
        """Returns the answer as a table row: cells by column header."""
        ...

    def lines(self) -> list[str]:
        """Returns the answer as lines for a terminal, shown below the sample."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The deployed student's class predictions for one sample.

    Attributes:
        path: the image file; None for an image in memory and for a text.
        classes: the most probable classes and their probabilities, best first; empty if there is an ``error``.
        error: why the sample could not be read, in one line.
        text: the text or pair of texts, for a run of texts.
    """

    path: Path | None
    classes: tuple[tuple[str, float], ...]
    error: str | None = None
    text: str | tuple[str, ...] | None = None

    def record(self) -> dict[str, Any]:
        """See :class:`Answer`."""
        return {"classes": [{"class": name, "probability": value} for name, value in self.classes]}

    def row(self) -> dict[str, str]:
        """See :class:`Answer`."""
        cells: dict[str, str] = {}
        for rank, (name, value) in enumerate(self.classes, 1):
            cells |= {f"class_{rank}": name, f"probability_{rank}": f"{value:.6g}"}
        return cells

    def lines(self) -> list[str]:
        """See :class:`Answer`."""
        return [f"{value:7.2%}  {name}" for name, value in self.classes]


def best_classes(logits: Tensor, names: Sequence[str], top: int) -> list[tuple[tuple[str, float], ...]]:
    """Returns names and probabilities of the most probable classes for logits [B, K]."""
    best, positions = logits.float().softmax(-1).topk(min(top, len(names)))
    return [
        tuple((names[index], value) for index, value in zip(indices, values, strict=True))
        for values, indices in zip(best.tolist(), positions.tolist(), strict=True)
    ]


def require_top(top: int) -> int:
    """Returns the number of requested classes after checking it.

    Raises:
        CoterieError: it is below 1, or not an integer.
    """
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise CoterieError(f"top={top!r}: expected a number of at least 1")
    return top


def require_encodable(text: str, number: int) -> None:
    """Checks that a text can be encoded in UTF-8: arguments with other bytes contain surrogates, which tokenizers refuse.

    Args:
        text: text of a sample.
        number: number of the sample.

    Raises:
        CoterieError: the text cannot be encoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise CoterieError(f"sample {number}: character {error.start} of {text[:40]!r} is none of UTF-8") from None
