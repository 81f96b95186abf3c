"""Figures as a task declares them. Loop, comparison, report, terminal and model card read these declarations and name no figure themselves."""

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
        label: as a table's head shows it, and a sentence.
        better: which direction is; None: neither.
        format: of a value, for :func:`format`; ``.2%`` shows a fraction in per cent.
        optional: whether an evaluation may lack it, such as agreement with a teacher where there is none.
        unit: of what is no share, such as ``nats``.
        meaning: in a line, with ``{sample}`` for what one sample is called.
        proportion: whether it is the share of samples that are right, each of them counted once: what a binomial's error and a guess's share are known of.
        min_classes: below so many classes it is not shown, since a guess is nearly as good.
        metric: what the Hugging Face Hub calls it; empty: as ``key``.
        cost: whether it is what a use of the deployed network takes, such as its latency: a comparison draws the primary figure against it.
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
        """The value as a table's cell."""
        return format(value, self.format)

    def difference(self, value: float, signed: bool = True) -> str:
        """A difference of two values, in points of per cent where they are shares.

        >>> CLASSIFICATION[0].difference(0.0123), CLASSIFICATION[2].difference(-0.5, signed=False)
        ('+1.23', '0.5000')
        """
        scaled = 100 * value if self.is_share else value
        form = self.format.replace("%", "f")
        return format(scaled, f"+{form}") if signed else format(abs(scaled), form)

    @property
    def step(self) -> str:
        """What a difference is counted in: ``points``, or the figure's own label where it is no share."""
        return "points" if self.is_share else self.label

    def is_better(self, value: float, other: float) -> bool:
        """Whether ``value`` is the better of two; never where one is not a number, nor where no direction is better."""
        return value > other if self.better == "higher" else value < other if self.better == "lower" else False


def figures_of(task: str) -> tuple[Figure, ...]:
    """What a task declares, the primary figure first.

    Raises:
        CoterieError: no such task.
    """
    return tuple(find_part(task, "figures"))


def figures_of_run(summary: Mapping[str, Any]) -> tuple[Figure, ...]:
    """What the task of a run declares, see :func:`figures_of`.

    Args:
        summary: contents of its summary.json.
    """
    return figures_of(summary.get("task", UNNAMED))


def shown_figures(figures: Sequence[Figure], found: Collection[str], classes: int) -> list[Figure]:
    """Which figures are worth a reader's time: those that are there, without those of which a guess among few classes gets nearly all.

    Args:
        figures: that the task declares.
        found: keys of what was measured.
        classes: how many classes there are; 0 where that is not known, or there are none.

    >>> [figure.key for figure in shown_figures(CLASSIFICATION, {"top1", "top5", "nll"}, classes=8)]
    ['top1', 'nll']
    """
    return [figure for figure in figures if figure.key in found and not 0 < classes < figure.min_classes]


def capitalised(label: str) -> str:
    """A label as it begins a heading.

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
