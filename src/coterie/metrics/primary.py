"""The metrics by which methods are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Primary(NamedTuple):
    """Metrics, and a description of whose they are.

    Attributes:
        name: ``the mean student``, ``the leader, student 2``, or ``the network`` where there is only one.
        figures: metrics by key.
    """

    name: str
    figures: Mapping[str, float]


def primary(figures: Mapping[str, Any], leader: int | None) -> Primary:
    """Returns the leader's metrics if the method has one, else the mean student's, since a single network has no choice of the best of n.

    Args:
        figures: metrics of a group, with ``students`` and ``mean_student`` as in summary.json.
        leader: number of the student that the method designates.
    """
    if len(figures["students"]) == 1:
        return Primary("the network", figures["students"][0])
    if leader is not None:
        return Primary(f"the leader, student {leader}", figures["students"][leader])
    return Primary("the mean student", figures["mean_student"])


def own_ensemble(figures: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Returns the metrics of the method's own ensemble; None for a single network or without such an ensemble."""
    found: Mapping[str, float] | None = figures.get("ensemble", {}).get("method")
    return found if len(figures["students"]) > 1 else None
