"""What the loop and a run's end know of an evaluation, whatever the task; each task keeps more in a class of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """One split, measured.

    Attributes:
        figures: keys of summary.json. ``students`` (a mapping of the task's declared figures for each), ``mean_student`` and ``deployed`` (the same, and the
            number ``student``) are always there; ``ensemble`` (``mean_probability``, ``mean_logit``, ``method``: those that the task has), ``diversity`` and
            ``statistics`` (diagnostics of the method) where the task has them.
        predictions: of the first samples, on the CPU: what ``predictions.safetensors`` holds, if anything.
    """

    figures: dict[str, Any]
    predictions: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)


class Deployment(NamedTuple):
    """Which student is deployed, and why, as a clause: "it is the method's leader"; empty for a single student."""

    student: int
    reason: str


class ChanceLevel(NamedTuple):
    """A figure of the deployed student beside that of a uniform guess; less is better, and a guess's is above 0.

    Attributes:
        label: the figure's.
        value: the deployed student's.
        chance: that of a uniform guess.
    """

    label: str
    value: float
    chance: float
