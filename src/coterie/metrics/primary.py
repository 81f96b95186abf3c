"""The figures that a method is compared by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Primary(NamedTuple):
    """Whose figures they are, in words, and the figures.

    Attributes:
        name: ``the mean student``, ``the leader, student 2``, or ``the network`` where there is only one.
        figures: by key.
    """

    name: str
    figures: Mapping[str, float]


def primary(figures: Mapping[str, Any], leader: int | None) -> Primary:
    """The leader's figures where the method has one, else the mean student's: best-of-n is a choice that a lone network does not have.

    Args:
        figures: of a group, with ``students`` and ``mean_student`` as in summary.json.
        leader: number of the student that the method singles out.
    """
    if len(figures["students"]) == 1:
        return Primary("the network", figures["students"][0])
    if leader is not None:
        return Primary(f"the leader, student {leader}", figures["students"][leader])
    return Primary("the mean student", figures["mean_student"])


def own_ensemble(figures: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Figures of the method's own ensemble; None of a lone network, and where there is none."""
    found: Mapping[str, float] | None = figures.get("ensemble", {}).get("method")
    return found if len(figures["students"]) > 1 else None
