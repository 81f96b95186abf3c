"""Metrics of each class; undefined values are None, never 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

import torch
from torch import Tensor


class ClassFigures(TypedDict):
    """Metrics of one class: shares between 0 and 1, None if undefined, and the number of its samples."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def per_class_figures(predicted: Tensor, targets: Tensor, class_names: Sequence[str]) -> list[ClassFigures]:
    """Precision, recall, F1 and support of every class, in the order of ``class_names``.

    Args:
        predicted: predicted class indices [N], at least one.
        targets: true class indices [N].
        class_names: names of all K classes, at least two.

    Returns:
        K entries. ``precision`` is None for a class that was never predicted, ``recall`` for one without samples, ``f1`` for one
        with neither.

    >>> import torch
    >>> figures = per_class_figures(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), ["cat", "dog"])
    >>> figures[1]
    {'name': 'dog', 'precision': 1.0, 'recall': 0.5, 'f1': 0.6666667, 'support': 2}
    """
    # Counted here: to import torchmetrics.functional takes seconds, because it imports transformers and scipy.signal, and every command would pay for it.
    classes = len(class_names)
    support = torch.bincount(targets, minlength=classes)
    right = torch.bincount(targets[predicted == targets], minlength=classes)
    false_alarms = torch.bincount(predicted, minlength=classes) - right
    counts = torch.stack([right, false_alarms, support - right, support], dim=1)
    return [
        {
            "name": name,
            "precision": _share(right, right + false_alarms),
            "recall": _share(right, support),
            "f1": _share(2 * right, 2 * right + false_alarms + missed),
            "support": support,
        }
        for name, (right, false_alarms, missed, support) in zip(class_names, counts.tolist(), strict=True)
    ]


def balanced_accuracy(recalls: Iterable[float | None]) -> float:
    """Mean recall of the classes that have samples: the top-1 accuracy if all of these were equally frequent.

    Args:
        recalls: recall of every class; None for classes without samples.

    Raises:
        ValueError: no class has samples.

    >>> balanced_accuracy([1.0, 0.5, None])
    0.75
    """
    known = [recall for recall in recalls if recall is not None]
    if not known:
        raise ValueError("no class has samples")
    return round(sum(known) / len(known), 7)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 7) if whole else None
