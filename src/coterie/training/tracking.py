"""Figures that are sent to experiment trackers in addition to metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coterie.metrics import primary
from coterie.tasks.figures import Figure, shown_figures


def tracked_validation(
    figures: Mapping[str, Any], leader: int | None, declared: Sequence[Figure], classes: int
) -> dict[str, float]:
    """Returns an evaluation's figures by their names in trackers.

    Args:
        figures: figures of a group on the validation split.
        leader: index of the method's leader student.
        declared: the task's figures.
        classes: number of classes of the data, 0 if there are none.

    Returns:
        ``validation/top1`` and so on, of the leader or the mean student; for the first figure also ``validation/deployed_top1`` and,
        if there is an ensemble, ``validation/ensemble_top1``.
    """
    _, own = primary(figures, leader)
    key = declared[0].key
    tracked = {f"validation/{figure.key}": own[figure.key] for figure in shown_figures(declared, own.keys(), classes)}
    tracked[f"validation/deployed_{key}"] = figures["deployed"][key]
    if ensemble := figures.get("ensemble", {}).get("method"):
        tracked[f"validation/ensemble_{key}"] = ensemble[key]
    return tracked
