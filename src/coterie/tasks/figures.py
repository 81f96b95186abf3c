"""Figures as a task declares them. Loop, comparison, report, terminal and model card read these declarations and name no figure themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """One figure of an evaluation.

    Attributes:
        key: its name in summary.json.
        label: as a table's head shows it.
        better: which direction is; None: neither.
        format: of a value, for :func:`format`; ``.2%`` shows a fraction in per cent.
        optional: whether an evaluation may lack it, such as agreement with a teacher where there is none.
    """

    key: str
    label: str
    better: Literal["higher", "lower"] | None
    format: str = ".4f"
    optional: bool = False

    def show(self, value: float) -> str:
        """The value as a table's cell."""
        return format(value, self.format)


CLASSIFICATION = (
    Figure("top1", "top-1", "higher", ".2%"),
    Figure("top5", "top-5", "higher", ".2%"),
    Figure("nll", "NLL", "lower", ".4f"),
    Figure("brier", "Brier", "lower", ".4f"),
    Figure("ece", "ECE", "lower", ".4f"),
)
