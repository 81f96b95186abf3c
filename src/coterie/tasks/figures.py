"""Declarations of a task's figures. Loop, comparison, report, terminal and model card read these, and do not name figures themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coterie.tasks import UNNAMED, find_part


@dataclass(frozen=True)
class Figure:
    """One figure of an evaluation.

    Attributes:
        key: its name in summary.json.
        label: its name in table headers and sentences.
        better: the better direction; None: neither.
        format: format of a value, for :func:`format`; ``.2%`` shows a fraction in per cent.
        optional: whether an evaluation may lack it, such as agreement with a teacher if there is none.
        unit: unit, such as ``nats``; shares have none.
        meaning: its meaning in a line, with ``{sample}`` for what a sample is called.
        proportion: whether it is the share of correct samples, each counted once, so that binomial standard errors and chance levels apply.
        min_classes: it is not shown below this number of classes, because guessing is then nearly as good.
        metric: the Hugging Face Hub's name of it; empty: ``key``.
        cost: whether it is a cost of using the deployed network, such as its latency: a comparison draws the primary figure against it.
    """

    key: str
    label: str
    better: Literal["higher", "lower"] | None
    format: str = ".4f"
    optional: bool = False
    unit: str = ""
    meaning: str = ""
    proportion: bool = False
    min_classes: int = 0
    metric: str = ""
    cost: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent."""
        return self.format.endswith("%")

    def show(self, value: float) -> str:
        """Formats a value for a table cell."""
        return format(value, self.format)

    def difference(self, value: float, signed: bool = True) -> str:
        """Formats a difference of two values; in percentage points for shares.

        >>> CLASSIFICATION[0].difference(0.0123), CLASSIFICATION[2].difference(-0.5, signed=False)
        ('+1.23', '0.5000')
        """
        scaled = 100 * value if self.is_share else value
        form = self.format.replace("%", "f")
        return format(scaled, f"+{form}") if signed else format(abs(scaled), form)

    @property
    def step(self) -> str:
        """Unit of a difference: ``points`` for a share, otherwise the figure's label."""
        return "points" if self.is_share else self.label

    def is_better(self, value: float, other: float) -> bool:
        """Whether ``value`` is better than ``other``; False if one is NaN, or if no direction is better."""
        return value > other if self.better == "higher" else value < other if self.better == "lower" else False


def figures_of(task: str) -> tuple[Figure, ...]:
    """Returns the figures that a task declares, the primary one first.

    Raises:
        CoterieError: the task is unknown.
    """
    return tuple(find_part(task, "figures"))


def figures_of_run(summary: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Returns the figures that the task of a run declares, see :func:`figures_of`.

    Args:
        summary: content of its summary.json.
    """
    return figures_of(summary.get("task", UNNAMED))


def shown_figures(figures: Sequence[Figure], found: Collection[str], classes: int) -> list[Figure]:
    """Returns the figures to show: those that were measured, without those that are near their maximum for a guess among few classes.

    Args:
        figures: the task's declared figures.
        found: keys of the measured figures.
        classes: number of classes; 0 if it is unknown, or there are none.

    >>> [figure.key for figure in shown_figures(CLASSIFICATION, {"top1", "top5", "nll"}, classes=8)]
    ['top1', 'nll']
    """
    return [figure for figure in figures if figure.key in found and not 0 < classes < figure.min_classes]


def capitalised(label: str) -> str:
    """Capitalises a label for the start of a heading.

    >>> capitalised("top-1"), capitalised("mAP")
    ('Top-1', 'MAP')
    """
    return label[:1].upper() + label[1:]


CLASSIFICATION = (
    Figure(
        "top1",
        "top-1",
        "higher",
        ".2%",
        meaning="{sample}s whose most probable class is the right one",
        proportion=True,
        metric="accuracy",
    ),
    Figure(
        "top5",
        "top-5",
        "higher",
        ".2%",
        meaning="{sample}s whose class is among the five most probable",
        proportion=True,
        min_classes=10,
    ),
    Figure("nll", "NLL", "lower", unit="nats", meaning="negative log-likelihood of the right class"),
    Figure("brier", "Brier", "lower", unit="0–2", meaning="squared distance of the probabilities from the truth"),
    Figure("ece", "ECE", "lower", meaning="gap between confidence and accuracy, over 15 bins of confidence"),
)
