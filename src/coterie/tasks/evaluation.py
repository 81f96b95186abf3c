"""The common parts of an evaluation, which the training loop uses; tasks add theirs in subclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one split.

    Attributes:
        figures: keys of summary.json. ``students`` (a mapping of the task's declared figures for each), ``mean_student`` and ``deployed`` (the same, and the
            index ``student``) are always present. ``ensemble`` (``mean_probability``, ``mean_logit``, ``method``: those that the task has), ``diversity`` and
            ``statistics`` (diagnostics of the method) are present if the task has them.
        predictions: predictions for the first samples, on the CPU: the content of ``predictions.safetensors``; may be empty.
    """

    figures: dict[str, Any]
    predictions: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)


class Deployment(NamedTuple):
    """Index of the deployed student, and the reason as a clause ("it is the method's leader"), empty for a single student."""

    student: int
    reason: str


class ChanceLevel(NamedTuple):
    """A figure of the deployed student, and its value for a uniform guess. Lower is better, and ``chance`` is above 0.

    Attributes:
        label: name of the figure.
        value: value of the deployed student.
        chance: value of a uniform guess.
    """

    label: str
    value: float
    chance: float
