"""Names, explanations and formats of figures, and the sentences of a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from coterie.report.run import GroupFigures, RunData
from coterie.run_lock import holder
from coterie.tasks.figures import Figure, capitalised


def percent(value: float) -> str:
    """Formats 0.7123 as ``71.23 %``, with a narrow no-break space."""
    return f"{100 * value:.2f}\u202f%"


def decimals(value: float) -> str:
    return f"{value:.4f}"


def count(value: float) -> str:
    return f"{value:,.0f}"


def size(value: float) -> str:
    """Formats a number of parameters: ``473,124`` or, from a million on, ``11.17 million``."""
    return f"{value / 1e6:.2f} million" if value >= 1e6 else count(value)


def duration(seconds: float) -> str:
    """Formats a duration: ``48 s``, ``12 min 05 s`` or ``3 h 20 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plural(number: int, word: str) -> str:
    return f"{count(number)} {word}{'' if number == 1 else 's'}"


class Measure(NamedTuple):
    """A diagnostic's name, formatter, and what it means in one line."""

    name: str
    form: Callable[[float], str]
    meaning: str


DIVERSITY = {
    "distance": Measure("Distance", decimals, "Euclidean distance of two students’ probabilities (0 to 1.41)"),
    "disagreement": Measure("Disagreement", percent, "{sample}s for which two students predict different classes"),
    "kl": Measure("KL divergence", decimals, "of two students’ probabilities, mean of both directions, in nats"),
    "double_fault": Measure(
        "Double fault", percent, "{sample}s that two students both get wrong; less is more diverse"
    ),
}
LOSSES = {
    "label": "on the labels",
    "ensemble_label": "of the ensemble on the labels",
    "distillation": "on soft targets",
    "diversity": "keeps the students apart",
    "feature": "feature maps of students on those of their target",
}
ENSEMBLES = {
    "method": "Method’s ensemble",
    "mean_probability": "Mean-probability ensemble",
    "mean_logit": "Mean-logit ensemble",
}
COLLAPSED = 0.9  # attention counts as collapsed if one branch has this share
SPLITS = {"test": "test", "validation": "validation", "train": "un-augmented training"}


class Heading(NamedTuple):
    """A figure in the header of a table: its name, its unit and better direction, and its meaning."""

    name: str
    unit: str
    meaning: str


def heading(figure: Figure, sample: str) -> Heading:
    """Builds the heading of a figure.

    Args:
        figure: a figure that the task declares.
        sample: what a sample is called.
    """
    arrow = {"higher": "↑", "lower": "↓", None: ""}[figure.better]
    unit = "%" if figure.is_share else figure.unit
    return Heading(capitalised(figure.label), f"{unit} {arrow}".strip(), figure.meaning.format(sample=sample))


def cell(figure: Figure, figures: Mapping[str, float]) -> str:
    """Formats a figure for a table cell, without a unit."""
    if figure.key not in figures:
        return "–"
    value = figures[figure.key]
    return figure.show(value).rstrip("%") if figure.is_share else figure.show(value)


def value_of(figure: Figure, value: float) -> str:
    """Formats a figure for a sentence; a share like :func:`percent`."""
    return figure.show(value).replace("%", "\u202f%")


def diversity(key: str, sample: str) -> Measure:
    """Returns the display of a measure of diversity."""
    known = DIVERSITY[key]
    return known._replace(meaning=known.meaning.format(sample=sample))


def epochs_done(run: RunData) -> int:
    """Returns the number of epochs, including an unfinished one, that have rows in the metrics."""
    return max([row.epoch + 1 for row in run.train_rows] + [row.epoch + 1 for row in run.validation_rows], default=0)


def unfinished(run: RunData) -> str:
    """Describes the progress of an unfinished run."""
    reached = f"epoch {epochs_done(run)} of {run.summary.epochs}"
    if run.summary.status == "interrupted":
        return f"Interrupted in {reached}; coterie train --resume --output RUN goes on with it."
    if run.summary.status == "failed":
        return f"Failed in {reached}: {(run.summary.error or 'no reason was noted').rstrip('.')}."
    if (process := holder(run.folder)) is not None:
        return f"Being trained by {process}: {reached} is the last that left a trace."
    return (
        f"Not finished: {reached} is the last that left a trace. The process that trained it is gone; "
        "coterie train --resume --output RUN goes on with it."
    )


def headline(run: RunData, figures: GroupFigures, split: str, samples: int) -> list[str]:
    """Describes the result in one to three sentences.

    Args:
        run: the run.
        figures: figures of the last evaluation.
        split: the evaluated split, in words.
        samples: number of its samples.
    """
    first = run.declared[0]
    key, name = first.key, first.label
    deployed = figures.deployed[key]
    counted = plural(samples, f"{split} {run.sample}")
    if len(figures.students) == 1:
        sentence = f"The network reaches {value_of(first, deployed)} {name} on {counted}"
    else:
        own = figures.ensemble.get("method")
        sentence = (
            f"The deployed student reaches {value_of(first, deployed)} {name} on {counted}, the mean student "
            f"{value_of(first, figures.mean_student[key])}"
            + (f", the ensemble {value_of(first, own[key])}" if own else "")
        )
    sentences = [sentence + "."]
    if first.proportion and samples:
        error = math.sqrt(deployed * (1 - deployed) / samples)
        sentences.append(f"The standard error from the number of {run.sample}s is {100 * error:.2f} points.")
    if run.on_train is not None:
        sentences.append(f"On its own training {run.sample}s, as they are, it reaches {value_of(first, run.on_train)}.")
    return sentences


def attention_remark(weights: list[float], sample: str) -> str:
    """Returns a remark if the attention has collapsed to one branch; otherwise an empty string.

    Args:
        weights: mean attention to each branch, [n].
        sample: what a sample is called.
    """
    if not weights or max(weights) < COLLAPSED:
        return ""
    branch = weights.index(max(weights))
    return (
        f"The attention has collapsed: branch {branch} has {percent(weights[branch])} of the weight over the {sample}s. "
        f"The method’s ensemble is then little more than student {branch}, and the others learn from that one student. "
        "Compare it with the mean-probability ensemble above."
    )


def selection(run: RunData, figures: GroupFigures) -> str:
    """Describes which epoch and which student are deployed, and why."""
    summary = run.summary
    trained = summary.epochs_trained or summary.epochs
    epoch = trained if summary.selected_epoch is None else summary.selected_epoch + 1
    best = run.recipe.training.select == "best" and summary.best_validation is not None
    which = f"epoch {epoch} of {trained}, the best on validation" if best else f"the last epoch ({epoch})"
    if len(figures.students) == 1:
        without = "" if summary.validation else "; there is no validation split to choose by"
        return f"Deployed as of {which}{without}."
    reason = f": {summary.deployed_reason}" if summary.deployed_reason else ""
    return f"Student {figures.deployed_student} is deployed as of {which}{reason}."
