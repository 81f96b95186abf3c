"""What is sent to trackers besides metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.metrics import primary
from coterie.metrics.primary import shown_figures


def tracked_validation(figures: Mapping[str, Any], leader: int | None, classes: int) -> dict[str, float]:
    """An evaluation's figures by the names that trackers show.

    Args:
        figures: of a group on the validation split.
        leader: the student that the method singles out.
        classes: of the data; with fewer than 10, top-5 is left out.

    Returns:
        ``validation/top1`` and so on, the leader's or the mean student's; ``validation/deployed_top1``, ``validation/ensemble_top1``.
    """
    _, own = primary(figures, leader)
    return {
        **{f"validation/{key}": own[key] for key in shown_figures(own, classes)},
        "validation/deployed_top1": figures["deployed"]["top1"],
        "validation/ensemble_top1": figures["ensemble"]["method"]["top1"],
    }
